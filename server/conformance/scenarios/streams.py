"""The texts of streams, and stops."""

from typing import Any, Final
from uuid import UUID

from protocol.frames import STREAMS, Streams, StreamText
from server.conformance import steps as do
from server.conformance.scenarios.pieces import AGAIN, OURS, A, K, M, N, changes, live, m, snapshot
from server.conformance.steps import Scenario, Step

S, T = (UUID(int=0x4000_8000_0000_0000_0050 + n) for n in (1, 2))


def streams(*open_: UUID) -> do.Send:
    return do.Send(Streams(open=list(open_)))


def grows(stream: UUID, key: UUID, offset: int, text: str, state: str = "open", since: int = 20) -> do.Send:
    """A part of the text of a message."""
    place: dict[str, Any] = {"kind": "m", "id": key, "column": "content", "since": since}
    return do.Send(StreamText(stream=stream, **place, offset=offset, text=text, state=state))


ANSWERS: Final[tuple[Step, ...]] = (
    do.Start(),
    do.Hello(),
    snapshot(10, [OURS, m(10, M, A, 5, ""), m(10, N, A, 6, "")], K[1]),
    live(1, 20),
    streams(S, T),
)
"""Two messages that are being answered."""

SCENARIOS: Final = (
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
