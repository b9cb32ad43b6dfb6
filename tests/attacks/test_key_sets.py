"""Whatever a key server answers, or does not: who has a key that is known waits for nothing, and it costs little."""

import asyncio
import contextlib
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from structlog.testing import capture_logs

from server import fetch
from server.edge import auth
from server.edge.auth import KEY_SET_BYTES, KeySet
from tests.support.waiting import LIMIT, eventually

CANARY: Final = "8d1f6a0e-nobody-may-read-this"
"""In every answer."""
MIB: Final = 1024 * 1024

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class KeyServer:
    """Answers as it is told, and notes what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = says(key_set("one"))
        self.asked: list[bytes] = []
        self.port = 0
        self.open = 0
        """Connections."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            # uvloop raises RuntimeError for what is written to a line that the peer has closed.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, RuntimeError):
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
                await self.answer(reader, writer)
        finally:
            self.open -= 1
            writer.close()


def public(name: str) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return {**ECAlgorithm.to_jwk(key, as_dict=True), "kid": name, "use": "sig", "alg": "ES256"}


def key_set(*names: str) -> bytes:
    return json.dumps({"keys": [public(name) for name in names], "note": CANARY}).encode()


# ---- Answers --------------------------------------------------------------------------------------------------------


def head(status: str = "200 OK", **fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"X-Note: {CANARY}", "", ""]).encode()


def says(body: bytes, status: str = "200 OK", **fields: str) -> Answer:
    """All of it at once, until the end of the connection."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, **{"Connection": "close", **fields}) + body)
        await writer.drain()

    return answer


def repeats(part: bytes, before: bytes, pause: float = 0.0) -> Answer:
    """The same without end."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hangs_within_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(head(Content_Length="1000") + b'{"keys": [')
    await reader.read()


async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(head(Content_Length="1000") + b'{"keys": [')
    writer.transport.abort()


def bomb() -> bytes:
    """256 MiB of a key set that never ends."""
    pack = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    packed = pack.compress(b'{"keys": [')
    for _ in range(256):
        packed += pack.compress(b" " * MIB)
    return packed + pack.flush()


def listed(*keys: object) -> bytes:
    return json.dumps({"keys": keys, "note": CANARY}).encode()


BAD: dict[str, Callable[[], Answer]] = {
    "silence": lambda: hangs,
    "silence within the body": lambda: hangs_within_the_body,
    "a byte of the head now and then": lambda: repeats(b"x", b"HTTP/1.1 200 OK\r\nX-Slow: ", 0.02),
    "a byte of the body now and then": lambda: repeats(b" ", head(Content_Length="1000000"), 0.02),
    "a body without end": lambda: repeats(b" " * 65_536, head()),
    "a body without end, in chunks": lambda: repeats(
        b"10000\r\n" + b" " * 65_536 + b"\r\n", head(Transfer_Encoding="chunked")
    ),
    "a body without end, in chunks of one byte": lambda: repeats(
        b"1\r\n \r\n" * 10_000, head(Transfer_Encoding="chunked")
    ),
    "a body of 300 MiB": lambda: repeats(b" " * 65_536, head(Content_Length=str(300 * MIB))),
    "a body larger than it says": lambda: says(key_set("two") + b" " * 1000, Content_Length="10"),
    "a body smaller than it says": lambda: says(key_set("two"), Content_Length="100000"),
    "a length that is none": lambda: says(key_set("two"), Content_Length="-1"),
    "a reset within the body": lambda: resets,
    "gzip that grows": lambda: says(bomb(), Content_Encoding="gzip"),
    "gzip within gzip": lambda: says(gzip.compress(gzip.compress(key_set("two"))), Content_Encoding="gzip, gzip"),
    "gzip that is none": lambda: says(key_set("two"), Content_Encoding="gzip"),
    "gzip that is cut": lambda: says(gzip.compress(key_set("two"))[:-20], Content_Encoding="gzip"),
    "an encoding that was not asked for": lambda: says(zlib.compress(key_set("two")), Content_Encoding="deflate"),
    "a header of 200 KiB": lambda: says(key_set("two"), X_Large="x" * 200_000),
    "headers without end": lambda: repeats(b"X-More: x\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"),
    "informational answers without end": lambda: repeats(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100, b""),
    "no HTTP": lambda: repeats(b"\0" * 1000, b""),
    "the end": lambda: says(b"", status="204 No Content"),
    "an error with a key set": lambda: says(key_set("two"), status="500 Internal Server Error"),
    "not found, with a key set": lambda: says(key_set("two"), status="404 Not Found"),
    "a redirect to itself": lambda: says(key_set("two"), status="302 Found", Location="/jwks.json"),
    "nothing": lambda: says(b""),
    "no JSON": lambda: says(CANARY.encode()),
    "no UTF-8": lambda: says(b'{"keys": "\xff\xfe"}'),
    "deeply nested lists": lambda: says(b"[" * 500_000),
    "deeply nested maps": lambda: says(b'{"keys":' * 100_000),
    "a list": lambda: says(json.dumps([public("two"), CANARY]).encode()),
    "null": lambda: says(b"null"),
    "keys that are no list": lambda: says(json.dumps({"keys": {"two": public("two")}, "note": CANARY}).encode()),
    "no keys": lambda: says(listed()),
    "no keys of ours": lambda: says(listed({"kty": "oct", "kid": "two", "alg": "HS256", "k": "c2VjcmV0"})),
    "keys without names": lambda: says(listed({**public("two"), "kid": None}, {**public("two"), "kid": ["two"]})),
    "keys that are none": lambda: says(listed(7, None, [], {}, CANARY, {"kty": 7}, {"kty": "RSA", "kid": "two"})),
    "keys of wrong types": lambda: says(listed({**public("two"), "x": 7}, {**public("two"), "crv": ["P-256"]})),
    "thousands of keys": lambda: says(listed(*[public("two")] * 3_000)),
    "a million empty keys": lambda: says(b'{"keys":[' + b"{}," * 300_000 + b"{}]}"),
}


# ---- What holds -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    made = KeyServer()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield made


@pytest.fixture
async def keys(server: KeyServer) -> AsyncIterator[KeySet]:
    async with fetch.client() as client, contextlib.aclosing(KeySet(server.url, client)) as made:
        yield made
    assert not fetches()
    await eventually(lambda: not server.open)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known keys are always old, and keys that are not known are fetched every time."""
    monkeypatch.setattr("server.edge.auth.KEYS_FRESH", 0.0)
    monkeypatch.setattr("server.edge.auth.REFETCH_AT_MOST", 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch is given up early."""
    monkeypatch.setattr("server.edge.auth.FETCH_SECONDS", 0.3)


def fetches() -> list[asyncio.Task[Any]]:
    """Under way."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "key set"]


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """What it returns, which it must without waiting for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise AssertionError("it waits")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("made", BAD.values(), ids=BAD)
async def test_a_bad_answer_takes_no_known_key_away_and_delays_no_token_of_one(
    server: KeyServer, keys: KeySet, made: Callable[[], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await keys.key("one")
    assert known is not None
    server.answer = made()
    patient = auth.FETCH_SECONDS
    monkeypatch.setattr(auth, "FETCH_SECONDS", 0.3)
    tracemalloc.start()
    try:
        with capture_logs() as told:
            # On a busy machine a fetch may be given up before the server was asked.
            await eventually(lambda: at_once(keys.key("one")) is known and len(server.asked) > 1)
            async with asyncio.timeout(LIMIT):
                while fetches():
                    assert at_once(keys.key("one")) is known
                    await asyncio.sleep(0.005)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()
    assert {event["event"] for event in told} == {"the key set could not be fetched; the known keys stay"}
    assert {*told[0]} == {"event", "log_level", "error"}
    assert CANARY not in str(told)
    monkeypatch.setattr(auth, "FETCH_SECONDS", patient)
    server.answer = says(key_set("one", "three"))
    assert await keys.key("three") is not None


@pytest.mark.usefixtures("quick", "impatient")
@pytest.mark.parametrize("made", BAD.values(), ids=BAD)
async def test_a_token_of_an_unknown_key_waits_for_one_fetch_and_is_answered(
    server: KeyServer, keys: KeySet, made: Callable[[], Answer]
) -> None:
    server.answer = made()
    async with asyncio.timeout(LIMIT):
        assert await keys.key("one") is None
    assert len(server.asked) == 1


async def test_a_fetch_ends_in_time_though_every_byte_comes_in_time(
    server: KeyServer, keys: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.edge.auth.FETCH_SECONDS", 0.5)
    server.answer = BAD["a byte of the body now and then"]()
    begun = time.monotonic()
    assert await keys.key("one") is None
    assert 0.4 < time.monotonic() - begun < LIMIT / 2


async def test_all_tokens_of_unknown_keys_wait_for_the_same_fetch(
    server: KeyServer, keys: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.edge.auth.FETCH_SECONDS", 0.3)
    server.answer = hangs
    assert await asyncio.gather(*(keys.key(f"invented {number}") for number in range(100))) == [None] * 100
    assert at_once(keys.key("another")) is None, "the next fetch for those is due in half a minute"
    assert len(server.asked) == 1


async def test_keys_are_fetched_once_more_when_they_are_old_while_the_known_ones_serve(
    server: KeyServer, keys: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await keys.key("one")
    assert at_once(keys.key("one")) is old
    assert not fetches(), "they are fresh"
    server.answer = says(key_set("one"))  # another key of this name
    monkeypatch.setattr("server.edge.auth.KEYS_FRESH", 0.0)
    for _ in range(3):
        assert at_once(keys.key("one")) is old
    assert len(fetches()) == 1
    await eventually(lambda: not fetches())
    monkeypatch.undo()
    assert at_once(keys.key("one")) not in (None, old)
    assert len(server.asked) == 2


async def test_a_peer_that_stops_waiting_does_not_end_the_fetch_for_others(server: KeyServer, keys: KeySet) -> None:
    go = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await says(key_set("one"))(reader, writer)

    server.answer = late
    leaves, stays = asyncio.create_task(keys.key("one")), asyncio.create_task(keys.key("one"))
    await eventually(lambda: server.asked)
    leaves.cancel()
    await asyncio.wait([leaves])
    go.set()
    assert await stays is not None


async def test_the_end_of_the_server_ends_a_fetch(server: KeyServer) -> None:
    server.answer = hangs
    async with fetch.client() as client:
        keys = KeySet(server.url, client)
        waits = asyncio.create_task(keys.key("one"))
        await eventually(lambda: server.asked)
        await keys.aclose()
        assert not fetches()
        assert await waits is None
    await eventually(lambda: not server.open)


@pytest.mark.usefixtures("quick")
async def test_no_cookie_of_a_key_server_is_kept(server: KeyServer, keys: KeySet) -> None:
    server.answer = says(key_set("one"), Set_Cookie=f"kept={CANARY}; Max-Age=86400")
    assert await keys.key("one") is not None
    assert await keys.key("two") is None
    assert len(server.asked) == 2
    assert b"kept" not in server.asked[1]


@pytest.mark.usefixtures("quick")
async def test_good_answers_are_taken_in_every_form(server: KeyServer, keys: KeySet) -> None:
    four, five = key_set("four"), key_set("five")
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in four) + b"0\r\n\r\n"
    good = {
        "one": says(key_set("one")),
        "two": says(gzip.compress(key_set("two")), Content_Encoding="gzip"),
        "three": says(gzip.compress(key_set("three")), Content_Encoding="GZIP"),
        "four": says(chunked, Transfer_Encoding="chunked"),
        "five": says(five + b" " * (KEY_SET_BYTES - len(five))),
        "six": says(listed({"kty": "EC", "kid": "bad", "crv": 7}, 7, public("six"))),
        "seven": says(listed(*[public(str(number)) for number in range(99)], public("seven"))),
    }
    for name, answer in good.items():
        server.answer = answer
        assert await keys.key(name) is not None, name
