"""Opens connections to Postgres. No other module does, so a URL means the same everywhere."""

from pathlib import Path
from typing import Any

import asyncpg

from server.exceptions import UnfitError
from server.postgres.errors import POOLED, connecting
from server.url import Target, read


async def link(url: str, **options: Any) -> Any:
    """Open a connection with asyncpg's `options`; the URL takes precedence. Raises UnavailableError, UnfitError."""
    target = read(url)
    if target.pooled and options.get("statement_cache_size") != 0:
        raise UnfitError(POOLED)
    _open_files(target)
    if target.seconds is not None:
        options["timeout"] = target.seconds
    if target.system_trust:
        options["ssl"] = True
    with connecting():
        return await asyncpg.connect(target.url, **options)


def _open_files(target: Target) -> None:
    """Open and close each file that the URL names. asyncpg would report a missing one as if Postgres were down."""
    for name, path in target.files.items():
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise UnfitError(f"The file that the URL's {name} names cannot be read ({error.strerror}).") from None
