"""What comes through the feed: batches, their rows, and live."""

from typing import Final

from server.conformance import steps as do
from server.conformance.scenarios.pieces import AGAIN, BEGUN, OURS, A, B, D, K, M, N, P, c, changes, live, m
from server.conformance.steps import Scenario

SCENARIOS: Final = (
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
)
