"""The triggers that record changes: for each kind a function, and its triggers. Pure.

A deferred trigger records a changed row in its owner's feed, at commit. Nothing is looked up at run time that the
declaration says.
"""

from collections.abc import Iterator
from typing import Final

from server.declaration.model import Declaration, Field, Kind, Table
from server.declaration.sql.pieces import (
    body,
    column,
    columns,
    comment,
    compared,
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
    tag = literal(kind.tag)
    former, held = owner(declaration, kind, "OLD"), owner(declaration, kind, "NEW")
    if kind.parent is not None:
        # A parent that was deleted in this transaction has no owner any more.
        former = f"coalesce({former}, {held})"
    parts = [
        "#variable_conflict use_variable",
        "DECLARE",
        "    _owner pg_catalog.uuid;",
        "    _former pg_catalog.uuid;",
        *(["    _again pg_catalog.uuid;"] if kind.parent is not None else []),
        "BEGIN",
        f"    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND {moved}) THEN",
        "        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of",
        "        -- the move, the deletion of that parent alone would not remove it from the device.",
        f"        _former := {former};",
        *_recorded(kind, "_former", former, f"{tag}, 'd', {logged(kind, 'OLD')}"),
        "    END IF;",
        "    IF TG_OP <> 'DELETE' THEN",
        f"        _owner := {held};",
        *_recorded(kind, "_owner", held, f"{tag}, 'u', {logged(kind, 'NEW')}"),
        "    END IF;",
    ]
    below = list(_below(declaration, kind, "NEW", "        "))
    if below:
        hidden = " OR ".join(
            f"row_security_active({literal(table(each))})" for each in _tables_below(declaration, kind)
        )
        when = f"TG_OP = 'UPDATE' AND {moved}"
        if _has_loose(declaration, kind):
            # Rows that no foreign key binds to it may have been there before it.
            when = f"(TG_OP = 'INSERT' OR ({when}))"
        parts += [
            f"    IF _owner IS NOT NULL AND {when} THEN",
            "        -- The rows below it are to be sent where it is now.",
            f"        IF {hidden} THEN",
            "            PERFORM sync.refuse_hidden(sync.hidden());",
            "        END IF;",
            *below,
            "    END IF;",
        ]
    if kind.parent is not None:
        parent = declaration.kind[kind.parent.kind]
        above = [parent] if parent.parent is None else [parent, declaration.kind[parent.parent.kind]]
        hidden = " OR ".join(f"row_security_active({literal(table(each.table))})" for each in above)
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


def _recorded(kind: Kind, variable: str, found: str, entry: str) -> list[str]:
    """Statements that record an entry in the feed of the owner that the variable holds, of a row in a trigger."""
    if kind.parent is None:
        return [
            f"        IF {variable} IS NOT NULL THEN",
            f"            PERFORM sync.record({variable}, {entry});",
            "        END IF;",
        ]
    return [
        f"        WHILE {variable} IS NOT NULL LOOP",
        f"            EXIT WHEN NOT sync.record({variable}, {entry});",
        "            -- Until now the feed was not locked: whoever moved the parent to another user meanwhile did not",
        "            -- see this change. Under the lock nobody moves it from there.",
        f"            _again := {found};",
        f"            EXIT WHEN _again = {variable};",
        f"            {variable} := _again;",
        "        END LOOP;",
    ]


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
