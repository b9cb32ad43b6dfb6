"""Translates asyncpg's errors by the question that matters to callers: can a retry help?"""

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from server.exceptions import AtlasError, UnavailableError, UnfitError
from server.url import UNREADABLE

NOT_BY_ITSELF = (
    asyncpg.InvalidAuthorizationSpecificationError,  # class 28: login, password
    asyncpg.InvalidCatalogNameError,  # no such database
)
A_PARAMETER = (
    asyncpg.UndefinedObjectError,  # no setting of that name
    asyncpg.InvalidParameterValueError,
    asyncpg.PostgresSyntaxError,  # in `options`
    asyncpg.CantChangeRuntimeParamError,
)
"""Errors about a parameter of the URL, while a connection is opened."""
OF_A_POOLER: Final = "unsupported startup parameter"
"""PgBouncer's text for the same. Its SQLSTATE is the same for every error."""
BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)
"""Errors of TLS that a retry may avoid."""
UNMIGRATED: Final = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)
"""Errors of our statements in a database that lacks a migration."""
A_POOLER = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
)
"""Errors of asyncpg where each statement may reach another backend."""
POOLER: Final = (
    "This connection leads through a pooler in transaction mode (PgBouncer, or port 6543 of Supabase), where LISTEN "
    "does not deliver. Set ATLAS_LISTEN_URL to a direct or session-mode connection (port 5432), or DATABASE_URL itself."
)
POOLED: Final = (
    "The URL says pgbouncer=true: that it leads through a pooler in transaction mode. Set ATLAS_LISTEN_URL (for "
    "migrate and maintain ATLAS_ADMIN_URL) to a direct or session-mode connection; or take pgbouncer=true out, if the "
    "pooler's mode is session."
)
OF_A_ROW: Final = ("22", "54", "P0", "XX", "53200", "57014")
"""Classes and codes of errors that one row may cause: data, limits, exceptions of functions, internal errors, corrupted
data, memory, a statement that was cancelled after its time."""
MAYBE_LATER = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,  # every error of Postgres: waiting loses nothing, and giving up would
    asyncpg.InterfaceError,  # the connection was closed meanwhile
    asyncpg.InternalClientError,  # the connection broke off within an answer
)


class StandbyError(UnfitError):
    """The host is a standby. It may be promoted."""


class NotPrimaryError(UnavailableError):
    """The host is a standby, or read-only: not what the URL's target_session_attrs asks for. It may be promoted."""


class StatementError(UnavailableError):
    """A statement failed after it was sent. The cause is asyncpg's error."""


def unavailable(error: Exception) -> UnavailableError:
    """The error as it may be logged: its type and Postgres' message.

    The DETAIL is left out, because it may quote the failing row. So is the message of an error within a function, which
    may be a trigger of the app and may quote anything.
    """
    if isinstance(error, AtlasError):
        return UnavailableError(str(error))
    said = str(error)
    if isinstance(error, asyncpg.PostgresError):
        within = getattr(error, "context", None)
        said = f"SQLSTATE {error.sqlstate}, in a function" if within else str(error.args[0])
    elif isinstance(error, asyncpg.DataError):
        said = "an argument of a kind that Postgres does not take"  # asyncpg's message quotes the argument
    return UnavailableError(f"{type(error).__name__}: {said}")


def told(error: Exception) -> str:
    """What Postgres says to the owner of the tables: without its DETAIL, which may quote a row, and with the HINT of
    our own functions, which says what to run."""
    hint = getattr(error, "hint", None) if isinstance(error, asyncpg.ObjectNotInPrerequisiteStateError) else None
    return f"{error.args[0]} {hint}" if hint else str(error.args[0])


def is_of_a_row(error: BaseException | None) -> bool:
    """Whether a statement failed as it does for one row: it took too long, or a value cannot be converted or is too
    large. Statements that read other rows may succeed."""
    if isinstance(error, TimeoutError):
        return True
    state = getattr(error, "sqlstate", None) or ""
    return state in OF_A_ROW or state[:2] in OF_A_ROW


def none_left(error: BaseException) -> bool:
    """Whether Postgres has no connection left for this login."""
    return isinstance(error.__cause__, asyncpg.TooManyConnectionsError)


@contextmanager
def translated() -> Iterator[None]:
    """Raise UnfitError for an error that an operator must mend, UnavailableError for every other error of Postgres or
    the network."""
    try:
        yield
    except NOT_BY_ITSELF as error:
        raise UnfitError(f"Postgres refuses the URL ({error}). Check its user, password and database.") from error
    except A_POOLER as error:
        raise UnfitError(POOLER) from error
    except MAYBE_LATER as error:
        raise unavailable(error) from error
    except ValueError:
        # asyncpg's message quotes a part of the URL.
        raise UnfitError(UNREADABLE) from None


@contextmanager
def connecting() -> Iterator[None]:
    """As `translated`, while a connection is opened: there a retry does not avoid errors about parameters of the URL,
    rights and TLS."""
    with translated():
        try:
            yield
        except A_PARAMETER as error:
            # The text after the colon quotes the value.
            said = str(error.args[0]).partition(": ")[0]
            raise UnfitError(f"Postgres refuses a parameter of the URL ({said}). Mend it, or take it out.") from error
        except asyncpg.TargetServerAttributeNotMatched as error:
            raise NotPrimaryError(
                "Postgres is a standby, or read-only: not what the URL's target_session_attrs asks for."
            ) from error
        except asyncpg.ProtocolViolationError as error:
            if OF_A_POOLER not in str(error).lower():
                raise
            raise UnfitError(f"A pooler refuses a parameter of the URL ({error}). Take it out.") from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise UnfitError(
                f"Postgres refuses this connection ({error.args[0]}). Give the URL's login that right, or take the "
                "parameter out that needs it."
            ) from error
        except asyncpg.ClientConfigurationError as error:
            raise UnfitError(f"The URL cannot be used: {error}. Mend it.") from error
        except asyncpg.InterfaceError as error:
            if "requested by the server" not in str(error) and "module not found" not in str(error):
                raise
            raise UnfitError(
                f"Postgres asks for a way to sign in that asyncpg does not know here: {error}. Give the login another "
                "one in pg_hba.conf."
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise UnfitError(
                f"Postgres' certificate cannot be trusted ({error.verify_message}). Name the certificate of its "
                "authority by the URL's sslrootcert, and the host by the name that it is for."
            ) from error
        except ssl.SSLError as error:
            if isinstance(error, BROKEN_OFF):
                raise
            raise UnfitError(
                f"TLS to Postgres fails ({error.reason or error}). Check sslmode and the files that the URL names."
            ) from error
        except ConnectionError as error:
            if "rejected SSL upgrade" not in str(error):
                raise UnavailableError(unreachable(error)) from error
            raise UnfitError(
                "Postgres has no TLS, and the URL's sslmode asks for it. Turn it on there, or take sslmode out."
            ) from error
        except OSError as error:
            raise UnavailableError(unreachable(error)) from error


def unreachable(error: OSError) -> str:
    """Why there is no connection, and what to do about it."""
    if _is_refusal(error):
        return f"Nothing listens at the host and port of the URL ({error}). Start Postgres there, or correct them."
    if isinstance(error, socket.gaierror):
        return f"The host of the URL is not known ({error.strerror}). Correct it, or look at DNS."
    if isinstance(error, TimeoutError):
        return "Postgres does not answer. Look at the host and port of the URL, and at firewalls in between."
    said = f"{type(error).__name__}: {error}"
    return f"Postgres cannot be reached ({said}). Check that it runs, and DATABASE_URL (ATLAS_ADMIN_URL, if it is set)."


def _is_refusal(error: OSError) -> bool:
    """Whether nothing listens at the port. For several addresses of a host, asyncio only quotes the errors."""
    return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error)
