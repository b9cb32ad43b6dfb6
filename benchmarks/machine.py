"""The machine that a benchmark runs on, and the resources that a process on it has used."""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from server.exceptions import AtlasError

SPARE_FILES: Final = 500
"""Open files of a process in addition to its sockets: libraries, connections to Postgres."""
_LIBC: Final = ctypes.CDLL(None)  # loaded here, because little is safe between fork and exec
_PR_SET_PDEATHSIG: Final = 1


class BenchmarkError(AtlasError):
    """Some of the work did not arrive, or this machine cannot run the benchmark; the message is one sentence."""


def describe(postgres: str) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",  # the rest names the builder
        "python": platform.python_version(),
        "postgres": postgres,
        "flush_ms": round(_flush_seconds() * 1000, 3),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _flush_seconds() -> float:
    """Return the milliseconds to flush 8 KiB to the disk, which each commit waits for: the median of several."""
    took = []
    with tempfile.TemporaryFile(dir="/tmp") as file:
        for _ in range(15):
            began = time.monotonic()
            os.write(file.fileno(), bytes(8192))
            os.fsync(file.fileno())
            took.append(time.monotonic() - began)
    return statistics.median(took)


def allow_files(sockets: int) -> None:
    """Raise the limit of open files, for us and our children, to the hard limit. Raises BenchmarkError if that is too
    low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sockets + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkError(
            f"{sockets:,} sockets need {needed:,} open files in one process, and the hard limit here is {hard:,}: "
            "raise it (ulimit -Hn), or ask for fewer."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def end_with_parent() -> None:
    """Runs in a child before its program: let it end with its parent, even if that is killed (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def cpu_seconds(pid: int, *, family: bool = False) -> float:
    """Return the CPU time of a process; with `family`, that of its children too, including those that ended."""
    process = psutil.Process(pid)
    seconds = _own_cpu_seconds(process)
    if family:
        used = process.cpu_times()
        seconds += used.children_user + used.children_system
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                seconds += _own_cpu_seconds(child)
    return seconds


def _own_cpu_seconds(process: psutil.Process) -> float:
    """Linux has a clock for each process; the ticks of 10 ms elsewhere are longer than a burst to one socket."""
    if sys.platform == "linux":
        return time.clock_gettime(~process.pid << 3 | 2)
    return float(sum(process.cpu_times()[:2]))


def pin(pid: int, cpu: int) -> None:
    """Let a process and its children run on this CPU only (Linux)."""
    with contextlib.suppress(psutil.NoSuchProcess):  # one that has ended says why elsewhere
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                for thread in each.threads():
                    os.sched_setaffinity(thread.id, {cpu})


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def open_files(pid: int) -> int:
    return int(psutil.Process(pid).num_fds())
