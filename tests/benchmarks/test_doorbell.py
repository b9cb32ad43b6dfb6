"""Every kind of commit is written, recorded and told as its name says. Speed is not tested."""

import os
import shutil
import time

import asyncpg
import pytest

from benchmarks.compiling import FLUSHES, slow_flushes
from benchmarks.doorbell import KINDS
from benchmarks.processes import folder
from server.demo.embedded import EmbeddedPostgres
from tests.support.benchmark_runs import figures


def test_doorbell_makes_every_kind_of_commit_and_loses_none() -> None:
    found = figures("doorbell")
    assert found["lost"] == found["lost_doorbells"] == 0
    assert found["committed"] > 0
    for kind in KINDS:
        assert found[f"{kind}_2_per_second"] > 0
        names = ("p50_ms", "p99_ms", "lock_percent", "wal_percent", "postgres_cpu_percent")
        assert {f"{kind}_2_{name}" for name in names} <= found.keys()
    # Nobody else takes that lock.
    assert all(found[f"{kind}_2_lock_percent"] == 0 for kind in ("none", "trigger", "wal"))
    assert {"trigger_us_per_commit", "notify_us_per_commit", "wal_us_per_commit", "writer_cpu_percent"} <= found.keys()


@pytest.mark.skipif(shutil.which("cc") is None and "CI" not in os.environ, reason="there is no C compiler")
async def test_on_a_slow_disk_no_commit_returns_before_its_flush() -> None:
    before = dict(os.environ)
    with folder() as place:
        async with slow_flushes(place, 100):
            with EmbeddedPostgres(place / "postgres", settings=FLUSHES) as postgres:
                connection = await asyncpg.connect(postgres.url())
                try:
                    began = time.monotonic()
                    await connection.execute("CREATE TABLE written (n int)")
                    assert time.monotonic() - began >= 0.1
                finally:
                    await connection.close()
    assert dict(os.environ) == before
