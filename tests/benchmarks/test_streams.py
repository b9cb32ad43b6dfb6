"""`streams` counts what arrived at every device, in any protocol, and what a server refused; no way loses
anything."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.appends import Device, Done, Kind, Writer, appending
from benchmarks.compiling import compiled
from benchmarks.machine import BenchmarkError
from benchmarks.streams import streams
from tests.support.benchmark_runs import figures
from tests.support.redis import needs_redis

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None and "CI" not in os.environ, reason="there is no C compiler"
)
STEPS: Final = [(b"hello", b"welcome"), (b"more", b"live")]


class Service:
    """Passes what writers append on to all devices, some of it in two pieces, and refuses the stream `refused`."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[tuple[str, Any]] = []
        self._devices: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.readexactly(5) == b"hello":
                writer.write(b"wel")
                await writer.drain()
                writer.write(b"come")
                await reader.readexactly(4)
                writer.write(b"it is live")
                self._devices.append(writer)
                await reader.read()
            else:
                await self._write(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _write(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The first characters of the first request are read already."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = json.loads(await reader.readexactly(int(head.partition("Content-Length: ")[2].split("\r\n")[0])))
            path = head.split(" ")[1]
            self.requests.append((path, body))
            if "appends" in body:
                answers = [[409 if name == "refused" else 200, "open", 0] for name, *_ in body["appends"]]
                await self._pass_on("".join(text for name, _, text in body["appends"] if name != "refused"))
                said = json.dumps({"answers": answers}, separators=(",", ":")).encode()
            else:
                await self._pass_on(body["text"])
                said = b"{}"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said))
            await writer.drain()
            writer.write(said)

    async def _pass_on(self, text: str) -> None:
        raw = text.encode()
        for device in self._devices:
            for piece in (b"\0frame" + raw[:7], raw[7:] + b"\xff"):
                device.write(piece)
                await device.drain()
                await asyncio.sleep(0)  # the device may read the first piece alone


async def appended(tmp_path: Path, service: Service, writer: Writer) -> Done:
    program = await compiled("appends.c", tmp_path)
    async with appending(program, tmp_path, [Device(service.port, STEPS) for _ in range(2)], [writer], 1) as appends:
        await appends.write(20, 0.2, 10, 2)
        return await appends.end()


@needs_compiler
async def test_each_append_is_a_request_at_its_offset_and_arrives_at_both_devices(tmp_path: Path) -> None:
    service = Service()
    async with service.running():
        done = await appended(tmp_path, service, Writer(Kind.SINGLE, service.port, ["one"], "Authorization: me\r\n"))
    (text,) = done.texts(1)
    assert [path for path, _ in service.requests] == ["/v1/streams/one"] * 4
    assert [body["offset"] for _, body in service.requests] == [0, 20, 40, 60]
    assert "".join(body["text"] for _, body in service.requests) == text
    for token in done.tokens:
        assert token.arrivals.keys() == {0, 1}
        assert done.began <= done.all_there <= token.due <= token.sent < token.answered
        assert token.sent < min(token.arrivals.values())
        assert not token.refused


@needs_compiler
async def test_what_is_refused_is_counted(tmp_path: Path) -> None:
    service = Service()
    async with service.running():
        writer = Writer(Kind.GROUPED, service.port, ["one", "refused"])
        program = await compiled("appends.c", tmp_path)
        async with appending(program, tmp_path, [Device(service.port, STEPS)], [writer], 1) as appends:
            # Both streams' tokens are due within 31 ms of each other, and one of the two arrives.
            assert await appends.write(20, 0.05, 100, 0) == range(2)
            await appends.arrived(1)
            done = await appends.end()
    ((path, body),) = service.requests
    assert path == "/v1/streams"
    assert [name for name, *_ in body["appends"]] == ["one", "refused"]
    assert [len(token.arrivals) for token in done.tokens] == [1, 0]
    assert all(token.refused for token in done.tokens)  # whoever refuses some of a group fails the run


@needs_compiler
async def test_a_device_that_is_not_let_in_fails_the_benchmark(tmp_path: Path) -> None:
    async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    program = await compiled("appends.c", tmp_path)
    async with await asyncio.start_server(closes, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BenchmarkError, match="Not all devices were let in"):
            async with appending(program, tmp_path, [Device(port, STEPS)], [], 1):
                pass


async def test_an_unknown_way_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BenchmarkError, match="no way pusher: --ways takes atlas, each, together, or all"):
        await streams(1, 1.0, 1.0, 1, 1, "each,pusher", 0, 0)


@needs_compiler
@needs_redis
def test_every_token_of_every_way_arrives_at_both_devices_and_is_kept() -> None:
    found = figures("streams")
    assert found["lost"] == 0
    for way in ("atlas", "each", "together"):
        assert found[f"{way}_join_many_ms"] >= found[f"{way}_join_many_p50_ms"] > 0
        assert found[f"{way}_join_one_ms"] >= found[f"{way}_join_one_p50_ms"] > 0
        for shape in ("grouped", "single"):
            for side in ("within", "across"):
                assert found[f"{way}_{shape}_{side}_p99_ms"] >= found[f"{way}_{shape}_{side}_p50_ms"] > 0
            assert found[f"{way}_{shape}_appends_per_second"] > 0 < found[f"{way}_{shape}_most_per_second"]
    assert found["atlas_join_without_streams_ms"] > 0 < found["atlas_grouped_statements_per_second"]
    for how in ("poll", "group", "device"):
        for side in ("within", "across"):
            assert found[f"stop_{how}_{side}_p99_ms"] >= found[f"stop_{how}_{side}_p50_ms"] > 0
    assert {"atlas_kib_per_stream_absent", "atlas_kib_per_stream_present"} <= found.keys()
    assert {"grouped_server_us_ratio_to_each", "single_across_p99_ms_ratio_to_together"} <= found.keys()
