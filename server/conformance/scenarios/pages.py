"""Older rows, which a device asks for."""

from typing import Final

from server.conformance import steps as do
from server.conformance.scenarios.pieces import OURS, A, B, D, K, M, N, O, P, c, changes, live, m, page, snapshot
from server.conformance.steps import Scenario

RENAMED: Final = c(3, D, 50, "renamed", 4000)

SCENARIOS: Final = (
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
)
