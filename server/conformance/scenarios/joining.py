"""How a device comes in step: welcome, a snapshot, or what came after its cursor."""

from typing import Final

from protocol.frames import Applied
from server.conformance import steps as do
from server.conformance.scenarios.pieces import (
    BEGUN,
    OURS,
    A,
    B,
    K,
    M,
    ack,
    c,
    changes,
    error,
    live,
    m,
    new,
    snapshot,
    write,
)
from server.conformance.steps import Scenario

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
)
