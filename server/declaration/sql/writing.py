"""The functions that apply the mutations of devices: one for each kind that devices write. Pure.

Every statement names the owner of the row, so rows of another user are not found, as if they did not exist.
"""

from protocol.schema import Type
from server.declaration.model import Declaration, Devices, Field, Kind, Parent
from server.declaration.sql.pieces import archive, body, column, equal, literal, owned, quoted, received, table, tables

DISPATCH = """\
-- Applies one mutation: `op` is + (insert), ~ (update) or - (delete), `key` the row's key, of which the second half may
-- be the instant by which a table is partitioned, in microseconds since 1970. Returns NULL, the code of a rejection, or
-- `more`: a part was deleted, and the rest is to be deleted by another call.
CREATE OR REPLACE FUNCTION sync.write(tag text, op text, owner uuid, key text[], patch jsonb, at timestamptz)
RETURNS text LANGUAGE sql AS {body};
REVOKE ALL ON FUNCTION sync.write FROM PUBLIC;
"""
"""In SQL, so that Postgres replaces the call by its body."""

ADMITTED = """\
-- Whether this user syncs: at most one row.
DROP FUNCTION IF EXISTS sync.admitted(uuid);
CREATE OR REPLACE FUNCTION sync.admitted(owner uuid) RETURNS SETOF boolean
LANGUAGE sql STABLE AS {body};
REVOKE ALL ON FUNCTION sync.admitted FROM PUBLIC;
"""
"""A set, so that Postgres replaces the call by its body. Earlier versions returned a boolean."""

TIER = """\
-- The value of the gate's column by which this user syncs, or not.
CREATE OR REPLACE FUNCTION sync.tier(owner uuid) RETURNS text
LANGUAGE sql STABLE AS {body};
REVOKE ALL ON FUNCTION sync.tier FROM PUBLIC;
"""

ARCHIVED_AFTER = "_at < pg_catalog.now() - '27 days'::pg_catalog.interval"
"""No month is archived before it is over."""


def name(kind: Kind) -> str:
    return f"sync.write_{kind.name}"


def dispatch(declaration: Declaration) -> str:
    """The function that calls those of the kinds."""
    cases = [
        f"        WHEN {literal(kind.tag)} THEN {name(kind)}(op, owner, key, patch, at)"
        for kind in declaration.kinds
        if kind.devices is not None
    ]
    text = ["    SELECT CASE tag", *cases, "        ELSE 'not_allowed' END"] if cases else ["    SELECT 'not_allowed'"]
    return DISPATCH.format(body=body("\n".join(text)))


def admitted(declaration: Declaration) -> str:
    """The function that says who syncs."""
    gate = declaration.gate
    if gate is None:
        return ADMITTED.format(body=body("    SELECT true"))
    kind = declaration.kind[gate.kind]
    values = ", ".join(map(literal, gate.syncs or gate.local_only))
    held = f"{column('q', gate.field)}::text"
    admits = f"{held} IN ({values})" if gate.syncs else f"({held} IN ({values})) IS NOT TRUE"
    row = f"FROM {table(kind.table)} q WHERE {owned(declaration, kind, 'q', '$1')} LIMIT 1"
    return ADMITTED.format(body=body(f"    SELECT {admits} {row}"))


def tier(declaration: Declaration) -> str:
    """The function that says by which value a user syncs, or not. Usage is counted by it."""
    gate = declaration.gate
    if gate is None:
        return TIER.format(body=body("    SELECT NULL::text"))
    kind = declaration.kind[gate.kind]
    row = f"FROM {table(kind.table)} q WHERE {owned(declaration, kind, 'q', '$1')} LIMIT 1"
    return TIER.format(body=body(f"    SELECT (SELECT {column('q', gate.field)}::text {row})"))


def function(declaration: Declaration, kind: Kind) -> str:
    """The function that applies the mutations of a kind. Kinds that devices only read have none."""
    devices = kind.devices
    if devices is None:
        return ""
    dated = kind.dated is not None
    parts = [
        "#variable_conflict use_variable",
        "DECLARE",
        *(f"    _key{i} {field.type} := {received(field, f'_key[{i}]')};" for i, field in enumerate(kind.key, 1)),
        *(
            ["    _row_at pg_catalog.timestamptz := CASE WHEN _op <> '+' THEN sync.instant(_key[2]) END;"]
            if dated
            else []
        ),
        *(
            [f"    _parent {kind.parent.field.type} := {_parent(kind, kind.parent)};"]
            if kind.parent is not None
            else []
        ),
        *(["    _owns pg_catalog.bool;"] if kind.archive is not None else []),
        "BEGIN",
        "    CASE _op",
        "    WHEN '+' THEN",
        *_indented(_insert(declaration, kind, devices)),
        "    WHEN '~' THEN",
        *_indented(_update(declaration, kind, devices)),
        "    WHEN '-' THEN",
        *_indented(_delete(declaration, kind, devices)),
        "    END CASE;",
        "    RETURN NULL;",
        "END",
    ]
    text = "\n".join(parts)
    return (
        f"-- Applies mutations of rows of kind {kind.name}.\n"
        f"CREATE OR REPLACE FUNCTION {name(kind)}"
        "(_op text, _owner uuid, _key text[], _patch jsonb, _at timestamptz)\n"
        f"RETURNS text LANGUAGE plpgsql AS {body(text)};\n"
        f"REVOKE ALL ON FUNCTION {name(kind)} FROM PUBLIC;\n"
    )


def _indented(lines: list[str]) -> list[str]:
    return [f"        {line}" for line in lines]


def _given(field: Field, wire: str) -> str:
    """The value of a column in the patch."""
    return received(field, f"_patch ->> {literal(wire)}::text")


def _parent(kind: Kind, parent: Parent) -> str:
    """The parent in the patch."""
    return _given(parent.field, kind.columns[0].name)


def _key(kind: Kind, alias: str) -> str:
    """A condition that the row `alias` has the key."""
    return " AND ".join(equal(column(alias, field), f"_key{i}", field) for i, field in enumerate(kind.key, 1))


def _dated(kind: Kind, alias: str, at: str) -> str:
    return "" if kind.dated is None else f" AND {column(alias, kind.dated)} = {at}"


def _insert(declaration: Declaration, kind: Kind, devices: Devices) -> list[str]:
    if devices.insert is None:
        return ["RETURN 'not_allowed';"]
    key = {field.name: f"_key{i}" for i, field in enumerate(kind.key, 1)}
    values = dict(key)
    parent = declaration.parent_of(kind)
    checks: list[str] = []
    if kind.parent is not None:
        values.setdefault(kind.parent.field.name, f"o.{quoted(parent.key[0].name)}" if parent is not None else "")
    for holder in (kind.owner, devices.owner):
        if holder is None:
            continue
        if holder.name in key:
            # The user is a part of the key, which the device makes.
            checks += [f"IF {key[holder.name]}::text <> _owner::text THEN", "    RETURN 'bad_id';", "END IF;"]
        else:
            values[holder.name] = "_owner" if holder.of is Type.UUID else "_owner::text"
    for wire in devices.insert:
        field = kind.column[wire].field
        if field.name not in values:
            given = _given(field, wire)
            values[field.name] = (
                given
                if field.default is None
                else f"CASE WHEN _patch ? {literal(wire)}::text THEN {given} ELSE {field.default} END"
            )
    for moment in (devices.created, devices.updated):
        if moment is not None:
            values.setdefault(moment.name, _moment(moment))
    names = ", ".join(quoted(each) for each in values)
    chosen = ", ".join(values.values())
    checks += _check_references(declaration, kind, devices.insert, key)
    conflict = ", ".join(quoted(field.name) for field in [*kind.key, *([kind.dated] if kind.dated else [])])
    if parent is None:
        lines = [
            *checks,
            f"INSERT INTO {table(kind.table)} ({names})",
            f"VALUES ({chosen})",
            f"ON CONFLICT ({conflict}) DO NOTHING;",
        ]
        missing: list[str] = []
    else:
        assert kind.parent is not None
        its = owned(declaration, parent, "o", "_owner")
        same = equal(column("o", parent.key[0]), "_parent", parent.key[0], kind.parent.field)
        found = f"{same} AND {its}"
        lines = [
            *checks,
            f"INSERT INTO {table(kind.table)} ({names})",
            f"SELECT {chosen}",
            f"FROM {table(parent.table)} o WHERE {found}",
            f"ON CONFLICT ({conflict}) DO NOTHING;",
        ]
        missing = [
            f"PERFORM FROM {table(parent.table)} o WHERE {found};",
            "IF NOT FOUND THEN",
            "    RETURN 'unknown_parent';",
            "END IF;",
        ]
    lines.append("IF NOT FOUND THEN")
    lines += [f"    {line}" for line in missing]
    lines += [
        f"    PERFORM FROM {table(kind.table)} t WHERE {_key(kind, 't')}{_dated(kind, 't', '_at')} "
        f"AND {owned(declaration, kind, 't', '_owner')};",
        "    IF NOT FOUND THEN",
        "        RETURN 'bad_id';",
        "    END IF;",
    ]
    if parent is not None and devices.touches is not None:
        touched = quoted(devices.touches.name)
        lines += [
            "ELSE",
            f"    UPDATE {table(parent.table)} o SET {touched} = {_moment(devices.touches)}",
            f"    WHERE {found} AND o.{touched} < {_moment(devices.touches)};",
        ]
    lines.append("END IF;")
    old = archive(kind)
    if old is None:
        return lines
    return [
        f"IF {ARCHIVED_AFTER} THEN",
        f"    SELECT coalesce({owned(declaration, kind, 't', '_owner')}, false) INTO _owns",
        f"    FROM {table(old)} t WHERE {_key(kind, 't')}{_dated(kind, 't', '_at')};",
        "    IF FOUND THEN",
        "        IF _owns THEN",
        "            RETURN NULL;",
        "        END IF;",
        *(f"        {line}" for line in missing),
        "        RETURN 'bad_id';",
        "    END IF;",
        "END IF;",
        *lines,
    ]


def _check_references(
    declaration: Declaration, kind: Kind, wires: tuple[str, ...], key: dict[str, str] | None = None
) -> list[str]:
    """That the rows which the values name are the user's. Otherwise the foreign key would say whether a row of another
    user exists, and what happens to that would happen to this one. `key`: its values, if they are to be checked too."""
    given = {kind.column[wire].field.name: (wire, _given(kind.column[wire].field, wire)) for wire in wires}
    given |= {name: ("", value) for name, value in (key or {}).items()}
    lines = []
    for name, reference in kind.references.items():
        if name not in given:
            continue
        wire, value = given[name]
        target = declaration.kind[reference.kind]
        held = next((each.field for each in kind.own if each.field.name == name), reference.field)
        same = equal(column("r", reference.field), value, reference.field, held)
        absent = f"_patch ->> {literal(wire)}::text IS NOT NULL AND " if wire else ""
        lines += [
            f"IF {absent}NOT EXISTS (",
            f"    SELECT FROM {table(target.table)} r WHERE {same} AND {owned(declaration, target, 'r', '_owner')}",
            ") THEN",
            f"    RETURN 'bad_value{':' if wire else ''}{wire}';",
            "END IF;",
        ]
    return lines


def _moment(field: Field) -> str:
    return "pg_catalog.timezone('UTC', _at)" if field.type.startswith("timestamp without") else "_at"


def _update(declaration: Declaration, kind: Kind, devices: Devices) -> list[str]:
    if not devices.update:
        return ["RETURN 'not_allowed';"]
    sets = []
    for wire in devices.update:
        field = kind.column[wire].field
        given = _given(field, wire)
        if len(devices.update) > 1:
            given = f"CASE WHEN _patch ? {literal(wire)}::text THEN {given} ELSE {column('t', field)} END"
        sets.append(f"{quoted(field.name)} = {given}")
    if devices.updated is not None:
        moment = devices.updated
        sets.append(f"{quoted(moment.name)} = greatest({column('t', moment)}, {_moment(moment)})")
    permitted = "".join(
        f" AND {column('t', kind.column[wire].field)}::text IN ({', '.join(map(literal, limit))})"
        for wire, limit in kind.limits.items()
        if isinstance(limit, tuple)
    )
    where = f"{_key(kind, 't')}{_dated(kind, 't', '_row_at')} AND {owned(declaration, kind, 't', '_owner')}"
    lines = _check_references(declaration, kind, devices.update)
    for i, each in enumerate(tables(kind)):
        indent = "    " if i else ""
        lines += ["IF NOT FOUND THEN"] if i else []
        lines += [
            f"{indent}UPDATE {table(each)} t SET {', '.join(sets)}",
            f"{indent}WHERE {where}{permitted};",
        ]
        lines += ["END IF;"] if i else []
    lines.append("IF NOT FOUND THEN")
    if permitted:
        source = f"sync.all_{quoted(kind.table.name)}" if kind.archive is not None else table(kind.table)
        lines += [
            f"    PERFORM FROM {source} t WHERE {where};",
            "    IF FOUND THEN",
            "        RETURN 'bad_value';",
            "    END IF;",
        ]
    return [*lines, "    RETURN 'unknown_row';", "END IF;"]


def _in_portions(
    kind: Kind, where: str, below: Kind, alias: str, link: str, via: tuple[str, str] | None = None
) -> list[str]:
    """Deletes a portion of the rows of a kind `below` the row, if they are many. `link` finds them; `via`: the table
    between, and the condition that finds its rows."""
    source = f"sync.all_{quoted(below.table.name)}" if below.archive is not None else table(below.table)
    between = "" if via is None else f"{via[0]} ON {via[1]} JOIN "
    lines = [
        f"IF (SELECT count(*) FROM (SELECT FROM {table(kind.table)} t JOIN {between}{source} {alias} ON {link}",
        f"                          WHERE {where} LIMIT sync.portion() + 1) first) > sync.portion() THEN",
    ]
    key = [*below.key, *([below.dated] if below.dated else [])]
    some = ", ".join(column(alias, field) for field in key)
    same = " AND ".join(equal(column(alias, field), f"old.{quoted(field.name)}", field) for field in key)
    ordered = ", ".join(column(alias, field) for field in reversed(key))
    for each in tables(below):
        if via is None:
            # Newest last, as far as the table has an order.
            found = f"{table(each)} {alias} WHERE {link} ORDER BY {ordered}"
        else:
            found = f"{via[0]} JOIN {table(each)} {alias} ON {link} WHERE {via[1]}"
        lines += [
            f"    DELETE FROM {table(each)} {alias} USING (",
            f"        SELECT {some} FROM {found} LIMIT sync.portion()",
            f"    ) old WHERE {same};",
            "    IF FOUND THEN",
            "        RETURN 'more';",
            "    END IF;",
        ]
    return [*lines, "    -- Nothing was deleted: a trigger of the app keeps them.", "END IF;"]


def _delete(declaration: Declaration, kind: Kind, devices: Devices) -> list[str]:
    if not devices.delete:
        return ["RETURN 'not_allowed';"]
    lines: list[str] = []
    where = f"{_key(kind, 't')}{_dated(kind, 't', '_row_at')} AND {owned(declaration, kind, 't', '_owner')}"
    for child in declaration.children_of(kind):
        assert child.parent is not None
        of_it = equal(column("c", child.parent.field), "_key1", child.parent.field, kind.key[0])
        for grandchild in declaration.children_of(child):
            # First: those of a few children may be many.
            assert grandchild.parent is not None
            link = equal(
                column("g", grandchild.parent.field), column("c", child.key[0]), grandchild.parent.field, child.key[0]
            )
            lines += _in_portions(kind, where, grandchild, "g", link, (f"{table(child.table)} c", of_it))
        lines += _in_portions(kind, where, child, "c", of_it)
    lines.append(f"DELETE FROM {table(kind.table)} t WHERE {where};")
    old = archive(kind)
    if old is not None:
        # In both tables: SQL of the app may have inserted an archived row again.
        lines += [
            "IF _row_at < pg_catalog.now() - '27 days'::pg_catalog.interval THEN",
            f"    DELETE FROM {table(old)} t WHERE {where};",
            "END IF;",
        ]
    return lines
