"""What the figures were taken on, and what a process on it has used so far."""

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

from server.errors import AtlasError

SPARE_FILES: Final = 500
"""Open files of a process beside its sockets: libraries, connections to Postgres."""
_LIBC: Final = ctypes.CDLL(None)  # loaded here, for little is safe between fork and exec
_PR_SET_PDEATHSIG: Final = 1


class BenchmarkError(AtlasError):
    """The work did not all arrive, or this machine cannot do it; in one sentence."""


def describe(postgres: str) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",  # what follows is the builder's own
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
    """Of 8 KiB to the disk, as each commit waits for: the median of several, in the folder of the stage."""
    took = []
    with tempfile.TemporaryFile(dir="/tmp") as file:
        for _ in range(15):
            began = time.monotonic()
            os.write(file.fileno(), bytes(8192))
            os.fsync(file.fileno())
            took.append(time.monotonic() - began)
    return statistics.median(took)


def allow_files(sockets: int) -> None:
    """Raise the limit of open files to the hard one, for us and for whom we start. Raises BenchmarkError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sockets + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkError(
            f"{sockets:,} sockets need {needed:,} open files in one process, and the hard limit here is {hard:,}: "
            "raise it (ulimit -Hn), or ask for fewer."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def end_with_parent() -> None:
    """In a child, before its program: end with whoever started it, even with one that is killed (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def cpu_seconds(pid: int, *, family: bool = False) -> float:
    """CPU time of a process; with that of its children, the ended ones too, if `family`."""
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
    """On Linux by its own clock, for the ticks of 10 ms that others count in are longer than a burst to one socket."""
    if sys.platform == "linux":
        return time.clock_gettime(~process.pid << 3 | 2)
    return float(sum(process.cpu_times()[:2]))


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def open_files(pid: int) -> int:
    return int(psutil.Process(pid).num_fds())
