"""Close codes. The hundreds digit is the instruction, so an old client obeys a code it has never seen."""

from enum import IntEnum
from typing import Final


class CloseCode(IntEnum):
    """Why the server closed, and what the client does next (SPEC.md, section 10)."""

    # 40xx: come back, after the delay that the `error` frame before it advised.
    GOING_AWAY = 4000
    """This server shuts down, and another one takes you; or Postgres was started anew."""
    INTERNAL = 4001
    """The server failed at something that was not your fault."""
    HELLO_TIMEOUT = 4002
    """No `hello` arrived in time."""
    TOO_MANY_SOCKETS = 4003
    """This user has as many sockets open as one user may."""

    TOO_MANY_FRAMES = 4004
    """This connection sent more than a connection may."""
    TOO_MANY_HELLOS = 4005
    """This user connects more often than one user may."""

    # 41xx: come back with a new token.
    TOKEN_EXPIRED = 4100
    """The token ran out and was not refreshed."""
    TOKEN_REFUSED = 4101
    """The token is not one that this server accepts."""

    # 42xx: come back with nothing: forget the cursor, keep the outbox.
    POSITION_LOST = 4200
    """The database no longer knows the position this connection had reached."""

    # 43xx: do not come back by yourself.
    BAD_FRAME = 4300
    """You sent something that the protocol does not allow."""
    LOCAL_ONLY = 4301
    """This user's tier does not sync; everything goes on working on the device."""
    REPLACED = 4302
    """A newer connection has this `client_id`."""


REASONS: Final = {
    CloseCode.LOCAL_ONLY: "This user's plan keeps conversations on the device. Syncing starts with a paid plan.",
    CloseCode.REPLACED: "A newer connection of this device has taken over.",
}
"""What the `error` before the close says to people, where it is always the same."""


class Instruction(IntEnum):
    """What a close code asks of the client: its hundreds digit."""

    COME_BACK = 40
    NEW_TOKEN = 41
    START_OVER = 42
    STAY_AWAY = 43


def instruction(code: int) -> Instruction:
    """The instruction in a close code; any code outside 4000–4399 (1006 of a cut line, 1012 …) says «come back»."""
    try:
        return Instruction(code // 100)
    except ValueError:
        return Instruction.COME_BACK
