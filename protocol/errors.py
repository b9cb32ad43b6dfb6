"""Every error that the server reports to a client, and how the connection goes on after it (SPEC.md, section 10).

This is the only table of them: the server makes each `error` frame and each close from it, and tests compare SPEC.md
and the clients' vectors with it. A new code also goes into SPEC.md, vectors/comeback.json and the two clients'
comeback.py and comeback.ts. The codes of rejected mutations are in server/write/rules.py.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.frames import Error, Milliseconds


class CloseCode(IntEnum):
    """Why the server closed a connection. The hundreds digit tells the client what to do next."""

    # 40xx: come back, after the delay that the `error` frame before the close advised.
    GOING_AWAY = 4000
    """The server shuts down, or Postgres was restarted."""
    INTERNAL = 4001
    HELLO_TIMEOUT = 4002
    TOO_MANY_SOCKETS = 4003
    TOO_MANY_FRAMES = 4004
    TOO_MANY_HELLOS = 4005

    # 41xx: come back with a new token.
    TOKEN_EXPIRED = 4100
    TOKEN_REFUSED = 4101

    # 42xx: come back without a cursor; keep the outbox.
    POSITION_LOST = 4200

    # 43xx: do not come back by yourself.
    BAD_FRAME = 4300
    LOCAL_ONLY = 4301
    REPLACED = 4302


class Instruction(IntEnum):
    """What a close code asks of the client: its hundreds digit."""

    COME_BACK = 40
    NEW_TOKEN = 41
    START_OVER = 42
    STAY_AWAY = 43


def instruction(code: int) -> Instruction:
    """The instruction of a close code. Codes outside 4000–4399 (1006 of a cut connection, 1012 …) mean «come back»."""
    try:
        return Instruction(code // 100)
    except ValueError:
        return Instruction.COME_BACK


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One kind of error."""

    code: str
    """What programs read."""
    retryable: bool
    """Whether the client may repeat the request."""
    close: CloseCode | None
    """The code of the close that follows; None if the connection stays open."""
    sentence: str
    """What people read, unless the server can say something more precise."""

    def frame(
        self,
        message: str | None = None,
        *,
        answers: str | None = None,
        id: int | None = None,  # noqa: A002 (the frame's own field)
        retry_after: Milliseconds | None = None,
        expected: int | None = None,
    ) -> Error:
        """The `error` frame. The parameters are its fields; `message` replaces the sentence."""
        return Error(
            code=self.code,
            message=self.sentence if message is None else message,
            retryable=self.retryable,
            answers=answers,
            id=id,
            retry_after=retry_after,
            expected=expected,
        )


BAD_FRAME: Final = ErrorKind("bad_frame", False, CloseCode.BAD_FRAME, "The frame is not as SPEC.md says.")
HELLO_FIRST: Final = ErrorKind(
    "hello_first", False, CloseCode.BAD_FRAME, "The first frame of a connection must be `hello`."
)
SECOND_HELLO: Final = ErrorKind(
    "second_hello", False, CloseCode.BAD_FRAME, "Only the first frame of a connection may be `hello`."
)
UNKNOWN_FRAME: Final = ErrorKind("unknown_frame", False, None, "This server does not know the frame's `t`.")
HELLO_TIMEOUT: Final = ErrorKind("hello_timeout", True, CloseCode.HELLO_TIMEOUT, "No `hello` arrived in time.")
TOKEN_REFUSED: Final = ErrorKind(
    "token_refused", True, CloseCode.TOKEN_REFUSED, "The server does not accept this token."
)
"""After a `refresh` the connection stays open: the token in use is still valid."""
TOKEN_EXPIRED: Final = ErrorKind(
    "token_expired", True, CloseCode.TOKEN_EXPIRED, "The token has expired. Come back with a new one."
)
TOO_MANY_SOCKETS: Final = ErrorKind(
    "too_many_sockets", True, CloseCode.TOO_MANY_SOCKETS, "This user has too many connections open."
)
TOO_MANY_FRAMES: Final = ErrorKind(
    "too_many_frames",
    True,
    CloseCode.TOO_MANY_FRAMES,
    "This connection sends more than is permitted. Come back after the delay, and send less.",
)
TOO_MANY_HELLOS: Final = ErrorKind(
    "too_many_hellos",
    True,
    CloseCode.TOO_MANY_HELLOS,
    "This user connects more often than is permitted. Come back after the delay.",
)
TOO_MANY_PAGES: Final = ErrorKind(
    "too_many_pages", True, None, "Ask for pages after `welcome`, and for only a few before the first is answered."
)
BAD_PAGE: Final = ErrorKind("bad_page", False, None, "There is no such list to page through.")
TOO_MANY_PUSHES: Final = ErrorKind(
    "too_many_pushes", True, None, "Push after `welcome`, and only when the last push is answered."
)
UNAVAILABLE: Final = ErrorKind(
    "unavailable",
    True,
    None,
    "The database is not available at this moment. Stay connected: the answer follows when it is available again.",
)
SLOW_DOWN: Final = ErrorKind(
    "slow_down",
    True,
    None,
    "This user writes more than is permitted at a time. Keep the push, and send it again after the delay.",
)
GAP: Final = ErrorKind("gap", True, None, "The numbers of this push do not continue this device's numbers.")
REPLACED: Final = ErrorKind("replaced", False, CloseCode.REPLACED, "A newer connection of this device has taken over.")
POSITION_LOST: Final = ErrorKind(
    "position_lost",
    True,
    CloseCode.POSITION_LOST,
    "The database no longer knows the position of this device. Come back without a cursor.",
)
GOING_AWAY: Final = ErrorKind(
    "going_away",
    True,
    CloseCode.GOING_AWAY,
    "This server is shutting down. Come back after the delay, to another server or to its successor.",
)
INTERNAL: Final = ErrorKind(
    "internal",
    True,
    CloseCode.INTERNAL,
    "The server failed unexpectedly. Come back; if it happens again, tell its operator the time and the session.",
)
LOCAL_ONLY: Final = ErrorKind(
    "local_only",
    False,
    CloseCode.LOCAL_ONLY,
    "This user's plan keeps conversations on the device. Syncing starts with a paid plan.",
)

ERRORS: Final = {
    kind.code: kind
    for kind in (
        BAD_FRAME,
        HELLO_FIRST,
        SECOND_HELLO,
        UNKNOWN_FRAME,
        HELLO_TIMEOUT,
        TOKEN_REFUSED,
        TOKEN_EXPIRED,
        TOO_MANY_SOCKETS,
        TOO_MANY_FRAMES,
        TOO_MANY_HELLOS,
        TOO_MANY_PAGES,
        BAD_PAGE,
        TOO_MANY_PUSHES,
        UNAVAILABLE,
        SLOW_DOWN,
        GAP,
        REPLACED,
        POSITION_LOST,
        GOING_AWAY,
        INTERNAL,
        LOCAL_ONLY,
    )
}
"""By code."""
