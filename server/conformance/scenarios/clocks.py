"""Devices whose clock is wrong."""

from typing import Final

from server.conformance import steps as do
from server.conformance.scenarios.pieces import OURS, K, M, live, new, snapshot, write
from server.conformance.steps import Scenario

HOUR: Final = 3_600_000_000

SCENARIOS: Final = (
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
)
