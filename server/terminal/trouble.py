"""What keeps a device in a terminal from its server: a sentence each, with what to do about it."""

import socket
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from rich.text import Text
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from atlas_sync.device import Status
from atlas_sync.reason import bare
from atlas_sync.session import ErrorAnswer, Event
from server.exceptions import AtlasError, ConfigError
from server.postgres.errors import is_refusal
from server.terminal.device import printable

NO_ADDRESS: Final = (
    "--url is not the address of a server. Name one like ws://127.0.0.1:8000/sync, or with wss:// where TLS is."
)
ANOTHER_TOKEN: Final = (
    "Set ATLAS_TOKEN to another one: `atlas-sync token USER`, with the ATLAS_JWT_SECRET of the server, mints one."
)
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

    def __init__(self, put: Callable[[Text], None], url: str, last_error: Callable[[], object]) -> None:
        """`put` prints a line."""
        self._put = put
        self._url = bare(url)
        self._last_error = last_error
        self._seen: object = None
        self._said: str | None = None
        """Why it is offline, since it was connected for the last time."""

    def __call__(self, status: Status) -> None:
        error = self._last_error()
        says = None
        if status is Status.OFFLINE and error is not None and error is not self._seen:
            self._seen = error
            says = why(error, self._url)
        if status not in (Status.OFFLINE, Status.CONNECTING):
            self._said = None
        elif says is not None and says != self._said:
            self._said = says
            self._print(f"offline: {says} It is tried again and again.")
            return
        elif self._said is not None:
            return
        self._print(status.name.lower().replace("_", " "))

    def _print(self, text: str) -> None:
        self._put(Text(printable(f"· {text}"), "dim"))


def why(error: object, url: str) -> str:
    """A sentence about what keeps a device offline."""
    match error:
        case ErrorAnswer():
            return f"The server says: {error.message}"
        case ConnectionClosed():
            return "The connection was cut."
        case InvalidStatus() if error.response.status_code >= 500:
            return (
                f"{url} fails with status {error.response.status_code}. Look at the log of the server, or the proxy's."
            )
        case InvalidStatus():
            return (
                f"{url} answers with status {error.response.status_code}, not as Atlas Sync does. Name the server's "
                "address with --url; its path is /sync."
            )
        case InvalidHandshake():
            return f"What answers at {url} is no WebSocket. Name the server's address with --url; its path is /sync."
        case socket.gaierror():
            return f"The host of {url} is not known. Correct --url, or look at DNS."
        case ssl.SSLError():
            return f"TLS fails at {url} ({error}). Mend the certificate, or use ws:// where TLS is not."
        case TimeoutError():
            return f"{url} does not answer. Look at the address, and at firewalls in between."
        case OSError() if is_refusal(error):
            return f"Nothing listens at {url}. Start the server, or name its address with --url."
        case _:
            return f"{url} cannot be reached ({type(error).__name__}: {error})."
