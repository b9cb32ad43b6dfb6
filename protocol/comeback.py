"""When to come back: after the end of a connection, and with another token before its end (SPEC.md, 7.8 and 10.2–10.3).

Pure: time and randomness come in as arguments.
"""

from dataclasses import dataclass

from protocol.client import Refused
from protocol.close import Instruction, instruction

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0  # seconds
LASTED = 60.0  # seconds; the end of a connection that lasted so long is the first in its row
REFRESH_AFTER, REFRESH_MARGIN = 0.8, 60.0  # a share of the token's remaining life; seconds before its end

_ANNOUNCE_NO_CLOSE = frozenset(
    {"unknown_frame", "too_many_pages", "unavailable", "slow_down", "gap", "too_many_pushes"}
)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a connection ended. `attempt` is for the next `next_step`."""

    order: Instruction
    delay_seconds: float
    attempt: int


def backoff(attempt: int, rnd: float) -> float:
    """Seconds to wait after so many failures in a row, if nobody said how long."""
    return rnd * min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(attempt, 16))  # 16: far past the cap, and finite


def next_step(
    close_code: int | None, last_words: Refused | None, attempt: int, lasted_seconds: float, rnd: float
) -> Step:
    """What to do after a connection, or an attempt at one, has ended.

    `close_code` is the server's, None if there was none. `last_words` is the connection's. `attempt` is what the last
    `next_step` gave, 0 at first; `rnd` is a random number between 0 and 1.
    """
    order = Instruction.COME_BACK if close_code is None else instruction(close_code)
    attempt = 1 if lasted_seconds >= LASTED else attempt + 1
    delay = backoff(attempt, rnd)
    if last_words is not None and last_words.retry_after_ms is not None:
        # A refused refresh announces a close only if its token was another user's.
        only_refresh = last_words.answers == "refresh" and order is Instruction.COME_BACK
        if last_words.code not in _ANNOUNCE_NO_CLOSE and not only_refresh:
            delay = last_words.retry_after_ms / 1000
    return Step(order, delay, attempt)


def refresh_after(remaining_seconds: float) -> float:
    """Seconds to wait before a token with so much life left is refreshed: late, but never after its end."""
    return max(REFRESH_AFTER * remaining_seconds, remaining_seconds - REFRESH_MARGIN, 0.0)
