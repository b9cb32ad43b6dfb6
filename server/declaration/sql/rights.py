"""The rights that the server's role needs to read the declared tables, and the views over archives. Pure."""

from server.declaration.model import Declaration, Field, Kind, Table
from server.declaration.sql.pieces import archive, quoted, table, tables


def view(kind: Kind) -> str:
    """The view over a kind's table and its archive; nothing without an archive."""
    old = archive(kind)
    if old is None:
        return ""
    names = ", ".join(dict.fromkeys(quoted(name) for name in columns(kind)))
    return (
        f"-- All rows of kind {kind.name}, archived or not. The view has the rights of the role that reads it.\n"
        f"CREATE OR REPLACE VIEW sync.all_{quoted(kind.table.name)} WITH (security_invoker = true) AS\n"
        f"    SELECT {names} FROM {table(kind.table)}\n"
        "    UNION ALL\n"
        f"    SELECT {names} FROM {table(old)};\n"
        f"GRANT SELECT ON sync.all_{quoted(kind.table.name)} TO atlas_sync;\n"
    )


def fields(kind: Kind) -> list[Field]:
    """The columns of the table that the server reads."""
    place = kind.owner if kind.parent is None else kind.parent.field
    assert place is not None
    found = [
        *kind.key,
        place,
        *(field for synced in kind.own for field in (synced.field, synced.instead) if field is not None),
    ]
    return list({field.name: field for field in found}.values())


def columns(kind: Kind) -> list[str]:
    """Their names."""
    return [field.name for field in fields(kind)]


def wanted(declaration: Declaration) -> dict[Table, list[str]]:
    """The columns that the server reads, by table."""
    found: dict[Table, list[str]] = {}
    for kind in declaration.kinds:
        for each in tables(kind):
            found[each] = columns(kind)
    if declaration.gate is not None:
        gate = declaration.kind[declaration.gate.kind]
        for each in tables(gate):
            found[each] = list(dict.fromkeys([*found[each], declaration.gate.field.name]))
    return found


def grants(declaration: Declaration) -> str:
    """The statements that let the server's role read the declared columns, and no others."""
    found = wanted(declaration)
    if not found:
        return ""
    schemas = ", ".join(dict.fromkeys(quoted(each.schema) for each in found))
    lines = [f"GRANT USAGE ON SCHEMA {schemas} TO atlas_sync;"]
    for each, names in found.items():
        lines.append(f"GRANT SELECT ({', '.join(map(quoted, names))}) ON {table(each)} TO atlas_sync;")
    return "\n".join(lines) + "\n"


def readable(of: str) -> str:
    """The statements that let the server's role read the rows of a table with row level security."""
    return (
        f"DROP POLICY IF EXISTS atlas_sync_reads ON {of};\n"
        f"CREATE POLICY atlas_sync_reads ON {of} FOR SELECT TO atlas_sync USING (true);\n"
    )


def unreadable(of: str) -> str:
    """The statements that take back what the server's role may do with a table."""
    return f"DROP POLICY IF EXISTS atlas_sync_reads ON {of};\nREVOKE ALL ON {of} FROM atlas_sync;\n"
