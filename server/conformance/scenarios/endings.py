"""Errors, closes and silence: what ends a connection, and whether the device comes back."""

from typing import Final

from protocol.frames import Error
from server.conformance import steps as do
from server.conformance.scenarios.pieces import AGAIN, BEGUN, OURS, B, K, c, changes, error, live, snapshot
from server.conformance.steps import Scenario

SCENARIOS: Final = (
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
)
