"""The triggers that record changes: for each kind a function, and its triggers. Pure.

A deferred trigger records a changed row in its owner's feed, at commit. Nothing is looked up at run time that the
declaration says.
"""

from collections.abc import Iterator
from typing import Final

from protocol.schema import Type
from server.declaration.model import Declaration, Field, Kind, Table
from server.declaration.sql.pieces import (
    body,
    column,
    columns,
    comment,
    compared,
    equal,
    is_logged,
    literal,
    logged,
    owner,
    quoted,
    table,
    tables,
)

TRIGGERS: Final = ("atlas_sync_record", "atlas_sync_record_update", "atlas_sync_refuse_truncate")


def function_name(kind: Kind) -> str:
    return f"sync.record_{kind.name}"


def function(declaration: Declaration, kind: Kind) -> str:
    """The trigger function of a kind."""
    where = [*_identity(kind)]
    moved = f"({columns('OLD', where)}) IS DISTINCT FROM ({columns('NEW', where)})"
    leaves = f"TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND {moved})"
    tag = literal(kind.tag)
    below = list(_below(declaration, kind, "NEW", "        "))
    above = _above(declaration, kind, "OLD"), _above(declaration, kind, "NEW")
    parts = [
        "#variable_conflict use_variable",
        "DECLARE",
        "    _owner pg_catalog.uuid;",
        "    _former pg_catalog.uuid;",
        *(["    _again pg_catalog.uuid;", "    _seen pg_catalog.int8;"] if kind.parent is not None else []),
        *(["    _held pg_catalog.bool := false;"] if above[0] else []),
        "BEGIN",
        f"    IF {leaves} THEN",
        "        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of",
        "        -- the move, the deletion of that parent alone would not remove it from the device.",
        *_recorded(declaration, kind, "_former", "OLD", "d", above[0]),
    ]
    if kind.parent is not None:
        parts += [
            "        IF _former IS NULL AND TG_OP = 'UPDATE' THEN",
            "            -- A parent that was deleted in this transaction has no owner any more.",
            f"            _again := {owner(declaration, kind, 'NEW')};",
            "            IF _again IS NOT NULL THEN",
            f"                PERFORM sync.record(_again, {tag}, 'd', {logged(kind, 'OLD')});",
            "            END IF;",
            "        END IF;",
        ]
    parts += [
        "    END IF;",
        "    IF TG_OP <> 'DELETE' THEN",
        *_recorded(declaration, kind, "_owner", "NEW", "u", above[1]),
        "    END IF;",
    ]
    if below:
        hidden = " OR ".join(
            f"row_security_active({literal(table(each))})" for each in _tables_below(declaration, kind)
        )
        when = f"TG_OP = 'UPDATE' AND {moved}"
        if _has_loose(declaration, kind):
            # Rows that no foreign key binds to it may have been there before it.
            when = f"(TG_OP = 'INSERT' OR ({when}))"
        if any(_above(declaration, child, "NEW") for child in declaration.children_of(kind)):
            parts += [
                f"    IF {when} THEN",
                "        -- Rows below it that belonged to nobody are changed before, or know of its owner.",
                *(
                    f"        PERFORM sync.hold({tag}, {column(alias, kind.key[0])}::text, true);"
                    for alias in ("NEW", "OLD")
                ),
                "        IF TG_OP = 'UPDATE' AND _former IS NULL AND _owner IS NOT NULL THEN",
                "            PERFORM sync.refuse_unseen();",
                "        END IF;",
                "    END IF;",
            ]
        parts += [
            f"    IF _owner IS NOT NULL AND {when} THEN",
            "        -- The rows below it are to be sent where it is now.",
            f"        IF {hidden} THEN",
            "            PERFORM sync.refuse_hidden(sync.hidden());",
            "        END IF;",
            *below,
            *(["        PERFORM sync.note_move(_owner);"] if kind.parent is not None else []),
            "    END IF;",
        ]
    if left := list(_below_those_that_left(declaration, kind)):
        parts += [
            f"    IF ({leaves}) AND sync.noted_moves() <> '' THEN",
            "        -- Rows have left it before, in this transaction. From here on its former owner's feed is held,",
            "        -- so that all rows below them can be seen.",
            *left,
            "    END IF;",
        ]
    if kind.parent is not None:
        parent = declaration.kind[kind.parent.kind]
        parents = [parent] if parent.parent is None else [parent, declaration.kind[parent.parent.kind]]
        hidden = " OR ".join(f"row_security_active({literal(table(each.table))})" for each in parents)
        parts += [
            f"    IF _owner IS NULL AND _former IS NULL AND ({hidden}) THEN",
            "        -- The parent was deleted, which is recorded instead; or row level security hides it.",
            "        PERFORM sync.refuse_hidden(sync.hidden());",
            "    END IF;",
        ]
    parts += [
        "    RETURN NULL;",
        "END",
    ]
    text = "\n".join(parts)
    return (
        f"{comment(f'Records the changes of {table(kind.table)} as rows of kind {kind.name}.')}\n"
        f"CREATE OR REPLACE FUNCTION {function_name(kind)}() RETURNS trigger\n"
        f"LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body(text)};\n"
        f"REVOKE ALL ON FUNCTION {function_name(kind)} FROM PUBLIC;\n"
    )


def _recorded(declaration: Declaration, kind: Kind, variable: str, alias: str, op: str, above: list[str]) -> list[str]:
    """Statements that find the owner of the row `alias` and record an entry in its feed. `above`: those of `_above`."""
    tag, row = literal(kind.tag), logged(kind, alias)
    entry = f"{tag}, '{op}', {row}"
    if kind.parent is None:
        return [
            f"        {variable} := {owner(declaration, kind, alias)};",
            f"        IF {variable} IS NOT NULL THEN",
            f"            PERFORM sync.record({variable}, {entry});",
            "        END IF;",
        ]

    first, again = (_look_up(declaration, kind, alias, into) for into in (variable, "_again"))
    taken_back = [*TAKEN_BACK, f"PERFORM sync.record({variable}, {tag}, 'd', {row});"] if op == "u" else []
    if not above:
        return [
            *(f"        {line}" for line in first),
            f"        WHILE {variable} IS NOT NULL LOOP",
            f"            EXIT WHEN coalesce(sync.record({variable}, {entry}, seen => _seen) = _seen, true);",
            *(f"            {line}" for line in [*CHANGED, *again]),
            f"            EXIT WHEN _again = {variable};",
            *(f"            {line}" for line in taken_back),
            f"            {variable} := _again;",
            "        END LOOP;",
        ]
    return [
        "        _held := false;",
        *(f"        {line}" for line in first),
        "        LOOP",
        f"            IF {variable} IS NOT NULL THEN",
        f"                EXIT WHEN coalesce(sync.record({variable}, {entry}, seen => _seen) = _seen, true);",
        *(f"                {line}" for line in [*CHANGED, *again]),
        f"                EXIT WHEN _again = {variable};",
        *(f"                {line}" for line in taken_back),
        "            ELSE",
        "                EXIT WHEN _held;",
        "                -- Nobody has no feed. This keeps a parent from getting an owner meanwhile.",
        *(f"                {line}" for line in [*above, *again]),
        "            END IF;",
        f"            {variable} := _again;",
        "        END LOOP;",
    ]


CHANGED: Final = (
    "-- Between that look and the feed's lock another transaction changed the feed. If it gave the parent to another",
    "-- user, it did not see this change. Under the lock none gives it to another one.",
)
TAKEN_BACK: Final = (
    "-- Not that user's row. A reading of that feed does not find it; a server that reads the WAL cannot tell.",
)


def _look_up(declaration: Declaration, kind: Kind, alias: str, into: str) -> list[str]:
    """The statement that finds the owner of the row `alias`, which has a parent, and the mark of its feed."""
    assert kind.parent is not None
    value, link, level = column(alias, kind.parent.field), kind.parent.field, 1
    above = declaration.kind[kind.parent.kind]
    while True:
        found = f"FROM {table(above.table)} p{level} WHERE "
        found += equal(column(f"p{level}", above.key[0]), value, above.key[0], link)
        if above.parent is None:
            break
        value, link, level = (
            f"(SELECT {column(f'p{level}', above.parent.field)} {found})",
            above.parent.field,
            level + 1,
        )
        above = declaration.kind[above.parent.kind]
    of = owner(declaration, above, f"p{level}")
    return [
        f"SELECT {of}, coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = {of}), 0) INTO {into}, _seen",
        f"{found};",
    ]


def _above(declaration: Declaration, kind: Kind, alias: str) -> list[str]:
    """Statements that hold the rows above the row `alias`, if they may belong to nobody and then get an owner. They set
    `_held` if there is a parent."""
    parent = declaration.parent_of(kind)
    if parent is None or not _may_lack_owner(declaration, kind, own=False):
        return []
    assert kind.parent is not None
    link, key = column(alias, kind.parent.field), column("p1", parent.key[0])
    first = f"{table(parent.table)} p1 WHERE {equal(key, link, parent.key[0], kind.parent.field)}"
    held = f"PERFORM sync.hold({literal(parent.tag)}, "
    if kind.parent.loose:
        lines = [f"{held}{link}::text, TG_OP <> 'DELETE');", f"_held := {link} IS NOT NULL;"]
    else:
        lines = [f"{held}{key}::text, false) FROM {first};", "_held := FOUND;"]
    # Without a parent nothing is above.
    lines.append("EXIT WHEN NOT _held;")
    topmost = declaration.parent_of(parent)
    if topmost is not None:
        assert parent.parent is not None
        link, key = column("p1", parent.parent.field), column("p2", topmost.key[0])
        held = f"PERFORM sync.hold({literal(topmost.tag)}, "
        if parent.parent.loose:
            lines.append(f"{held}{link}::text, TG_OP <> 'DELETE') FROM {first};")
        else:
            same = equal(key, link, topmost.key[0], parent.parent.field)
            lines += [f"{held}{key}::text, false)", f"FROM {table(topmost.table)} p2, {first} AND {same};"]
    return lines


def _may_lack_owner(declaration: Declaration, kind: Kind, *, own: bool = True) -> bool:
    """Whether a row of the kind may belong to nobody; without `own`, although it names a parent."""
    if kind.parent is None:
        assert kind.owner is not None
        return kind.owner.nullable or kind.owner.of is not Type.UUID
    if kind.parent.loose or (own and kind.parent.field.nullable):
        return True
    return _may_lack_owner(declaration, declaration.kind[kind.parent.kind])


def triggers(kind: Kind) -> dict[Table, str]:
    """The statements that create a kind's triggers, by table."""
    return {
        each: f"CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON {table(each)}\n"
        f"    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function_name(kind)}();\n"
        f"CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON {table(each)}\n"
        "    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW\n"
        f"    {condition(kind)}\n"
        f"    EXECUTE FUNCTION {function_name(kind)}();\n"
        f"CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON {table(each)}\n"
        "    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();\n"
        for each in tables(kind)
    }


def condition(kind: Kind) -> str:
    """When an update is recorded."""
    old, new = (", ".join(compared(alias, field) for field in watched(kind)) for alias in ("OLD", "NEW"))
    return f"WHEN (({old}) IS DISTINCT FROM ({new}))"


def is_cast(field: Field) -> bool:
    """Whether the condition compares it as text."""
    return compared("x", field) != column("x", field)


def _identity(kind: Kind) -> list[Field]:
    """The columns that say which row it is, and whose."""
    place = kind.owner if kind.parent is None else kind.parent.field
    assert place is not None
    return list({field.name: field for field in (*kind.key, place)}.values())


def watched(kind: Kind) -> list[Field]:
    """The columns of which a change is recorded."""
    fields = [
        *_identity(kind),
        *(field for synced in kind.own for field in (synced.field, synced.instead) if field is not None),
    ]
    return list({field.name: field for field in fields}.values())


def _below(declaration: Declaration, kind: Kind, alias: str, indent: str) -> Iterator[str]:
    """Statements that record the rows below the row `alias`, parents first."""
    for child in declaration.children_of(kind):
        assert child.parent is not None
        source = _source(child)
        on = f"{column('c', child.parent.field)} = {column(alias, kind.key[0])}"
        yield f"{indent}PERFORM sync.record(_owner, {literal(child.tag)}, 'u', {logged(child, 'c')})"
        yield f"{indent}FROM {source} c WHERE {on};"
        for grandchild in declaration.children_of(child):
            assert grandchild.parent is not None
            yield f"{indent}PERFORM sync.record(_owner, {literal(grandchild.tag)}, 'u', {logged(grandchild, 'g')})"
            yield (
                f"{indent}FROM {_source(grandchild)} g JOIN {source} c "
                f"ON {column('g', grandchild.parent.field)} = {column('c', child.key[0])} WHERE {on};"
            )


def _below_those_that_left(declaration: Declaration, kind: Kind) -> Iterator[str]:
    """Statements that record the rows two levels below the kind's whose parents have moved in this transaction."""
    for child in declaration.children_of(kind):
        key = child.key[0]
        for grandchild in declaration.children_of(child):
            assert grandchild.parent is not None
            yield f"        PERFORM sync.record(c._to, {literal(grandchild.tag)}, 'u', {logged(grandchild, 'g')})"
            yield f"        FROM (SELECT {column('c', key)}, {owner(declaration, child, 'c')} AS _to"
            yield f"              FROM sync.moved({literal(child.tag)}) l JOIN {_source(child)} c"
            yield f"              ON {is_logged(child, 'c', 'l')}) c"
            yield f"        JOIN {_source(grandchild)} g ON {column('g', grandchild.parent.field)} = {column('c', key)}"
            yield "        WHERE c._to IS NOT NULL;"


def _has_loose(declaration: Declaration, kind: Kind) -> bool:
    """Whether rows below the kind's may exist before it."""
    return any(
        (child.parent is not None and child.parent.loose) or _has_loose(declaration, child)
        for child in declaration.children_of(kind)
    )


def _tables_below(declaration: Declaration, kind: Kind) -> Iterator[Table]:
    for child in declaration.children_of(kind):
        yield from tables(child)
        for grandchild in declaration.children_of(child):
            yield from tables(grandchild)


def _source(kind: Kind) -> str:
    """What holds all rows of a kind, archived or not."""
    return table(kind.table) if kind.archive is None else f"sync.all_{quoted(kind.table.name)}"
