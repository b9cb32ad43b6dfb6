"""Which of a user's conversations changed lately, as far as this process has read the feed. Pure.

It tells whether a page that was read at an earlier position is still right at a later one.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from protocol.cursor import Position
from protocol.frames import Conversation, ConversationDeleted, Message, Profile, ProfileDeleted
from server.feed.change import Entry, same

STEPS: Final = 8
"""Steps that are remembered of one feed, some 600 bytes each. Older ones are joined."""
TOUCHED: Final = 16
"""Conversations that a step names. With more of them it counts as having touched everything."""
LIST: Final = UUID(int=0)
"""Stands for the list of conversations, with the profile."""


class _Step(NamedTuple):
    """One reading of the feed, or several."""

    after: Position
    to: Position
    touched: frozenset[UUID] | None
    """None: everything, or it is unknown what."""


class Trail:
    """The last steps of one feed. `touched` of `step` may be more than what changed, and never less."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def step(self, after: Position, to: Position, touched: frozenset[UUID] | None) -> None:
        """The feed was read from `after` up to `to`."""
        if self._steps and self._steps[-1].to == after and self._steps[-1].touched == touched:
            after = self._steps.pop().after  # a person writes in one conversation for a while
        self._steps.append(_Step(after, to, touched))
        if len(self._steps) > STEPS:
            first, second, *others = self._steps
            # Only steps that continue each other become one; readers at different positions make others.
            self._steps = [_joined(first, second), *others] if first.to == second.after else [second, *others]

    def untouched(self, parents: Iterable[UUID], after: Position, to: Position) -> bool:
        """Whether it is certain that nothing of `parents` changed behind `after`, up to `to`."""
        asked = set(parents)
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


def touched(entries: Sequence[Entry]) -> frozenset[UUID] | None:
    """What these entries of the log changed: conversations, and `LIST`. None: it is unknown what."""
    if entries[-1].next_seq is not None:
        return None  # rows come in their latest state: one that a later entry moves is in another conversation already
    found: set[UUID] = set()
    for entry in entries:
        match entry.row:
            case Message(conversation_id=conversation):
                found.add(conversation)
            case Conversation() | ConversationDeleted():
                found |= {entry.row_id, LIST}
            case Profile() | ProfileDeleted():
                found.add(LIST)
            case _:
                return None  # a deleted message, and one that is gone, does not say of which conversation it was
    return frozenset(found) if len(found) <= TOUCHED else None
