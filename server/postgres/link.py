"""Makes connections to Postgres, and is the only place that does: a URL means the same to all of them."""

from pathlib import Path
from typing import Any

import asyncpg

from server.errors import UnfitError
from server.postgres.errors import POOLED, connecting
from server.url import Target, read


async def link(url: str, **options: Any) -> Any:
    """asyncpg's connection, with its `options` where the URL says nothing else. Raises UnavailableError, UnfitError."""
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
    """From asyncpg, one that is not there would look like a Postgres that is away."""
    for name, path in target.files.items():
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise UnfitError(f"The file that the URL's {name} names cannot be read ({error.strerror}).") from None
