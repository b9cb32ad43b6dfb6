"""Endpoints for the app's backend: who may call them, and one form for every refusal."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from server.exceptions import CacheError, UnavailableError

BODY_BYTES: Final = 1024 * 1024
"""Limit on a request with a service token. Others are held to `http.REQUEST_BYTES`."""
RETRY_SECONDS: Final = 1
"""What Retry-After says while Postgres is away."""

Answer = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


class RequestError(Exception):
    """A request that is refused, with a sentence for the developer of the app's backend."""

    def __init__(self, sentence: str, status: int = 400, *, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after


class ServiceTokens:
    """The tokens of ATLAS_SERVICE_TOKEN and ATLAS_SERVICE_TOKEN_FORMER. Without one no endpoint exists."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._accepted = [token.encode() for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._accepted)

    def accept(self, authorization: bytes) -> bool:
        """Whether the Authorization header has one of the tokens. Takes the same time for every wrong one."""
        scheme, _, token = authorization.partition(b" ")
        found = [hmac.compare_digest(token, each) for each in self._accepted]
        return any(found) and scheme.lower() == b"bearer"

    def route(self, path: str, **answers: Answer) -> Route:
        """A route with an answer for each method, for requests with a service token.

        An answer may raise RequestError, and UnavailableError or CacheError, which tell the caller to come back.
        """

        async def endpoint(request: Request) -> Response:
            if not self.accept(request.headers.get("authorization", "").encode("latin-1")):
                headers = {"WWW-Authenticate": "Bearer"}
                return _refusal("Send ATLAS_SERVICE_TOKEN as a bearer token.", 401, headers)
            if (answer := answers.get(request.method)) is None:
                allowed = ", ".join(answers)
                return _refusal(f"This endpoint takes {allowed}.", 405, {"Allow": allowed})
            try:
                return await answer(request)
            except RequestError as problem:
                wait = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
                return _refusal(str(problem), problem.status, wait)
            except (UnavailableError, CacheError) as error:
                return _refusal(str(error), 503, {"Retry-After": str(RETRY_SECONDS)})
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return Route(path, endpoint, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])


async def read_json(request: Request) -> Any:
    """The request's body. Raises RequestError if it is not JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("Send the body as application/json.", 415)
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise RequestError(f"The body is not JSON: {error}.") from None


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. Raises ClientDisconnect if the connection closes first: then it is cancelled."""

    async def closed() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, closing = asyncio.ensure_future(work), asyncio.ensure_future(closed())
    try:
        await asyncio.wait([working, closing], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        closing.cancel()


def _refusal(sentence: str, status: int, headers: dict[str, str]) -> Response:
    return PlainTextResponse(f"{sentence}\n", status_code=status, headers={"Cache-Control": "no-store", **headers})
