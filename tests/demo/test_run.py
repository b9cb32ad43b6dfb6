"""The demo's command, and what it starts beside Postgres and the server."""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from server.demo import embedded_redis, run
from server.demo.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from server.demo.run import Extra
from server.exceptions import CacheError, ConfigError
from server.redis.link import Link
from tests.support.cluster import temporary_folder
from tests.support.demo import Demo
from tests.support.redis import REDIS, needs_redis
from tests.support.waiting import LIMIT, eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as path:
        yield path


def test_the_demo_without_its_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "chitchat_dataset", None)
    options = run.Options(data=tmp_path, users=2, port=0, speed=1, replay=False, json=True)
    with pytest.raises(ConfigError, match=r"pip install 'atlas-sync\[demo\]'"):
        run.run(options)
    assert not list(tmp_path.iterdir())


def test_what_comes_with_the_demo_is_named_by_a_list() -> None:
    assert run.extras("") == frozenset()
    assert run.extras("redis") == {Extra.REDIS}
    assert run.extras(" Replica ,redis,") == {Extra.REDIS, Extra.REPLICA}
    with pytest.raises(
        ConfigError, match="takes redis, replica, usage, responses, separated by commas, and not 'mysql'"
    ):
        run.extras("redis,mysql")


@pytest.mark.parametrize("missing", ["the program", "the package"])
def test_the_demo_without_a_redis_says_what_to_install_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    if missing == "the program":
        monkeypatch.setattr(embedded_redis, "PROGRAMS", ("no-such-program",))
    else:
        monkeypatch.setitem(sys.modules, "redis", None)
    extras = run.extras("redis")
    options = run.Options(data=tmp_path, users=2, port=0, speed=1, replay=False, json=True, extras=extras)
    with pytest.raises(ConfigError, match="pip install" if missing == "the package" else "apt-get install"):
        run.run(options)
    assert not list(tmp_path.iterdir())


async def started(folder: Path, *options: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "server", "demo", "--no-replay", "--users", "2", "--data", str(folder), *options)
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)


async def test_the_commands_for_the_support_case_can_be_pasted(folder: Path) -> None:
    demo = await started(folder, "--port", "0")
    assert demo.stderr is not None
    printed = ""
    try:
        async with asyncio.timeout(60):
            while "Stop this with" not in printed:
                said = (await demo.stderr.readline()).decode()
                assert said, printed
                printed += said
        results = {}
        for line in printed.splitlines():
            if line.startswith("DATABASE_URL="):
                setting, _, *arguments = shlex.split(line)
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "server", *arguments),
                    env={**os.environ, "DATABASE_URL": setting.removeprefix("DATABASE_URL=")},
                    stdout=asyncio.subprocess.PIPE,
                )
                async with asyncio.timeout(LIMIT):
                    out, _ = await process.communicate()
                results[arguments[0]] = (process.returncode, out.decode())
        assert results.keys() == {"doctor", "trace"}
        for status, told in results.values():
            assert status == 0, told
            assert "✓" in told
    finally:
        demo.send_signal(signal.SIGTERM)
        await demo.communicate()


async def test_a_port_that_is_in_use_is_told_with_the_option_that_names_another(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        demo = await started(folder, "--port", str(port))
        _, said = await demo.communicate()
    assert demo.returncode == 2
    assert f"atlas-sync: --port: 127.0.0.1:{port} cannot be listened on (Address already in use)." in said.decode()


@needs_redis
async def test_the_demos_redis_needs_its_password_and_keeps_little_and_nothing_on_disk(folder: Path) -> None:
    assert REDIS is not None
    redis = EmbeddedRedis(folder / "redis", REDIS)
    redis.start()
    try:
        async with Link(redis.url) as link:
            settings = await link.command("CONFIG", "GET", "maxmemory*", patience=LIMIT)
            assert {b"maxmemory": b"67108864", b"maxmemory-policy": b"allkeys-lru"}.items() <= settings.items()
            await link.command("SET", "a", "b", patience=LIMIT)
        async with Link(f"redis://127.0.0.1:{redis.port}") as stranger:
            with pytest.raises(CacheError):
                await stranger.command("GET", "a", patience=LIMIT)
    finally:
        redis.stop()
    assert [path.name for path in (folder / "redis").iterdir()] == ["redis.log"]


def test_a_redis_that_does_not_start_shows_the_end_of_its_log(folder: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="does not start"):
        EmbeddedRedis(folder / "redis", "false").start()


@needs_redis
async def test_what_is_shown_beside_comes_with_the_demo_and_ends_with_it_when_it_is_killed(folder: Path) -> None:
    demo = Demo(folder / "demo", "--with", "redis,replica,usage,responses")
    try:
        await demo.start()
        (replica_url,) = demo.line["replica_urls"]
        replica = await asyncpg.connect(replica_url)

        async def follows() -> bool:
            people = {str(row["id"]) for row in await replica.fetch("SELECT id FROM profiles")}
            return people >= {user["id"] for user in demo.line["users"]}

        await eventually(follows)
        assert await replica.fetchval("SELECT pg_is_in_recovery()")
        replica.terminate()
        async with Link(demo.line["redis_url"]) as link:
            assert await link.command("DBSIZE", patience=LIMIT) >= 0
        sql = await asyncpg.connect(demo.line["database_url"])
        await eventually(lambda: sql.fetchval("SELECT sum(cost) > 0 FROM sync.daily_costs"))
        sql.terminate()
        asked = {"question": "What is a feed?", "model": "model-1", "tier": "core", "scope": "everybody"}
        async with httpx.AsyncClient(trust_env=False, base_url=demo.line["http"]) as http:
            bearer = {"Authorization": f"Bearer {demo.line['service_token']}"}
            answer = await http.get("/v1/responses", params=asked, headers=bearer)
            assert answer.json().keys() == {"lease", "seconds"}, answer.text
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len(psutil.Process(demo.pid).children()) == 4
        arguments = []
        for each in started:
            with contextlib.suppress(psutil.NoSuchProcess):  # Postgres' own come and go
                arguments += each.cmdline()
        assert arguments
        assert not any(demo.line["redis_url"].split("@")[0][9:] in argument for argument in arguments)
    finally:
        await demo.end(signal.SIGKILL)
    _, alive = await asyncio.to_thread(psutil.wait_procs, started, LIMIT)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
