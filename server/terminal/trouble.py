"""A terminal's device and its server: the address, a token that is refused, and why there is no connection."""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from rich.text import Text

from atlas_sync.device import Status
from atlas_sync.reason import Reason
from atlas_sync.session import ErrorAnswer, Event
from server.exceptions import AtlasError, ConfigError
from server.terminal.device import printable

NO_ADDRESS: Final = (
    "--url is not the address of a server. Name one like ws://127.0.0.1:8000/sync, or with wss:// where TLS is."
)
ANOTHER_TOKEN: Final = (
    "Set ATLAS_TOKEN to another one: `atlas-sync token USER`, with the ATLAS_JWT_SECRET of the server, mints one."
)
OTHER_ADDRESS: Final = "; --url names another address"
REFUSALS: Final = ("token_refused", "token_expired")


class TokenRefusedError(AtlasError):
    """The server does not accept the token, and there is no other."""


def address(url: str) -> str:
    """The URL of a WebSocket. Raises ConfigError for any other text."""
    try:
        parts = urlsplit(url)
        fit = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        fit = False
    if not fit:
        raise ConfigError(NO_ADDRESS)
    return url


class Token:
    """The token that the command was given. Once the server has refused it, the next call ends the device, which would
    else try it for ever."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._refusal: str | None = None

    def __call__(self) -> str:
        """Raises TokenRefusedError."""
        if self._refusal is not None:
            raise TokenRefusedError(f"{self._refusal} {ANOTHER_TOKEN}")
        return self._token

    def hear(self, event: Event) -> None:
        # An answer to `refresh` is about another token.
        if isinstance(event, ErrorAnswer) and event.code in REFUSALS and event.answers != "refresh":
            self._refusal = event.message


class Shows:
    """Prints a device's status as it changes, and why it is offline: once, and not at each attempt."""

    def __init__(self, put: Callable[[Text], None], reason: Callable[[], Reason | None]) -> None:
        """`put` prints a line. `reason`: the device's."""
        self._put = put
        self._reason = reason
        self._said: str | None = None
        """Why it is offline, since it was connected for the last time."""

    def __call__(self, status: Status) -> None:
        reason = self._reason()
        if status not in (Status.OFFLINE, Status.CONNECTING):
            self._said = None
        elif status is Status.OFFLINE and reason is not None and reason.message != self._said:
            self._said = reason.message
            self._print(f"offline: {reason.message}{OTHER_ADDRESS if is_about_the_address(reason) else ''}")
            return
        elif self._said is not None:
            return
        self._print(status.name.lower().replace("_", " "))

    def _print(self, text: str) -> None:
        self._put(Text(printable(f"· {text}"), "dim"))


def is_about_the_address(reason: Reason) -> bool:
    return reason.code in ("unreachable", "tls", "no_websocket") or reason.code.startswith("http_")
