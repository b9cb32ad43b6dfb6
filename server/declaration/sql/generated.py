"""All SQL that `migrate` makes of a declaration. Pure."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from server.declaration.model import Declaration, Kind, Table
from server.declaration.sql import recording, rights, streaming, writing
from server.declaration.sql.pieces import literal, quoted, table, tables


@dataclass(frozen=True, slots=True)
class Generated:
    """The SQL of one declaration."""

    definitions: str
    """Functions, views and rights."""
    triggers: dict[Table, str]
    """By table."""
    kinds: str
    """Fills sync.kinds."""

    @property
    def trigger_checksums(self) -> dict[Table, str]:
        """By table: names the statements that make its triggers."""
        return {of: _md5(text) for of, text in self.triggers.items()}

    @property
    def triggers_by_name(self) -> dict[str, str]:
        """By table, as SQL has it."""
        return {table(of): text for of, text in self.triggers.items()}

    @property
    def checksum(self) -> str:
        """Names all of it."""
        return _md5("\n".join([self.definitions, *self.triggers.values(), self.kinds]))

    def __str__(self) -> str:
        return "\n".join([self.definitions, *self.triggers.values()])


def generate(declaration: Declaration) -> Generated:
    triggers = {of: text for kind in declaration.kinds for of, text in recording.triggers(kind).items()}
    return Generated(
        "\n".join(
            [
                *(rights.view(kind) for kind in declaration.kinds if kind.archive is not None),
                *(recording.function(declaration, kind) for kind in declaration.kinds),
                *(writing.function(declaration, kind) for kind in declaration.kinds if kind.devices is not None),
                writing.dispatch(declaration),
                writing.admitted(declaration),
                writing.tier(declaration),
                streaming.functions(declaration),
                rights.grants(declaration),
            ]
        ),
        triggers,
        "\n".join(_entry(kind, of, triggers[of]) for kind in declaration.kinds for of in tables(kind)) + "\n",
    )


def functions(declaration: Declaration) -> Iterator[str]:
    """The names of the functions that the declaration needs, without their schema."""
    for kind in declaration.kinds:
        yield f"record_{kind.name}"
        if kind.devices is not None:
            yield f"write_{kind.name}"
    yield from ("write", "admitted", "tier", "streamed", "settle")


def _entry(kind: Kind, of: Table, triggers: str) -> str:
    """A row of sync.kinds."""
    watched = recording.watched(kind)
    reads = rights.fields(kind)
    cast = sum(recording.is_cast(field) for field in watched)
    return (
        "INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, "
        "secured, parted)\nVALUES ("
        + ", ".join(
            [
                literal(of.schema),
                literal(of.name),
                literal(kind.name),
                literal(kind.tag),
                _array([field.name for field in reads]),
                _array([field.type for field in reads]),
                _array([field.name for field in watched]),
                str(cast),
                literal(recording.condition(kind)),
                literal(_md5(triggers)),
                str(kind.devices is not None).lower(),
                str(kind.policies).lower(),
                str(kind.partition is not None).lower(),
            ]
        )
        + ");"
    )


def _array(items: list[str]) -> str:
    return f"ARRAY[{', '.join(map(literal, items))}]"


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def drop_function(name: str) -> str:
    """The statement that drops a function of a kind that is no longer declared."""
    arguments = "" if name.startswith("record_") else "text, uuid, text[], jsonb, timestamptz"
    return f"DROP FUNCTION IF EXISTS sync.{quoted(name)}({arguments});"
