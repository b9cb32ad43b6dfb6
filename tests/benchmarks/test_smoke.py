"""Every benchmark runs and all of its work arrives; how quickly is not a test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import CHROMIUM

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(benchmark: str) -> dict[str, Any]:
    (line,) = run(benchmark, "--smoke", "--json").splitlines()
    said = json.loads(line)
    assert said.keys() == {"benchmark", "machine", "figures"}
    assert said["benchmark"] == benchmark
    return dict(said["figures"])


def test_without_a_name_they_are_listed() -> None:
    listed = run()
    assert all(name in listed for name in ("idle", "live", "page", "push", "storm"))


def test_idle() -> None:
    found = figures("idle")
    assert found["sockets"] == 50
    assert {"kib_per_connection", "cpu_percent", "statements", "seconds", "connect_seconds"} <= found.keys()


def test_live() -> None:
    found = figures("live")
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


@pytest.mark.skipif(not CHROMIUM.exists() and "CI" not in os.environ, reason=f"there is no Chromium at {CHROMIUM}")
def test_page() -> None:
    found = figures("page")
    assert found["lost"] == 0
    assert {"p50_ms", "p95_ms", "rows_per_second", "page.js_gzipped"} <= found.keys()


def test_push() -> None:
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


def test_storm() -> None:
    found = figures("storm")
    assert found["lost"] == found["lost_after_sigkill"] == 0
    assert found["written"] == found["written_again"] == 100
    assert {"seconds_to_live", "seconds_to_live_after_sigkill", "statements"} <= found.keys()
