"""The statements that find out what became of one row, whatever its kind. They read no content. Pure."""

from typing import Final

from protocol.schema import Type
from server.declaration.model import Declaration, Field, Kind
from server.declaration.sql.pieces import archive, by_uuid, column, literal, order, owned, owner, received, table
from server.declaration.sql.reading import tier
from server.declaration.sql.rights import columns

SAID: Final = frozenset({Type.TEXT, Type.JSON, Type.ARRAY, Type.BYTES})
"""What people say is in columns of these types."""

ROW: Final = """\
-- The row of kind {name} without its content: whose it is, how large, how old, and how many of its list are newer.
-- $1 … its key; in a table that is partitioned by an instant several rows may have one
SELECT {owner} AS owner, {parent} AS parent, {role} AS role, {size} AS bytes, {created} AS created_at,
       {updated} AS updated_at,
       (SELECT count(*) FROM (
           SELECT FROM {table} n WHERE {same_list} AND ({newer}) > ({older}) LIMIT 1000
       ) AS first) AS newer
FROM {source} t
WHERE {key}
ORDER BY {ordered} LIMIT 10
"""
OWNER: Final = """\
-- The value by which the owner syncs or not, and the feed: its position by its own row and by the log, and the oldest
-- entry that the log still has.
-- $1 owner
SELECT {tier} AS tier, {status} AS status, coalesce(f.seq, 0) AS head, newest.seq AS log_head, oldest.seq AS log_first,
       oldest.prev AS before_first
FROM (SELECT $1::uuid AS user_id) r
{gate}LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN LATERAL (SELECT seq FROM sync.log WHERE user_id = r.user_id ORDER BY seq DESC, n DESC LIMIT 1) newest ON true
LEFT JOIN LATERAL (SELECT seq, prev FROM sync.log WHERE user_id = r.user_id ORDER BY seq, n LIMIT 1) oldest ON true
LIMIT 1
"""


def row(declaration: Declaration, kind: Kind, *, archived: bool) -> str:
    """The statement that reads the row, or the row in the archive."""
    place = kind.owner if kind.parent is None else kind.parent.field
    assert place is not None
    old = archive(kind)
    assert old is not None or not archived
    source = table(old) if archived and old is not None else table(kind.table)
    ordered = order(kind, "t")
    said = (
        each
        for each in kind.own[0 if kind.parent is None else 1 :]
        if each.field.of in SAID and not isinstance(kind.limits.get(each.name), tuple)
    )
    sizes = (f"coalesce(octet_length({column('t', each.field)}::text), 0)" for each in said)
    devices = kind.devices
    newest = None if kind.newest is None else kind.column[kind.newest].field
    return ROW.format(
        name=kind.name,
        owner=owner(declaration, kind, "t"),
        parent="NULL::text" if kind.parent is None else f"{column('t', place)}::text",
        role=f"{column('t', kind.column['role'].field)}::text" if "role" in kind.column else "NULL::text",
        size=" + ".join(sizes) or "0",
        created=_instant(kind, newest if devices is None or devices.created is None else devices.created),
        updated=_instant(kind, None if devices is None else devices.updated),
        table=table(kind.table),
        same_list=f"{column('n', place)} = {column('t', place)}",
        newer=", ".join(order(kind, "n")),
        older=", ".join(ordered),
        source=source,
        key=" AND ".join(
            f"{column('t', each)} = {received(each, f'${i}::text')}" for i, each in enumerate(kind.key, 1)
        ),
        ordered=", ".join(f"{each} DESC" for each in ordered),
    )


def _instant(kind: Kind, field: Field | None) -> str:
    if field is None or field.of is not Type.INSTANT or field.name not in columns(kind):
        return "NULL::bigint"
    held = column("t", field)
    moment = f"timezone('UTC', {held})" if field.type.startswith("timestamp without") else held
    return f"CASE WHEN isfinite({held}) THEN sync.seq_at({moment}) END"


def touch(kind: Kind, key: list[str], *, archived: bool) -> str | None:
    """A statement that has the row recorded again. None: it is not known which of its columns may change."""
    if kind.devices is None or kind.devices.updated is None:
        return None
    old = archive(kind)
    of = old if archived and old is not None else kind.table
    where = " AND ".join(f"{column('', each)} = {literal(text)}" for each, text in zip(kind.key, key, strict=True))
    return f"UPDATE {table(of)} SET {column('', kind.devices.updated)} = now() WHERE {where}"


def exists(kind: Kind) -> str:
    """The statement that tells whether a row of the kind has this key: $1, text."""
    found = f"{column('t', kind.key[0])} = {received(kind.key[0], '$1::text')}"
    return f"SELECT EXISTS (SELECT FROM {table(kind.table)} t WHERE {found})"


def plan(declaration: Declaration) -> str:
    """The statement about the owner."""
    gate = declaration.gate
    if gate is None:
        return OWNER.format(tier="NULL::text", status="NULL::text", gate="")
    kind = declaration.kind[gate.kind]
    status = f"{column('q', kind.column['status'].field)}::text" if "status" in kind.column else "NULL::text"
    join = f"LEFT JOIN {table(kind.table)} q ON {owned(declaration, kind, 'q', 'r.user_id')}\n"
    return OWNER.format(tier=tier(declaration), status=status, gate=join)


def entry(kind: Kind, alias: str, place: int) -> str:
    """A condition that an entry of the log is about this row. `place`: the parameter with the texts of its key."""
    of = f"{alias}.kind = {literal(kind.tag)}"
    if by_uuid(kind):
        return f"{of} AND {alias}.row_id = (${place}::text[])[1]::uuid"
    return f"{of} AND {alias}.row_key = ${place}::text[]"
