"""What usage costs: sums, and whether a day's cost is usual. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from statistics import median
from typing import Final, NamedTuple

DAYS: Final = 14
"""Days before a day by which it is judged."""
FEWEST: Final = 5
"""With fewer days of usage before it, no day is judged."""
SPREAD: Final = 4 * 1.4826
"""Four standard deviations, estimated by the median absolute deviation. It takes half of the days to move both, so one
expensive day does not hide the next one."""
SHARE: Final = 0.5
"""Costs that hardly vary may still change by this share of their median."""


class Range(NamedTuple):
    """What a day usually costs."""

    low: float
    high: float

    def contains(self, cost: float) -> bool:
        return self.low <= cost <= self.high


def usual(days: Sequence[float], floor: float) -> Range | None:
    """The usual range of a day that comes after these; None if they are too few. A cost up to `floor` is usual."""
    if len(days) < FEWEST:
        return None
    middle = median(days)
    spread = median(abs(day - middle) for day in days)
    width = max(SPREAD * spread, SHARE * middle)
    return Range(middle - width if middle - width > 0 and middle > floor else 0.0, max(floor, middle + width))


@dataclass(frozen=True, slots=True)
class Day:
    """The cost of a user's or a tier's day, with the costs of the days before it, the last one first. Those before the
    first day of any usage are left out."""

    whose: str
    date: date
    cost: float
    before: Sequence[float]


@dataclass(frozen=True, slots=True)
class Unusual:
    """A day whose cost is not usual."""

    whose: str
    date: date
    cost: float
    range: Range


def unusual(days: Iterable[Day], today: date, floor: float) -> list[Unusual]:
    """The days that are not usual, the most expensive first. A day that is not over cannot be too cheap."""
    found = []
    for day in days:
        range_ = usual(day.before, floor)
        if range_ is not None and not range_.contains(day.cost) and (day.date < today or day.cost > range_.high):
            found.append(Unusual(day.whose, day.date, day.cost, range_))
    return sorted(found, key=lambda day: (-day.cost, day.whose, day.date))


def by_day(costs: Sequence[tuple[str, date, float]], today: date) -> list[Day]:
    """Today and yesterday of each, with the days before. `costs`: whose, date, cost; a day that is missing cost
    nothing."""
    first = min((day for _, day, _ in costs), default=today)
    known: dict[str, dict[date, float]] = {}
    for whose, day, cost in costs:
        known.setdefault(whose, {})[day] = cost
    return [
        Day(whose, day, of.get(day, 0.0), [of.get(before, 0.0) for before in _before(day, first)])
        for whose, of in known.items()
        for day in (today, today - timedelta(days=1))
        if day >= first
    ]


def _before(day: date, first: date) -> list[date]:
    return [day - timedelta(days=n) for n in range(1, DAYS + 1) if day - timedelta(days=n) >= first]


class Sum(NamedTuple):
    """Usage of one tier, day, model or user."""

    key: str
    users: int
    requests: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
    """Of the models that have a price."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Usage and costs of some days."""

    since: date
    until: date
    """Inclusive."""
    sums: dict[str, list[Sum]]
    """By `tier`, `day`, `model` and `user`; users and models are the most expensive ones."""
    unusual_users: list[Unusual]
    unusual_tiers: list[Unusual]
    without_price: list[str]
    """Models that were used and have no price."""
