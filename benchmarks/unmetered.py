"""The server without its figures: `python -m benchmarks.unmetered serve`."""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from server.cli import main


def _nothing(*_: Any, **__: Any) -> None: ...


for kind, method in (
    *((Counter, "inc"), (Histogram, "observe")),
    *((Gauge, "inc"), (Gauge, "dec"), (Gauge, "set")),
):
    setattr(kind, method, _nothing)

if __name__ == "__main__":
    main()
