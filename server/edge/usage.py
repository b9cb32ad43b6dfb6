"""POST /v1/usage: events of usage from the app's backend."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.edge.service import RequestError, ServiceTokens, read_json
from server.usage import events
from server.usage.events import EventError, Limits, Written
from server.usage.ports import RefusedError
from server.usage.recorder import Recorder

PATH = "/v1/usage"


def route(service: ServiceTokens, recorder: Recorder, seconds: Callable[[], float], days: int) -> Route:
    """The endpoint. `seconds`: the time, since 1970; `days`: how long events are kept."""

    async def post(request: Request) -> Response:
        body = await read_json(request)
        try:
            asked = events.request(body)
        except EventError as error:
            raise RequestError(str(error), 422) from None
        try:
            limits = Limits.at(datetime.fromtimestamp(seconds(), UTC), days)
            parts = []
            for first, some in events.slices(asked.events):
                parts.append(events.check(some, limits, first))
                await asyncio.sleep(0)  # a thousand events at once would delay devices
            group = events.group(parts, len(asked.events), asked.idempotency_key)
            written = await recorder.submit(group)
        except EventError as error:
            recorder.refused(len(asked.events))
            raise RequestError(str(error), 422) from None
        except RefusedError as error:
            raise RequestError(str(error), 422) from None
        if written is Written.DIFFERS:
            raise RequestError("idempotency_key: other events were written under this key. Send a new one.", 409)
        return JSONResponse({"events": group.events, "repeated": written is Written.REPEATED}, 202)

    return service.route(PATH, POST=post)
