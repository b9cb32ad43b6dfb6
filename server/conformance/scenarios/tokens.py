"""Tokens: refreshed, refused, and another user's."""

from typing import Final

from server.conformance import steps as do
from server.conformance.scenarios.pieces import BEGUN, OURS, B, D, K, c, changes, error, live, snapshot
from server.conformance.steps import Scenario, Step

SHORT_LIVED: Final[tuple[Step, ...]] = (do.Start(), do.Hello(lasts=3_000_000), *BEGUN[2:])
"""As BEGUN, with a token of three seconds, which is due for a refresh before they are over."""

SCENARIOS: Final = (
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
)
