"""Counters and histograms that buffer their updates until the next flush.

prometheus-client takes a lock for every update, and half a dozen updates belong to each change: unbuffered they cost a
twentieth of it.
"""

from typing import Final, Self

from prometheus_client import Counter, Histogram

SECONDS: Final = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.125,
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
)
"""Buckets of durations."""
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Buckets of group sizes."""


class _Buffered:
    """A metric, or the series of one combination of labels."""

    def __init__(self, metric: Counter | Histogram) -> None:
        self._metric = metric
        self._children: dict[tuple[str, ...], Self] = {}

    def labels(self, *values: str) -> Self:
        if values not in self._children:
            self._children[values] = type(self)(self._metric.labels(*values))
        return self._children[values]

    def flush(self) -> None:
        """Pass the buffered updates on to prometheus-client."""
        for child in self._children.values():
            child.flush()


class BufferedCounter(_Buffered):
    def __init__(self, counter: Counter) -> None:
        super().__init__(counter)
        self._pass_on = counter.inc
        self._amount = 0.0

    def inc(self, amount: float = 1) -> None:
        self._amount += amount

    def flush(self) -> None:
        if self._amount:
            self._pass_on(self._amount)
            self._amount = 0.0
        super().flush()


class BufferedHistogram(_Buffered):
    def __init__(self, histogram: Histogram) -> None:
        super().__init__(histogram)
        self._pass_on = histogram.observe
        self._observed: list[float] = []

    def observe(self, value: float) -> None:
        self._observed.append(value)

    def flush(self) -> None:
        for value in self._observed:
            self._pass_on(value)
        self._observed.clear()
        super().flush()
