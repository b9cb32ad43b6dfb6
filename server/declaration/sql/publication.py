"""The publication by which servers read changes from the WAL. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from server.declaration.model import Declaration
from server.declaration.sql import rights
from server.declaration.sql.pieces import quoted, table

NAME: Final = "atlas_sync"
LOG: Final = "sync.log"
DECLARED: Final = "sync.declaration"
"""In the stream it tells by which declaration a transaction was recorded."""
ENTRY: Final = ("user_id", "seq", "n", "prev", "mark", "prev_mark", "kind", "op", "row_id", "row_at", "row_key")
"""The columns of the log."""
OPTIONS: Final = "publish = 'insert, update', publish_via_partition_root = true"
"""Without deletes: the log says what was deleted."""
WITHDRAW: Final = "atlas_sync_withdraw"
"""The event trigger that takes a table out before an UPDATE of it would fail."""
CREATE_TRIGGER: Final = (
    f"CREATE EVENT TRIGGER {WITHDRAW} ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'DROP INDEX') "
    "EXECUTE FUNCTION sync.withdraw_on_ddl()"
)
DROP: Final = (f"DROP EVENT TRIGGER IF EXISTS {WITHDRAW}", f"DROP PUBLICATION IF EXISTS {NAME}")


@dataclass(frozen=True, slots=True)
class Member:
    """A table that is to be in the publication, or is: a row of postgres/sql/publication.sql."""

    table: str
    """As SQL has it."""
    columns: tuple[str, ...] | None
    """The columns to be published: what the server reads, and the replica identity. None: it is not declared."""
    why: str | None
    """Why it cannot be published. An UPDATE of a published table without a published replica identity would fail."""
    published: tuple[str, ...] | None
    """The columns that are published now. None: it is not in the publication."""

    @property
    def fits(self) -> bool:
        return self.columns is not None and self.why is None

    @property
    def is_right(self) -> bool:
        """Whether it is in the publication as it should be."""
        return self.published == self.columns if self.fits else self.published is None

    def __str__(self) -> str:
        return f"ONLY {self.table} ({', '.join(map(quoted, self.columns or ()))})"


def wanted(declaration: Declaration) -> dict[str, list[str]]:
    """The columns that a server needs, by table as SQL has it. Archives are left out: rows there hardly change."""
    reads = rights.wanted(declaration)
    return {
        LOG: list(ENTRY),
        DECLARED: ["digest"],
        **{table(kind.table): reads[kind.table] for kind in declaration.kinds},
    }


def create(members: Iterable[Member]) -> str:
    return f"CREATE PUBLICATION {NAME} FOR {_tables(members)} WITH ({OPTIONS})"


def alter(members: Iterable[Member]) -> list[str]:
    return [f"ALTER PUBLICATION {NAME} SET ({OPTIONS})", f"ALTER PUBLICATION {NAME} SET {_tables(members)}"]


def _tables(members: Iterable[Member]) -> str:
    return ", ".join(f"TABLE {member}" for member in members if member.fits)


def left_out(members: Iterable[Member]) -> list[str]:
    """Sentences about declared tables that are not published."""
    return [
        f"{member.table} is left out of the publication {NAME}: {member.why}. Its changes ring, and are then read."
        for member in members
        if member.columns is not None and member.why is not None
    ]
