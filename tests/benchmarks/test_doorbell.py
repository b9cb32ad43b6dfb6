"""Every kind of commit is made, recorded and rung for as its name says; how many a second is not a test's business."""

import pytest

from benchmarks.doorbell import KINDS
from benchmarks.doorbell import _silent as silent
from benchmarks.machine import BenchmarkError
from tests.support.benchmark_runs import figures


def test_doorbell() -> None:
    found = figures("doorbell")
    assert found["lost"] == found["lost_doorbells"] == 0
    assert found["committed"] > 0
    for kind in KINDS:
        assert found[f"{kind}_2_per_second"] > 0
        names = ("p50_ms", "p99_ms", "lock_percent", "wal_percent", "postgres_cpu_percent")
        assert {f"{kind}_2_{name}" for name in names} <= found.keys()
    # Nobody else takes that lock.
    assert all(found[f"{kind}_2_lock_percent"] == 0 for kind in ("none", "trigger"))
    assert {"trigger_us_per_commit", "notify_us_per_commit", "writer_cpu_percent"} <= found.keys()


def test_a_function_that_rings_otherwise_is_noticed() -> None:
    with pytest.raises(BenchmarkError, match="RING"):
        silent("CREATE OR REPLACE FUNCTION sync.record() …")
