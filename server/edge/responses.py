"""`/v1/responses`: the response cache for the app's backend."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.frames import Instant
from server.edge.service import RequestError, ServiceTokens, read_json, while_connected
from server.responses.cache import Hit, ResponseCache
from server.responses.ports import Busy, Lease
from server.responses.question import EVERYBODY, InputError, Key, key

PATH: Final = "/v1/responses"
FIELDS: Final = 16
"""Most parameters of a URL. Six are known."""
AGAIN_SECONDS: Final = 1
"""What Retry-After says while another caller computes."""
SCOPE: Final = (
    f"Say who may get the response and what else it depends on: scope={EVERYBODY}, or a text of yours, such as the "
    "user's id and the version of a system prompt."
)
START: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """Which response."""

    question: str
    model: str
    tier: str
    scope: str

    def key(self) -> Key:
        return key(self.question, model=self.model, tier=self.tier, scope=self.scope)


class Look(Asked, forbid_unknown_fields=True, kw_only=True):
    lease: float = 60.0
    """Seconds; 0: only look."""
    wait: float = 0.0


class Delete(Asked, forbid_unknown_fields=True, kw_only=True):
    lease: str | None = None
    """Only give back this lease."""


class Put(Asked, forbid_unknown_fields=True, kw_only=True):
    response: str
    ttl: float
    tokens: int = 0
    cost: str | int | float = 0
    lease: str | None = None


Form = TypeVar("Form", bound=Asked)


class Responses:
    """The endpoint of a cache."""

    def __init__(self, cache: ResponseCache) -> None:
        self._cache = cache

    def route(self, service: ServiceTokens) -> Route:
        return service.route(PATH, GET=self._get, PUT=self._put, DELETE=self._delete)

    async def _get(self, request: Request) -> Response:
        asked = await _read(request, Look)
        try:
            name = asked.key()
            taken: Hit | Lease | Busy | None
            if asked.lease:
                taking = self._cache.take(name, lease=asked.lease, wait=asked.wait)
                # A lease that a caller gets who has gone keeps the others waiting until it ends.
                taken = await (while_connected(request, taking) if asked.wait else taking)
            else:
                taken = await self._cache.get(name)
        except InputError as error:
            raise RequestError(str(error)) from None
        match taken:
            case Hit(found, layer):
                return _json(
                    200,
                    {
                        "response": found.text,
                        "tokens": found.tokens,
                        "cost": f"{found.cost:f}",
                        "created_at": _time(found.created_at),
                        "expires_at": _time(found.expires_at),
                        "from": layer,
                    },
                )
            case Lease(fence, seconds):
                return _json(404, {"lease": str(fence), "seconds": round(seconds, 3)})
            case Busy(seconds):
                said = {"seconds": round(seconds, 3)}
                return _json(202, said, {"Retry-After": str(AGAIN_SECONDS)})
        return _json(404, {"lease": None})

    async def _put(self, request: Request) -> Response:
        given = await _read(request, Put)
        try:
            stored = await self._cache.put(
                given.key(),
                given.response,
                ttl=given.ttl,
                tokens=given.tokens,
                cost=_cost(given.cost),
                lease=_lease(given.lease),
            )
        except InputError as error:
            raise RequestError(str(error)) from None
        if stored is None:
            raise RequestError(
                "The response is not stored: its lease is over and another caller had or has one, or the response was "
                "deleted meanwhile. Without `lease` it is stored in any case.",
                409,
            )
        return _json(200, {"expires_at": _time(stored.expires_at)})

    async def _delete(self, request: Request) -> Response:
        given = await _read(request, Delete)
        try:
            name = given.key()
        except InputError as error:
            raise RequestError(str(error)) from None
        if (lease := _lease(given.lease)) is None:
            await self._cache.delete(name)
        else:
            await self._cache.release(name, lease)
        return Response(status_code=204, headers={"Cache-Control": "no-store"})


async def _read(request: Request, form: type[Form]) -> Form:
    """What the URL's parameters say, or, where there are none, the body. Raises RequestError."""
    given: Any
    query: bytes = request.scope["query_string"]
    in_url = bool(query) and form is not Put
    given = _parameters(query) if in_url else await read_json(request)
    try:
        return msgspec.convert(given, form, strict=not in_url)
    except msgspec.ValidationError as error:
        if isinstance(given, dict) and "scope" not in given:
            raise RequestError(SCOPE) from None
        raise RequestError(f"The request is not understood: {error}.") from None


def _parameters(query: bytes) -> dict[str, str]:
    try:
        found = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS)
    except ValueError:
        raise RequestError("The URL's parameters are not percent-encoded UTF-8, or they are too many.") from None
    given = dict(found)
    if len(given) < len(found):
        raise RequestError("A parameter of the URL is there twice.")
    return given


def _lease(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= 18):
        raise RequestError("lease must be the text that the answer 404 contained.")
    return int(given)


def _cost(given: str | float) -> Decimal:
    try:
        return Decimal(str(given))
    except InvalidOperation:
        raise RequestError('cost must be a decimal number, such as "0.0125".') from None


def _time(instant: Instant) -> datetime:
    return START + timedelta(microseconds=instant)


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(body),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
