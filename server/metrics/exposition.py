"""The metrics in Prometheus' text format.

Each of several processes (`supervisor.py`) keeps its metrics in files of a folder that all of them share, so that
whichever of them is asked answers for all.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest, multiprocess
from prometheus_client.registry import Collector

from server.metrics.catalogue import REGISTRY

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the shared folder. prometheus-client reads it when it is imported."""


def shared() -> bool:
    """Whether this is one of several processes that expose their metrics together."""
    return FOLDER in os.environ


class _AllProcesses(Collector):
    """The metrics of all processes that share the folder."""

    def collect(self) -> Iterable[Metric]:
        # A process that is killed while it creates a file leaves an empty one, and prometheus-client fails at that.
        files = [str(path) for path in Path(os.environ[FOLDER]).glob("*.db") if _has_content(path)]
        merged: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # its process died, and the supervisor removed the file
        return False


def expose() -> bytes:
    """Return all flushed metrics, of all processes. May be called on any thread."""
    if not shared():
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    registry.register(_AllProcesses())
    return generate_latest(registry)
