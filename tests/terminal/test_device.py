"""Text of servers and users is shown, and cannot control the terminal."""

import asyncio
import contextlib
import io
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Schema
from atlas_sync.session import Limits, Welcomed
from protocol import frames
from protocol.codec import MSGPACK
from server.declaration.chat import CHAT
from server.operations.catalog import Step
from server.terminal.device import console, line, printable, shows_welcome
from server.terminal.progress import Shown
from server.terminal.watch import NEWEST, newest
from tests.support.commands import run_command
from tests.support.rows import Conversation, Message, Profile
from tests.support.serving import token

FOREIGN = {
    "C0": "".join(map(chr, range(0x20))),
    "C1": "".join(map(chr, range(0x7F, 0xA0))),
    "a colour": "\x1b[31mred",
    "a colour by C1": "\x9b31mred",
    "a title": "\x1b]0;title\x07",
    "a link": "\x1b]8;;https://evil.example.com\x1b\\here\x1b]8;;\x1b\\",
    "a link by C1": "\x9d8;;https://evil.example.com\x9chere",
    "the other direction": "\u202a\u202b\u202c\u202d\u202eabc\u2066\u2067\u2068\u2069\u200e\u200f\u061c",
    "other ends of lines": "a\u2028b\u2029c\x85d",
    "what is not seen": "\u200b\u2060\ufeff\u00ad\U000e0041",
    "no character": "\ue000\uffff",
}
THINGS = Schema.parse(
    {
        "hash": "0",
        "kinds": [
            {
                "name": "thing",
                "tag": "t",
                "key": ["text", "int"],
                "columns": [["said", "text?"], ["made", "instant"], ["parts", "json?"]],
                "newest": "made",
            }
        ],
    }
)
MARKUP = "[bold red]here[/] [link=https://evil.example.com]there[/link] :warning: [/]"
EVERYTHING = "".join(FOREIGN.values()) + MARKUP


def is_harmless(shown: str) -> bool:
    return not [c for c in shown if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp")]


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_printable_text_contains_no_control_characters(text: str) -> None:
    assert is_harmless(printable(text))
    assert "\n" not in printable(text)
    assert len(printable(text)) == len(text)
    assert printable(f"\t{text}\n", keep="\n").endswith("\n")
    assert is_harmless(printable(text, keep="\n"))


def test_ordinary_text_stays_unchanged() -> None:
    said = f"Grüße, 你好, שלום, 👍 {MARKUP}"
    assert printable(said) == said


def on_screen(show: Callable[[Console], object]) -> str:
    """The text on the terminal."""
    screen = console()
    screen.width, screen.file = 2_000, io.StringIO()
    show(screen)
    text = screen.file.getvalue()
    assert is_harmless(text)
    return text


def test_a_welcome_cannot_write_escape_sequences() -> None:
    welcomed = Welcomed(EVERYTHING, "e", "s", EVERYTHING, "snapshot", EVERYTHING, 0, 0, 1, Limits(1, 1, 1, 1))
    assert on_screen(lambda screen: shows_welcome(screen)(welcomed)).count(MARKUP) == 3


def test_rows_cannot_write_escape_sequences() -> None:
    rows: tuple[Row | Deleted, ...] = (
        Row("thing", 1, (EVERYTHING, 2), {"said": EVERYTHING, "made": 1, "parts": [{EVERYTHING: EVERYTHING}]}),
        Row("thing", 1, ("a", 1), {"said": None, "made": 1 << 62, "parts": None}),
        Deleted("thing", 1, (EVERYTHING, 3)),
    )
    shown = on_screen(lambda screen: screen.print(*(line(row, THINGS) for row in rows), sep="\n"))
    assert [each.count(MARKUP) for each in shown.splitlines()] == [4, 0, 1]


def test_a_snapshot_shows_the_newest_rows_of_each_kind() -> None:
    rows = [Row("thing", 1, (str(i), 1), {"said": None, "made": i, "parts": None}) for i in range(2 * NEWEST)]
    assert [row.values["made"] for row in newest([*reversed(rows)], THINGS)] == list(range(NEWEST, 2 * NEWEST))


def test_table_names_cannot_write_escape_sequences_during_a_migration() -> None:
    step = Step(f"move {EVERYTHING}", EVERYTHING, ())

    def migrates(screen: Console) -> None:
        with Shown(screen) as progress:
            progress.begins(step)
            progress.waits(step, EVERYTHING)
            progress.advances(step, 0.5)
            progress.ends(step)

    assert MARKUP in on_screen(migrates)


# ---- A server that means harm ---------------------------------------------------------------------------------------


async def welcomes_and_shows_out(socket: ServerConnection) -> None:
    """Sends a snapshot, then closes with «stay away»."""
    await socket.recv()
    schema = CHAT.schema
    now = time.time_ns() // 1000
    user, conversation = uuid4(), uuid4()
    rows = [
        Profile(now, user, EVERYTHING, EVERYTHING),
        Conversation(now, conversation, EVERYTHING, now, now),
        Message(now, uuid4(), conversation, EVERYTHING, EVERYTHING, now, now),
    ]
    for frame in (
        frames.Welcome(
            session=EVERYTHING,
            epoch=EVERYTHING,
            schema=schema.hash + "0",
            tier=EVERYTHING,
            mode="snapshot",
            why=EVERYTHING,
            time=now,
            expires=now + 3_600_000_000,
            keepalive=frames.Milliseconds(25_000),
            limits=frames.Limits(
                frame_bytes=262_144,
                page_rows=100,
                pages_in_flight=1,
                mutations=10,
            ),
        ),
        frames.SchemaFrame(hash=schema.hash + "0", kinds=schema.kinds),
        frames.Snapshot(as_of=now, rows=rows, cursor=b"cursor"),
        frames.Live(seq=now, cursor=b"cursor"),
        frames.Error(code=EVERYTHING, message=EVERYTHING, retryable=False),
    ):
        await socket.send(MSGPACK.encode(frame))
    await socket.close(4301, "done")


@pytest.mark.parametrize(("command", "option"), [("watch", "--cursor-file"), ("chat", "--outbox-file")])
async def test_a_servers_messages_cannot_write_escape_sequences(command: str, option: str, tmp_path: Path) -> None:
    async with serve(welcomes_and_shows_out, "127.0.0.1", 0, subprotocols=[Subprotocol(MSGPACK.subprotocol)]) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/sync"
        status, out, err = await run_command(
            command, "--url", url, option, str(tmp_path / "kept"), ATLAS_TOKEN=token(uuid4())
        )
    assert status == 2
    assert err.startswith("atlas-sync: The server says: stay away (4301 ")
    assert err.count("\n") == 1
    assert MARKUP in out
    assert MARKUP in err
    assert is_harmless(out + err)


async def test_a_servers_metrics_cannot_write_escape_sequences() -> None:
    label = EVERYTHING.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    page = "".join(f'atlas_users{{tier="{label}{n}"}} {n + 1}\n' for n in range(2)).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
        status, out, err = await run_command("top", "--url", url, "--once", "--every", "0.1")
    assert (status, err) == (0, "")
    assert MARKUP in out
    assert is_harmless(out)


async def test_an_endless_page_of_metrics_is_refused() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError, RuntimeError):
            while True:
                writer.write(b"atlas_users 1\n" * 4_096)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
        status, out, err = await run_command("top", "--url", url, "--once")
    assert (status, out) == (2, "")
    assert "does not show Atlas Sync's metrics" in err
