"""Why a device has no connection: one sentence that says what to do, for a status line or a terminal. Pure."""

import errno
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from atlas_sync.checks import ProtocolError
from atlas_sync.session import ErrorAnswer

# For the codes of SPEC.md, 10.1, whose sentence from the server speaks to clients, and not to apps and people.
SENTENCES = {
    "token_refused": "the server refuses the token: token() must return one that it verifies and that has not expired",
    "token_expired": "the token expired: token() must return a later one in time",
    "hello_timeout": "the connection was too slow to begin: it is tried again",
    "too_many_sockets": "this user has too many connections open: close the app on other devices",
    "too_many_frames": "this device sent more than is permitted: it connects again after a pause",
    "too_many_hellos": "this user connects too often: it is tried again after a pause",
    "unavailable": "the server's database is not available at this moment: it is tried again",
    "replaced": "another copy of this storage has connected: if it was copied or restored from a backup, call renew()",
    "position_lost": "the server's database went back to an earlier state: this device fetches everything anew",
    "going_away": "the server is being restarted: it is tried again after a pause",
    "internal": "the server failed: it is tried again; if that goes on, look at the server's log",
    "local_only": "the server does not sync for this user: the work stays on this device",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why there is no connection.

    code: For programs: a code of SPEC.md, 10.1, or `unreachable`, `tls`, `http_404` (or another status),
        `no_websocket`, `no_token`, `cut`, `closed`, `silent`, `ProtocolError`.
    message: For people: one sentence that says why and what to do.
    """

    code: str
    message: str


class NoTokenError(ConnectionError):
    """There is no token that may be used, for now. The message says why."""


class SilentError(TimeoutError):
    """Nothing came for so long that the connection is dead."""


def reason_of(error: ErrorAnswer | Exception, url: str) -> Reason | None:
    """The reason that an error is; None for an answer to a push, a page or a stop, which leaves the connection as it
    is."""
    where = bare(url)
    match error:
        case ErrorAnswer(answers="push" | "page" | "stop"):
            return None
        case ErrorAnswer():
            return Reason(error.code, SENTENCES.get(error.code, error.message))
        case ProtocolError():
            return Reason("ProtocolError", f"the server broke the protocol ({error}): a new connection is made")
        case NoTokenError():
            return Reason("no_token", f"{error}: it is asked again")
        case ConnectionClosed():
            return _closed(error.rcvd.code if error.rcvd else None)
        case InvalidStatus():
            return _answered(error.response.status_code, where)
        case InvalidHandshake():
            return Reason("no_websocket", f"what answers at {where} is no WebSocket: check the address and its path")
        case ssl.SSLError():
            return Reason("tls", f"TLS fails at {where} ({error}): mend the server's certificate")
        case SilentError():
            return Reason("silent", "the server fell silent: a new connection is made")
        case TimeoutError():
            return Reason("unreachable", f"nothing answers at {where}: check the address and firewalls in between")
        case socket.gaierror():
            return Reason("unreachable", f"there is no such host at {where}: check the address, or DNS")
        # For several addresses of a host, asyncio only quotes the errors.
        case OSError() if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
            return Reason("unreachable", f"nothing listens at {where}: start the server, or check the port")
        case _:
            return Reason("unreachable", f"{where} cannot be reached ({error}): check the address, its port and path")


def _closed(code: int | None) -> Reason:
    match (code or 0) // 100:
        case 40:
            return Reason("closed", f"the server ended the connection ({code}): it is tried again")
        case 41:
            return Reason("closed", f"the server wants another token ({code}): token() must return one")
        case 42:
            return Reason("closed", f"the server ended the connection ({code}): this device fetches everything anew")
        case 43:
            return Reason(
                "closed", f"the server wants this device to stay away ({code}): make another one to try again"
            )
    return Reason("cut", "the connection was cut: it is tried again")


def _answered(status: int, where: str) -> Reason:
    code = f"http_{status}"
    if status == 404:
        says, todo = "answered 404", "check the path, which is /sync unless a proxy changes it"
    elif status == 403:
        says, todo = "answered 403", "look at the server's ATLAS_ALLOWED_ORIGINS, and at proxies in between"
    elif status >= 500:
        says, todo = f"answered {status}", "it is tried again; if that goes on, look at its log or its proxy's"
    else:
        says, todo = f"answered {status}, not as Atlas Sync does", "check the address and its path"
    return Reason(code, f"the server at {where} {says}: {todo}")


def bare(url: str) -> str:
    """Without what may be secret in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
