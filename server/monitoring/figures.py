"""What two looks at /metrics say: rates, quantiles and levels of the catalogue's figures, and which of them are bad."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from protocol.answers import CloseCode
from server.clock import TOLERATED
from server.errors import AtlasError
from server.metrics import CATALOGUE, DEFAULT_ROWS_COUNTED, Described, Question

Series = tuple[str, tuple[tuple[str, str], ...]]

LOOKS: Final = 60
"""How many looks `judge` wants to see at most."""
LASTING: Final = 5
"""Looks in a row, after which something is no moment any more."""
SEVERAL: Final = 3


class NotFiguresError(AtlasError):
    """What was fetched are not this server's figures."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Everything that /metrics said."""

    at: float
    """Seconds, of a clock that never goes back."""
    values: Mapping[Series, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """What a histogram saw in an interval; the quantiles are estimates within its buckets."""

    count: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Look:
    """The figures of one interval, by name and then by their labels' values. What is not known is not there."""

    rates: Mapping[str, Mapping[str, float]]
    """Per second."""
    spreads: Mapping[str, Mapping[str, Spread]]
    overall: Mapping[str, Spread]
    """The same, whatever the labels."""
    levels: Mapping[str, Mapping[str, float]]

    def rate(self, name: str, *labels: str) -> float | None:
        """Of all labels, or of these."""
        return _total(self.rates.get(name), labels)

    def level(self, name: str, *labels: str) -> float | None:
        return _total(self.levels.get(name), labels)

    def slowest(self, name: str) -> float | None:
        """The largest 99th percentile of any label."""
        return max((spread.p99 for spread in self.spreads.get(name, {}).values()), default=None)


class Standing(Enum):
    FINE = auto()
    BAD = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of what is shown."""

    name: str
    short: str
    question: Question
    says: str
    parts: Sequence[str]
    """The same by label, the largest first."""
    standing: Standing
    judged: bool
    """There is a rule by which it could be bad."""
    when_bad: str


def parse(text: str, at: float) -> Scrape:
    """Raises NotFiguresError."""
    values: dict[Series, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name, tuple(sorted(sample.labels.items()))] = float(sample.value)
    except Exception:  # the parser promises none in particular, and what it is given may be anything
        raise NotFiguresError("This is no page of figures.") from None
    if not any(name.startswith("atlas_") for name, _ in values):
        raise NotFiguresError("This is no page of Atlas Sync's figures.")
    return Scrape(at, values)


def between(before: Scrape | None, after: Scrape) -> Look:
    """What happened between two scrapes of one server. Without the first, only levels are known."""
    seconds = 0.0 if before is None else after.at - before.at
    earlier: Mapping[Series, float] = {} if before is None else before.values
    rates: dict[str, dict[str, float]] = {}
    spreads: dict[str, dict[str, Spread]] = {}
    overall: dict[str, Spread] = {}
    levels: dict[str, dict[str, float]] = {}
    by_name: dict[str, list[Series]] = {}
    for series in after.values:
        by_name.setdefault(series[0], []).append(series)
    for described in CATALOGUE:
        name = described.name
        if isinstance(described.metric, Counter):
            if seconds > 0:
                for series in by_name.get(name, ()):
                    grown = _grown(earlier.get(series, 0.0), after.values[series])
                    _add(rates.setdefault(name, {}), _label(described, series), grown / seconds)
        elif isinstance(described.metric, Histogram):
            if seconds > 0:
                found = _observed(described, by_name.get(f"{name}_bucket", ()), earlier, after.values)
                spreads[name] = {label: spread for label, buckets in found.items() if (spread := _spread(buckets))}
                everything: dict[float, float] = {}
                for buckets in found.values():
                    for bound, count in buckets.items():
                        everything[bound] = everything.get(bound, 0.0) + count
                if spread := _spread(everything):
                    overall[name] = spread
        else:
            for series in by_name.get(name, ()):
                _add(levels.setdefault(name, {}), _label(described, series), after.values[series])
    return Look(_known(rates), spreads, overall, _known(levels))


def _grown(before: float, after: float) -> float:
    """A counter that went back began again at 0, with a new process."""
    return after - before if after >= before else after


def _observed(
    described: Described,
    all_series: Sequence[Series],
    earlier: Mapping[Series, float],
    later: Mapping[Series, float],
) -> dict[str, dict[float, float]]:
    """By label: how many observations each bucket has had, those of the smaller ones included."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for series in all_series:
        bound = float(dict(series[1])["le"])
        found.setdefault(_label(described, series), []).append((bound, earlier.get(series, 0.0), later[series]))
    observed = {}
    for label, buckets in found.items():
        # All of its buckets began again, or none.
        again = any(after < before for _, before, after in buckets)
        observed[label] = {bound: after - (0.0 if again else before) for bound, before, after in sorted(buckets)}
    return observed


def _spread(buckets: Mapping[float, float]) -> Spread | None:
    count = buckets.get(math.inf, 0.0)
    return Spread(count, quantile(0.5, buckets), quantile(0.99, buckets)) if count > 0 else None


def quantile(q: float, buckets: Mapping[float, float]) -> float:
    """Estimated as PromQL's histogram_quantile does: evenly spread within a bucket; beyond the last bound, that bound.

    `buckets`: for each upper bound, in rising order and the last one infinite, how many were at most that.
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


# --- What is bad. Each rule sees the looks, the newest last, and says None if it cannot know.

Rule = Callable[[Sequence[Look]], bool | None]


def _over(value: float | None, limit: float) -> bool | None:
    return None if value is None else value > limit


def _level(name: str, limit: float = 0.0, looks: int = 1) -> Rule:
    """Above the limit in so many looks in a row."""

    def rule(seen: Sequence[Look]) -> bool | None:
        if (now := seen[-1].level(name)) is None:
            return None
        return now > limit and len(seen) >= looks and all(_over(look.level(name), limit) for look in seen[-looks:])

    return rule


def _rate(name: str, limit: float, *labels: str) -> Rule:
    return lambda seen: _over(seen[-1].rate(name, *labels), limit)


def _slow(name: str, limit: float) -> Rule:
    """Nothing observed is nothing slow."""
    return lambda seen: (slowest := seen[-1].slowest(name)) is not None and slowest > limit


def _full(name: str, limit: float) -> Rule:
    def rule(seen: Sequence[Look]) -> bool:
        medians = [spread.p50 for look in seen[-SEVERAL:] if (spread := look.overall.get(name))]
        return len(medians) == SEVERAL and min(medians) > limit

    return rule


def _most(name: str, limit: float, *labels: str) -> Rule:
    """These labels are more than half of it, and more than so many a second."""

    def rule(seen: Sequence[Look]) -> bool | None:
        total, some = seen[-1].rate(name), seen[-1].rate(name, *labels)
        return None if total is None or some is None else some > limit and some > total / 2

    return rule


def _fell(seen: Sequence[Look]) -> bool | None:
    now = seen[-1].level("atlas_connections")
    most = max((look.level("atlas_connections") or 0.0 for look in seen), default=0.0)
    return None if now is None else most >= 20 and now < most / 2


def _stalled(seen: Sequence[Look]) -> bool | None:
    stalled, all_of_them = seen[-1].level("atlas_stalled"), seen[-1].level("atlas_connections")
    return None if stalled is None or all_of_them is None else stalled > 10 and stalled > all_of_them / 10


def _snapshots(seen: Sequence[Look]) -> bool | None:
    name = "atlas_snapshots_waiting"
    waiting = [look.level(name) for look in seen[-LASTING:]]
    known = [value for value in waiting if value is not None]
    if not known or waiting[-1] is None:
        return None
    return len(known) == LASTING and min(known) > 0 and known[-1] >= known[0]


def _silent(seen: Sequence[Look]) -> bool | None:
    if seen[-1].rate("atlas_doorbells_total") is None:
        return None
    return len(seen) >= LASTING and all(
        (look.rate("atlas_mutations_total", "applied") or 0.0) > 0 and look.rate("atlas_doorbells_total") == 0
        for look in seen[-LASTING:]
    )


def _missed(seen: Sequence[Look]) -> bool | None:
    name = "atlas_doorbells_missed_total"
    if seen[-1].rate(name) is None:
        return None
    return sum(bool(look.rate(name)) for look in seen) >= SEVERAL


def _deaf(seen: Sequence[Look]) -> bool | None:
    listening, processes = seen[-1].level("atlas_listening"), seen[-1].level("atlas_processes")
    return None if listening is None or processes is None else listening < processes


def _died(seen: Sequence[Look]) -> bool | None:
    now = seen[-1].level("atlas_processes")
    return None if now is None else now < max(look.level("atlas_processes") or 0.0 for look in seen)


def _down(seen: Sequence[Look]) -> bool | None:
    up = seen[-1].level("atlas_postgres_up")
    return None if up is None else up < 1


def _off(seen: Sequence[Look]) -> bool | None:
    ahead = seen[-1].level("atlas_clock_ahead_seconds")
    return None if ahead is None else abs(ahead) > TOLERATED / 1_000_000


def _ending(seen: Sequence[Look]) -> bool | None:
    days = seen[-1].levels.get("atlas_partitions_ahead_days")
    return None if days is None else min(days.values()) < 14


def _strayed(seen: Sequence[Look]) -> bool | None:
    rows = seen[-1].levels.get("atlas_default_rows")
    if rows is None:
        return None
    return rows.get("log", 0.0) > 0 or rows.get("messages", 0.0) >= DEFAULT_ROWS_COUNTED


def _knocking(seen: Sequence[Look]) -> bool | None:
    opened = seen[-1].rate("atlas_opened_total")
    return None if opened is None else opened > 10 and opened > 3 * (seen[-1].rate("atlas_hellos_total") or 0.0)


def _closed(seen: Sequence[Look]) -> bool | None:
    look, name = seen[-1], "atlas_closed_total"
    suspicious = (CloseCode.TOKEN_REFUSED, CloseCode.BAD_FRAME, CloseCode.TOO_MANY_SOCKETS)
    if (faults := look.rate(name, str(int(CloseCode.INTERNAL)))) is None:
        return None
    return faults > 0 or any((look.rate(name, str(int(code))) or 0.0) > 1 for code in suspicious)


RULES: Final[Mapping[str, Rule]] = {
    "atlas_connections": _fell,
    "atlas_hellos_total": _most("atlas_hellos_total", 1.0, "epoch", "ahead", "too_old"),
    "atlas_delivery_seconds": _slow("atlas_delivery_seconds", 1.0),
    "atlas_behind": _level("atlas_behind", looks=LASTING),
    "atlas_stalled": _stalled,
    "atlas_snapshots_waiting": _snapshots,
    "atlas_doorbells_total": _silent,
    "atlas_doorbells_missed_total": _missed,
    "atlas_listening": _deaf,
    "atlas_processes": _died,
    "atlas_workers_died_total": _rate("atlas_workers_died_total", 0.0),
    "atlas_listen_seconds": _level("atlas_listen_seconds", 1.0),
    "atlas_pushes_total": _rate("atlas_pushes_total", 0.0, "unavailable", "gap"),
    "atlas_mutations_total": _most("atlas_mutations_total", 1.0, "rejected", "repeated"),
    "atlas_ack_seconds": _slow("atlas_ack_seconds", 1.0),
    "atlas_postgres_up": _down,
    "atlas_blind": _level("atlas_blind"),
    "atlas_history_changes_total": _rate("atlas_history_changes_total", 0.0),
    "atlas_history_split": _level("atlas_history_split"),
    "atlas_clock_ahead_seconds": _off,
    "atlas_statement_seconds": _slow("atlas_statement_seconds", 0.5),
    "atlas_readers_per_statement": _full("atlas_readers_per_statement", 128),
    "atlas_push_group_mutations": _full("atlas_push_group_mutations", 128),
    "atlas_pool_waiting": _level("atlas_pool_waiting", looks=SEVERAL),
    "atlas_notification_queue_ratio": _level("atlas_notification_queue_ratio", 0.1),
    "atlas_oldest_xmin_transactions": _level("atlas_oldest_xmin_transactions", 100_000),
    "atlas_oldest_transaction_seconds": _level("atlas_oldest_transaction_seconds", 60),
    "atlas_default_rows": _strayed,
    "atlas_partitions_ahead_days": _ending,
    "atlas_maintained_seconds_ago": _level("atlas_maintained_seconds_ago", 3_600),
    "atlas_opened_total": _knocking,
    "atlas_closed_total": _closed,
    "atlas_cut_off_total": _rate("atlas_cut_off_total", 0.0),
}


def judge(looks: Sequence[Look]) -> list[Figure]:
    """The catalogue's figures, in its order. `looks`: at least one, the newest last."""
    return [_figure(described, looks) for described in CATALOGUE]


def _figure(described: Described, looks: Sequence[Look]) -> Figure:
    name, look = described.name, looks[-1]
    if isinstance(described.metric, Counter):
        says, parts = _says_rate(name, look.rates.get(name))
    elif isinstance(described.metric, Histogram):
        says, parts = _says_spread(name, look.overall.get(name), look.spreads.get(name, {}))
    else:
        says, parts = _says_level(name, look.levels.get(name))
    rule = RULES.get(name)
    bad = None if rule is None else rule(looks)
    standing = Standing.BAD if bad else Standing.UNKNOWN if says == NOTHING else Standing.FINE
    return Figure(name, _short(name), described.question, says, parts, standing, rule is not None, described.when_bad)


# --- How it is said.

NOTHING: Final = "–"
SHORT: Final = {
    "atlas_delivery_seconds": "delivery",
    "atlas_snapshots_waiting": "snapshots",
    "atlas_doorbells_missed_total": "missed doorbells",
    "atlas_listen_seconds": "round trip",
    "atlas_ack_seconds": "push to ack",
    "atlas_statement_seconds": "statements",
    "atlas_readers_per_statement": "readers together",
    "atlas_push_group_mutations": "writes together",
    "atlas_notification_queue_ratio": "NOTIFY queue",
    "atlas_oldest_xmin_transactions": "oldest snapshot",
    "atlas_oldest_transaction_seconds": "oldest open",
    "atlas_partitions_ahead_days": "partitions for",
    "atlas_maintained_seconds_ago": "maintained ago",
}


def _short(name: str) -> str:
    if name in SHORT:
        return SHORT[name]
    for unit in ("_total", "_seconds", "_bytes", "_days", "_ratio"):
        name = name.removesuffix(unit)
    return name.removeprefix("atlas_").replace("_", " ")


def _says_rate(name: str, rates: Mapping[str, float] | None) -> tuple[str, Sequence[str]]:
    if rates is None:
        return NOTHING, ()
    unit = size if "_bytes_" in name else number
    return f"{unit(sum(rates.values()))}/s", _parts(rates, unit)


def _says_spread(name: str, overall: Spread | None, by_label: Mapping[str, Spread]) -> tuple[str, Sequence[str]]:
    if overall is None:
        return NOTHING, ()
    unit = _unit(name)
    low, high = unit(overall.p50), unit(overall.p99)
    if low.partition(" ")[2] == high.partition(" ")[2]:
        low = low.partition(" ")[0]
    return f"p50 {low} p99 {high}", _parts({label: spread.p99 for label, spread in by_label.items()}, unit)


def _says_level(name: str, levels: Mapping[str, float] | None) -> tuple[str, Sequence[str]]:
    if levels is None:
        return NOTHING, ()
    unit = _unit(name)
    # How long it lasts is what the shortest has.
    return unit((min if name.endswith("_days") else sum)(levels.values())), _parts(levels, unit)


def _parts(values: Mapping[str, float], unit: Callable[[float], str]) -> Sequence[str]:
    ordered = sorted(((-value, label) for label, value in values.items() if label and value))
    if len(ordered) == 1 and len(values) == 1:
        return (ordered[0][1],)  # the whole, which was said already
    return tuple(f"{label} {unit(-value)}" for value, label in ordered)


def _unit(name: str) -> Callable[[float], str]:
    if "_seconds" in name:
        return duration
    if name.endswith("_bytes"):
        return size
    if name.endswith("_ratio"):
        return lambda value: f"{value:.1%}"
    if name.endswith("_days"):
        return lambda value: f"{value:.0f} days"
    return number


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}" if abs(value) >= 0.01 or not value else "<0.01"


def duration(seconds: float) -> str:
    if math.isinf(seconds):
        return "∞"
    for limit, of_one, unit in ((0.9995, 1e-3, "ms"), (120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if abs(seconds) < limit:
            return f"{number(seconds / of_one)} {unit}"
    return f"{number(seconds / 86_400)} days"


def size(amount: float) -> str:
    units: Iterator[str] = iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    for larger in units:
        if amount < 999.5:
            break
        amount, unit = amount / 1_000, larger
    return f"{number(amount)} {unit}"
