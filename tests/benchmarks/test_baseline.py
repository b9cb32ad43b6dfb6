"""Atlas Sync and the full poll find every change, the delta poll does not. Speed is not tested."""

from tests.support.benchmark_runs import figures


def test_baseline_loses_nothing_and_the_delta_poll_misses_deletions() -> None:
    found = figures("baseline")
    assert found["lost"] == found["lost_in_stress"] == 0
    assert found["written"] > 0
    assert found["stress_written"] > found["stress_deleted"] > 0
    assert found["full_missed"] == found["full_deletions_missed"] == found["full_busy_missed"] == 0
    # It need not miss a message in every short run, but every deletion of one that it had seen.
    assert found["delta_missed"] >= 0
    assert found["delta_deletions_missed"] > 0
    for way in ("atlas", "full", "delta"):
        assert {f"{way}_staleness_p50_ms", f"{way}_staleness_p99_ms"} <= found.keys()
        for state in ("idle", "busy"):
            names = ("statements_per_second", "rows_per_second", "bytes_per_second", "postgres_cpu_percent")
            assert {f"{way}_{state}_{name}" for name in (*names, "server_cores_at_100k")} <= found.keys()
        assert f"{way}_busy_postgres_cores_at_100k" in found
        assert found[f"{way}_busy_bytes_per_second"] > 0
