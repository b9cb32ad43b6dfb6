"""The statements that read feeds and lists, one of each kind's own. Pure.

They stand in the place of prepared statements that could be written by hand: every table and column in them is a
constant, and each look-up is one by an index.
"""

from typing import Final

from protocol.schema import Type
from server.declaration.model import Column, Declaration, Field, Kind
from server.declaration.sql.pieces import (
    by_uuid,
    column,
    is_logged,
    key_texts,
    literal,
    newest,
    order,
    owned,
    place,
    place_fields,
    quoted,
    received,
    sent,
    table,
)
from server.declaration.sql.rights import columns

ROW_BYTES: Final = 100
"""Bytes that a row counts beside its values. The statements limit their result with this number."""

FEED: Final = """\
-- Reads what up to 256 readers lack: one statement, one snapshot.
-- $1 users, $2 seqs, $3 ns: the position of each reader (n = the largest bigint after a whole transaction), as array
--    literals, which cost asyncpg a tenth of what arrays do
-- $4 the smallest of $2, as an explicit bound, so that older partitions of the log are never opened
-- $5 rows and $6 bytes for each reader at most, {row_bytes} a row beside its values; the first row is returned whatever
--    its size
-- $7 and $8 the oldest and the newest instant of rows to read in tables that are partitioned by it, $9 the largest seq:
--    with these bounds all but one or two partitions stay unopened. Rows beyond them are not read: `elsewhere` marks
--    such a row, `head` shows such a log entry, and the caller reads everywhere.
-- `next_seq` is the seq of the following log row, NULL at the end of the log: it shows whether more rows exist, and
-- whether the transaction goes on. `found`: the row still exists and belongs to this user. LIMIT 1 keeps each look-up
-- one by primary key. Rows of all kinds share columns, named by type: a composite value would cost 6 µs more for each
-- row.
SELECT {columns}
FROM unnest($1::text::uuid[], $2::text::bigint[], $3::text::bigint[]) WITH ORDINALITY AS r (user_id, seq, n, i)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
{gate}LEFT JOIN LATERAL (
    SELECT e.*, lead(e.seq) OVER log_order AS next_seq, row_number() OVER log_order AS nth,
           sum({size}) OVER log_order AS bytes
    FROM (
        SELECT l.*, coalesce(l.row_at < $7 OR l.row_at > $8, false) AS elsewhere, k.*
        FROM (
            SELECT * FROM sync.log
            WHERE user_id = r.user_id AND (seq, n) > (r.seq, r.n) AND seq >= r.seq AND seq >= $4 AND seq <= $9
            ORDER BY seq, n LIMIT $5 + 1
        ) l
        LEFT JOIN LATERAL (
{rows}
        ) k ON true
    ) e
    WINDOW log_order AS (ORDER BY e.seq, e.n)
) g ON g.nth <= $5 AND (g.bytes <= $6 OR g.nth = 1)
"""

LIVE: Final = """\
-- Reads what one live reader lacks, which is little: one statement, one snapshot.
-- $1 user, $2 the seq of its position, which is behind a whole transaction
-- $3 and $4 the oldest and the newest instant of rows, $5 the largest seq: as $7, $8 and $9 of read_feed
SELECT {columns}
FROM (SELECT * FROM sync.log WHERE user_id = $1 AND seq > $2 AND seq <= $5 ORDER BY seq, n LIMIT {entries}) l
LEFT JOIN LATERAL (
{rows}
) k ON true
"""

LIVE_ENTRIES: Final = 9
"""Entries that this statement returns at most. If it returns so many there may be more, and the store reads."""
LIVE_COLUMNS: Final = (
    *("(SELECT digest FROM sync.declaration) = {digest}", "l.row_at < $3 OR l.row_at > $4", "k.found"),
    *(f"l.{name}" for name in ("seq", "n", "prev", "mark", "prev_mark", "kind", "op", "row_id", "row_key")),
)
"""What a live reading has before the columns of the rows: whether the declaration is the same, whether the row is
beyond the bounds, whether it was found; then the entry."""

COLUMNS: Final = {
    "i": "r.i",
    "declared": "(SELECT digest FROM sync.declaration)",
    "head": "f.seq",
    "head_mark": "f.mark",
    "tier": "",
    **{name: f"g.{name}" for name in ("seq", "n", "prev", "mark", "prev_mark")},
    "kind": "g.kind::text",
    "op": "g.op::text",
    **{name: f"g.{name}" for name in ("row_id", "row_key", "next_seq", "elsewhere", "found")},
}
"""What a reading has before the columns of the rows."""

ROW: Final = """\
            SELECT true AS found{values}
            FROM (SELECT {columns} FROM {source} t WHERE {found}{bounds} LIMIT 1) t
            WHERE l.kind = {tag} AND l.op = 'u' AND {owned}"""

LIST: Final = """\
-- Rows of kind {name}: {what}, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 {users}, $2 bytes {of_whom}, {row_bytes} a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: {of_each}, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       {tier} AS tier, g.i, g.key, g.total{number}{fields}
FROM {readers}
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
{gate}LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum({size}) OVER in_order AS bytes
    FROM unnest({arrays}) WITH ORDINALITY AS w ({names})
{join}    CROSS JOIN LATERAL (
{source}
    ) m{mine}
    WINDOW in_order AS (ORDER BY w.i, {descending})
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY {by_user}g.i, {ordered}
"""


def statements(declaration: Declaration) -> dict[str, str]:
    """All statements by name."""
    found = {
        "read_feed": feed(declaration, everywhere=False),
        "read_feed_everywhere": feed(declaration, everywhere=True),
        "read_live": live(declaration),
    }
    for kind in declaration.kinds:
        found[f"list_{kind.name}"] = rows(declaration, kind)
        found[f"lists_{kind.name}"] = rows(declaration, kind, together=True)
        if has_instant(kind):
            found[f"instant_{kind.name}"] = instant(declaration, kind)
    return found


def tier(declaration: Declaration) -> str:
    """An expression for the value of the gate's column: empty for NULL, NULL if the user has no such row."""
    if declaration.gate is None:
        return "NULL::text"
    held = column("q", declaration.gate.field)
    if not declaration.gate.field.nullable and declaration.gate.field.type == "text":
        return held
    return f"CASE WHEN {column('q', _gate_kind(declaration).key[0])} IS NOT NULL THEN coalesce({held}::text, '') END"


def gate(declaration: Declaration) -> str:
    """The join that finds the user's row of the gate."""
    if declaration.gate is None:
        return ""
    kind = _gate_kind(declaration)
    return f"LEFT JOIN {table(kind.table)} q ON {owned(declaration, kind, 'q', 'r.user_id')}\n"


def _gate_kind(declaration: Declaration) -> Kind:
    assert declaration.gate is not None
    return declaration.kind[declaration.gate.kind]


def feed(declaration: Declaration, *, everywhere: bool) -> str:
    """The statement that reads feeds; `everywhere`: in archives too."""
    shared = shared_slots(declaration)
    named = {**COLUMNS, "tier": tier(declaration), **{slot: f"g.{slot}" for slot in shared}}
    return FEED.format(
        row_bytes=ROW_BYTES,
        gate=gate(declaration),
        columns=",\n       ".join(f"{expression} AS {name}" for name, expression in named.items()),
        size=" + ".join(
            [str(ROW_BYTES), *(f"coalesce(octet_length(e.{slot}), 0)" for slot in shared if slot[0] in "ty")]
        ),
        rows=_rows(declaration, shared, "r.user_id", "$7", "$8", everywhere=everywhere),
    )


def live(declaration: Declaration) -> str:
    """The statement that reads for one live reader."""
    shared = shared_slots(declaration)
    of_entry = (each.format(digest=literal(declaration.digest)) for each in LIVE_COLUMNS)
    return LIVE.format(
        columns=", ".join([*of_entry, *(f"k.{slot}" for slot in shared)]),
        entries=LIVE_ENTRIES,
        rows=_rows(declaration, shared, "$1", "$3", "$4", everywhere=False),
    )


def _rows(declaration: Declaration, shared: list[str], user: str, since: str, until: str, *, everywhere: bool) -> str:
    """The look-up of the row that an entry `l` of the log names."""
    return "\n            UNION ALL\n".join(
        ROW.format(
            tag=literal(kind.tag),
            values=_slotted(declaration, kind, shared),
            columns=", ".join(f"t.{quoted(name)}" for name in columns(kind)),
            source=_source(kind, everywhere=everywhere),
            found=is_logged(kind, "t", "l"),
            bounds="" if kind.dated is None else f" AND {_between(kind.dated, since, until)}",
            owned=owned(declaration, kind, "t", user),
        )
        for kind in declaration.kinds
    )


def shared_slots(declaration: Declaration) -> list[str]:
    """The columns that rows of all kinds share in a reading."""
    return sorted({slot for kind in declaration.kinds for slot in slots(kind)})


def places(declaration: Declaration, begin: int) -> dict[str, tuple[int, ...]]:
    """By tag: where in a record of a reading the columns of the kind are. `begin`: where the shared ones begin."""
    shared = shared_slots(declaration)
    return {kind.tag: tuple(begin + shared.index(slot) for slot in slots(kind)) for kind in declaration.kinds}


def slots(kind: Kind) -> list[str]:
    """The shared columns of a reading that hold the kind's columns: a letter for the type, and a number."""
    counts: dict[str, int] = {}
    found = []
    for synced in kind.columns:
        letter = SLOTS.get(synced.field.of, ("t", "text"))[0]
        counts[letter] = counts.get(letter, 0) + 1
        found.append(f"{letter}{counts[letter]}")
    return found


SLOTS: Final = {
    Type.UUID: ("u", "uuid"),
    Type.BOOL: ("b", "boolean"),
    Type.INT: ("i", "bigint"),
    Type.BIGINT: ("i", "bigint"),
    Type.FLOAT: ("f", "float8"),
    Type.INSTANT: ("s", "timestamptz"),
    Type.BYTES: ("y", "bytea"),
}
"""By type: the letter of its shared columns, and their type in SQL. All others are texts."""
LETTERS: Final = {"t": "text", **dict(SLOTS.values())}


def _slotted(declaration: Declaration, kind: Kind, shared: list[str]) -> str:
    """The kind's columns in the order of the shared ones."""
    own = dict(zip(slots(kind), kind.columns, strict=True))
    values = []
    for slot in shared:
        of = LETTERS[slot[0]]
        value = _value(declaration, kind, own[slot], "t") if slot in own else "NULL"
        exact = slot in own and own[slot].field.of is not Type.INT
        values.append(f"{value if exact else f'{value}::{of}'} AS {slot}")
    return "".join(f", {value}" for value in values)


def rows(declaration: Declaration, kind: Kind, *, together: bool = False) -> str:
    """The statement that reads the lists of a kind: one, or one for each of several parents; `together`: of several
    users."""
    names = [f"p{i}" for i in range(1, len(place_fields(kind)) + 1)]
    arrays = {"reader": "int"} if together else {}
    arrays |= {"rows": "int", "parent": "text", **dict.fromkeys(names, "text"), "before": "int"}
    of_each = ["the number of its user"] if together else []
    of_each += ["rows at most", "NULL" if kind.parent is None else "the parent's key", "… the place"]
    placed = place(kind, "w")
    ordered = order(kind, "t")
    aliases = ", ".join(f"{expression} AS o{i}" for i, expression in enumerate(ordered, 1))
    o = [f"o{i}" for i in range(1, len(ordered) + 1)]
    if kind.parent is None:
        condition, join = owned(declaration, kind, "t", "r.user_id"), ""
    else:
        parent = declaration.kind[kind.parent.kind]
        condition = f"{column('t', kind.parent.field)} = {column('o', parent.key[0])}"
        join = (
            f"    JOIN {table(parent.table)} o ON {column('o', parent.key[0])} = w.parent::{parent.key[0].type} "
            f"AND {owned(declaration, parent, 'o', 'r.user_id')}\n"
        )

    def branch(source: str, more: str = "") -> str:
        # In the index, where the whole condition is not.
        first = len(placed) - len(kind.key) or 1
        start = f"({', '.join(ordered[:first])}) <= ({', '.join(placed[:first])})"
        bound = f" AND {start if first > 1 else f'{ordered[0]} <= {placed[0]}'}" if len(ordered) > 1 else ""
        return (
            f"        SELECT {_key(kind, 't')} AS key, {_values(declaration, kind, 't')}{aliases}\n"
            f"        FROM {source} t\n"
            f"        WHERE {condition} AND ({', '.join(ordered)}, 0) < ({', '.join(placed)}, w.before){bound}{more}\n"
            f"        ORDER BY {', '.join(f'{each} DESC' for each in ordered)} LIMIT w.rows"
        )

    if kind.archive is None:
        source = branch(table(kind.table))
    else:
        assert kind.dated is not None
        until = "(SELECT archived_until FROM sync.meta)"
        dated = column("t", kind.dated)
        # Rows older than `archived_until` are read from the archive and from the table, whose default partition may
        # hold some. The archive is opened only if the younger rows do not suffice.
        younger = branch(table(kind.table), f" AND {dated} >= {until}")
        older = branch(_source(kind, everywhere=True), f" AND {dated} < {until}")
        source = (
            f"        (\n{younger}\n        )\n        UNION ALL\n        (\n{older}\n        )\n        LIMIT w.rows"
        )
    return LIST.format(
        row_bytes=ROW_BYTES,
        name=kind.name,
        what="the user's" if kind.parent is None else f"those of some rows of kind {kind.parent.kind}",
        users="users, as an array literal" if together else "user",
        of_whom="for each" if together else "in all",
        of_each=", ".join(f"${i} {each}" for i, each in enumerate(of_each, 3)),
        number=", r.number" if together else "",
        readers="unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)"
        if together
        else "(SELECT $1::uuid AS user_id) r",
        mine="\n    WHERE w.reader = r.number" if together else "",
        by_user="r.number, " if together else "",
        tier=tier(declaration),
        gate=gate(declaration),
        arrays=", ".join(f"${i}::{of}[]" for i, of in enumerate(arrays.values(), 3)),
        names=", ".join([*arrays, "i"]),
        join=join,
        source=source,
        descending=", ".join(f"m.{each} DESC" for each in o),
        ordered=", ".join(f"g.{each} DESC" for each in o),
        fields="".join(f", g.v{i}" for i in range(1, len(kind.columns) + 1)),
        size=" + ".join([str(ROW_BYTES), *(f"coalesce(octet_length(m.v{i}), 0)" for i in _sized(kind))]),
    )


def first_place(kind: Kind) -> list[str]:
    """The place before the newest row, as texts."""
    return [newest(field) for field in place_fields(kind)]


def has_instant(kind: Kind) -> bool:
    return kind.newest is not None and kind.column[kind.newest].field.of is Type.INSTANT


def instant(declaration: Declaration, kind: Kind) -> str:
    """The statement that finds the exact instant by which a row is ordered."""
    assert kind.newest is not None
    field = kind.column[kind.newest].field
    held = sent("t", field)
    key = " AND ".join(f"{column('t', each)} = {received(each, f'${i}::text')}" for i, each in enumerate(kind.key, 4))
    return (
        "-- The exact instant by which a row is ordered, for a device that knows only an end of the range that it can\n"
        "-- hold: microseconds since 1970, as text, because they may exceed a bigint; NULL for an infinite instant.\n"
        "-- $1 user, $2 and $3 the range in which it lies, $4 … the key\n"
        f"SELECT CASE WHEN isfinite({held}) THEN trunc(EXTRACT(epoch FROM {held}) * 1000000)::text END AS instant,\n"
        f"       {held} > now() AS ahead\n"
        f"FROM {_source(kind, everywhere=True)} t\n"
        f"WHERE {key} AND {held} BETWEEN $2 AND $3 AND {owned(declaration, kind, 't', '$1::uuid')}\n"
        f"ORDER BY {held} LIMIT 1\n"
    )


def _key(kind: Kind, alias: str) -> str:
    """The key of a row: a uuid, or an array of texts."""
    return column(alias, kind.key[0]) if by_uuid(kind) else key_texts(kind, alias)


def _values(declaration: Declaration, kind: Kind, alias: str) -> str:
    columns = enumerate(kind.columns, 1)
    return "".join(f"{_value(declaration, kind, synced, alias)} AS v{i}, " for i, synced in columns)


def _value(declaration: Declaration, kind: Kind, synced: Column, alias: str) -> str:
    """The value of a column of the row `alias`."""
    if synced.instead is not None:
        return f"coalesce({sent(alias, synced.field)}, {sent(alias, synced.instead)})"
    if not synced.above:
        return sent(alias, synced.field)
    parent = declaration.parent_of(kind)
    assert parent is not None
    assert kind.parent is not None
    found = f"{column('a', parent.key[0])} = {column(alias, kind.parent.field)}"
    return f"(SELECT {sent('a', synced.field)} FROM {table(parent.table)} a WHERE {found})"


def _sized(kind: Kind) -> list[int]:
    """The numbers of the columns whose size counts."""
    slotted = enumerate(slots(kind), 1)
    return [i for i, slot in slotted if slot[0] in "ty"]


FIRST: Final = 7
"""Where in a record of a list the columns begin."""
FIRST_OF_MANY: Final = FIRST + 1
"""The same, in a record of several users' lists."""


def _source(kind: Kind, *, everywhere: bool) -> str:
    return f"sync.all_{quoted(kind.table.name)}" if everywhere and kind.archive is not None else table(kind.table)


def _between(field: Field, since: str, until: str) -> str:
    return f"{column('t', field)} >= {since} AND {column('t', field)} <= {until}"
