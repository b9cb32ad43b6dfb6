"""A command that does not reach its server says in one sentence what is wrong and what to do."""

import contextlib
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

from atlas_sync.device import Status
from atlas_sync.reason import Reason, reason_of
from atlas_sync.session import ErrorAnswer
from protocol import frames
from protocol.codec import MSGPACK
from protocol.errors import TOKEN_REFUSED
from server.terminal.device import console
from server.terminal.trouble import Shows, is_about_the_address
from tests.support.cluster import Database
from tests.support.commands import run_command
from tests.support.serving import serving, token

URL = "ws://here/sync"
COMMANDS = [("watch", "--cursor-file"), ("chat", "--outbox-file")]


@contextlib.contextmanager
def a_free_port() -> Iterator[int]:
    """One at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(("command", "option"), COMMANDS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/sync", "nothing", "ws://127.0.0.1:99999/sync", "ws://"])
async def test_a_text_that_is_no_address_of_a_server_is_refused(
    command: str, option: str, url: str, tmp_path: Path
) -> None:
    arguments = (command, "--url", url, option, str(tmp_path / "kept"))
    status, out, err = await run_command(*arguments, ATLAS_TOKEN=token(uuid4()))
    assert (status, out) == (2, "")
    assert err.startswith("atlas-sync: --url is not the address of a server. Name one like ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("command", "option"), COMMANDS)
async def test_a_port_at_which_nothing_listens_is_named_and_tried_again(
    command: str, option: str, tmp_path: Path
) -> None:
    with a_free_port() as port:
        url = f"ws://127.0.0.1:{port}/sync"
        says = f"offline: nothing listens at {url}: start the server, or check the port; --url names another address"
        arguments = (command, "--url", url, option, str(tmp_path / "kept"))
        status, _, err = await run_command(*arguments, ATLAS_TOKEN=token(uuid4()), until=says)
    assert (status, err) == (0, "")


@pytest.mark.parametrize(("command", "option"), COMMANDS)
async def test_a_refused_token_ends_the_command(command: str, option: str, tmp_path: Path) -> None:
    async def refuses(device: ServerConnection) -> None:
        await device.recv()
        answer = frames.Error(code=TOKEN_REFUSED.code, message=TOKEN_REFUSED.sentence, retryable=True, answers="hello")
        await device.send(MSGPACK.encode(answer))
        await device.close(4101)

    async with serve(refuses, "127.0.0.1", 0, subprotocols=[Subprotocol(MSGPACK.subprotocol)]) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/sync"
        status, _, err = await run_command(
            command, "--url", url, option, str(tmp_path / "kept"), ATLAS_TOKEN=token(uuid4())
        )
    assert status == 2
    assert err.startswith(
        f"atlas-sync: {TOKEN_REFUSED.sentence} Set ATLAS_TOKEN to another one: `atlas-sync token USER`"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize(("command", "option"), COMMANDS)
async def test_a_token_that_a_real_server_refuses_ends_the_command(
    command: str, option: str, database: Database, tmp_path: Path
) -> None:
    user = uuid4()
    refused = [token(user, secret="another secret, at least 32 characters long"), token(user, lifetime=-60)]
    async with serving(database) as server:
        for each in refused:
            arguments = (command, "--url", server.url, option, str(tmp_path / "kept"))
            status, out, err = await run_command(*arguments, ATLAS_TOKEN=each)
            assert status == 2, out
            assert "Set ATLAS_TOKEN to another one" in err
            assert err.count("\n") == 1


@pytest.mark.parametrize(("command", "option"), COMMANDS)
async def test_a_wrong_path_of_a_real_server_is_said_at_once(
    command: str, option: str, database: Database, tmp_path: Path
) -> None:
    async with serving(database) as server:
        url = f"{server.http.replace('http', 'ws')}/wrong"
        arguments = (command, "--url", url, option, str(tmp_path / "kept"))
        status, _, err = await run_command(*arguments, until="answered 404: check the path", ATLAS_TOKEN=token(uuid4()))
    assert (status, err) == (0, "")


def test_what_keeps_a_device_offline_is_said_once() -> None:
    screen = console()
    screen.width, screen.file = 2_000, io.StringIO()
    silence = Reason("unreachable", "nothing answers")
    reason: Reason | None = None
    shows = Shows(screen.print, lambda: reason)
    for _ in range(3):
        shows(Status.CONNECTING)
        reason = silence
        shows(Status.OFFLINE)
    reason = None
    for status in (Status.CONNECTING, Status.CATCHING_UP, Status.LIVE, Status.OFFLINE, Status.CONNECTING):
        shows(status)
    reason = silence
    shows(Status.OFFLINE)
    said = [line.removeprefix("· ") for line in screen.file.getvalue().splitlines()]
    trouble = "offline: nothing answers; --url names another address"
    assert said == ["connecting", trouble, "catching up", "live", "offline", "connecting", trouble]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (TimeoutError(), True),
        (InvalidStatus(Response(404, "", Headers())), True),
        (InvalidMessage("no"), True),
        (ConnectionClosed(None, None), False),
        (ErrorAnswer("internal", "It is the server's fault.", True), False),
    ],
)
def test_the_option_for_the_address_is_named_if_the_address_may_be_wrong(error: Exception, named: bool) -> None:
    reason = reason_of(error, URL)
    assert reason is not None
    assert is_about_the_address(reason) is named


COMMANDS_OF_POSTGRES = (
    ("init",),
    ("schema",),
    ("migrate", "--plan"),
    ("trace", "x"),
    ("costs",),
    ("maintain", "--once"),
)


@pytest.mark.parametrize("command", COMMANDS_OF_POSTGRES, ids=lambda command: command[0])
async def test_a_database_that_cannot_be_reached_is_one_sentence(command: tuple[str, ...]) -> None:
    with a_free_port() as port:
        url = f"postgresql://me@127.0.0.1:{port}/app"
        status, out, err = await run_command(*command, DATABASE_URL=url)
    assert (status, out) == (2, "")
    assert err.startswith("atlas-sync: Nothing listens at the host and port of the URL (")
    assert err.endswith("Start Postgres there, or correct them.\n")
    assert err.count("\n") == 1


async def test_a_host_that_is_not_known_is_one_sentence() -> None:
    status, out, err = await run_command("init", DATABASE_URL="postgresql://me@nowhere.invalid/app")
    assert (status, out) == (2, "")
    assert err.startswith("atlas-sync: The host of the URL is not known (")
