"""`peers` delivers every change of ours, leaves out what is not there, and finds changes in any protocol's frames."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.compiling import compiled
from benchmarks.installing import Installation, NotInstalledError
from benchmarks.load import TEXT, Load, Part, Reply, Step, loading
from benchmarks.machine import BenchmarkError
from benchmarks.peers import peers
from tests.support.benchmark_runs import figures, run_fails

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None and "CI" not in os.environ, reason="there is no C compiler"
)


@needs_compiler
def test_peers_delivers_every_change_of_both_ways() -> None:
    found = figures("peers")
    assert found["lost"] == 0
    for way in ("listen", "wal"):
        for part in ("", "ramp_8_", "ramp_32_"):
            assert found[f"{way}_{part}written"] > 0 == found[f"{way}_{part}missed"]
            assert found[f"{way}_{part}per_second"] > 0 < found[f"{way}_{part}server_us"]
            names = ("p50_ms", "p95_ms", "p99_ms", "postgres_us", "relay_us", "client_cpu_percent")
            assert {f"{way}_{part}{name}" for name in names} <= found.keys()


def test_an_unknown_peer_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BenchmarkError, match=r"no peer pusher: --peers takes listen, wal, broadcaster, .* or all"):
        peers("listen,pusher", False, None, 50.0, 20, 1.0, 0.0)


def test_a_peer_that_is_not_there_is_left_out_with_one_line(tmp_path: Path) -> None:
    said = run_fails("peers", "--smoke", "--peers", "socketio,nats", "--folder", str(tmp_path))
    (socketio, nats, last) = said.splitlines()
    assert socketio.startswith("socketio is left out: ")
    assert nats.startswith("nats is left out: ")
    assert last == "benchmarks: No peer is left."


async def test_what_could_not_be_installed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("node", "npm"):
        (programs / name).write_text("#!/bin/sh\necho error: no such package; echo see the log\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    installation = Installation(tmp_path / "installed", network=True)
    with pytest.raises(NotInstalledError, match="npm failed, and said: error: no such package"):
        await installation.node_modules("peer", "a-package")
    (programs / "npm").write_text("#!/bin/sh\nmkdir node_modules\n")
    place = await installation.node_modules("peer", "a-package")
    assert place.is_dir()
    # From here on it is there, network or not.
    assert await Installation(tmp_path / "installed", network=False).node_modules("peer", "a-package") == place


@asynccontextmanager
async def two_devices(tmp_path: Path, port: int) -> AsyncIterator[Load]:
    program = await compiled("load.c", tmp_path)
    parts = [Part(f"/{name}", steps=[Step(0, b"", b"hello"), Step(TEXT, b"me", b"welcome")]) for name in "ab"]
    cpu = min(os.sched_getaffinity(0))
    async with loading(program, tmp_path, port, parts, [Reply(b"alive?", TEXT, b"yes")], cpu) as load:
        yield load


@needs_compiler
async def test_the_load_client_plays_its_part_and_finds_changes_in_any_frame(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    alive = asyncio.Event()

    async def server(socket: ServerConnection) -> None:
        assert socket.request is not None
        await socket.send("hello")
        heard.append((socket.request.path, str(await socket.recv())))
        await socket.send("welcome")
        if socket.request.path == "/a":
            await socket.send(b"\0binary ~#0000000007 \xff")
            await socket.send("~#3100000001, ~#3100000002" + "long" * 40_000)
        else:
            await socket.send("alive?")
            heard.append((socket.request.path, str(await socket.recv())))
            alive.set()
        await socket.wait_closed()

    async with serve(server, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        async with two_devices(tmp_path, port) as load:
            await load.arrived(3)
            await alive.wait()
            arrived = await load.end()
    assert sorted(heard) == [("/a", "me"), ("/b", "me"), ("/b", "yes")]
    assert [(each.device, each.change) for each in arrived] == [(0, 7), (0, 3_100_000_001), (0, 3_100_000_002)]


@needs_compiler
async def test_a_server_that_refuses_devices_fails_the_benchmark(tmp_path: Path) -> None:
    async def server(socket: ServerConnection) -> None:
        await socket.close()

    async with serve(server, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        with pytest.raises(BenchmarkError, match="Not all devices were let in"):
            async with two_devices(tmp_path, port):
                pass
