"""asyncpg's errors, by the one question a caller has: will trying again help?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from server.errors import AtlasError, UnavailableError, UnfitError

NOT_BY_ITSELF = (
    asyncpg.InvalidAuthorizationSpecificationError,  # class 28: login, password
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.ClientConfigurationError,  # a URL that cannot be read
)
UNMIGRATED: Final = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)
"""What statements of ours meet where `atlas-sync migrate` has yet to run."""
A_POOLER = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
)
"""What asyncpg meets where each statement may reach another backend."""
POOLER: Final = (
    "This connection leads through a pooler in transaction mode (PgBouncer, or port 6543 of Supabase), where LISTEN "
    "does not deliver. Set ATLAS_LISTEN_URL to a direct or session-mode connection (port 5432), or DATABASE_URL itself."
)
MAYBE_LATER = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,  # whatever Postgres says: waiting loses nothing, and giving up would
    asyncpg.InterfaceError,  # the connection closed under us
    asyncpg.InternalClientError,  # a connection that broke in the middle of an answer
)


class StatementError(UnavailableError):
    """A statement failed, on a connection that was there. Its cause is asyncpg's error."""


def unavailable(error: Exception) -> UnavailableError:
    """As it is said in logs: the type and Postgres' own sentence. Not its DETAIL, which may quote the failing row, and
    nothing of what was raised within a function, for that may be a trigger of the app, which may quote anything."""
    if isinstance(error, AtlasError):
        return UnavailableError(str(error))
    said = str(error)
    if isinstance(error, asyncpg.PostgresError):
        within = getattr(error, "context", None)
        said = f"SQLSTATE {error.sqlstate}, in a function" if within else str(error.args[0])
    elif isinstance(error, asyncpg.DataError):
        said = "an argument of a kind that Postgres does not take"  # it would quote it
    return UnavailableError(f"{type(error).__name__}: {said}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise UnfitError for what an operator must mend, UnavailableError for everything else that Postgres, or the way
    to it, may answer."""
    try:
        yield
    except NOT_BY_ITSELF as error:
        raise UnfitError(f"Postgres refuses DATABASE_URL ({error}). Check its user, password and database.") from error
    except A_POOLER as error:
        raise UnfitError(POOLER) from error
    except MAYBE_LATER as error:
        raise unavailable(error) from error
    except ValueError:
        # asyncpg's would quote a piece of it.
        raise UnfitError(
            "The database's URL cannot be read. Write special characters of its password as %XX: # is %23, / is %2F."
        ) from None
