"""Endpoints for the app's backend: nobody without a token reaches one, and every refusal is a sentence."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from server.edge.service import RequestError, ServiceTokens, read_json
from server.exceptions import UnavailableError

TOKEN: Final = "a token of the tests, of a backend"
FORMER: Final = "its token until it was changed last"


async def echo(request: Request) -> Response:
    given = await read_json(request)
    if given == "postgres is away":
        raise UnavailableError("Postgres is away.")
    if given == "nonsense":
        raise RequestError("Send something else.", 422, retry_after=7)
    return PlainTextResponse(f"{given}")


@asynccontextmanager
async def backend(*tokens: str, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    routes = [ServiceTokens(tokens).route("/v1/echo", POST=echo)]
    transport = httpx.ASGITransport(Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client:
        yield client


async def post(value: Any, authorization: str) -> httpx.Response:
    async with backend(TOKEN, FORMER, authorization=authorization) as client:
        return await client.post("/v1/echo", json=value)


@pytest.mark.parametrize("token", [TOKEN, FORMER])
async def test_the_token_and_the_former_one_are_accepted(token: str) -> None:
    for scheme in ("Bearer", "bearer"):
        answer = await post("hello", f"{scheme} {token}")
        assert (answer.status_code, answer.text) == (200, "hello")


@pytest.mark.parametrize(
    "authorization", ["", TOKEN, f"Bearer {TOKEN} ", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ", "Bearer é"]
)
async def test_any_other_header_is_refused(authorization: str) -> None:
    async with backend(TOKEN, FORMER) as client:
        headers = {"authorization": authorization.encode()}
        answer = await client.post("/v1/echo", json="hello", headers=headers)  # type: ignore[arg-type]  # bytes
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


async def test_without_tokens_none_is_accepted() -> None:
    assert not ServiceTokens([])
    async with backend(authorization="Bearer ") as client:
        assert (await client.post("/v1/echo", json="hello")).status_code == 401


async def test_another_method_is_answered_with_those_that_exist() -> None:
    async with backend(TOKEN, authorization=f"Bearer {TOKEN}") as client:
        answer = await client.get("/v1/echo")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_bodies_that_are_not_json_are_refused_with_a_sentence() -> None:
    async with backend(TOKEN, authorization=f"Bearer {TOKEN}") as client:
        answer = await client.post("/v1/echo", content=b"{", headers={"content-type": "application/json"})
        assert (answer.status_code, answer.text[:20]) == (400, "The body is not JSON")
        answer = await client.post("/v1/echo", content=b"{}", headers={"content-type": "text/plain"})
        assert (answer.status_code, answer.text) == (415, "Send the body as application/json.\n")


async def test_refusals_say_when_to_come_back() -> None:
    refused = await post("nonsense", f"Bearer {TOKEN}")
    assert (refused.status_code, refused.text, refused.headers["retry-after"]) == (422, "Send something else.\n", "7")
    away = await post("postgres is away", f"Bearer {TOKEN}")
    assert (away.status_code, away.text, away.headers["retry-after"]) == (503, "Postgres is away.\n", "1")
