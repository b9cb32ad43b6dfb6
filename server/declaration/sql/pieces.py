"""Pieces of SQL that follow from a declaration: names, owners, keys, values."""

import re
from typing import Final

from protocol.schema import Type
from server.declaration.model import TEXTS, Declaration, Field, Kind, Table

RESERVED: Final = frozenset(
    [
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "authorization",
        "binary",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "collation",
        "column",
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "freeze",
        "from",
        "full",
        "grant",
        "group",
        "having",
        "ilike",
        "in",
        "initially",
        "inner",
        "intersect",
        "into",
        "is",
        "isnull",
        "join",
        "lateral",
        "leading",
        "left",
        "like",
        "limit",
        "localtime",
        "localtimestamp",
        "natural",
        "not",
        "notnull",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "outer",
        "overlaps",
        "placing",
        "primary",
        "references",
        "returning",
        "right",
        "select",
        "session_user",
        "similar",
        "some",
        "symmetric",
        "system_user",
        "table",
        "tablesample",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "verbose",
        "when",
        "where",
        "window",
        "with",
        "between",
        "bigint",
        "bit",
        "boolean",
        "char",
        "character",
        "coalesce",
        "dec",
        "decimal",
        "exists",
        "extract",
        "float",
        "greatest",
        "grouping",
        "inout",
        "int",
        "integer",
        "interval",
        "json",
        "json_array",
        "json_arrayagg",
        "json_exists",
        "json_object",
        "json_objectagg",
        "json_query",
        "json_scalar",
        "json_serialize",
        "json_table",
        "json_value",
        "least",
        "merge_action",
        "national",
        "nchar",
        "none",
        "normalize",
        "nullif",
        "numeric",
        "out",
        "overlay",
        "position",
        "precision",
        "real",
        "row",
        "setof",
        "smallint",
        "substring",
        "time",
        "timestamp",
        "treat",
        "trim",
        "values",
        "varchar",
        "xmlattributes",
        "xmlconcat",
        "xmlelement",
        "xmlexists",
        "xmlforest",
        "xmlnamespaces",
        "xmlparse",
        "xmlpi",
        "xmlroot",
        "xmlserialize",
        "xmltable",
    ]
)
"""Key words that are no names without quotes, in whatever version of PostgreSQL."""


def quoted(name: str) -> str:
    """An SQL identifier."""
    if re.fullmatch("[a-z_][a-z0-9_]*", name) and name not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string constant."""
    return ("E" if "\\" in text else "") + "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def body(text: str) -> str:
    """A function's body as a string constant, which no name or expression in it ends."""
    tag = "$$"
    while tag in text:
        tag = f"${'x' * (len(tag) - 1)}$"
    return f"{tag}\n{text}\n{tag}"


def comment(text: str) -> str:
    """A comment of one line. Names in it may contain line breaks."""
    return "-- " + "".join(each if each.isprintable() else " " for each in text)


def table(of: Table) -> str:
    return f"{quoted(of.schema)}.{quoted(of.name)}"


def archive(kind: Kind) -> Table | None:
    """The table of old rows."""
    return None if kind.archive is None else Table(kind.table.schema, f"{kind.table.name}_archive")


def tables(kind: Kind) -> list[Table]:
    """The kind's table, and its archive if it has one."""
    old = archive(kind)
    return [kind.table] if old is None else [kind.table, old]


def column(alias: str, field: Field) -> str:
    """`alias` may be empty."""
    return f"{alias}.{quoted(field.name)}" if alias else quoted(field.name)


def columns(alias: str, fields: "tuple[Field, ...] | list[Field]") -> str:
    return ", ".join(column(alias, field) for field in fields)


# --- whose row is it?


def owner(declaration: Declaration, kind: Kind, alias: str, level: int = 1) -> str:
    """An expression for the owner of the row `alias`, as uuid. NULL: it belongs to nobody."""
    if kind.parent is None:
        assert kind.owner is not None
        held = column(alias, kind.owner)
        return held if kind.owner.of is Type.UUID else f"sync.user_of({held})"
    parent = declaration.kind[kind.parent.kind]
    above = f"p{level}"
    found = equal(column(above, parent.key[0]), column(alias, kind.parent.field), parent.key[0], kind.parent.field)
    return f"(SELECT {owner(declaration, parent, above, level + 1)} FROM {table(parent.table)} {above} WHERE {found})"


def owned(declaration: Declaration, kind: Kind, alias: str, user: str) -> str:
    """A condition that the row `alias` belongs to `user`. An index on the column of the owner can serve it. Through
    parents it is a look-up for one row, so that no plan begins with all parents of the user."""
    if kind.parent is not None:
        return f"{owner(declaration, kind, alias)} = {user}"
    assert kind.owner is not None
    held = column(alias, kind.owner)
    return equal(held, user if kind.owner.of is Type.UUID else f"{user}::text", kind.owner)


def equal(held: str, value: str, *fields: Field) -> str:
    """A condition that a column has a value; `fields` have the types of both. Functions that apply mutations find
    operators of schema public, too: one of these would precede pg_catalog's, which has none of exactly these types."""
    plain = all(field.of is not Type.TEXT or field.type == "text" for field in fields)
    return f"{held} = {value}" if plain else f"{held} OPERATOR(pg_catalog.=) ({value})"


# --- which row is it?


def by_uuid(kind: Kind) -> bool:
    """Whether the log names the kind's rows by `row_id`. It names others by `row_key`, as text."""
    return len(kind.key) == 1 and kind.key[0].of is Type.UUID


def logged(kind: Kind, alias: str) -> str:
    """The arguments of sync.record that name the row `alias`."""
    if by_uuid(kind):
        dated = "" if kind.dated is None else f", {column(alias, kind.dated)}"
        return column(alias, kind.key[0]) + dated
    return f"NULL, NULL, {key_texts(kind, alias)}"


def is_logged(kind: Kind, alias: str, entry: str) -> str:
    """A condition that `entry` of the log names the row `alias`."""
    if by_uuid(kind):
        dated = "" if kind.dated is None else f" AND {column(alias, kind.dated)} = {entry}.row_at"
        return f"{column(alias, kind.key[0])} = {entry}.row_id{dated}"
    return " AND ".join(
        f"{column(alias, field)} = {received(field, f'{entry}.row_key[{i}]')}" for i, field in enumerate(kind.key, 1)
    )


def key_texts(kind: Kind, alias: str) -> str:
    """The row's key as an array of texts."""
    return f"ARRAY[{', '.join(_key_text(alias, field) for field in kind.key)}]"


def _key_text(alias: str, field: Field) -> str:
    if field.of is Type.INSTANT:
        return f"sync.microseconds({sent(alias, field)})"
    return f"{column(alias, field)}::text"


# --- values


def sent(alias: str, field: Field) -> str:
    """The value of a column as it is sent to the server."""
    held = column(alias, field)
    match field.of:
        case Type.TEXT:
            return held if field.type == "text" else f"{held}::text"
        case Type.NUMERIC | Type.JSON:
            return f"{held}::text"
        case Type.DATE:
            return f"to_json({held}) #>> '{{}}'"  # a cast to text depends on DateStyle
        case Type.FLOAT if field.type == "real":
            return f"{held}::text::float8"  # 0.1, where a cast to float8 alone gives 0.10000000149011612
        case Type.ARRAY:
            whole = field.type in ("bigint[]", "numeric[]")
            return f"to_json({held}::text[])::text" if whole else f"to_json({held})::text"
        case Type.INSTANT if field.type.startswith("timestamp without"):
            return f"timezone('UTC', {held})"
        case _:
            return held


def received(field: Field, text: str) -> str:
    """The value of `text`, as values.as_text makes it, in the column's type."""
    match field.of:
        case Type.TEXT:
            return text if field.type == "text" else f"({text})::{field.type}"
        case Type.INSTANT:
            moment = f"sync.instant({text})"
            return f"pg_catalog.timezone('UTC', {moment})" if field.type.startswith("timestamp without") else moment
        case Type.BYTES:
            return f"pg_catalog.decode({text}, 'base64')"
        case Type.ARRAY:
            return f"sync.elements({text})::{field.type}"
        case _:
            return f"({text})::{field.type}"


def compared(alias: str, field: Field) -> str:
    """The column in a comparison of an old row with a new one. Types whose `=` does not exist, or holds for values that
    travel differently, are compared as text."""
    held = column(alias, field)
    natural = (Type.UUID, Type.BOOL, Type.INT, Type.BIGINT, Type.FLOAT, Type.INSTANT, Type.DATE, Type.BYTES)
    if field.of in natural or field.type in ("jsonb", *TEXTS):
        return held
    return f"{held}::text"


# --- the order of lists


def order(kind: Kind, alias: str) -> list[str]:
    """The expressions by which lists are ordered, each descending: the column that is newest first, then the key."""
    newest = [] if kind.newest is None else _newest(kind, column(alias, kind.column[kind.newest].field))
    return [*newest, *(_collated(field, column(alias, field)) for field in kind.key)]


def place(kind: Kind, alias: str) -> list[str]:
    """A place in the order of lists: the same expressions, of `p1` … of `alias`, which are texts as of place_fields."""
    fields = place_fields(kind)
    held = [
        f'({alias}.p{i} COLLATE "C")' if field.of is Type.TEXT else received(field, f"{alias}.p{i}")
        for i, field in enumerate(fields, 1)
    ]
    if kind.newest is None or not fields[0].nullable:
        return held
    return [f"{alias}.p1 IS NOT NULL", f"coalesce({held[0]}, {oldest(fields[0])})", *held[1:]]


def place_fields(kind: Kind) -> list[Field]:
    """The columns that make a place in a list: the one that orders it, and the key."""
    return [*([] if kind.newest is None else [kind.column[kind.newest].field]), *kind.key]


def _newest(kind: Kind, held: str) -> list[str]:
    assert kind.newest is not None
    field = kind.column[kind.newest].field
    collated = _collated(field, held)
    if not field.nullable:
        return [collated]
    # NULL is older than every value, also than the smallest, and an index can only be read in one direction for both.
    return [f"{held} IS NOT NULL", f"coalesce({collated}, {oldest(field)})"]


def _collated(field: Field, held: str) -> str:
    # Devices order texts by their code points.
    return f'({held}::text COLLATE "C")' if field.of is Type.TEXT else held


def oldest(field: Field) -> str:
    """The smallest value of a column that orders a list."""
    match field.of:
        case Type.INSTANT:
            return f"'-infinity'::{field.type}"
        case Type.INT | Type.BIGINT:
            smallest = {"smallint": -(1 << 15), "integer": -(1 << 31)}.get(field.type, -(1 << 63))
            return f"'{smallest}'::{field.type}"
        case _:
            return "''"


def newest(field: Field) -> str:
    """A value behind every other one in that order, as text."""
    match field.of:
        case Type.INSTANT:
            return "infinity"
        case Type.INT | Type.BIGINT:
            return str({"smallint": (1 << 15) - 1, "integer": (1 << 31) - 1}.get(field.type, (1 << 63) - 1))
        case Type.UUID:
            return "ffffffff-ffff-ffff-ffff-ffffffffffff"
        case _:
            return "\U0010ffff" * 8
