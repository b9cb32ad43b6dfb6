"""The endpoints of streams: every refusal is a sentence with its status, and says nothing of what others have."""

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette

from server.declaration.model import Declaration
from server.edge.service import ServiceTokens
from server.edge.streams import MOST_APPENDS, StreamsEndpoint
from server.streams.ports import NoRowError, State, TooManyError
from server.streams.streams import APPENDS_PER_SECOND, TEXT_BYTES
from tests.support.second import SECOND
from tests.support.stream_store import USER, FakeStore, Process, process

TOKEN: Final = "a token of the tests, of a backend"
DECLARATION: Final = Declaration(
    tuple(replace(kind, streams=("note",)) if kind.name == "mark" else kind for kind in SECOND.kinds), SECOND.gate
)
"""Marks have a key of two numbers."""
ROW: Final = {"user": str(USER), "kind": "mark", "id": [7, 1], "column": "note"}


@pytest.fixture
async def here() -> AsyncIterator[Process]:
    async with process(FakeStore(), DECLARATION) as made:
        yield made


@pytest.fixture
async def http(here: Process) -> AsyncIterator[httpx.AsyncClient]:
    routes = StreamsEndpoint(here.streams).routes(ServiceTokens([TOKEN]))
    transport = httpx.ASGITransport(Starlette(routes=routes))
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://here/v1", headers=headers) as client:
        yield client


@pytest.fixture
async def stream(http: httpx.AsyncClient) -> str:
    return str((await http.post("/streams", json=ROW)).json()["stream"])


async def test_a_stream_is_opened_written_read_and_ended(http: httpx.AsyncClient) -> None:
    opened = await http.post("/streams", json=ROW)
    stream = opened.json()["stream"]
    assert (opened.status_code, opened.json()) == (201, {"stream": stream, "state": "open", "offset": 0, "text": ""})
    assert opened.headers["cache-control"] == "no-store"
    appended = await http.patch(f"/streams/{stream}", json={"offset": 0, "text": "añ🙂"})
    assert appended.json() == {"stream": stream, "state": "open", "offset": 3}
    again = await http.post("/streams", json=ROW)
    assert (again.status_code, again.json()["text"]) == (200, "añ🙂")
    assert (await http.get(f"/streams/{stream}/stop", params={"wait": 0})).status_code == 204
    ended = await http.post(f"/streams/{stream}/done", json={"offset": 3})
    assert ended.json() == {"stream": stream, "state": "done", "offset": 3}
    for path in ("", "/stop"):
        found = (await http.get(f"/streams/{stream}{path}")).json()
        assert (found["state"], found["offset"]) == ("done", 3)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ""),
        ("PATCH", ""),
        ("GET", "/{}"),
        ("PATCH", "/{}"),
        ("POST", "/{}/done"),
        ("POST", "/{}/failed"),
        ("POST", "/{}/stop"),
        ("GET", "/{}/stop"),
    ],
)
@pytest.mark.parametrize("authorization", ["", "Bearer another token that is as long", f"Basic {TOKEN}"])
async def test_nobody_without_the_token_does_anything(
    http: httpx.AsyncClient, here: Process, stream: str, method: str, path: str, authorization: str
) -> None:
    before = len(here.store.reads), len(here.store.appends)
    answer = await http.request(method, f"/streams{path.format(stream)}", headers={"authorization": authorization})
    assert answer.status_code == 401
    assert here.store.kept[UUID(stream)].state is State.OPEN
    assert (len(here.store.reads), len(here.store.appends)) == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "nothing"}, "names no such column"),
        ({"kind": "M"}, "names no such column"),
        ({"column": "nothing"}, "names no such column"),
        ({"column": "book"}, "names no such column"),
        ({"id": 7}, "`id` is no key"),
        ({"id": []}, "`id` is no key"),
        ({"id": [7, 1, 1]}, "`id` is no key"),
        ({"id": [7, "x"]}, "`id` is no key"),
        ({"id": [7, None]}, "`id` is no key"),
        ({"id": [7, 1.5]}, "`id` is no key"),
        ({"id": [7, True]}, "`id` is no key"),
        ({"id": [7, [1]]}, "`id` is no key"),
        ({"id": [7, {"a": 1}]}, "`id` is no key"),
        ({"id": [7, 1 << 31]}, "`id` is no key"),
        ({"id": {"book": 7, "page": 1}}, "`id` is no key"),
        ({"id": None}, "`id` is no key"),
        ({"user": "somebody"}, "not understood"),
        ({"user": None}, "not understood"),
        ({"restart": "yes"}, "not understood"),
        ({"more": 1}, "not understood"),
    ],
)
async def test_a_stream_that_cannot_be_is_refused(http: httpx.AsyncClient, given: dict[str, Any], says: str) -> None:
    answer = await http.post("/streams", json={**ROW, **given})
    assert (answer.status_code, says in answer.text) == (400, True), answer.text
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("id_", [["7", 1], [7, "1"], ["7", "1"]])
async def test_one_key_is_one_stream_however_it_is_written(
    http: httpx.AsyncClient, stream: str, id_: list[object]
) -> None:
    answer = await http.post("/streams", json={**ROW, "id": id_})
    assert (answer.status_code == 400) or answer.json()["stream"] == stream


@pytest.mark.parametrize(
    ("error", "status", "says"), [(NoRowError(), 404, "no such row"), (TooManyError(), 429, "32 open streams")]
)
async def test_what_the_database_refuses_is_told(
    http: httpx.AsyncClient, here: Process, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, says: str
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(here.store, "open", refuse)
    answer = await http.post("/streams", json=ROW)
    assert (answer.status_code, says in answer.text) == (status, True)
    assert ("retry-after" in answer.headers) == (status == 429)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"offset": -1, "text": "x"}, "offset is the number of characters"),
        ({"offset": 0, "text": "a\0b"}, "U+0000"),
        ({"offset": "0", "text": "x"}, "not understood"),
        ({"offset": 0.5, "text": "x"}, "not understood"),
        ({"offset": 0}, "not understood"),
        ({"text": "x"}, "not understood"),
        ({"offset": 0, "text": None}, "not understood"),
        ({"offset": 0, "text": "x", "state": "done"}, "not understood"),
        ([], "not understood"),
    ],
)
async def test_an_append_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, here: Process, stream: str, given: Any, says: str
) -> None:
    answer = await http.patch(f"/streams/{stream}", json=given)
    assert (answer.status_code, says in answer.text) == (400, True), answer.text
    if isinstance(given, dict) and isinstance(given.get("text"), str) and len(given) == 2:
        many = await http.patch("/streams", json={"appends": [[stream, given["offset"], given["text"]]]})
        assert (many.status_code, says in many.text) == (400, True), many.text
    assert here.store.appends == []


async def test_half_of_a_character_is_refused(http: httpx.AsyncClient, here: Process, stream: str) -> None:
    for text in (b'"\\ud83d"', b'"\xed\xa0\xbd"', b'"\xff"'):
        body = b'{"offset": 0, "text": %s}' % text
        answer = await http.patch(f"/streams/{stream}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
    assert here.store.appends == []


async def test_a_conflict_names_the_state_and_the_offset(http: httpx.AsyncClient, stream: str) -> None:
    await http.patch(f"/streams/{stream}", json={"offset": 0, "text": "abc"})
    for offset in (4, 1 << 31, (1 << 63) - 1):
        answer = await http.patch(f"/streams/{stream}", json={"offset": offset, "text": "x"})
        found = answer.json()
        assert (answer.status_code, found["state"], found["offset"]) == (409, "open", 3)
        assert "does not fit" in found["problem"]
    await http.post(f"/streams/{stream}/stop")
    answer = await http.patch(f"/streams/{stream}", json={"offset": 3, "text": "x"})
    assert (answer.status_code, answer.json()["state"], answer.json()["offset"]) == (409, "stopped", 3)


@pytest.mark.parametrize("how", ["done", "failed", "stop"])
async def test_an_end_elsewhere_than_the_text_ends_is_a_conflict(
    http: httpx.AsyncClient, stream: str, how: str
) -> None:
    for offset in (1, 1 << 31, (1 << 63) - 1):
        answer = await http.post(f"/streams/{stream}/{how}", json={"offset": offset})
        assert (answer.status_code, answer.json()["state"], answer.json()["offset"]) == (409, "open", 0)
    for given in ({"offset": -1}, {"offset": "0"}, {"write": 1}, {"text": ""}):
        assert (await http.post(f"/streams/{stream}/{how}", json=given)).status_code == 400
    assert (await http.post(f"/streams/{stream}/{how}")).status_code == 200, "without a body"
    other = {"done": "failed", "failed": "stop", "stop": "done"}[how]
    assert (await http.post(f"/streams/{stream}/{other}")).status_code == 409


async def test_a_stream_that_is_not_there_is_404_everywhere(http: httpx.AsyncClient) -> None:
    one = f"/streams/{uuid4()}"
    answers = [
        await http.get(one),
        await http.patch(one, json={"offset": 0, "text": "x"}),
        await http.get(f"{one}/stop"),
        *[await http.post(f"{one}/{how}") for how in ("done", "failed", "stop")],
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert (await http.get("/streams/no-uuid")).status_code == 404


async def test_a_text_of_more_than_a_mebibyte_is_refused_and_the_stream_stays(
    http: httpx.AsyncClient, stream: str
) -> None:
    text = "é" * (TEXT_BYTES // 2)
    assert (await http.patch(f"/streams/{stream}", json={"offset": 0, "text": text})).status_code == 200
    answer = await http.patch(f"/streams/{stream}", json={"offset": len(text), "text": "x"})
    assert (answer.status_code, answer.json()["offset"]) == (413, len(text))
    assert "1,048,576 bytes" in answer.json()["problem"]
    assert (await http.post(f"/streams/{stream}/done", json={"offset": len(text)})).status_code == 200


async def test_a_stream_takes_some_appends_a_second(http: httpx.AsyncClient, stream: str) -> None:
    answers = [
        await http.patch(f"/streams/{stream}", json={"offset": 0, "text": ""}) for _ in range(3 * APPENDS_PER_SECOND)
    ]
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert refused.status_code == 429
    assert "200 appends a second" in refused.json()["problem"]
    assert (refused.json()["state"], refused.json()["offset"]) == ("open", 0)
    unknown = str(uuid4())
    last = [await http.patch("/streams", json={"appends": [[unknown, 0, ""]]}) for _ in range(3 * APPENDS_PER_SECOND)]
    assert {answer.text for answer in last} == {'{"answers":[[404,null,null]]}', '{"answers":[[429,null,null]]}'}


async def test_a_request_has_so_many_appends_to_different_streams(http: httpx.AsyncClient, stream: str) -> None:
    many = [[str(uuid4()), 0, "x"] for _ in range(MOST_APPENDS)]
    answer = await http.patch("/streams", json={"appends": many})
    assert answer.json() == {"answers": [[404, None, None]] * MOST_APPENDS}
    answer = await http.patch("/streams", json={"appends": [*many, [stream, 0, "x"]]})
    assert (answer.status_code, "at most 1000" in answer.text) == (413, True)
    answer = await http.patch("/streams", json={"appends": [[stream, 0, "x"], [stream, 1, "y"]]})
    assert (answer.status_code, "different streams" in answer.text) == (400, True)
    bad: Any
    for bad in ([[stream, 0]], [["x", 0, "x"]], [[stream, "0", "x"]], {}, None):
        assert (await http.patch("/streams", json={"appends": bad})).status_code == 400
    assert (await http.patch("/streams", json={"appends": []})).json() == {"answers": []}


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon", "1e9", ""])
async def test_a_wait_has_a_bound(http: httpx.AsyncClient, stream: str, wait: str) -> None:
    answer = await http.get(f"/streams/{stream}/stop", params={"wait": wait})
    assert (answer.status_code, "at most 60" in answer.text) == (400, True)


async def test_a_postgres_that_is_away_is_503_for_all(http: httpx.AsyncClient, here: Process, stream: str) -> None:
    here.store.away = True
    answers = [
        await http.post("/streams", json=ROW),
        await http.patch(f"/streams/{stream}", json={"offset": 0, "text": "x"}),
        await http.patch("/streams", json={"appends": [[stream, 0, "x"]]}),
        await http.get(f"/streams/{stream}"),
        await http.get(f"/streams/{stream}/stop"),
        await http.post(f"/streams/{stream}/done"),
    ]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}
    here.store.away = False
    answer = await http.patch(f"/streams/{stream}", json={"offset": 0, "text": "x"})
    assert answer.json()["offset"] == 1
