"""The server without metrics: `python -m benchmarks.unmetered serve`."""

from typing import Any

from prometheus_client import Gauge

from server.cli import main
from server.metrics import BufferedCounter, BufferedHistogram


def _nothing(*_: Any, **__: Any) -> None: ...


for kind, method in (
    *((BufferedCounter, "inc"), (BufferedHistogram, "observe")),
    *((Gauge, "inc"), (Gauge, "dec"), (Gauge, "set")),
):
    setattr(kind, method, _nothing)

if __name__ == "__main__":
    main()
