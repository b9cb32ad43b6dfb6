"""P9: whatever a peer sends gets its documented answer, and other connections notice nothing."""

import asyncio
import contextlib
import io
import json
import logging
import random
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgpack
import pytest
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Origin, Subprotocol

from protocol import codec as codec_module
from protocol.codec import CODECS, JSON, MAX_INBOUND, MSGPACK, Codec
from protocol.frames import AskPage, Changes, Error, Hello, Live, Ping, Pong, Refresh, ToServer
from server import logs
from server.edge import connection as edge_connection
from tests.support.cluster import Database
from tests.support.peer import Peer, both_codecs, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.raw import Raw, framed, handshake, parsed, raw
from tests.support.rows import Message, encoded_value
from tests.support.serving import Running, serving, token
from tests.support.waiting import LIMIT

VECTORS = Path(codec_module.__file__).parent / "vectors" / "refused.json"
REFUSED: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8")) if VECTORS.exists() else []
CONTENT = "nobody else may read this"
"""In every message that is written here, and in what the hostile say."""

pytestmark = pytest.mark.shared_database


# ---- The scene -----------------------------------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, at the most talkative level."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    ours = logging.getLogger("websockets.client")  # the tests' own client, which may say what it likes
    ours_before, ours.level = ours.level, logging.WARNING
    yield stream
    root.handlers[:], root.level, ours.level = handlers, level, ours_before
    structlog.reset_defaults()


@dataclass
class Scene:
    """A server, and somebody who is live on it and does no harm."""

    server: Running
    bystander: Peer
    conversation: UUID
    sql: Any
    user: UUID
    """Of the hostile peer: a paying one, with a token."""

    async def nothing_was_noticed(self) -> None:
        content = f"{CONTENT}: {uuid4()}"
        await add_message(self.sql, self.conversation, content)
        while True:
            frame = await self.bystander.hear()
            assert isinstance(frame, Changes | Live | Pong), frame
            if isinstance(frame, Changes):
                (row,) = frame.rows
                assert isinstance(row, Message)
                assert row.content == content
                return

    def hello(self) -> Hello:
        return Hello(token=token(self.user), client_id=uuid4())


@contextlib.asynccontextmanager
async def a_scene(database: Database, sql: Any, log: io.StringIO, **given: Any) -> AsyncIterator[Scene]:
    """At its end nobody has noticed anything, and the log is clean."""
    innocent, user = await add_user(sql), await add_user(sql)
    conversation = await add_conversation(sql, innocent)
    async with serving(database, **given) as server, peer(server.url) as bystander:
        await bystander.greet(innocent)
        await bystander.hear_a(Live)
        scene = Scene(server, bystander, conversation, sql, user)
        await scene.nothing_was_noticed()
        yield scene
        await scene.nothing_was_noticed()
    said = log.getvalue()
    assert "connection welcomed" in said, "the log is not what is looked at"
    for never in ("Traceback", "exception", CONTENT, "eyJ"):  # what every token begins with
        assert never not in said


@pytest.fixture
async def scene(database: Database, sql: Any, log: io.StringIO) -> AsyncIterator[Scene]:
    async with a_scene(database, sql, log) as made:
        yield made


async def greeted(scene: Scene, one: Peer) -> None:
    await one.greet(scene.user)
    await one.hear_a(Live)


async def still_served(one: Peer) -> None:
    await one.say(Ping())
    await one.hear_a(Pong)


@contextlib.asynccontextmanager
async def upgraded(scene: Scene, *, hello: bool = True) -> AsyncIterator[Raw]:
    """A JSON WebSocket of which every byte is the test's own; welcomed, if it says hello."""
    async with raw(scene.server) as one:
        await one.say(handshake())
        assert (await one.head()).startswith(b"HTTP/1.1 101 ")
        if hello:
            await one.say(framed(Opcode.TEXT, JSON.encode(scene.hello())))
            async with asyncio.timeout(LIMIT):
                await one.reader.readuntil(b'"welcome"')
                await one.reader.readuntil(b'"live"')
                await one.reader.readuntil(b"}")
        yield one


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_log_of_a_failure_holds_no_user_data(log: io.StringIO, form: str) -> None:
    stream = io.StringIO()
    logs.configure("debug", form, stream)
    for say in (structlog.get_logger().exception, logging.getLogger("asyncio").exception):
        presented, content = token(uuid4()), [CONTENT]
        try:
            raise ValueError(len(presented), len(content))
        except ValueError:
            say("it failed")
    said = stream.getvalue()
    assert "it failed" in said
    assert CONTENT not in said
    assert "eyJ" not in said


# ---- Frames of the wrong form --------------------------------------------------------------------------------------


@both_codecs
async def test_every_refused_frame_gets_the_error_that_belongs_to_it(scene: Scene, codec: Codec) -> None:
    assert REFUSED
    wrong = {}
    for vector in REFUSED:
        sent = vector["json" if codec.text else "msgpack"]
        if sent is None:
            continue
        async with peer(scene.server.url, codec) as one:
            await greeted(scene, one)
            await one.say_raw(sent.encode() if codec.text else bytes.fromhex(sent))
            answer = await one.hear()
            if not isinstance(answer, Error) or answer.code != vector["error"]:
                wrong[vector["name"]] = f"is answered with {answer}"
            elif answer.code in ("unknown_frame", "bad_page"):
                await still_served(one)
            elif (await one.closed())[0] != 4300:
                wrong[vector["name"]] = "does not close with 4300"
    assert wrong == {}


@both_codecs
async def test_a_hello_cut_short_is_a_bad_frame(scene: Scene, codec: Codec) -> None:
    async with peer(scene.server.url, codec) as one:
        await one.say_raw(codec.encode(scene.hello())[:-1])
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, code) == ("bad_frame", False, 4300)


@both_codecs
@pytest.mark.parametrize("size", [MAX_INBOUND + 1, 4 * MAX_INBOUND])
async def test_a_frame_larger_than_the_limit_ends_the_connection_with_1009(
    scene: Scene, codec: Codec, size: int
) -> None:
    async with peer(scene.server.url, codec) as one:
        await greeted(scene, one)
        with contextlib.suppress(ConnectionError):
            await one.say_raw(b" " * size)
        assert (await one.closed())[0] == 1009


@both_codecs
async def test_a_frame_of_exactly_the_limit_is_read(scene: Scene, codec: Codec) -> None:
    def ping(filling: int) -> bytes:
        fields = {"t": "ping", "filling": "." * filling}
        return json.dumps(fields).encode() if codec.text else bytes(msgpack.packb(fields))

    exact = ping(MAX_INBOUND - (len(ping(MAX_INBOUND)) - MAX_INBOUND))
    assert len(exact) == MAX_INBOUND
    async with peer(scene.server.url, codec) as one:
        await greeted(scene, one)
        await one.say_raw(exact)
        await one.hear_a(Pong)


async def test_the_limit_is_the_one_that_welcome_names(scene: Scene) -> None:
    async with peer(scene.server.url) as one:
        assert (await one.greet(scene.user)).limits.frame_bytes == MAX_INBOUND == 262_144


async def test_fragments_that_together_exceed_the_limit_end_the_connection_with_1009(scene: Scene) -> None:
    async with upgraded(scene) as one:
        await one.say(framed(Opcode.TEXT, b" " * 200_000, fin=False))
        await one.say(framed(Opcode.CONT, b" " * 200_000, fin=False))
        code, said = await one.closed()
    assert (code, said) == (1009, [])


async def test_a_length_of_a_thousand_million_million_bytes_is_not_waited_for(scene: Scene) -> None:
    async with upgraded(scene) as one:
        await one.say(struct.pack(">BBQ", 0x81, 0xFF, 10**15) + bytes(4))
        code, _ = await one.closed()
    assert code == 1009


async def test_a_frame_in_fragments_is_one_frame(scene: Scene) -> None:
    async with upgraded(scene) as one:
        await one.say(framed(Opcode.TEXT, b'{"t":', fin=False))
        await one.say(framed(Opcode.PING, b"between"))
        await one.say(framed(Opcode.CONT, b"", fin=False) + framed(Opcode.CONT, b'"ping"}'))
        async with asyncio.timeout(LIMIT):
            await one.reader.readuntil(b'{"t":"pong"}')


@both_codecs
@pytest.mark.parametrize("hello", [False, True])
async def test_a_deeply_nested_value_is_a_bad_frame(scene: Scene, codec: Codec, hello: bool) -> None:
    async with peer(scene.server.url, codec) as one:
        if hello:
            await greeted(scene, one)
        await one.say_raw(b"[" * 200_000 if codec.text else b"\x91" * 200_000)
        code, error = await one.closed()
    assert error is not None
    assert (error.code, code) == ("bad_frame", 4300)


@both_codecs
async def test_an_unknown_field_that_is_nested_very_deeply_is_ignored_or_refused(scene: Scene, codec: Codec) -> None:
    async with peer(scene.server.url, codec) as one:
        await greeted(scene, one)
        deep = 100_000
        text = b'{"t":"ping","x":' + b"[" * deep + b"]" * deep + b"}"
        await one.say_raw(text if codec.text else b"\x82\xa1t\xa4ping\xa1x" + b"\x91" * deep + b"\xc0")
        answer = await one.hear()
        assert isinstance(answer, Pong) or (isinstance(answer, Error) and answer.code == "bad_frame")


@both_codecs
@pytest.mark.parametrize("hello", [False, True])
async def test_a_message_of_the_wrong_kind_is_a_bad_frame(scene: Scene, codec: Codec, hello: bool) -> None:
    async with peer(scene.server.url, codec) as one:
        if hello:
            await greeted(scene, one)
        await one.say_raw(JSON.encode(scene.hello()), text=not codec.text)
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, code) == ("bad_frame", False, 4300)


async def test_the_first_of_many_fragments_is_enough_to_see_that_the_kind_is_wrong(scene: Scene) -> None:
    async with upgraded(scene) as one:
        await one.say(framed(Opcode.BINARY, b"{", fin=False))
        code, said = await one.closed()
    assert (code, [error["code"] for error in said]) == (4300, ["bad_frame"])


# ---- Frames at the wrong time --------------------------------------------------------------------------------------


@both_codecs
@pytest.mark.parametrize(
    "frame", [AskPage(id=1, kind="conversation"), Refresh(token="eyJ"), Ping()], ids=["page", "refresh", "ping"]
)
async def test_another_frame_before_hello_is_refused(scene: Scene, codec: Codec, frame: ToServer) -> None:
    async with peer(scene.server.url, codec) as one:
        await one.say(frame)
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, code) == ("hello_first", False, 4300)


async def test_an_unknown_frame_before_hello_is_refused(scene: Scene) -> None:
    async with peer(scene.server.url, JSON) as one:
        await one.say_raw(b'{"t": "from the future"}')
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, code) == ("hello_first", False, 4300)


@both_codecs
async def test_a_second_hello_is_refused(scene: Scene, codec: Codec) -> None:
    async with peer(scene.server.url, codec) as one:
        await greeted(scene, one)
        await one.say(scene.hello())
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, code) == ("second_hello", False, 4300)


async def test_a_second_hello_before_the_answer_to_the_first_is_refused(scene: Scene) -> None:
    async with upgraded(scene, hello=False) as one:
        await one.say(framed(Opcode.TEXT, JSON.encode(scene.hello())) * 2)
        code, said = await one.closed()
    assert (code, [error["code"] for error in said]) == (4300, ["second_hello"])


@both_codecs
async def test_a_frame_of_an_unknown_kind_is_answered_and_changes_nothing(scene: Scene, codec: Codec) -> None:
    async with peer(scene.server.url, codec) as one:
        await greeted(scene, one)
        fields = {"t": "from the future", "content": CONTENT}
        await one.say_raw(json.dumps(fields).encode() if codec.text else msgpack.packb(fields))
        error = await one.hear_a(Error)
        assert (error.code, error.retryable, error.answers) == ("unknown_frame", False, None)
        assert CONTENT not in error.message
        await still_served(one)


async def test_a_frame_after_a_violation_is_not_answered(scene: Scene) -> None:
    async with upgraded(scene) as one:
        ping = framed(Opcode.TEXT, JSON.encode(Ping()))
        await one.say(ping + framed(Opcode.TEXT, b"{") + ping * 10)
        code, said = await one.closed()
    assert (code, [frame["t"] for frame in said]) == (4300, ["pong", "error"])


# ---- Violations of RFC 6455 ----------------------------------------------------------------------------------------


VIOLATIONS = {
    "a frame that is not masked": framed(Opcode.TEXT, b'{"t":"ping"}', masked=False),
    "the reserved opcode 3": framed(3, b""),
    "the reserved opcode 15": framed(15, b""),
    "the first reserved bit": framed(Opcode.TEXT, b'{"t":"ping"}', rsv=4),
    "the second reserved bit": framed(Opcode.TEXT, b'{"t":"ping"}', rsv=2),
    "the third reserved bit": framed(Opcode.TEXT, b'{"t":"ping"}', rsv=1),
    "a ping in fragments": framed(Opcode.PING, b"", fin=False),
    "a close in fragments": framed(Opcode.CLOSE, b"", fin=False),
    "a ping of 126 bytes": framed(Opcode.PING, b"." * 126),
    "a continuation of nothing": framed(Opcode.CONT, b"{}"),
    "a new message within another": framed(Opcode.TEXT, b"{", fin=False) + framed(Opcode.TEXT, b"}"),
    "a close frame of one byte": framed(Opcode.CLOSE, b"\x03"),
    "a close frame with a code that nobody may send": framed(Opcode.CLOSE, struct.pack(">H", 1005)),
    "a close frame with a code below 1000": framed(Opcode.CLOSE, struct.pack(">H", 999)),
}
NOT_UTF8 = {
    "the reason of a close frame": framed(Opcode.CLOSE, struct.pack(">H", 1000) + b"\xff"),
    "the whole text": framed(Opcode.TEXT, b"\xff\xfe"),
    "a value within JSON": framed(Opcode.TEXT, b'{"t":"ping","x":"\xff"}'),
    "a name within JSON": framed(Opcode.TEXT, b'{"t":"ping","\xc0\xaf":1}'),
    "a text that ends within a character": framed(Opcode.TEXT, '{"t":"ping"}é'.encode()[:-1]),
}


async def answers(scene: Scene, table: dict[str, bytes], *, hello: bool) -> dict[str, Any]:
    """The close code that each of them gets, and what else is said."""
    got = {}
    for name, sent in table.items():
        async with upgraded(scene, hello=hello) as one:
            await one.say(sent + framed(Opcode.TEXT, b"{"))  # should it have been taken, this is not
            got[name] = await one.closed()
    return got


@pytest.mark.parametrize("hello", [False, True], ids=["before hello", "after hello"])
async def test_a_violation_of_the_websocket_standard_ends_with_1002(scene: Scene, hello: bool) -> None:
    assert await answers(scene, VIOLATIONS, hello=hello) == dict.fromkeys(VIOLATIONS, (1002, []))


@pytest.mark.parametrize("hello", [False, True], ids=["before hello", "after hello"])
async def test_text_that_is_not_utf8_ends_with_1007(scene: Scene, hello: bool) -> None:
    assert await answers(scene, NOT_UTF8, hello=hello) == dict.fromkeys(NOT_UTF8, (1007, []))


async def test_a_length_with_its_highest_bit_set_is_not_waited_for(scene: Scene) -> None:
    async with upgraded(scene) as one:
        await one.say(struct.pack(">BBQ", 0x81, 0xFF, 1 << 63) + bytes(4))
        assert (await one.closed())[0] in (1002, 1009)


async def test_a_websocket_ping_is_answered(scene: Scene) -> None:
    async with peer(scene.server.url) as one:
        await greeted(scene, one)
        async with asyncio.timeout(LIMIT):
            await (await one.socket.ping(b"are you there?"))


async def test_a_close_of_the_client_is_answered_in_kind(scene: Scene) -> None:
    async with upgraded(scene) as one:
        await one.say(framed(Opcode.CLOSE, struct.pack(">H", 4000)))
        assert await one.closed() == (4000, [])


async def test_a_peer_that_hangs_up_without_a_close_is_let_go(scene: Scene) -> None:
    async with upgraded(scene) as one:
        one.writer.write_eof()
        await one.everything()


async def test_a_peer_that_does_not_answer_a_close_is_cut_off(
    database: Database, sql: Any, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_connection, "CLOSE_SECONDS", 0.05)
    async with a_scene(database, sql, log) as scene, upgraded(scene) as one:
        await one.say(framed(Opcode.TEXT, b"{"))
        assert parsed(await one.everything())[0] == 4300


# ---- The opening handshake -----------------------------------------------------------------------------------------


async def status(scene: Scene, request: bytes) -> int:
    """The status of the answer, after which the connection must end. 0: it ended without an answer."""
    async with raw(scene.server) as one:
        await one.say(request)
        data = await one.everything()
    assert not data or data.startswith(b"HTTP/1.1 ")
    return int(data.split(b" ", 2)[1]) if data else 0


async def test_an_offer_of_unknown_subprotocols_is_answered_with_400(scene: Scene) -> None:
    offers = [b"chat", b"atlas-sync.v2.json, chat", b"ATLAS-SYNC.V1.JSON"]
    answers = {offer: await status(scene, handshake(Sec_WebSocket_Protocol=offer)) for offer in offers}
    assert answers == dict.fromkeys(offers, 400)


async def test_a_websocket_at_another_path_is_answered_with_404(scene: Scene) -> None:
    paths = ["/", "/sync/", "/sync/v1", "/SYNC", "//sync", "/healthz", "/%73ync/", "/../sync"]
    assert {path: await status(scene, handshake(path)) for path in paths} == dict.fromkeys(paths, 404)


@pytest.mark.parametrize("path", ["//[", "http://[/sync", "//]@/sync", "//\xff/sync"])
async def test_a_path_that_is_no_address_is_answered_with_404(scene: Scene, path: str) -> None:
    request = handshake("PATH").replace(b"PATH", path.encode("latin-1"))
    assert await status(scene, request) in (400, 404)


async def test_an_opening_handshake_against_the_standard_is_refused(scene: Scene) -> None:
    wrong: list[dict[str, Any]] = [
        {"Sec_WebSocket_Version": b"8"},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": b"\xff"},
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": b"too short"},
        {"Sec_WebSocket_Key": b"dG9vIHNob3J0"},
        {"Sec_WebSocket_Key": b"\xc3\xa4" * 12},
        {"Sec_WebSocket_Protocol": b"\xff"},
        {"Sec_WebSocket_Protocol": b",,;="},
        {"Connection": b"Upgrade, \xff"},
        {"method": "POST"},
    ]
    for changed in wrong:
        assert await status(scene, handshake(**changed)) in (400, 405, 426), changed


async def test_headers_that_are_no_ascii_do_no_harm_where_they_do_not_matter(scene: Scene) -> None:
    async with raw(scene.server) as one:
        await one.say(handshake(User_Agent=b"\xff\xfe\x80", Cookie=b"\xe4=\xf6", Sec_WebSocket_Extensions=b"\xff"))
        assert (await one.head()).startswith(b"HTTP/1.1 101 ")


ALLOWED = "https://app.example.com, https://beta.example.com"


async def test_an_origin_that_is_not_allowed_is_answered_with_403(
    database: Database, sql: Any, log: io.StringIO
) -> None:
    origins = [
        b"https://evil.example.com",
        b"http://app.example.com",
        b"https://app.example.com.evil.com",
        b"https://app.example.com:8443",
        b"null",
        b"",
        b"\xff",
    ]
    async with a_scene(database, sql, log, allowed_origins=ALLOWED) as scene:
        answers = {origin: await status(scene, handshake(Origin=origin)) for origin in origins}
    assert answers == dict.fromkeys(origins, 403)


async def test_two_origins_are_refused(database: Database, sql: Any, log: io.StringIO) -> None:
    async with a_scene(database, sql, log, allowed_origins=ALLOWED) as scene:
        request = handshake(Origin=b"https://app.example.com\r\nOrigin: https://evil.example.com")
        assert await status(scene, request) in (400, 403)


@pytest.mark.parametrize("origin", ["https://app.example.com", "https://beta.example.com", None])
async def test_an_allowed_origin_and_none_at_all_are_served(
    database: Database, sql: Any, log: io.StringIO, origin: str | None
) -> None:
    said = None if origin is None else Origin(origin)
    async with (
        a_scene(database, sql, log, allowed_origins=ALLOWED) as scene,
        peer(scene.server.url, origin=said) as one,
    ):
        await greeted(scene, one)


async def test_any_origin_is_served_where_none_is_configured(scene: Scene) -> None:
    async with peer(scene.server.url, origin=Origin("https://anywhere.example.com")) as one:
        await greeted(scene, one)


async def test_a_handshake_without_an_offer_gets_messagepack(scene: Scene) -> None:
    async with connect(scene.server.url, compression=None, proxy=None) as socket:
        assert socket.subprotocol is None
        await greeted(scene, Peer(socket, MSGPACK))


@pytest.mark.parametrize("codec", list(CODECS.values()), ids=lambda codec: codec.subprotocol)
async def test_the_offer_chooses_the_encoding(scene: Scene, codec: Codec) -> None:
    offer = [Subprotocol("chat"), Subprotocol(codec.subprotocol)]
    async with connect(scene.server.url, subprotocols=offer, compression=None, proxy=None) as socket:
        assert socket.subprotocol == codec.subprotocol
        await greeted(scene, Peer(socket, codec))


async def test_compression_is_declined(scene: Scene) -> None:
    async with connect(scene.server.url, subprotocols=[Subprotocol(JSON.subprotocol)], proxy=None) as socket:
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        await greeted(scene, Peer(socket, JSON))


async def test_an_ordinary_client_reads_why_its_handshake_was_refused(scene: Scene) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(scene.server.http.replace("http", "ws") + "/elsewhere", proxy=None)
    assert refused.value.response.status_code == 404


# ---- HTTP ----------------------------------------------------------------------------------------------------------


async def test_http_garbage_is_answered_with_an_error_or_a_hang_up(scene: Scene) -> None:
    everything = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"\x00" * 1000,
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"GET /sync HTTP/9.9\r\n\r\n",
        b"GET /sync HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /sync HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        handshake(Host=b"a\x00b"),
    ]
    for garbage in everything:
        assert await status(scene, garbage) in (400, 0), garbage


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /sync HTTP/1.1\r\nX: ", b"x" * 4096),
        (b"GET /sync HTTP/1.1\r\n", b"X: y\r\n" * 512),
        (b"GET /", b"x" * 4096),
        (b"POST /sync HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", b"x" * 4096),
        (b"POST /sync HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    ],
    ids=["header", "headers", "request line", "body", "chunks"],
)
async def test_a_request_without_an_end_ends_the_connection(scene: Scene, begin: bytes, more: bytes) -> None:
    async with raw(scene.server) as one:
        ended = False
        try:
            await one.say(begin)
            for _ in range(16_384):
                await one.say(more)
        except ConnectionError:
            ended = True
        assert ended, "64 MB were taken"


@pytest.mark.parametrize("headers", [100, 200, 1000])
async def test_more_headers_than_anybody_needs_do_no_harm(scene: Scene, headers: int) -> None:
    request = handshake().replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * headers + b"\r\n")
    async with raw(scene.server) as one:
        await one.say(request)
        one.writer.write_eof()
        data = await one.everything()
    assert not data or int(data.split(b" ", 2)[1]) in (101, 400, 431)


async def test_a_handshake_behind_another_request_does_no_harm(scene: Scene) -> None:
    async with raw(scene.server) as one:
        await one.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + handshake())
        await one.head()
        one.writer.write_eof()
        await one.everything()


async def test_an_upgrade_to_something_else_is_no_websocket(scene: Scene) -> None:
    async with raw(scene.server) as one:
        await one.say(handshake("/healthz", Upgrade=b"h2c", Connection=b"Upgrade, close"))
        assert b"HTTP/1.1 101" not in await one.everything()


async def test_a_user_has_as_many_sockets_as_the_server_allows(database: Database, sql: Any) -> None:
    user, other = await add_user(sql), await add_user(sql)
    async with serving(database, sockets_per_user=2) as server:
        async with peer(server.url) as one, peer(server.url) as two:
            await one.greet(user)
            await two.greet(user)
            async with peer(server.url) as three:
                await three.say_hello(user)
                code, error = await three.closed()
                assert code == 4003
                assert error is not None
                assert error.retry_after is not None
            async with peer(server.url) as stranger:
                await stranger.greet(other)
        async with peer(server.url) as again:
            await again.greet(user)


# ---- Time ----------------------------------------------------------------------------------------------------------


async def test_a_connection_that_never_says_hello_is_closed_with_4002(
    database: Database, sql: Any, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_connection, "HELLO_SECONDS", 0.05)
    async with a_scene(database, sql, log) as scene, peer(scene.server.url) as one:
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, code) == ("hello_timeout", True, 4002)


async def test_websocket_pings_are_no_hello(
    database: Database, sql: Any, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_connection, "HELLO_SECONDS", 0.05)
    async with a_scene(database, sql, log) as scene, peer(scene.server.url) as one:
        await (await one.socket.ping())
        assert (await one.closed())[0] == 4002


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"G",
        handshake()[:-2],
        b"POST /sync HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /sync HTTP/1.1\r\n",
    ],
    ids=["nothing", "a letter", "all but the last line", "no body", "half a second request"],
)
async def test_a_request_that_is_never_finished_ends_the_connection(
    database: Database, sql: Any, log: io.StringIO, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr("server.edge.http.REQUEST_SECONDS", 0.05)
    async with a_scene(database, sql, log) as scene, raw(scene.server) as one:
        await one.say(begin)
        await one.everything()


# ---- Without any sense ---------------------------------------------------------------------------------------------

DOCUMENTED = {1002, 1007, 1009, 4300, None}
"""None: random bytes may be the beginning of a frame that never comes to its end."""


@pytest.mark.parametrize("hello", [False, True], ids=["before hello", "after hello"])
async def test_random_bytes_on_a_websocket_end_in_a_documented_close(scene: Scene, hello: bool) -> None:
    for seed in range(40):
        dice = random.Random(seed)
        async with upgraded(scene, hello=hello) as one:
            with contextlib.suppress(ConnectionError):
                await one.say(dice.randbytes(dice.choice([1, 2, 10, 1000, 100_000])))
                one.writer.write_eof()
            code, _ = parsed(await one.everything())
            assert code in DOCUMENTED, seed


@both_codecs
async def test_random_messages_are_bad_frames(scene: Scene, codec: Codec) -> None:
    for seed in range(40):
        dice = random.Random(seed)
        async with peer(scene.server.url, codec) as one:
            data = dice.randbytes(dice.choice([1, 2, 10, 1000, 100_000]))
            await one.say_raw(b"\xc1" + data if not codec.text else b"}" + data.hex().encode())
            code, error = await one.closed()
            assert error is not None, seed
            assert (error.code, code) == ("bad_frame", 4300), seed


@both_codecs
async def test_frames_with_a_wrong_byte_get_a_documented_answer(scene: Scene, codec: Codec) -> None:
    frames: list[ToServer] = [Ping(), Refresh(token="x" * 40), scene.hello()]
    frames.append(AskPage(id=7, kind="message", parent=encoded_value(uuid4(), codec)))
    for seed in range(80):
        dice = random.Random(seed)
        data = bytearray(codec.encode(dice.choice(frames)))
        data[dice.randrange(len(data))] = dice.randrange(32, 127) if codec.text else dice.randrange(256)
        async with peer(scene.server.url, codec) as one:
            await greeted(scene, one)
            await one.say_raw(bytes(data))
            await one.socket.close()
            code, error = await one.closed()
            assert error is None or error.code in ("bad_frame", "unknown_frame", "token_refused", "second_hello"), seed
            assert code in (1000, 4300), seed


async def test_many_pings_are_answered_and_delay_nobody(scene: Scene) -> None:
    async with upgraded(scene) as one:
        count = 2_000
        await one.say(framed(Opcode.TEXT, JSON.encode(Ping())) * count)
        await scene.nothing_was_noticed()
        async with asyncio.timeout(LIMIT):
            for _ in range(count):
                await one.reader.readuntil(b'"pong"')


async def test_a_hundred_connections_that_break_off_leave_nothing_behind(scene: Scene) -> None:
    pieces = [b"", b"GET", handshake()[:40], handshake(), handshake() + b"\x81"]
    hello = framed(Opcode.TEXT, JSON.encode(scene.hello()))
    for number in range(100):
        async with raw(scene.server) as one:
            await one.say((*pieces, handshake() + hello)[number % 6])
    async with peer(scene.server.url) as one:
        await greeted(scene, one)


def test_the_frames_of_this_file_are_what_a_library_would_make() -> None:
    ours = framed(Opcode.TEXT, b"x" * 300)
    assert ours == Frame(Opcode.TEXT, b"x" * 300).serialize(mask=True)[:4] + bytes(4) + b"x" * 300
