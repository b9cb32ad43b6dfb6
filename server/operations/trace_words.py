"""The words of a trace: what close codes and outlooks mean to support staff, and how times are written. Pure."""

from datetime import UTC, datetime
from typing import Final

from protocol.errors import CloseCode, Instruction, instruction
from protocol.frames import Instant
from server.feed.ports import DeviceState
from server.operations.trace_outlook import SECOND, Outlook

CLOSED: Final = {
    CloseCode.GOING_AWAY: "the server was shutting down",
    CloseCode.INTERNAL: "an internal error of the server; its log has the reason",
    CloseCode.HELLO_TIMEOUT: "it connected and sent no hello",
    CloseCode.TOO_MANY_SOCKETS: "the user had too many connections open",
    CloseCode.TOO_MANY_FRAMES: "the device sent too many frames",
    CloseCode.TOO_MANY_HELLOS: "the user connected too often",
    CloseCode.TOKEN_EXPIRED: "its token expired",
    CloseCode.TOKEN_REFUSED: "its token was refused",
    CloseCode.POSITION_LOST: "the database no longer knew its position",
    CloseCode.BAD_FRAME: "it violated the protocol: a bug in the app",
    CloseCode.LOCAL_ONLY: "the user's plan did not sync",
    CloseCode.REPLACED: "a newer connection of the same device took over",
    1000: "the device closed it",
    1001: "the app or the page was closed",
    1002: "a WebSocket protocol error: a bug in the app, or in a proxy",
    1005: "the device closed it",
    1006: "the connection was lost, or the device went to sleep",
    1007: "it sent text that is not UTF-8: a bug in the app",
    1009: "it sent a frame that is too large: a bug in the app",
}
"""Why a connection ended."""
OTHER_CODES: Final = {
    Instruction.COME_BACK: "the device will come back",
    Instruction.NEW_TOKEN: "it needs a new token",
    Instruction.START_OVER: "it starts over",
    Instruction.STAY_AWAY: "it stays away",
}
MEANS: Final = {
    Outlook.COMING: "had not been sent it at the last report of its server, which reports every 15 s",
    Outlook.SNAPSHOT: "gets it in that snapshot",
    Outlook.STALLED: "gets it when it takes data again, or when it comes back",
    Outlook.AWAY: "gets it when it comes back",
    Outlook.AWAY_LONG: "gets a snapshot when it comes back",
    Outlook.STAYS_AWAY: "does not come back by itself: the app has to be opened again, or updated",
    Outlook.UNPAID: "gets nothing while the plan does not sync",
    Outlook.STUCK: "has not been sent it although it is live: look at its server's log, and at `atlas-sync doctor`",
}
"""What the outlook means for a device, in its own line. HAS depends on what happened to the message."""
LACKING: Final = {
    Outlook.COMING: ("is about to get it", "are about to get it"),
    Outlook.SNAPSHOT: ("is getting a snapshot", "are getting a snapshot"),
    Outlook.STALLED: ("takes no data at this moment", "take no data at this moment"),
    Outlook.AWAY: ("is away and gets it when it comes back", "are away and get it when they come back"),
    Outlook.AWAY_LONG: (
        "is away and gets a snapshot when it comes back",
        "are away and get a snapshot when they come back",
    ),
    Outlook.STAYS_AWAY: ("does not come back by itself", "do not come back by themselves"),
    Outlook.UNPAID: ("gets nothing while the plan does not sync", "get nothing while the plan does not sync"),
    Outlook.STUCK: ("is live and is not served", "are live and are not served"),
}
"""What the verdict says of one device that does not have the row, and of several."""
DOING: Final[dict[str, str]] = {
    DeviceState.LIVE: "live",
    DeviceState.CATCHING_UP: "catching up",
    DeviceState.STALLED: "connected, but its socket takes no data",
    DeviceState.SNAPSHOT: "getting a snapshot",
}
"""The states of a connected device. A newer version may have others."""


def closed(code: int) -> str:
    """Why a connection with this close code ended."""
    return CLOSED.get(code) or OTHER_CODES[instruction(code)]


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def at(instant: Instant | None) -> str:
    if instant is None:
        return "at an unknown time"
    try:
        return f"{datetime.fromtimestamp(instant / SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "beyond the calendar"


def ago(now: Instant, then: Instant) -> str:
    seconds = (now - then) / SECOND
    if seconds < 1:
        return "just now"
    for name, size, most in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{seconds // size:.0f} {name} ago"
    return f"{seconds // 86_400:,.0f} days ago"
