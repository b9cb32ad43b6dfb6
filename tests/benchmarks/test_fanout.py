"""Both sides of `fanout` deliver every change to every socket. Speed is not tested."""

import os
import shutil
from pathlib import Path

import pytest

from benchmarks.compiling import compiled
from benchmarks.fanout import BURST, TURNS
from benchmarks.machine import BenchmarkError
from tests.support.benchmark_runs import figures

SOCKETS = 20
CALM = 2
"""Changes in each calm turn: 20 per second for 0.4 s in all."""


@pytest.mark.skipif(shutil.which("cc") is None and "CI" not in os.environ, reason="there is no C compiler")
def test_server_and_c_program_deliver_every_change_to_every_socket_once() -> None:
    found = figures("fanout")
    assert found["sockets"] == SOCKETS
    assert found["lost"] == found["lost_by_c"] == 0
    assert found["delivered"] == SOCKETS * TURNS * (CALM + BURST)
    assert found["cpu_ratio_to_c"] > 0
    assert found["cpu_ratio_to_c_burst"] > 0
    assert found["changes_per_frame"] >= 1
    assert found["changes_per_frame_burst"] >= 1
    assert {
        "cpu_ratio_to_c_per_frame",
        "server_us_per_delivery",
        "server_us_per_delivery_burst",
        "c_us_per_delivery",
        "c_us_per_delivery_burst",
        "p50_ms",
        "p99_ms",
        "p99_ms_burst",
        "burst_seconds",
        "client_cpu_percent",
    } <= found.keys()


async def test_without_a_compiler_the_error_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="apt-get install gcc"):
        await compiled("floor.c", tmp_path)
