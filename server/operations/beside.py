"""The partitions of messages and of its archive lie beside it, in its schema. Earlier versions kept them in schema
`sync`, and `migrate` moves those. Pure."""

from collections.abc import Iterator

from msgspec import Struct

from server.declaration.sql.pieces import quoted
from server.exceptions import UnfitError
from server.operations import publications
from server.operations.catalog import Facts, Step, parked
from server.operations.swap import close


class Elsewhere(Struct, frozen=True):
    """A partition in schema `sync`."""

    name: str
    indexes: tuple[str, ...] = ()
    """Those whose names other relations have in schema public."""
    roles: tuple[str, ...] = ()
    """Roles other than its owner that have rights on it, quoted as SQL identifiers."""
    publications: tuple[str, ...] = ()
    """Those that name it, and whose owner's rights this login has, quoted too."""


class Beside(Struct, frozen=True):
    """The answer of sql/beside.sql."""

    elsewhere: tuple[Elsewhere, ...] = ()
    taken: tuple[str, ...] = ()
    """Names of partitions, and of what belongs to them, that others have in schema public."""
    archived: bool = False
    """There is an archive of ours."""


def check(found: Beside) -> None:
    """Raises UnfitError if others have names that are needed."""
    for obstacle in obstacles(found):
        raise UnfitError(obstacle)


def obstacles(found: Beside) -> Iterator[str]:
    """A sentence if others have names that are needed."""
    moving = {each.name for each in found.elsewhere}
    clashing = [name for name in found.taken if not found.archived or name in moving]
    if clashing:
        yield (
            "Partitions of public.messages need names that something else has in schema public: "
            f"{', '.join(clashing)}. Rename that, or leave out `partition` and `archive` in the declaration, then "
            "migrate again."
        )


def plan(found: Beside, facts: Facts) -> list[Step]:
    """The steps that move partitions, and those that have their rows published under the table's name."""
    return [*_moves(found), *_published(found, facts)]


def _moves(found: Beside) -> Iterator[Step]:
    for each in found.elsewhere:
        old = each.name == "messages_v1"
        yield Step(
            f"move the partition {each.name} to schema public, beside messages",
            f"ACCESS EXCLUSIVE on sync.{each.name}",
            (
                *(f"ALTER INDEX sync.{quoted(name)} RENAME TO {parked(quoted(name))}" for name in each.indexes),
                *(f"ALTER PUBLICATION {name} DROP TABLE sync.{quoted(each.name)}" for name in each.publications),
                f"ALTER TABLE sync.{quoted(each.name)} SET SCHEMA public",
                *(close(each.roles) if old else []),
            ),
        )


def _published(found: Beside, facts: Facts) -> Iterator[Step]:
    """Only where the table is partitioned already: adoption itself sees to those that name it then."""
    if found.archived and (todo := publications.under_the_roots_name(facts)):
        names = ", ".join(each.name for each in todo)
        yield Step(
            f"let {names} publish rows of messages under its name",
            "none",
            tuple(publications.set_root(todo)),
        )
