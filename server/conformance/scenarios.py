"""What a client is tested with: scenarios as values, over the chat schema."""

from typing import Any, Final
from uuid import UUID

from protocol.frames import (
    STREAMS,
    Ack,
    Applied,
    Changes,
    Error,
    Live,
    Page,
    Rejected,
    Repeated,
    Result,
    Row,
    Snapshot,
    Streams,
    StreamText,
)
from server.conformance import steps as do
from server.conformance.steps import Scenario, Step

A, B, D = (UUID(int=0x7000_8000_0000_0000_00C0 + n) for n in (1, 2, 3))
M, N, O, P = (UUID(int=0x7000_8000_0000_0000_00E0 + n) for n in (1, 2, 3, 4))  # noqa: E741 (a message)
K: Final = tuple(f"cursor {n}".encode() for n in range(12))
HOUR: Final = 3_600_000_000


def c(seq: int, key: UUID, at: int, title: str = "t", updated: int | None = None) -> Row:
    return ("c", seq, key, title, at, at if updated is None else updated)


def m(seq: int, key: UUID, home: UUID, at: int, content: str = "x") -> Row:
    return ("m", seq, key, home, "user", content, at, at)


def snapshot(as_of: int, rows: list[Row], cursor: bytes | None = None) -> do.Send:
    return do.Send(Snapshot(as_of=as_of, rows=rows, cursor=cursor))


def changes(start: int, to: int, *rows: Row, seq: int | None = -1, partial: bool = False) -> do.Send:
    at = to if seq == -1 else seq
    return do.Send(Changes(from_=K[start], to=K[to], rows=list(rows), seq=None if partial else at, partial=partial))


def live(cursor: int, seq: int | None = None) -> do.Send:
    return do.Send(Live(cursor=K[cursor], seq=cursor if seq is None else seq))


def page(number: int, as_of: int, rows: list[Row], *, more: bool) -> do.Send:
    return do.Send(Page(id=number, as_of=as_of, rows=rows, more=more))


def error(code: str, **fields: Any) -> do.Send:
    return do.Send(Error(code=code, message=f"about {code}", retryable=True, **fields))


def push_error(code: str, n: int, **fields: Any) -> do.Send:
    return error(code, answers="push", id=n, **fields)


def ack(*results: Result) -> do.Send:
    return do.Send(Ack(results=list(results)))


def write(key: UUID, content: str = "hello", home: UUID = A) -> do.Write:
    return do.Write("+", "message", key, (("conversation_id", str(home)), ("role", "user"), ("content", content)))


def streams(*open_: UUID) -> do.Send:
    return do.Send(Streams(open=list(open_)))


def grows(stream: UUID, key: UUID, offset: int, text: str, state: str = "open", since: int = 20) -> do.Send:
    """A part of the text of a message."""
    place: dict[str, Any] = {"kind": "m", "id": key, "column": "content", "since": since}
    return do.Send(StreamText(stream=stream, **place, offset=offset, text=text, state=state))


def new(key: UUID) -> tuple[str, UUID]:
    return ("+", key)


OURS: Final = c(10, A, 1000)
BEGUN: Final[tuple[Step, ...]] = (do.Start(), do.Hello(), snapshot(10, [OURS], K[1]), live(1), do.Is("live"))
SHORT_LIVED: Final[tuple[Step, ...]] = (do.Start(), do.Hello(lasts=3_000_000), *BEGUN[2:])
"""The same with a token of three seconds, which is due for a refresh before they are over."""
AGAIN: Final = do.Hello((K[1],))
UNKNOWN_ROW: Final[Row] = ("zz", 5, 1, {"a": [1]})
S, T = (UUID(int=0x4000_8000_0000_0000_0050 + n) for n in (1, 2))
ANSWERS: Final[tuple[Step, ...]] = (
    do.Start(),
    do.Hello(),
    snapshot(10, [OURS, m(10, M, A, 5, ""), m(10, N, A, 6, "")], K[1]),
    live(1, 20),
    streams(S, T),
)
"""Two messages that are being answered."""
RENAMED: Final = c(3, D, 50, "renamed", 4000)

SCENARIOS: Final = (
    Scenario(
        "snapshot",
        "A snapshot of several frames is applied, and a repeated row replaces its former state (7.3).",
        (
            do.Start(),
            do.Hello(),
            snapshot(10, [OURS, m(10, M, A, 5, "old")]),
            snapshot(12, [m(12, M, A, 5, "new")]),
            snapshot(12, [], K[1]),
            live(1),
            do.Is("live"),
            do.Holds((OURS, m(12, M, A, 5, "new"))),
        ),
    ),
    Scenario(
        "cut-snapshot",
        "A snapshot that is cut off counts for nothing, also if the device starts again (7.3).",
        (
            do.Start(),
            do.Hello(),
            snapshot(10, [c(10, B, 7)]),
            do.Close(),
            do.Hello(),
            snapshot(20, [c(20, B, 8)]),
            do.Kill(),
            do.Start(),
            do.Hello(),
            snapshot(30, [OURS], K[1]),
            live(1),
            do.Holds((OURS,)),
        ),
    ),
    Scenario(
        "duplicates",
        "Rows that come twice, or late, change nothing (5.2).",
        (
            *BEGUN,
            changes(1, 2, c(20, B, 7, "new")),
            changes(2, 3, c(20, B, 7, "new"), c(15, B, 7, "stale"), c(20, D, 8)),
            live(3),
            do.Holds((OURS, c(20, B, 7, "new"), c(20, D, 8))),
        ),
    ),
    Scenario(
        "deletions",
        "A deletion removes the row and the older rows below it, and no newer ones (5.3).",
        (
            *BEGUN,
            changes(1, 2, m(20, M, A, 5), m(20, P, B, 5), m(40, N, A, 6)),
            changes(2, 3, ("-c", 30, A), c(31, A, 1000, "again"), ("-c", 30, B)),
            live(3),
            do.Holds((c(31, A, 1000, "again"), m(40, N, A, 6))),
        ),
    ),
    Scenario(
        "late-page",
        "A page that was read before a deletion brings nothing back (5.4).",
        (
            do.Start({"message": 1}),
            do.Hello(),
            snapshot(10, [OURS, m(10, M, A, 9)], K[1]),
            live(1),
            do.Older("message", A),
            do.Page("message", A, (9, M)),
            changes(1, 2, ("-m", 30, N)),
            page(1, 25, [m(25, N, A, 8), m(25, O, A, 7)], more=False),
            live(2),
            do.Holds((OURS, m(10, M, A, 9), m(25, O, A, 7))),
        ),
    ),
    Scenario(
        "floor",
        "Older rows are asked for from the floor, not from the oldest row that is held (7.10).",
        (
            do.Start({"conversation": 1}),
            do.Hello(),
            snapshot(2, [c(2, A, 3000)], K[1]),
            live(1),
            changes(1, 2, RENAMED, c(3, B, 100)),
            live(2),
            do.Holds((c(2, A, 3000), RENAMED, c(3, B, 100))),
            do.Older("conversation"),
            do.Page("conversation", None, (3000, A)),
            page(1, 4, [c(4, P, 2000)], more=False),
            do.Holds((c(2, A, 3000), RENAMED, c(3, B, 100), c(4, P, 2000))),
        ),
    ),
    Scenario(
        "broken-chain",
        "A batch that does not start at the cursor is not applied: the device closes and resumes (7.4).",
        (
            *BEGUN,
            changes(5, 6, c(20, B, 7)),
            do.Closes(),
            AGAIN,
            changes(1, 2, c(21, D, 8)),
            live(2),
            do.Holds((OURS, c(21, D, 8))),
        ),
    ),
    Scenario(
        "wrong-live",
        "A live of another cursor ends the connection (7.5).",
        (
            *BEGUN,
            live(7),
            do.Closes(),
            AGAIN,
            live(1),
            do.Holds((OURS,)),
        ),
    ),
    Scenario(
        "partial",
        "A part of a transaction is kept when the connection is cut, and the rest follows (7.4).",
        (
            *BEGUN,
            changes(1, 2, c(20, B, 7), partial=True),
            do.Holds((OURS, c(20, B, 7))),
            do.Close(),
            do.Hello((K[2],)),
            changes(2, 3, m(20, M, B, 5)),
            live(3),
            do.Holds((OURS, c(20, B, 7), m(20, M, B, 5))),
        ),
    ),
    Scenario(
        "unknown",
        "Unknown frames, fields, rows and columns are ignored (2.3, 5).",
        (
            *BEGUN,
            do.Send({"t": "typing", "who": [1, {"a": 2}]}),
            do.Send({"t": "live", "cursor": K[1], "seq": 1, "later": {"a": 1}}),
            changes(1, 2, UNKNOWN_ROW, (*c(20, B, 7), "a further column")),
            live(2),
            do.Holds((OURS, c(20, B, 7))),
        ),
    ),
    Scenario(
        "resume",
        "A device that was killed resumes with the cursor of its store (6.3).",
        (
            *BEGUN,
            changes(1, 2, c(20, B, 7)),
            live(2),
            do.Holds((OURS, c(20, B, 7))),
            do.Kill(),
            do.Start(),
            do.Hello((K[2],)),
            changes(2, 3, m(30, M, B, 5)),
            live(3),
            do.Holds((OURS, c(20, B, 7), m(30, M, B, 5))),
        ),
    ),
    Scenario(
        "ahead",
        "A device that is ahead of the database gets a snapshot: rows go, unsent writes stay (7.2, 7.3).",
        (
            *BEGUN,
            changes(1, 2, c(20, B, 7)),
            do.Holds((OURS, c(20, B, 7))),
            do.Close(),
            write(M),
            do.Hello((K[2],), snapshot="ahead"),
            snapshot(15, [OURS], K[3]),
            live(3, 15),
            do.Push(1, (new(M),)),
            ack(Applied(1, 16)),
            changes(3, 4, m(16, M, A, 9, "hello"), seq=16),
            do.Holds((OURS, m(16, M, A, 9, "hello"))),
            do.Outbox(0),
        ),
    ),
    Scenario(
        "position-lost",
        "After position_lost the device comes back without a cursor (10.2).",
        (
            *BEGUN,
            error("position_lost"),
            do.Close(4200),
            do.Hello((None,)),
            snapshot(20, [c(20, B, 7)], K[2]),
            live(2),
            do.Holds((c(20, B, 7),)),
        ),
    ),
    Scenario(
        "cut-close",
        "An announced close that is cut off counts as if it had come (10.3).",
        (
            *BEGUN,
            error("position_lost"),
            do.Close(),
            do.Hello((None,)),
            snapshot(20, [c(20, B, 7)], K[2]),
            live(2),
            do.Holds((c(20, B, 7),)),
        ),
    ),
    Scenario(
        "error-without-close",
        "An error without a close leaves the connection as it is (10.1).",
        (
            *BEGUN,
            error("unavailable"),
            error("from_the_future", retry_after=60_000),
            changes(1, 2, c(20, B, 7)),
            live(2),
            do.Holds((OURS, c(20, B, 7))),
        ),
    ),
    Scenario(
        "stays-away",
        "After 43xx the device does not come back by itself (10.2).",
        (
            *BEGUN,
            do.Send(Error(code="replaced", message="a newer one", retryable=False)),
            do.Close(4302),
            do.StaysAway(),
        ),
    ),
    Scenario(
        "refresh",
        "A later token extends a connection before the last one ends (7.8).",
        (
            *SHORT_LIVED,
            do.Token(),
            do.Refresh(),
            changes(1, 2, c(20, B, 7)),
            live(2),
            do.Holds((OURS, c(20, B, 7))),
        ),
    ),
    Scenario(
        "refresh-refused",
        "A token that is refused at a refresh leaves the connection as it is, and is not sent again (7.8).",
        (
            *SHORT_LIVED,
            do.Token(),
            do.Refresh(extends=False),
            error("token_refused", answers="refresh"),
            changes(1, 2, c(20, B, 7)),
            live(2),
            do.Quiet(),
            do.Holds((OURS, c(20, B, 7))),
        ),
    ),
    Scenario(
        "another-user",
        "The token of another user than the device's is never sent, and one of its own is (7.8).",
        (
            do.Start(user=D),
            do.NoHello(),
            do.Token(),
            do.Hello(),
            snapshot(10, [OURS], K[1]),
            live(1),
            do.Is("live"),
        ),
    ),
    Scenario(
        "slow-welcome",
        "A device that waits for welcome sends no push and asks for no page (7.1).",
        (
            do.Start(),
            do.Hello(greets=False),
            write(M),
            do.Quiet(),
            error("unavailable"),
            do.Quiet(0.5),
        ),
    ),
    Scenario(
        "slow-frames",
        "A frame that arrives some bytes at a time is whole at last.",
        (
            do.Start(),
            do.Hello(),
            do.Slowly(Snapshot(as_of=10, rows=[OURS, m(10, M, A, 5, "long " * 400)], cursor=K[1])),
            live(1),
            do.Holds((OURS, m(10, M, A, 5, "long " * 400))),
        ),
    ),
    Scenario(
        "large-row",
        "A row of two MiB is received (2.5).",
        (
            *BEGUN,
            changes(1, 2, m(20, M, A, 5, "y" * (2 << 20))),
            live(2),
            do.Holds((OURS, m(20, M, A, 5, "y" * (2 << 20)))),
        ),
    ),
    Scenario(
        "silence",
        "A connection on which nothing comes for twice the keep-alive is dead (9.1).",
        (
            do.Start(),
            do.Hello(keepalive=500),
            snapshot(10, [OURS], K[1]),
            live(1),
            do.Closes((4000, 1000, 1001, None)),
            AGAIN,
            live(1),
            do.Holds((OURS,)),
        ),
    ),
    Scenario(
        "write",
        "A write is pushed once, and leaves when it has come back through the feed (8.2, 8.8).",
        (
            *BEGUN,
            write(M),
            do.Push(1, (new(M),), held=1),
            ack(Applied(1, 20)),
            changes(1, 2, m(20, M, A, 9, "hello"), seq=20),
            do.Outbox(0),
            do.Holds((OURS, m(20, M, A, 9, "hello"))),
            write(N),
            do.Push(2, (new(N),), held=2),
        ),
    ),
    Scenario(
        "one-push",
        "Only one push is unanswered at a time; the others travel in the next (8.2).",
        (
            *BEGUN,
            write(M),
            do.Push(1, (new(M),)),
            write(N),
            write(O),
            do.Quiet(),
            ack(Applied(1, 20)),
            do.Push(2, (new(N), new(O))),
        ),
    ),
    Scenario(
        "lost-answer",
        "A push without an answer is sent again on the next connection, under the same numbers (8.5).",
        (
            *BEGUN,
            write(M),
            do.Push(1, (new(M),)),
            do.Close(),
            AGAIN,
            live(1),
            do.Push(1, (new(M),)),
            ack(Repeated(1, 1)),
            do.Outbox(0),
        ),
    ),
    Scenario(
        "killed-writer",
        "A write that the app was told is kept survives SIGKILL, with its number (8.1).",
        (
            *BEGUN,
            do.Close(),
            write(M),
            do.Kill(),
            do.Start(),
            AGAIN,
            live(1),
            do.Push(1, (new(M),)),
            ack(Applied(1, 20)),
            write(N),
            do.Push(2, (new(N),)),
        ),
    ),
    Scenario(
        "doubt",
        "Acknowledged mutations that have not come back are pushed again on a new connection, after SIGKILL too (8.5).",
        (
            *BEGUN,
            write(M),
            do.Push(1, (new(M),)),
            ack(Applied(1, 90)),
            do.Outbox(0),
            do.Kill(),
            do.Start(),
            AGAIN,
            live(1),
            do.Push(1, (new(M),), held=1),
            ack(Repeated(1, 90)),
            changes(1, 2, m(90, M, A, 9, "hello"), seq=90),
            live(2, 90),
            write(N),
            do.Push(2, (new(N),), held=2),
        ),
    ),
    Scenario(
        "gap-below",
        "After a gap the mutations get the expected numbers and are sent again at once (8.5).",
        (
            *BEGUN,
            do.Close(),
            write(M),
            write(N),
            AGAIN,
            live(1),
            do.Push(1, (new(M), new(N))),
            ack(Applied(1, 90), Applied(2, 90)),
            write(O),
            do.Push(3, (new(O),), held=1),
            push_error("gap", 3, expected=2),
            do.Push(2, (new(N), new(O)), held=1),
            ack(Applied(2, 91), Applied(3, 91)),
            do.Outbox(0),
        ),
    ),
    Scenario(
        "gap-above",
        "After a gap whose expected number is higher, all that is held gets new numbers (8.5).",
        (
            *BEGUN,
            write(M),
            do.Push(1, (new(M),)),
            ack(Applied(1, 90)),
            do.Close(),
            AGAIN,
            live(1),
            do.Push(1, (new(M),)),
            push_error("gap", 1, expected=7),
            do.Push(7, (new(M),), held=7),
            ack(Applied(7, 91)),
            do.Outbox(0),
            write(N),
            do.Push(8, (new(N),), held=7),
        ),
    ),
    Scenario(
        "rejected",
        "A rejected mutation goes to quarantine, and delays no other (8.4).",
        (
            *BEGUN,
            do.Close(),
            write(M),
            write(N),
            AGAIN,
            live(1),
            do.Push(1, (new(M), new(N))),
            ack(Rejected(1, "bad_value", "no"), Applied(2, 20)),
            do.Outbox(0, ("bad_value",)),
            write(O),
            do.Push(3, (new(O),)),
            ack(Rejected(3, "from_the_future", "no")),
            do.Outbox(0, ("bad_value", "from_the_future")),
        ),
    ),
    Scenario(
        "unavailable-push",
        "A push that is answered with an error is kept, and sent again after retry_after (8.6).",
        (
            *BEGUN,
            write(M),
            do.Push(1, (new(M),)),
            push_error("unavailable", 1, retry_after=1_500),
            do.Quiet(1.2),
            do.Push(1, (new(M),)),
            ack(Applied(1, 1)),
            do.Outbox(0),
        ),
    ),
    Scenario(
        "outgrown",
        "A mutation that fits in no frame any more is replaced by an empty array (8.2).",
        (
            *BEGUN,
            do.Close(),
            write(M, "x" * 3000),
            write(N),
            do.Hello((K[1],), limits=(("frame_bytes", 1000),)),
            live(1),
            do.Push(1, (None, new(N))),
            ack(Rejected(1, "malformed", "no"), Applied(2, 1)),
            do.Outbox(0, ("too_long",)),
        ),
    ),
    Scenario(
        "unknown-result",
        "A result of an unknown kind breaks the protocol, and the mutation is kept (8.4).",
        (
            *BEGUN,
            write(M),
            do.Push(1, (new(M),)),
            do.Send({"t": "ack", "results": [["perhaps", 1, 2]]}),
            do.Closes(),
            AGAIN,
            live(1),
            do.Push(1, (new(M),)),
        ),
    ),
    Scenario(
        "clock-behind",
        "A device whose clock is an hour behind dates what it writes by the server's (8.3).",
        (
            do.Start(),
            do.Hello(clock_ahead=HOUR),
            snapshot(10, [OURS], K[1]),
            live(1),
            do.Is("live"),
            write(M),
            do.Push(1, (new(M),), ahead=HOUR),
        ),
    ),
    Scenario(
        "clock-offline",
        "What was written offline before the first welcome, too (8.3).",
        (
            do.Start(),
            do.Hello(greets=False),
            do.Close(),
            write(M),
            do.Hello(clock_ahead=-HOUR),
            snapshot(10, [OURS], K[1]),
            live(1),
            do.Push(1, (new(M),), ahead=-HOUR),
        ),
    ),
    Scenario(
        "stream",
        "The text of a stream is cut at each offset, in code points, and shown in its row (13.3, 13.4).",
        (
            *ANSWERS,
            grows(S, M, 0, "a🙂"),
            grows(S, M, 2, "🙂bc"),
            do.Shows(((OURS, None), (m(10, M, A, 5, "a🙂🙂bc"), "open"), (m(10, N, A, 6, ""), None))),
            grows(S, M, 3, "d"),
            grows(S, M, 4, "e", "stopped"),
            do.Shows(((OURS, None), (m(10, M, A, 5, "a🙂🙂de"), "stopped"), (m(10, N, A, 6, ""), None))),
            do.Holds((OURS, m(10, M, A, 5, ""), m(10, N, A, 6, ""))),
        ),
        STREAMS,
    ),
    Scenario(
        "stream-settled",
        "A row that lags is hidden by its stream, and shown once it has the text (13.4).",
        (
            *ANSWERS,
            grows(S, M, 0, "Hello", "done"),
            changes(1, 2, m(30, M, A, 5, "Hel"), seq=30),
            grows(T, N, 0, "x"),
            do.Shows(((OURS, None), (m(30, M, A, 5, "Hello"), "done"), (m(10, N, A, 6, "x"), "open"))),
            changes(2, 3, m(31, M, A, 5, "Hello"), seq=31),
            do.Shows(((OURS, None), (m(31, M, A, 5, "Hello"), None), (m(10, N, A, 6, "x"), "open"))),
        ),
        STREAMS,
    ),
    Scenario(
        "stream-overwritten",
        "Once the app has written another text, the stream is not shown any more, whatever arrives (13.4).",
        (
            *ANSWERS,
            grows(S, M, 0, "Hello"),
            changes(1, 2, m(30, M, A, 5, "Bye"), seq=30),
            do.Shows(((OURS, None), (m(30, M, A, 5, "Bye"), None), (m(10, N, A, 6, ""), None))),
            changes(2, 3, m(31, M, A, 5, ""), seq=31),
            grows(S, M, 5, ", you"),
            grows(T, N, 0, "x"),
            do.Shows(((OURS, None), (m(31, M, A, 5, ""), None), (m(10, N, A, 6, "x"), "open"))),
        ),
        STREAMS,
    ),
    Scenario(
        "stream-unnamed",
        "A stream that is not named any more is shown until the next live, and then its row (13.5).",
        (
            *ANSWERS,
            grows(S, M, 0, "Hello"),
            grows(T, N, 0, "x"),
            streams(T),
            grows(T, N, 1, "y"),
            do.Shows(((OURS, None), (m(10, M, A, 5, "Hello"), "open"), (m(10, N, A, 6, "xy"), "open"))),
            live(1, 40),
            do.Shows(((OURS, None), (m(10, M, A, 5, ""), None), (m(10, N, A, 6, "xy"), "open"))),
        ),
        STREAMS,
    ),
    Scenario(
        "stream-deleted",
        "A stream is forgotten when its row is deleted, and does not come back with it (13.5).",
        (
            *ANSWERS,
            grows(S, M, 0, "Hello"),
            changes(1, 2, ("-m", 30, M), seq=30),
            do.Shows(((OURS, None), (m(10, N, A, 6, ""), None))),
            changes(2, 3, m(31, M, A, 5, ""), seq=31),
            grows(T, N, 0, "x"),
            do.Shows(((OURS, None), (m(31, M, A, 5, ""), None), (m(10, N, A, 6, "x"), "open"))),
        ),
        STREAMS,
    ),
    Scenario(
        "stream-resumed",
        "On each connection a stream begins anew with its whole text; what it had is shown until then (13.3).",
        (
            *ANSWERS,
            grows(S, M, 0, "Hello"),
            do.Close(),
            AGAIN,
            do.Shows(((OURS, None), (m(10, M, A, 5, "Hello"), "open"), (m(10, N, A, 6, ""), None))),
            streams(S, T),
            grows(S, M, 0, "Hello, "),
            grows(S, M, 7, "you"),
            live(1, 20),
            do.Shows(((OURS, None), (m(10, M, A, 5, "Hello, you"), "open"), (m(10, N, A, 6, ""), None))),
        ),
        STREAMS,
    ),
    Scenario(
        "stream-hole",
        "A frame behind the end of the text that the connection brought breaks the protocol (13.3).",
        (
            *ANSWERS,
            grows(S, M, 0, "a🙂"),
            grows(S, M, 3, "x"),
            do.Closes(),
            AGAIN,
            do.Shows(((OURS, None), (m(10, M, A, 5, "a🙂"), "open"), (m(10, N, A, 6, ""), None))),
        ),
        STREAMS,
    ),
    Scenario(
        "stop",
        "A stop that was not answered is repeated on the next connection, and one that was answered is not (13.6).",
        (
            *ANSWERS,
            grows(S, M, 0, "Hello"),
            do.AskStop("message", M),
            do.Stop("m", M),
            do.Close(),
            AGAIN,
            do.Stop("m", M),
            do.AnswerStop(True),
            do.Close(),
            AGAIN,
            live(1, 20),
            do.Quiet(),
        ),
        STREAMS,
    ),
    Scenario(
        "stop-unavailable",
        "A stop that is answered with an error is asked again on the same connection (13.6).",
        (
            *ANSWERS,
            do.AskStop("message", M),
            do.Stop("m", M),
            do.AnswerStop(None),
            do.Stop("m", M),
            do.AnswerStop(False),
            do.Quiet(),
        ),
        STREAMS,
    ),
)
