"""Every kind of commit is written, recorded and notified as its name says. Speed is not tested."""

from benchmarks.doorbell import KINDS
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
