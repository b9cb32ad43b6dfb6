"""What a client must be able to read: the unknown, the large, and what arrives slowly."""

from typing import Final

from protocol.frames import Row, Snapshot
from server.conformance import steps as do
from server.conformance.scenarios.pieces import BEGUN, OURS, A, B, K, M, c, changes, live, m
from server.conformance.steps import Scenario

UNKNOWN_ROW: Final[Row] = ("zz", 5, 1, {"a": [1]})

SCENARIOS: Final = (
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
)
