"""What the figures were taken on, and what a process of it has used so far."""

import os
import platform
import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from server.errors import AtlasError


class BenchmarkError(AtlasError):
    """The work did not all arrive, or this machine cannot do it; one sentence."""


def describe(postgres: str) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgres": postgres,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def allow_files(count: int) -> None:
    """Raise the limit of open files to the hard one, for us and for the processes we start. Raises BenchmarkError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 500  # Postgres, its connections, libraries
    if hard not in (resource.RLIM_INFINITY,) and hard < needed:
        raise BenchmarkError(
            f"{count:,} sockets need {needed:,} open files in a process, and the hard limit here is {hard:,}: "
            "raise it (ulimit -Hn), or ask for fewer."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_seconds(pid: int, *, family: bool = False) -> float:
    """CPU time of a process; of its living and its waited-for children too if `family`."""
    process = psutil.Process(pid)
    used = process.cpu_times()
    seconds = used.user + used.system
    if family:
        seconds += used.children_user + used.children_system
        for child in process.children(recursive=True):
            try:
                seconds += sum(child.cpu_times()[:2])
            except psutil.NoSuchProcess:  # it ended since; the parent has its time now, but we looked before
                continue
    return float(seconds)


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def open_files(pid: int) -> int:
    return psutil.Process(pid).num_fds()
