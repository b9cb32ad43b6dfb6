"""Events that update several metrics."""

from collections.abc import Mapping, Sequence
from typing import Final

from protocol.frames import TAG, Applied, Repeated, Result, Row
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
from server.metrics.instruments import BufferedCounter


class _Rows(dict[str, BufferedCounter]):
    """By tag."""

    def __missing__(self, tag: str) -> BufferedCounter:
        found = self[tag] = ROWS_SENT.labels("deletion" if tag.startswith("-") else tag)
        return found


_ROWS: Final = _Rows()
_ACKED: Final = PUSHES.labels("acked")
_APPLIED: Final = MUTATIONS.labels("applied")
_REPEATED: Final = MUTATIONS.labels("repeated")
_REJECTED: Final = MUTATIONS.labels("rejected")


def flush() -> None:
    """Pass on all updates since the last flush. The server calls it once a second, on the event loop's thread."""
    for each in BUFFERED:
        each.flush()


def name_kinds(names: Mapping[str, str]) -> None:
    """From now on rows are counted under these names, by tag."""
    _ROWS.clear()
    for tag, name in names.items():
        _ROWS[tag] = ROWS_SENT.labels(name)


def sent(rows: Sequence[Row], readers: int, size: int) -> None:
    """Record that `rows` were written to each of `readers` sockets, as `size` bytes in all."""
    if len(rows) == 1:
        _ROWS[rows[0][TAG]].inc(readers)
    else:
        counts: dict[str, int] = {}
        for row in rows:
            counts[row[TAG]] = counts.get(row[TAG], 0) + readers
        for tag, count in counts.items():
            _ROWS[tag].inc(count)
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
