"""In which of a user's lists rows changed lately, as far as this process has read the feed. Pure.

It tells whether a page that was read at an earlier position is still right at a later one.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from protocol.cursor import Position
from protocol.frames import COLUMNS, Key
from server.declaration.model import Declaration
from server.feed.change import Entry, same

STEPS: Final = 8
"""Steps that are remembered of one feed, some 600 bytes each. Older ones are joined."""
TOUCHED: Final = 16
"""Lists that a step names. With more of them it counts as having touched everything."""

List = tuple[str, Key | None]
"""The rows of a kind, or of one parent."""


class _Step(NamedTuple):
    """One reading of the feed, or several."""

    after: Position
    to: Position
    touched: frozenset[List] | None
    """None: everything, or it is unknown what."""


class Trail:
    """The last steps of one feed. `touched` of `step` may be more than what changed, and never less."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def step(self, after: Position, to: Position, touched: frozenset[List] | None) -> None:
        """The feed was read from `after` up to `to`."""
        if self._steps and self._steps[-1].to == after and self._steps[-1].touched == touched:
            after = self._steps.pop().after  # a person writes in one conversation for a while
        self._steps.append(_Step(after, to, touched))
        if len(self._steps) > STEPS:
            first, second, *others = self._steps
            # Only steps that continue each other become one; readers at different positions make others.
            self._steps = [_joined(first, second), *others] if first.to == second.after else [second, *others]

    def untouched(self, lists: Iterable[List], after: Position, to: Position) -> bool:
        """Whether it is certain that nothing in `lists` changed behind `after`, up to `to`."""
        asked = set(lists)
        for step in reversed(self._steps):
            if to.seq <= after.seq:
                break
            if step.to == to:
                if step.touched is None or not asked.isdisjoint(step.touched):
                    return False
                to = step.after
        return to.seq < after.seq or (to.seq == after.seq and to.n == 0 and same(to.mark, after.mark))


def _joined(first: _Step, second: _Step) -> _Step:
    if first.touched is None or second.touched is None:
        return _Step(first.after, second.to, None)
    touched = first.touched | second.touched
    return _Step(first.after, second.to, touched if len(touched) <= TOUCHED else None)


def touched(declaration: Declaration, entries: Sequence[Entry]) -> frozenset[List] | None:
    """The lists in which these entries of the log changed something. None: it is unknown in which."""
    if entries[-1].next_seq is not None:
        return None  # rows come in their latest state: one that a later entry moves is in another list already
    found: set[List] = set()
    for entry in entries:
        kind = declaration.tagged.get(entry.kind)
        if kind is None:
            return None
        if kind.parent is None:
            found.add((kind.name, None))
        elif entry.row is None or entry.deletion:
            return None  # a deleted row, and one that is gone, does not say whose it was
        else:
            found.add((kind.name, entry.row[COLUMNS]))
        for child in declaration.children_of(kind):
            if (entry.row is None or entry.deletion) and declaration.children_of(child):
                return None  # the rows below the rows below it went with it, and the log does not name them
            found.add((child.name, entry.row_id))
    return frozenset(found) if len(found) <= TOUCHED else None
