"""What two scrapes of /metrics say: rates, quantiles and levels of the catalogue's metrics in the interval between."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from server.exceptions import AtlasError
from server.metrics import CATALOGUE, Described

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A name with its labels and their values."""


class NotMetricsError(AtlasError):
    """The page does not contain this server's metrics."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples of one response of /metrics."""

    at: float
    """Seconds of a monotonic clock."""
    values: Mapping[Series, float]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The observations of a histogram in an interval. The quantiles are estimates within its buckets."""

    count: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Interval:
    """The metrics of one interval, by name and then by the values of their labels. Unknown values are absent."""

    rates: Mapping[str, Mapping[str, float]]
    """Of counters, per second."""
    quantiles: Mapping[str, Mapping[str, Quantiles]]
    """Of histograms."""
    overall: Mapping[str, Quantiles]
    """Of histograms, all labels together."""
    levels: Mapping[str, Mapping[str, float]]
    """Of gauges, at the end of the interval."""

    def rate(self, name: str, *labels: str) -> float | None:
        """The sum over `labels`, or over all labels if none are given."""
        return _total(self.rates.get(name), labels)

    def level(self, name: str, *labels: str) -> float | None:
        """The sum over `labels`, or over all labels if none are given."""
        return _total(self.levels.get(name), labels)

    def slowest(self, name: str) -> float | None:
        """The largest 99th percentile of all labels."""
        return max((each.p99 for each in self.quantiles.get(name, {}).values()), default=None)


def parse(text: str, at: float) -> Scrape:
    """Parse a response of /metrics, received at `at`. Raises NotMetricsError."""
    values: dict[Series, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name, tuple(sorted(sample.labels.items()))] = float(sample.value)
    except Exception:  # the parser documents no exception, and the text may be anything
        raise NotMetricsError("This page contains no metrics.") from None
    if not any(name.startswith("atlas_") for name, _ in values):
        raise NotMetricsError("This page does not contain Atlas Sync's metrics.")
    return Scrape(at, values)


def between(before: Scrape | None, after: Scrape) -> Interval:
    """Compare two scrapes of one server. Without `before`, only levels are known."""
    seconds = 0.0 if before is None else after.at - before.at
    earlier: Mapping[Series, float] = {} if before is None else before.values
    rates: dict[str, dict[str, float]] = {}
    quantiles: dict[str, dict[str, Quantiles]] = {}
    overall: dict[str, Quantiles] = {}
    levels: dict[str, dict[str, float]] = {}
    by_name: dict[str, list[Series]] = {}
    for series in after.values:
        by_name.setdefault(series[0], []).append(series)
    for described in CATALOGUE:
        name = described.name
        if isinstance(described.metric, Counter):
            if seconds > 0:
                for series in by_name.get(name, ()):
                    increase = _increase(earlier.get(series, 0.0), after.values[series])
                    _add(rates.setdefault(name, {}), _label(described, series), increase / seconds)
        elif isinstance(described.metric, Histogram):
            if seconds > 0:
                found = _observed(described, by_name.get(f"{name}_bucket", ()), earlier, after.values)
                quantiles[name] = {label: known for label, buckets in found.items() if (known := _quantiles(buckets))}
                everything: dict[float, float] = {}
                for buckets in found.values():
                    for bound, count in buckets.items():
                        everything[bound] = everything.get(bound, 0.0) + count
                if known := _quantiles(everything):
                    overall[name] = known
        else:
            for series in by_name.get(name, ()):
                _add(levels.setdefault(name, {}), _label(described, series), after.values[series])
    return Interval(_known(rates), quantiles, overall, _known(levels))


def quantile(q: float, buckets: Mapping[float, float]) -> float:
    """Estimate a quantile as PromQL's histogram_quantile does: observations are spread evenly within a bucket, and
    beyond the last finite bound the estimate is that bound.

    `buckets` maps upper bounds, in rising order and the last one infinite, to the count of observations up to them.
    """
    rank = q * buckets[math.inf]
    lower = below = 0.0
    for bound, count in buckets.items():
        if count >= rank:
            if math.isinf(bound):
                break
            return lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
        lower, below = bound, count
    return lower


def _increase(before: float, after: float) -> float:
    """A counter that decreased started again at 0, with a new process."""
    return after - before if after >= before else after


def _observed(
    described: Described,
    all_series: Sequence[Series],
    earlier: Mapping[Series, float],
    later: Mapping[Series, float],
) -> dict[str, dict[float, float]]:
    """Return, by label, the cumulative counts of the buckets in the interval."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for series in all_series:
        bound = float(dict(series[1])["le"])
        found.setdefault(_label(described, series), []).append((bound, earlier.get(series, 0.0), later[series]))
    observed = {}
    for label, buckets in found.items():
        # Either all buckets of a histogram started again, or none.
        again = any(after < before for _, before, after in buckets)
        observed[label] = {bound: after - (0.0 if again else before) for bound, before, after in sorted(buckets)}
    return observed


def _quantiles(buckets: Mapping[float, float]) -> Quantiles | None:
    count = buckets.get(math.inf, 0.0)
    return Quantiles(count, quantile(0.5, buckets), quantile(0.99, buckets)) if count > 0 else None


def _label(described: Described, series: Series) -> str:
    labels = dict(series[1])
    return " ".join(labels.get(label, "") for label in described.labels)


def _add(to: dict[str, float], label: str, value: float) -> None:
    to[label] = to.get(label, 0.0) + value


def _known(values: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: known
        for name, by_label in values.items()
        if (known := {label: value for label, value in by_label.items() if not math.isnan(value)})
    }


def _total(values: Mapping[str, float] | None, labels: Sequence[str]) -> float | None:
    if values is None:
        return None
    return sum(values.get(label, 0.0) for label in labels) if labels else sum(values.values())
