"""What a reading of the log means for a reader: which rows to send, up to which position, or that some are missing.

Pure. The decisions made here decide whether anything is ever lost.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from protocol.cursor import Position
from protocol.frames import Key, Row
from server.feed.resume import Why


class Entry(Struct, frozen=True):
    """One row of the change log, with the row that it points to. `n` tells the rows of one transaction apart."""

    seq: int
    n: int
    prev: int
    """The feed's seq before this transaction."""
    next_seq: int | None
    """The seq of the entry behind this one; None at the end of the log."""
    kind: str
    row_id: Key
    row: Row | None
    """The row's latest state, or its deletion; None for an upsert whose row is no longer there."""
    mark: int = 0
    """The transaction's name; 0 if it is older than such names."""
    prev_mark: int = 0
    """The name of the transaction before it."""
    deletion: bool = False


def log_order(entry: Entry) -> tuple[int, int]:
    """The key by which the entries of a feed are sorted."""
    return entry.seq, entry.n


def in_log_order(entries: list[Entry]) -> list[Entry]:
    """The entries in their order, each with the seq of the next one; the last one is at the end of the log."""
    if len(entries) > 1:
        entries.sort(key=log_order)
        entries[:-1] = [replace(entry, next_seq=after.seq) for entry, after in pairwise(entries)]
    return entries


class Reading(NamedTuple):
    """What one statement found in the log for one reader."""

    head: int
    """The feed's seq in the snapshot of the statement; 0 for a feed that does not exist."""
    tier: str | None
    """The value of the gate's column; empty for NULL. None: the user has no such row."""
    entries: Sequence[Entry]
    mark: int = 0
    """The name of the transaction at `head`."""


class Batch(Struct, frozen=True):
    """Rows to apply, and the position after them."""

    rows: list[Row]
    to: Position
    more: bool
    """Whether the log continues after `to`."""

    @property
    def partial(self) -> bool:
        """`to` lies inside a transaction that is larger than a reading."""
        return self.to.n != 0


def follow(after: Position, reading: Reading) -> Batch | Why:
    """The batch to send to a reader at `after`, or why the log does not continue from there.

    Every entry names the transaction before its own, by seq and by mark. The entries themselves therefore prove that
    nothing is missing: they must chain from `after` without a gap. The same check recognises a history that lost its
    tail and then overtook the reader, even if it gave the same seqs to other transactions.
    """
    if not reading.entries:
        if reading.head < after.seq:
            return Why.AHEAD
        # Within a transaction more entries must follow; at the head none may.
        if after.n or reading.head > after.seq:
            return Why.TOO_OLD
        return Batch([], after, more=False) if same(reading.mark, after.mark) else Why.AHEAD
    reached, mark = after.seq, after.mark
    for entry in reading.entries:
        if entry.seq != reached:
            if entry.prev != reached or (after.n and reached == after.seq and entry is reading.entries[0]):
                return Why.AHEAD if entry.prev < reached else Why.TOO_OLD
            if not same(entry.prev_mark, mark):
                return Why.AHEAD
            reached, mark = entry.seq, entry.mark
        elif not same(entry.mark, mark):
            return Why.AHEAD
    entries, to = _whole_transactions(reading.entries)
    return Batch(_latest(entries), to, more=entries[-1].next_seq is not None)


def same(mark: int, other: int) -> bool:
    """Whether the two marks may name one transaction."""
    return mark == other or not mark or not other


def _whole_transactions(entries: Sequence[Entry]) -> tuple[Sequence[Entry], Position]:
    """The entries up to the last end of a transaction among them; all of them if there is none."""
    last = entries[-1]
    if last.next_seq != last.seq:
        return entries, Position(last.seq, 0, last.mark)
    for count in range(len(entries) - 1, 0, -1):
        if entries[count - 1].seq != last.seq:
            return entries[:count], Position(entries[count - 1].seq, 0, entries[count - 1].mark)
    return entries, Position(last.seq, last.n, last.mark)


def _latest(entries: Sequence[Entry]) -> list[Row]:
    """The last state of each row that changed, in the order of the log."""
    if len(entries) == 1:
        only = entries[0].row
        return [] if only is None else [only]
    latest: dict[tuple[object, ...], Row] = {}
    for entry in entries:
        if entry.row is None:
            # The row was upserted and is gone: its deletion, or its conversation's, is later in the log. An earlier
            # deletion still counts, because the row may have moved here from where the device knows it.
            continue
        key: tuple[object, ...] = (entry.kind, entry.row_id)
        if entry.deletion:
            # Never collapsed: it also deletes the rows below, should the row be created again.
            key = (*key, entry.n)
        else:
            latest.pop(key, None)
        latest[key] = entry.row
    return list(latest.values())
