"""Every benchmark runs, and all of its work arrives. Speed is not tested."""

import json
import os
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.page import CHROMIUM
from tests.support import npm
from tests.support.benchmark_runs import drawable, figures, run
from tests.support.redis import needs_redis

ROOT = Path(__file__).parents[2]


def test_without_a_name_all_benchmarks_are_listed() -> None:
    command = [sys.executable, "-m", "benchmarks"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = (
        "adopt",
        "attack",
        "baseline",
        "catchup",
        "doorbell",
        "failover",
        "fanout",
        "idle",
        "live",
        "metrics",
        "page",
        "peers",
        "push",
        "report",
        "responses",
    )
    assert all(name in listed for name in (*names, "store", "storm", "streams", "usage"))


def test_idle_saves_the_result_of_several_runs(tmp_path: Path) -> None:
    (line,) = run("idle", "--smoke", "--runs", "2", "--save", "--results", str(tmp_path), "--json").splitlines()
    said = json.loads(line)
    found = said["figures"]
    assert found["sockets"] == 50
    assert {"kib_per_connection", "cpu_percent", "statements", "seconds", "connect_seconds"} <= found.keys()
    assert len(said["runs"]) == 2
    assert all(run.keys() == found.keys() for run in said["runs"])
    assert not {"host", "hostname", "node", "path"} & said["machine"].keys()
    (saved,) = results.read(tmp_path, smoke=True)
    assert saved.figures == found
    assert saved.runs == said["runs"]
    assert saved.arguments == {"sockets": 50, "users": None, "seconds": 1.0, "smoke": True}
    assert [path.name for path in tmp_path.iterdir()] == [f"{saved.date[:10]}-idle-smoke.json"]
    drawable(saved)


@pytest.mark.parametrize("doorbells", ["listen", "wal"])
def test_live_loses_nothing(doorbells: str) -> None:
    found = figures("live", "--doorbells", doorbells)
    assert found["lost"] == 0
    assert found["delivered"] == found["written"] > 0
    assert {
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "server_us_per_change",
        "postgres_us_per_change",
        "changes_per_second",
        "client_cpu_percent",
        "writer_cpu_percent",
    } <= found.keys()


@pytest.mark.parametrize("paid", [[], ["--paid"]], ids=["a stranger", "a paid user"])
def test_attack_is_cut_off(paid: list[str]) -> None:
    found = figures("attack", *paid)
    assert found["cut_offs"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["longest_ms"]
    assert 0 < found["p50_before_ms"] <= found["p99_before_ms"]


def test_metrics_compares_two_servers() -> None:
    found = figures("metrics")
    assert found["lost"] == 0
    assert found["server_us_per_change"] > 0 < found["server_us_per_change_without"]
    # A delay is negative where the frame arrives before the writer hears of its commit; few changes may all be so.
    for name in ("server_us_per_change", "p50_ms", "p99_ms"):
        assert all(isfinite(found[f"{name}{side}"]) for side in ("", "_without", "_ratio"))


def test_adopt_fails_no_write_and_loses_none() -> None:
    found = figures("adopt")
    assert found["lost"] == found["failed"] == 0
    for part in ("before", "adopt", "after", "undo"):
        assert found[f"{part}_written"] > 0
        assert found[f"{part}_longest_ms"] >= found[f"{part}_p99_ms"] > 0


@pytest.mark.skipif(not CHROMIUM.exists() and "CI" not in os.environ, reason=f"there is no Chromium at {CHROMIUM}")
def test_page_shows_every_message() -> None:
    found = figures("page")
    assert found["lost"] == 0
    assert {"p50_ms", "p95_ms", "rows_per_second", "page.js_gzipped"} <= found.keys()


@pytest.mark.skipif(not CHROMIUM.exists() and "CI" not in os.environ, reason=f"there is no Chromium at {CHROMIUM}")
def test_store_shows_every_message() -> None:
    npm.install()
    found = figures("store")
    assert found["lost"] == 0
    assert {"rows_per_second", "first_ms", "one_ms", "pending_query_ms"} <= found.keys()


def test_push_loses_no_mutation() -> None:
    found = figures("push")
    assert found["sockets"] == 20
    assert found["lost"] == found["lost_numbers"] == found["lost_on_the_way_back"] == 0
    assert found["acked"] > 100
    assert {
        "acked_per_second",
        "ack_p50_ms",
        "ack_p99_ms",
        "calm_ack_p50_ms",
        "most_acked_per_second",
        "one_by_one_acked_per_second",
        "server_us_per_mutation",
        "postgres_us_per_mutation",
    } <= found.keys()


def test_failover_brings_every_device_to_the_new_primary() -> None:
    found = figures("failover")
    assert found["sockets"] == 20
    assert found["lost"] == 0
    assert 0 < found["seconds_to_live_first"] <= found["seconds_to_live_p50"] <= found["seconds_to_live"]


def test_storm_brings_every_change_to_every_device() -> None:
    found = figures("storm")
    assert found["lost"] == found["lost_after_sigkill"] == 0
    assert found["written"] == found["written_again"] == 100
    assert {"seconds_to_live", "seconds_to_live_after_sigkill", "statements"} <= found.keys()


def test_usage_loses_no_event_and_no_token() -> None:
    found = figures("usage")
    assert found["lost"] == found["lost_events"] == found["lost_tokens"] == found["refused"] == 0
    assert found["events_per_second"] > 0 < found["counted_events_per_second"]
    assert {"p50_ms", "p99_ms", "accepted_p99_ms", "server_us_per_event", "postgres_us_per_event"} <= found.keys()
    assert all(isfinite(found[f"p99_ms{side}"]) for side in ("", "_without", "_ratio"))


@needs_redis
def test_responses_computes_once_and_counts_every_hit() -> None:
    found = figures("responses")
    assert found["lost_in_stampede"] == found["lost_in_http_stampede"] == found["lost_hits"] == 0
    assert found["stampede_computed"] == found["http_stampede_computed"] == 1
    assert found["hits"] > 200
    for layer, unit in (("process", "us"), ("redis", "ms"), ("postgres", "ms"), ("http", "ms")):
        assert 0 < found[f"{layer}_p50_{unit}"] <= found[f"{layer}_p99_{unit}"]
    assert {"http_hits_per_second", "http_hits_per_core_second", "key_of_the_longest_question_us"} <= found.keys()
