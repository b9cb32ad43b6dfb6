"""Which metrics are bad, for `atlas-sync top`. The limits are in metrics/limits.py, with how alerts differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from prometheus_client import Counter, Histogram

from protocol.errors import CloseCode
from server.metrics import CATALOGUE, Described, Question, limits
from server.monitoring import words
from server.monitoring.scrapes import Interval

INTERVALS: Final = 60
"""Looks that `judge` uses at most."""
LASTING: Final = 5
"""Looks in a row after which a condition is no longer momentary."""
SEVERAL: Final = 3
A_FEW: Final = 1.0
"""Per second. An interval lasts seconds, and one event in it is no trend: lower limits count from here on."""


class Health(Enum):
    FINE = auto()
    BAD = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric as it is shown."""

    name: str
    short: str
    question: Question
    says: str
    parts: Sequence[str]
    """`says` by label, the largest first."""
    health: Health
    judged: bool
    """Whether there is a rule by which it can be bad."""
    when_bad: str


Rule = Callable[[Sequence[Interval]], bool | None]
"""Takes at least one interval, the newest last. Returns whether the metric is bad, None if that is unknown."""


def _above(value: float | None, limit: float) -> bool | None:
    return None if value is None else value > limit


def _level(name: str, limit: float = 0.0, intervals: int = 1) -> Rule:
    """Above `limit` in the last `intervals` intervals."""

    def rule(seen: Sequence[Interval]) -> bool | None:
        if (now := seen[-1].level(name)) is None:
            return None
        return (
            now > limit
            and len(seen) >= intervals
            and all(_above(interval.level(name), limit) for interval in seen[-intervals:])
        )

    return rule


def _growing(name: str, limit: float) -> Rule:
    """Above `limit` for a while, and not falling."""

    def rule(seen: Sequence[Interval]) -> bool | None:
        if (now := seen[-1].level(name)) is None:
            return None
        lasting = [interval.level(name) or 0.0 for interval in seen[-LASTING:]]
        return len(lasting) == LASTING and min(lasting) > limit and now >= lasting[0]

    return rule


def _rate(name: str, *labels: str, limit: float = 0.0) -> Rule:
    return lambda seen: _above(seen[-1].rate(name, *labels), limit)


def _often(name: str, *labels: str, limit: float) -> Rule:
    return _rate(name, *labels, limit=max(limit, A_FEW))


def _share(name: str, *labels: str, limit: float) -> Rule:
    """`labels` are more than `limit` of all."""

    def rule(seen: Sequence[Interval]) -> bool | None:
        total, some = seen[-1].rate(name), seen[-1].rate(name, *labels)
        return None if total is None or some is None else some > limit * total

    return rule


def _all(*rules: Rule) -> Rule:
    def rule(seen: Sequence[Interval]) -> bool | None:
        answers = [each(seen) for each in rules]
        return None if None in answers else all(answers)

    return rule


def _any(*rules: Rule) -> Rule:
    def rule(seen: Sequence[Interval]) -> bool | None:
        answers = [each(seen) for each in rules]
        return None if all(answer is None for answer in answers) else any(answers)

    return rule


def _slow(name: str) -> Rule:
    """The 99th percentile of one label is above the limit. Without observations nothing is slow."""
    return lambda seen: (slowest := seen[-1].slowest(name)) is not None and slowest > limits.SLOW_SECONDS


def _full(name: str) -> Rule:
    """The median is above the limit in several intervals."""

    def rule(seen: Sequence[Interval]) -> bool:
        medians = [known.p50 for interval in seen[-SEVERAL:] if (known := interval.overall.get(name))]
        return len(medians) == SEVERAL and min(medians) > limits.GROUP_MEDIAN

    return rule


def _fell(seen: Sequence[Interval]) -> bool | None:
    name = "atlas_connections"
    most = max((interval.level(name) or 0.0 for interval in seen), default=0.0)
    if (now := seen[-1].level(name)) is None:
        return None
    return most > limits.CONNECTIONS and now < limits.CONNECTIONS_LEFT * most


def _stalled(seen: Sequence[Interval]) -> bool | None:
    stalled, connections = seen[-1].level("atlas_stalled"), seen[-1].level("atlas_connections")
    if stalled is None or connections is None:
        return None
    return stalled > limits.STALLED and stalled > limits.STALLED_SHARE * connections


def _silent(seen: Sequence[Interval]) -> bool | None:
    """Users write, and no doorbell arrives."""
    if seen[-1].rate("atlas_doorbells_total") is None:
        return None
    return len(seen) >= LASTING and all(
        (interval.rate("atlas_mutations_total", "applied") or 0.0) > 0 and interval.rate("atlas_doorbells_total") == 0
        for interval in seen[-LASTING:]
    )


def _missed(seen: Sequence[Interval]) -> bool | None:
    """Doorbells are missed again and again."""
    missed = [rate for interval in seen if (rate := interval.rate("atlas_doorbells_missed_total")) is not None]
    if seen[-1].rate("atlas_doorbells_missed_total") is None:
        return None
    woke = sum(interval.rate("atlas_doorbells_total", fate) or 0.0 for interval in seen for fate in ("woke", "carried"))
    return (
        sum(rate > 0 for rate in missed) >= SEVERAL
        and sum(missed) > limits.DOORBELLS_MISSED * len(missed)
        and sum(missed) > limits.DOORBELLS_MISSED * woke
    )


def _deaf(seen: Sequence[Interval]) -> bool | None:
    listening, processes = seen[-1].level("atlas_listening"), seen[-1].level("atlas_processes")
    return None if listening is None or processes is None else listening < processes


def _died(seen: Sequence[Interval]) -> bool | None:
    now = seen[-1].level("atlas_processes")
    return None if now is None else now < max(interval.level("atlas_processes") or 0.0 for interval in seen)


def _down(seen: Sequence[Interval]) -> bool | None:
    up = seen[-1].level("atlas_postgres_up")
    return None if up is None else up < 1


def _without_redis(seen: Sequence[Interval]) -> bool | None:
    up = seen[-1].level("atlas_redis_up")
    return None if up is None else up < 1


def _replica_left(seen: Sequence[Interval]) -> bool | None:
    replicas = seen[-1].levels.get("atlas_replicas")
    return None if replicas is None else replicas.get("left", 0.0) > 0


def _clock_wrong(seen: Sequence[Interval]) -> bool | None:
    ahead = seen[-1].level("atlas_clock_ahead_seconds")
    return None if ahead is None else abs(ahead) > limits.CLOCK_SECONDS


def _partitions_end(seen: Sequence[Interval]) -> bool | None:
    days = seen[-1].levels.get("atlas_partitions_ahead_days")
    return None if days is None else min(days.values()) < limits.PARTITIONS_AHEAD_DAYS


def _default_rows(seen: Sequence[Interval]) -> bool | None:
    rows = seen[-1].levels.get("atlas_default_rows")
    if rows is None:
        return None
    return rows.get("log", 0.0) > 0 or rows.get("messages", 0.0) >= limits.DEFAULT_ROWS_COUNTED


def _few_hellos(seen: Sequence[Interval]) -> bool | None:
    opened = seen[-1].rate("atlas_opened_total")
    hellos = seen[-1].rate("atlas_hellos_total") or 0.0
    return None if opened is None else opened > limits.OPENED and hellos < limits.HELLOS_SHARE * opened


def _closed(*codes: int, limit: float = 0.0) -> Rule:
    labels = [str(int(code)) for code in codes]
    return _often("atlas_closed_total", *labels, limit=limit) if limit else _rate("atlas_closed_total", *labels)


RULES: Final[Mapping[str, Rule]] = {
    "atlas_connections": _fell,
    "atlas_hellos_total": _all(
        _often("atlas_hellos_total", *limits.STARTED_OVER, limit=limits.START_OVERS),
        _share("atlas_hellos_total", *limits.STARTED_OVER, limit=limits.START_OVERS_SHARE),
    ),
    "atlas_delivery_seconds": _slow("atlas_delivery_seconds"),
    "atlas_behind": _growing("atlas_behind", limits.BEHIND),
    "atlas_stalled": _stalled,
    "atlas_snapshots_waiting": _growing("atlas_snapshots_waiting", limits.SNAPSHOTS_WAITING),
    "atlas_doorbells_total": _silent,
    "atlas_doorbells_missed_total": _missed,
    "atlas_listening": _deaf,
    "atlas_processes": _died,
    "atlas_workers_died_total": _rate("atlas_workers_died_total"),
    "atlas_listen_seconds": _level("atlas_listen_seconds", limits.SLOW_SECONDS),
    "atlas_pushes_total": _any(
        _share("atlas_pushes_total", "unavailable", limit=limits.PUSHES_UNAVAILABLE_SHARE),
        _rate("atlas_pushes_total", "gap"),
    ),
    "atlas_mutations_total": _any(
        _all(
            _often("atlas_mutations_total", "rejected", limit=limits.REJECTED),
            _share("atlas_mutations_total", "rejected", limit=limits.REJECTED_SHARE),
        ),
        _all(
            _often("atlas_mutations_total", "repeated", limit=A_FEW),
            _share("atlas_mutations_total", "repeated", limit=limits.REPEATED_SHARE),
        ),
    ),
    "atlas_ack_seconds": _slow("atlas_ack_seconds"),
    "atlas_postgres_up": _down,
    "atlas_redis_up": _without_redis,
    "atlas_replicas": _replica_left,
    "atlas_blind": _level("atlas_blind"),
    "atlas_history_changes_total": _rate("atlas_history_changes_total"),
    "atlas_history_split": _level("atlas_history_split"),
    "atlas_clock_ahead_seconds": _clock_wrong,
    "atlas_statement_seconds": _slow("atlas_statement_seconds"),
    "atlas_readers_per_statement": _full("atlas_readers_per_statement"),
    "atlas_push_group_mutations": _full("atlas_push_group_mutations"),
    "atlas_pool_waiting": _level("atlas_pool_waiting", intervals=SEVERAL),
    "atlas_notification_queue_ratio": _level("atlas_notification_queue_ratio", limits.NOTIFICATION_QUEUE),
    "atlas_oldest_xmin_transactions": _level("atlas_oldest_xmin_transactions", limits.OLDEST_SNAPSHOT_TRANSACTIONS),
    "atlas_oldest_transaction_seconds": _level("atlas_oldest_transaction_seconds", limits.OLDEST_TRANSACTION_SECONDS),
    "atlas_default_rows": _default_rows,
    "atlas_partitions_ahead_days": _partitions_end,
    "atlas_maintained_seconds_ago": _level("atlas_maintained_seconds_ago", limits.MAINTAINED_SECONDS),
    "atlas_usage_events_total": _rate("atlas_usage_events_total", "backend put_off", "server dropped"),
    "atlas_cost_unusual": _level("atlas_cost_unusual"),
    "atlas_opened_total": _few_hellos,
    "atlas_closed_total": _any(
        _closed(CloseCode.INTERNAL),
        _closed(CloseCode.TOKEN_REFUSED, limit=limits.TOKENS_REFUSED),
        _closed(CloseCode.BAD_FRAME, limit=limits.BAD_FRAMES),
        _closed(CloseCode.TOO_MANY_SOCKETS, limit=limits.TOO_MANY_SOCKETS),
    ),
    "atlas_cut_off_total": _rate("atlas_cut_off_total"),
}


def judge(intervals: Sequence[Interval]) -> list[Figure]:
    """Return the catalogue's metrics, in its order. `intervals` has at least one, the newest last."""
    return [_figure(described, intervals) for described in CATALOGUE]


def _figure(described: Described, intervals: Sequence[Interval]) -> Figure:
    name, interval = described.name, intervals[-1]
    if isinstance(described.metric, Counter):
        says, parts = words.say_rate(name, interval.rates.get(name))
    elif isinstance(described.metric, Histogram):
        says, parts = words.say_quantiles(name, interval.overall.get(name), interval.quantiles.get(name, {}))
    else:
        says, parts = words.say_level(name, interval.levels.get(name))
    rule = RULES.get(name)
    bad = None if rule is None else rule(intervals)
    health = Health.BAD if bad else Health.UNKNOWN if says == words.NOTHING else Health.FINE
    return Figure(
        name, words.short_name(name), described.question, says, parts, health, rule is not None, described.when_bad
    )
