"""Names and numbers of metrics, written for a narrow screen."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from server.monitoring.scrapes import Quantiles

NOTHING: Final = "–"
"""For an unknown value."""
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
    "atlas_usage_pending_seconds": "uncounted for",
    "atlas_cost_models_without_price": "without a price",
    "atlas_responses_saved_cost_total": "cost saved",
    "atlas_responses_saved_tokens_total": "tokens saved",
    "atlas_responses_bytes": "response memory",
    "atlas_responses_uncounted_total": "uncounted hits",
}
"""Where the name without prefix and unit does not fit."""

Said = tuple[str, Sequence[str]]
"""A metric's value, and the same by label, the largest first."""


def short_name(name: str) -> str:
    if name in SHORT:
        return SHORT[name]
    for unit in ("_total", "_seconds", "_bytes", "_days", "_ratio"):
        name = name.removesuffix(unit)
    return name.removeprefix("atlas_").replace("_", " ")


def say_rate(name: str, rates: Mapping[str, float] | None) -> Said:
    if rates is None:
        return NOTHING, ()
    unit = size if "_bytes_" in name else number
    return f"{unit(sum(rates.values()))}/s", _parts(rates, unit)


def say_quantiles(name: str, overall: Quantiles | None, by_label: Mapping[str, Quantiles]) -> Said:
    if overall is None:
        return NOTHING, ()
    unit = _unit(name)
    low, high = unit(overall.p50), unit(overall.p99)
    if low.partition(" ")[2] == high.partition(" ")[2]:
        low = low.partition(" ")[0]
    return f"p50 {low} p99 {high}", _parts({label: each.p99 for label, each in by_label.items()}, unit)


def say_level(name: str, levels: Mapping[str, float] | None) -> Said:
    if levels is None:
        return NOTHING, ()
    unit = _unit(name)
    # Of days that remain, the fewest count.
    return unit((min if name.endswith("_days") else sum)(levels.values())), _parts(levels, unit)


def _parts(values: Mapping[str, float], unit: Callable[[float], str]) -> Sequence[str]:
    ordered = sorted(((-value, label) for label, value in values.items() if label and value))
    if len(ordered) == 1 and len(values) == 1:
        return (ordered[0][1],)  # its value is the whole
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
    """`amount` is in bytes."""
    units: Iterator[str] = iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    for larger in units:
        if amount < 999.5:
            break
        amount, unit = amount / 1_000, larger
    return f"{number(amount)} {unit}"
