"""`/v1/streams`: the app's backend writes streams."""

from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from protocol.codec import Value
from server.declaration.values import BadValue, key_texts
from server.edge.service import RequestError, ServiceTokens, read_json, while_connected
from server.streams.ports import NoRowError, Place, State, TooManyError
from server.streams.streams import APPENDS_PER_SECOND, OPEN_STREAMS, TEXT_BYTES, Answer, Outcome, Streams

PATH: Final = "/v1/streams"
MOST_APPENDS: Final = 1_000
"""Appends of one request."""
WAIT_SECONDS: Final = 60
"""The longest that a request waits for the end of a stream."""
UNKNOWN: Final = (
    "There is no such stream. It was never opened, or it was settled more than a day ago, or another one was opened in "
    "its place."
)
NO_ID: Final = "A stream is named by the UUID that the answer to POST /v1/streams has as `stream`."
PROBLEMS: Final = {
    Outcome.CONFLICT: "The text does not fit here, or the stream has ended. Go on at `offset` if `state` is open.",
    Outcome.TOO_LONG: f"The text of a stream has at most {TEXT_BYTES:,} bytes.",
    Outcome.TOO_FAST: f"A stream takes {APPENDS_PER_SECOND} appends a second. Collect more text for each.",
}


class Open(msgspec.Struct, forbid_unknown_fields=True):
    """Which stream."""

    user: UUID
    kind: str
    id: Any
    column: str
    restart: bool = False


class Append(msgspec.Struct, forbid_unknown_fields=True):
    offset: int
    text: str


class Appends(msgspec.Struct, forbid_unknown_fields=True):
    appends: list[tuple[UUID, int, str]]


class End(msgspec.Struct, forbid_unknown_fields=True):
    offset: int | None = None
    write: bool = False


Form = TypeVar("Form", bound=msgspec.Struct)


class StreamsEndpoint:
    """The endpoints of streams."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def routes(self, service: ServiceTokens) -> list[BaseRoute]:
        one = f"{PATH}/{{stream:uuid}}"
        return [
            service.route(PATH, POST=self._open, PATCH=self._append_to_many),
            service.route(one, GET=self._read, PATCH=self._append),
            service.route(f"{one}/done", POST=self._done),
            service.route(f"{one}/failed", POST=self._failed),
            service.route(f"{one}/stop", GET=self._wait, POST=self._stop),
            service.route(f"{PATH}/{{other:path}}", GET=_refuse, POST=_refuse, PATCH=_refuse),
        ]

    async def _open(self, request: Request) -> Response:
        asked = await _read(request, Open)
        kind = self._streams.streamed(asked.kind, asked.column)
        if kind is None:
            raise RequestError(
                "The declaration names no such column of such a kind as one that is streamed. `kind` is the NAME of "
                "[kind.NAME], and `column` a name that devices know. Add the column to `streams` of its kind, and run "
                "`atlas-sync migrate --declaration`."
            )
        values: list[Value] = asked.id if isinstance(asked.id, list) else [asked.id]
        try:
            place = Place(kind.tag, tuple(key_texts(kind, values)), asked.column)
        except BadValue:
            raise RequestError("`id` is no key of this kind.") from None
        try:
            opened = await self._streams.open(asked.user, place, restart=asked.restart)
        except NoRowError:
            raise RequestError(
                "This user has no such row. Insert it first, for example with an empty text.", 404
            ) from None
        except TooManyError:
            raise RequestError(
                f"This user has {OPEN_STREAMS} open streams. End one of them first.", 429, retry_after=1
            ) from None
        body = {"stream": str(opened.id), "state": opened.state, "offset": len(opened.text), "text": opened.text}
        return _json(201 if opened.fresh else 200, body)

    async def _append(self, request: Request) -> Response:
        given = await _read(request, Append)
        stream = request.path_params["stream"]
        _check(given.offset, given.text)
        (answer,) = await self._streams.append([(stream, given.offset, given.text)])
        return _answer(stream, answer)

    async def _append_to_many(self, request: Request) -> Response:
        given = await _read(request, Appends)
        if len(given.appends) > MOST_APPENDS:
            raise RequestError(f"A request has at most {MOST_APPENDS} appends.", 413)
        if len({stream for stream, _, _ in given.appends}) < len(given.appends):
            raise RequestError("The appends of a request are to different streams.")
        for _, offset, text in given.appends:
            _check(offset, text)
        answers = await self._streams.append(given.appends)
        return _json(200, {"answers": [[each.outcome.value, each.state, each.offset] for each in answers]})

    async def _read(self, request: Request) -> Response:
        stream = request.path_params["stream"]
        answer, text = await self._streams.read(stream)
        if answer.outcome is Outcome.UNKNOWN:
            raise RequestError(UNKNOWN, 404)
        return _json(200, {"stream": str(stream), "state": answer.state, "offset": answer.offset, "text": text})

    async def _done(self, request: Request) -> Response:
        return await self._end(request, State.DONE)

    async def _failed(self, request: Request) -> Response:
        return await self._end(request, State.FAILED)

    async def _stop(self, request: Request) -> Response:
        return await self._end(request, State.STOPPED)

    async def _end(self, request: Request, state: State) -> Response:
        given = await _read(request, End) if await request.body() else End()
        if given.offset is not None:
            _check(given.offset, "")
        stream = request.path_params["stream"]
        return _answer(stream, await self._streams.end(stream, state, given.offset, write=given.write))

    async def _wait(self, request: Request) -> Response:
        stream = request.path_params["stream"]
        try:
            seconds = float(request.query_params.get("wait", "25"))
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= WAIT_SECONDS:
            raise RequestError(f"wait must be a number of seconds, at most {WAIT_SECONDS}.")
        answer = await while_connected(request, self._streams.wait_for_end(stream, seconds))
        if answer is None:
            return Response(status_code=204, headers={"Cache-Control": "no-store"})
        return _answer(stream, answer)


async def _refuse(request: Request) -> Response:
    """Raises RequestError."""
    raise RequestError(NO_ID, 404)


async def _read(request: Request, form: type[Form]) -> Form:
    """Raises RequestError."""
    try:
        return msgspec.convert(await read_json(request), form)
    except msgspec.ValidationError as error:
        raise RequestError(f"The request is not understood: {error}.") from None


def _check(offset: int, text: str) -> None:
    """Raises RequestError."""
    if offset < 0:
        raise RequestError("offset is the number of characters before the text.")
    if "\0" in text:
        raise RequestError("A text in Postgres cannot contain the character U+0000.")


def _answer(stream: UUID, answer: Answer) -> Response:
    """Raises RequestError."""
    if answer.outcome is Outcome.UNKNOWN:
        raise RequestError(UNKNOWN, 404)
    body = {"stream": str(stream), "state": answer.state, "offset": answer.offset}
    if answer.outcome in PROBLEMS:
        body["problem"] = PROBLEMS[answer.outcome]
    return _json(answer.outcome.value, body)


def _json(status: int, body: dict[str, Any]) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)
