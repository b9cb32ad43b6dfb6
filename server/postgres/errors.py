"""asyncpg's errors, by the one question a caller has: will trying again help?"""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from server.errors import UnavailableError, UnfitError

NOT_BY_ITSELF = (
    asyncpg.InvalidAuthorizationSpecificationError,  # class 28: login, password
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.ClientConfigurationError,  # a URL that cannot be read
)
MAYBE_LATER = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,  # whatever Postgres says: waiting loses nothing, and giving up would
    asyncpg.InterfaceError,  # the connection closed under us
    asyncpg.InternalClientError,  # a connection that broke in the middle of an answer
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise UnfitError for what an operator must mend, UnavailableError for everything else that Postgres, or the way
    to it, may answer."""
    try:
        yield
    except NOT_BY_ITSELF as error:
        raise UnfitError(f"Postgres refuses DATABASE_URL ({error}). Check its user, password and database.") from error
    except MAYBE_LATER as error:
        # The type and Postgres' own sentence; never a statement's parameters.
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


@contextmanager
def waiting() -> Iterator[None]:
    """As `translated`, for a server that runs: it waits for the operator too. In the middle of a failover even a
    wrong login, or a standby, is a matter of time."""
    try:
        with translated():
            yield
    except UnfitError as error:
        raise UnavailableError(str(error)) from error
