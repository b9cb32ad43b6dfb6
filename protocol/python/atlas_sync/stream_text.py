"""The text of one stream as its writer knows it: what to send next, and what an answer means.

Pure: no time, no I/O. Offsets and lengths are Unicode code points, as in Postgres and in Python's str.
"""

from dataclasses import dataclass
from enum import Enum

OPEN, STOPPED = "open", "stopped"
PART = 16_384  # code points of one append; JSON makes at most 96 KiB of them
PARTS = 512  # kept apart before they are joined: a list of tokens takes ten times their characters


class Ended(Exception):  # noqa: N818 (a state, not always a fault)
    """The stream has ended, and takes no more text. `state` is "done", "failed" or "stopped"."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the stream has ended: {state}")
        self.state = state


class Stopped(Ended):
    """Somebody stopped the stream: write no more, and end the work that makes the text."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class StreamError(Exception):
    """The server refused the stream, or gave no answer for too long.

    `status` is the HTTP status; None if there was no answer. The message contains neither text of the stream nor the
    token.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


def another_writer() -> StreamError:
    """What lies at the end of the text is not from here: to go on would mix two texts."""
    return StreamError("another writer appends to this stream", 409)


@dataclass(frozen=True, slots=True)
class Append:
    """Text that follows the character `offset`. An empty one is a sign of life."""

    offset: int
    text: str


class Next(Enum):
    """What follows an answer."""

    GO_ON = "go on"
    """Send what is unsent, at once or as soon as there is some."""
    LATER = "later"
    """The server cannot answer now: send the same again after a pause."""
    END = "end"
    """Nothing can be sent any more: `StreamText.fault` says why."""


REFUSALS = {
    400: "the server does not accept this append",
    404: "the server does not know this stream (any more)",
    413: "the text is longer than a stream may be",
}
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The statuses that may be others a moment later."""


class StreamText:
    """What one writer has written to one stream, of which the server has the first `confirmed` characters.

    At most one append at a time is under way, so that an answer tells what it answers. All of the text is kept: a
    server whose disk lost the last milliseconds says at which offset to go on.

    May be read: `length`, `confirmed`, `state`, `fault`.
    """

    def __init__(self, text: str = "") -> None:
        self.length = self.confirmed = len(text)
        self.state = OPEN
        self.fault: Ended | StreamError | None = None
        self._parts = [text]
        self._under_way: Append | None = None

    @property
    def text(self) -> str:
        """All of it."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    @property
    def unsent(self) -> int:
        """How many characters the server has not confirmed."""
        return self.length - self.confirmed

    @property
    def may_send(self) -> bool:
        """Whether an append may be sent now, be it a sign of life."""
        return self._under_way is None and self.fault is None

    @property
    def is_refused(self) -> bool:
        """Whether the server takes no more of this text, and the stream is open: nobody else will end it."""
        return self.state == OPEN and isinstance(self.fault, StreamError) and self.fault.status in (400, 413)

    def write(self, text: str) -> None:
        """Raises what ended the stream, and ValueError for text that Postgres cannot hold."""
        if self.fault is not None:
            raise self.fault
        if "\0" in text:
            raise ValueError("Postgres keeps no NUL in a text: remove it")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                # Without the cause, which would quote the text.
                raise ValueError("half of a surrogate pair is no character: give whole characters") from None
        self._parts.append(text)
        self.length += len(text)
        if len(self._parts) > PARTS:
            self._parts = [self.text]

    def rewind(self, offset: int) -> None:
        """The server says, outside of an append, that it has `offset` characters."""
        if offset > self.length:
            self.fail(another_writer())
        self.confirmed = min(offset, self.length)

    def next_append(self) -> Append:
        """What to send now: the first of what is not confirmed, at most PART characters; empty if all is.

        Call it only if `may_send`. Afterwards call `answered` or `lost`.
        """
        self._under_way = Append(self.confirmed, self._from(self.confirmed, PART))
        return self._under_way

    def lost(self) -> None:
        """No answer came, and the server has or has not the append. It is sent again: a repeat is harmless."""
        self._under_way = None

    def answered(self, status: int, state: str | None = None, offset: int | None = None) -> Next:
        """The answer to the append that was under way."""
        append, self._under_way = self._under_way, None
        if self.fault is not None:  # another answer said so meanwhile
            return Next.END
        if status in PASSING:
            return Next.LATER
        if status not in (200, 409):
            return self.fail(StreamError(f"{REFUSALS.get(status, 'the server refuses the append')} ({status})", status))
        if state is None or offset is None:
            return self.fail(StreamError(f"the server answered {status} without a state and an offset", status))
        if state != OPEN:
            return self.ended(state, offset)
        if offset > self.length or (status == 409 and append is not None and offset > append.offset):
            return self.fail(another_writer())
        # What lies behind this append is another writer's, until the server has compared it with ours.
        self.confirmed = offset if append is None else min(offset, append.offset + len(append.text))
        # An append that begins where the text ends fits: two processes of the server did not agree just now.
        return Next.LATER if status == 409 and append is not None and offset == append.offset else Next.GO_ON

    def ended(self, state: str, offset: int) -> Next:
        """The stream has ended at `offset`: the text that the server does not have is cut off."""
        self.state, self._under_way = state, None
        end = max(offset, self.confirmed)  # of a stream whose text is in its row the server keeps none
        if end <= self.length:
            self._parts = [self.text[:end]]
            self.length = self.confirmed = end
        return self.fail(Stopped() if state == STOPPED else Ended(state))

    def fail(self, fault: Ended | StreamError) -> Next:
        """Nothing can be sent any more. The first fault counts."""
        self.fault = self.fault or fault
        return Next.END

    def _from(self, offset: int, at_most: int) -> str:
        """The text from `offset` on. Takes as long as what follows it is, not as the whole text."""
        found: list[str] = []
        start = self.length
        while start > offset:
            part = self._parts[-len(found) - 1]
            start -= len(part)
            found.append(part)
        tail = "".join(reversed(found))
        return tail[offset - start : offset - start + at_most]
