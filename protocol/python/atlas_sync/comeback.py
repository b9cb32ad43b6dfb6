"""When to reconnect after a connection ended, and when to refresh a token before it ends (SPEC.md, 7.8 and 10.2–10.3).

Pure: time and randomness are arguments.
"""

from dataclasses import dataclass
from enum import StrEnum

from atlas_sync.session import ErrorAnswer

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0  # seconds
LASTED = 60.0  # seconds; a connection that lived this long resets the back-off
REFRESH_AFTER, REFRESH_MARGIN = 0.8, 60.0  # a share of the token's remaining life; seconds before its end

# Which close each `error` announces (SPEC.md, 10.1); None: the connection goes on.
ANNOUNCED_CLOSE: dict[str, int | None] = {
    "bad_frame": 4300,
    "hello_first": 4300,
    "second_hello": 4300,
    "unknown_frame": None,
    "hello_timeout": 4002,
    "token_refused": 4101,
    "token_expired": 4100,
    "too_many_sockets": 4003,
    "too_many_frames": 4004,
    "too_many_hellos": 4005,
    "too_many_pages": None,
    "bad_page": None,
    "unavailable": None,
    "slow_down": None,
    "gap": None,
    "too_many_pushes": None,
    "replaced": 4302,
    "position_lost": 4200,
    "going_away": 4000,
    "internal": 4001,
    "local_only": 4301,
}
_ANNOUNCE_NO_CLOSE = frozenset(code for code, close in ANNOUNCED_CLOSE.items() if close is None)


class Instruction(StrEnum):
    """What a close code asks of the device."""

    COME_BACK = "come_back"
    NEW_TOKEN = "new_token"
    START_OVER = "start_over"
    STAY_AWAY = "stay_away"


_INSTRUCTIONS = dict(zip((40, 41, 42, 43), Instruction, strict=True))


def instruction(close_code: int | None) -> Instruction:
    """The instruction of a close code: its hundreds digit. COME_BACK for any code outside 4000–4399, and for None."""
    return _INSTRUCTIONS.get((close_code or 0) // 100, Instruction.COME_BACK)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a connection ended.

    `close_code` is the code that gave the instruction, received or announced; None if there was none. `attempt` is for
    the next `next_step`.
    """

    instruction: Instruction
    delay_seconds: float
    attempt: int
    close_code: int | None = None


def backoff(attempt: int, rnd: float) -> float:
    """Seconds to wait after `attempt` failures in a row, if the server advised no delay."""
    return rnd * min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(attempt, 16))  # 16: far past the cap, and finite


def next_step(
    close_code: int | None, last_error: ErrorAnswer | None, attempt: int, lasted_seconds: float, rnd: float
) -> Step:
    """What to do after a connection, or an attempt at one, has ended.

    `close_code` is the one received from the server, None if there was none. `last_error` is the session's. `attempt`
    is that of the last step, 0 at first; `rnd` is a random number between 0 and 1.
    """
    if instruction(close_code) is Instruction.COME_BACK and (close_code or 0) // 100 != 40:
        close_code = None  # the server's close was cut off, or a proxy answered in its place
    if last_error is not None and last_error.answers == "refresh" and instruction(close_code) is Instruction.COME_BACK:
        last_error = None  # the refused refresh announced no close: the token in use goes on
    if close_code is None and last_error is not None:
        close_code = ANNOUNCED_CLOSE.get(last_error.code)
    attempt = 1 if lasted_seconds >= LASTED else attempt + 1
    delay = backoff(attempt, rnd)
    if (
        last_error is not None
        and last_error.retry_after_ms is not None
        and last_error.code not in _ANNOUNCE_NO_CLOSE  # else the delay is for the frame that the error answers
    ):
        delay = last_error.retry_after_ms / 1000
    return Step(instruction(close_code), delay, attempt, close_code)


def refresh_after(remaining_seconds: float) -> float:
    """Seconds to wait before refreshing a token that has `remaining_seconds` left: late, but never after its end."""
    return max(REFRESH_AFTER * remaining_seconds, remaining_seconds - REFRESH_MARGIN, 0.0)
