"""Events that update several metrics."""

from collections.abc import Mapping, Sequence
from typing import Final

from protocol.frames import (
    Applied,
    Conversation,
    ConversationDeleted,
    Message,
    MessageDeleted,
    Profile,
    ProfileDeleted,
    Repeated,
    Result,
    Row,
)
from server.metrics.catalogue import (
    BUFFERED,
    BYTES_SENT,
    CLOSED,
    CODES,
    COST_TIERS,
    COST_TODAY,
    MUTATIONS,
    PUSHES,
    ROWS_SENT,
)

_ROWS: Final = {
    kind: ROWS_SENT.labels(name)
    for kind, name in {
        Conversation: "conversation",
        Message: "message",
        Profile: "profile",
        ConversationDeleted: "deletion",
        MessageDeleted: "deletion",
        ProfileDeleted: "deletion",
    }.items()
}
_ACKED: Final = PUSHES.labels("acked")
_APPLIED: Final = MUTATIONS.labels("applied")
_REPEATED: Final = MUTATIONS.labels("repeated")
_REJECTED: Final = MUTATIONS.labels("rejected")


def flush() -> None:
    """Pass on all updates since the last flush. The server calls it once a second, on the event loop's thread."""
    for each in BUFFERED:
        each.flush()


def sent(rows: Sequence[Row], readers: int, size: int) -> None:
    """Record that `rows` were written to each of `readers` sockets, as `size` bytes in all."""
    if len(rows) == 1:
        _ROWS[type(rows[0])].inc(readers)
    else:
        counts: dict[type[Row], int] = {}
        for row in rows:
            counts[type(row)] = counts.get(type(row), 0) + readers
        for kind, count in counts.items():
            _ROWS[kind].inc(count)
    BYTES_SENT.inc(size)


def acked(results: Sequence[Result]) -> None:
    """Record that a push was acknowledged with `results`."""
    _ACKED.inc()
    counts = {_APPLIED: 0, _REPEATED: 0, _REJECTED: 0}
    for result in results:
        counts[
            _APPLIED if isinstance(result, Applied) else _REPEATED if isinstance(result, Repeated) else _REJECTED
        ] += 1
    for child, count in counts.items():
        if count:
            child.inc(count)


def costs_today(tiers: Mapping[str, float]) -> None:
    """Record what each tier cost today."""
    sums = dict.fromkeys(COST_TIERS, 0.0)
    for tier, cost in tiers.items():
        sums[tier if tier in sums else "other"] += cost
    for tier, cost in sums.items():
        COST_TODAY.labels(tier).set(cost)


def closed(code: int) -> None:
    """Record that a connection ended with `code`."""
    CLOSED.labels(str(int(code)) if code in CODES else "other").inc()
