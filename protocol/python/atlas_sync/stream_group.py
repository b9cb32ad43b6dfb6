"""Which appends go into the next request, and when: the streams of one process send together.

Pure: time and randomness are arguments, both in seconds of one clock, which never goes back.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from atlas_sync.stream_text import Append, Next, StreamError, StreamText

# Seconds.
EVERY = 0.04  # between the beginnings of two requests: a reader sees 25 of them as a flow
SIGN_AFTER = 1.0  # of silence: a stop is learned within it; the server gives a writer up after 30
LOOK_EVERY = 0.25  # for streams that are silent
PAUSE_FIRST, PAUSE_MOST = 0.1, 2.0

APPENDS = 1000  # of one request: the server's limit
CHARACTERS = 65_536  # of one request, after the first append: JSON makes at most 480 KiB of it, the server takes 1 MiB
AT_ONCE = 4  # requests under way: one that hangs does not hold up the streams of the others


class Member:
    """A stream of a group. `stream` is its name on the server, `patience` how many seconds it may have no answer.

    `changed` is called when an answer changed the text's state, or confirmed some of it.
    """

    def __init__(
        self, stream: str, text: StreamText, now: float, *, patience: float, changed: Callable[[], object]
    ) -> None:
        self.stream, self.text, self.patience, self.changed = stream, text, patience, changed
        self.heard = self.spoke = now  # of the last answer, of the last append
        self.pauses = 0


Batch = Sequence[tuple[Member, Append]]


class Group:
    """The streams that send together."""

    def __init__(self) -> None:
        self._members: dict[Member, None] = {}
        self._ready: dict[Member, None] = {}  # have unsent text, and nothing under way; the longest waiting first
        self._paused: dict[Member, float] = {}  # until when
        self._under_way = 0
        self._failures = 0
        self._not_before = -math.inf
        self._look_at = -math.inf

    def join(self, member: Member, now: float) -> None:
        if not self._members:
            self._look_at = now + LOOK_EVERY
        self._members[member] = None

    def leave(self, member: Member) -> None:
        """May be repeated."""
        for each in (self._members, self._ready, self._paused):
            each.pop(member, None)

    def wrote(self, member: Member) -> bool:
        """The member's text has grown. Returns whether `next_at` may have become earlier."""
        was = bool(self._ready)
        self._put(member)
        return not was and bool(self._ready)

    def next_at(self) -> float:
        """When to call `take`; infinity: not before something changes."""
        if not self._members or self._under_way >= (1 if self._failures else AT_ONCE):
            return math.inf
        first = min([self._look_at, *self._paused.values(), *([-math.inf] if self._ready else [])])
        return max(first, self._not_before)

    def take(self, now: float) -> Batch:
        """The next request's appends. If there are some, call `answered` or `lost` with them afterwards."""
        if self.next_at() > now:
            return []
        for member in [member for member, until in self._paused.items() if until <= now]:
            del self._paused[member]
            self._put(member)
        silent: list[Member] = []
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            silent = [each for each in self._members if self._is_silent(each, now)]
        batch: list[tuple[Member, Append]] = []
        characters, streams = 0, set[str]()
        for member in [*self._ready, *silent]:
            if len(batch) == APPENDS or characters >= CHARACTERS:
                break
            if member.stream in streams:
                continue  # two runs of one job: the server takes a stream once a request
            self._ready.pop(member, None)
            streams.add(member.stream)
            append = member.text.next_append()
            member.spoke = now
            characters += len(append.text)
            batch.append((member, append))
        if batch:
            self._under_way += 1
            self._not_before = now if self._ready else now + EVERY
        return batch

    def answered(self, batch: Batch, answers: Sequence[Any], now: float, rnd: float) -> None:
        """The request was answered; `answers` are those of its appends, in their order."""
        self._under_way -= 1
        self._failures = 0
        for (member, _), answer in zip(batch, answers, strict=True):
            match answer:
                case [int(status), *rest]:
                    state, offset = (*rest, None, None)[:2]
                    following = member.text.answered(
                        status,
                        state if isinstance(state, str) else None,
                        offset if isinstance(offset, int) else None,
                    )
                case _:
                    following = member.text.answered(500)
            match following:
                case Next.GO_ON:
                    member.heard, member.pauses = now, 0
                    self._put(member)
                case Next.LATER:
                    self._pause(member, now, rnd)
                case Next.END:
                    self.leave(member)
            member.changed()

    def lost(self, batch: Batch, now: float, rnd: float, retry_after: float = 0.0) -> None:
        """The request had no answer, or one that may be another later. `retry_after`: the server's wish, in seconds."""
        self._under_way -= 1
        self._failures += 1
        self._not_before = max(self._not_before, now + max(pause(self._failures, rnd), retry_after))
        for member, _ in batch:
            member.text.lost()
            self._put(member)
            self._lose_patience(member, now)

    def refused(self, batch: Batch, fault: StreamError) -> None:
        """The server does not accept the request, and never will."""
        self._under_way -= 1
        for member, _ in batch:
            member.text.lost()
            self._fail(member, fault)

    def fail(self, fault: StreamError) -> None:
        """Nothing can be sent any more."""
        for member in list(self._members):
            self._fail(member, fault)

    def _put(self, member: Member) -> None:
        if member in self._members and member not in self._paused and member.text.may_send and member.text.unsent:
            self._ready[member] = None

    def _is_silent(self, member: Member, now: float) -> bool:
        waits = member in self._ready or member in self._paused
        return not waits and member.text.may_send and now - member.spoke >= SIGN_AFTER

    def _pause(self, member: Member, now: float, rnd: float) -> None:
        if member in self._members:
            member.pauses += 1
            self._paused[member] = now + pause(member.pauses, rnd)
            self._lose_patience(member, now)

    def _lose_patience(self, member: Member, now: float) -> None:
        if now - member.heard >= member.patience:
            self._fail(member, StreamError(f"the server gave no answer for {member.patience:g} s"))

    def _fail(self, member: Member, fault: StreamError) -> None:
        member.text.fail(fault)
        self.leave(member)
        member.changed()


def pause(failures: int, rnd: float) -> float:
    """Seconds to wait after so many failures in a row."""
    return (0.5 + rnd / 2) * min(PAUSE_MOST, PAUSE_FIRST * 2.0 ** min(failures - 1, 16))
