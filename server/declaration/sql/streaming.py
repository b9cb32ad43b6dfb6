"""The functions by which streams reach the rows that they belong to. Pure."""

from collections.abc import Iterator

import orjson

from server.declaration.model import Declaration, Field, Kind
from server.declaration.sql.pieces import body, column, equal, literal, owned, owner, quoted, received, table

STREAMED = """\
-- For a stream: whose row this is, and what the column holds. Without a result there is no such row, or the column may
-- not be streamed.
CREATE OR REPLACE FUNCTION sync.streamed(_tag text, _key text[], _name text)
RETURNS TABLE (owner uuid, held text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS {body};
REVOKE ALL ON FUNCTION sync.streamed FROM PUBLIC;
"""
SETTLE = """\
-- Compares the text of a stream with its row. `_base`: md5 of what the column held when the stream was opened. Returns
-- `gone`, the row is not there or not the user's; `settled`, it has this text or another one of the app; `lags`; or,
-- with `_write`, for one that lags `written`.
CREATE OR REPLACE FUNCTION sync.settle(_tag text, _owner uuid, _key text[], _name text, _text text, _base text,
                                       _state text, _write boolean)
RETURNS text LANGUAGE plpgsql AS {body};
REVOKE ALL ON FUNCTION sync.settle FROM PUBLIC;
"""


def functions(declaration: Declaration) -> str:
    """The functions that the streams' own functions call."""
    streams = list(_streams(declaration))
    looks = [
        f"        RETURN QUERY SELECT {owner(declaration, kind, 't')}, {column('t', field)}::text\n"
        f"        FROM {table(kind.table)} t WHERE {_key(kind)};"
        for kind, _, field in streams
    ]
    streamed = "\n".join(["BEGIN", *_cases(streams, looks), "END"])
    writes = [_settle(declaration, kind, field) for kind, _, field in streams]
    settled = "\n".join(
        ["DECLARE", "    _held pg_catalog.text;", "BEGIN", *_cases(streams, writes), "    RETURN 'gone';", "END"]
    )
    return STREAMED.format(body=body(streamed)) + SETTLE.format(body=body(settled))


def close(former: Declaration | None, declaration: Declaration) -> str:
    """The statement that writes into their rows the texts of columns that this declaration does not stream, or finds
    elsewhere than the former one."""
    before = {} if former is None else {kind.tag: kind for kind in former.kinds}
    kept = {
        kind.tag: {
            name: kind.tag in before and _place(before[kind.tag], name) == _place(kind, name) for name in kind.streams
        }
        for kind in declaration.kinds
    }
    return f"SELECT sync.close_streams({literal(orjson.dumps(kept).decode())})"


def _place(kind: Kind, name: str) -> tuple[object, ...]:
    """Where a text is written, and what the key of its row is."""
    column = kind.column.get(name)
    return kind.table, [(field.name, field.of) for field in kind.key], column and column.field.name


def _streams(declaration: Declaration) -> Iterator[tuple[Kind, str, Field]]:
    for kind in declaration.kinds:
        for name in kind.streams:
            yield kind, name, kind.column[name].field


def _cases(streams: list[tuple[Kind, str, Field]], actions: list[str]) -> Iterator[str]:
    for (kind, name, _), action in zip(streams, actions, strict=True):
        yield f"    IF _tag = {literal(kind.tag)}::text AND _name = {literal(name)}::text THEN"
        yield action
        yield "    END IF;"


def _key(kind: Kind) -> str:
    return " AND ".join(
        equal(column("t", field), received(field, f"_key[{i}]"), field) for i, field in enumerate(kind.key, 1)
    )


def _settle(declaration: Declaration, kind: Kind, field: Field) -> str:
    of, held = table(kind.table), f"{column('t', field)}::text"
    where = f"{_key(kind)} AND {owned(declaration, kind, 't', '_owner')}"
    marks = [] if kind.ended is None else [f"{quoted(kind.ended.name)} = _state::{kind.ended.type}"]
    sets = [f"{quoted(field.name)} = _text::{field.type}", *marks]
    updated = None if kind.devices is None else kind.devices.updated
    if updated is not None:
        now = (
            "pg_catalog.timezone('UTC', pg_catalog.now())"
            if updated.type.startswith("timestamp without")
            else "pg_catalog.now()"
        )
        sets.append(f"{quoted(updated.name)} = greatest({column('t', updated)}, {now})")
    lags = "(_held IS NULL OR _held = ''::text OR pg_catalog.md5(_held) IS NOT DISTINCT FROM _base"
    mark = (
        [
            f"            IF {lags}) THEN",
            "                IF NOT _write THEN",
            "                    RETURN 'lags';",
            "                END IF;",
            f"                UPDATE {of} t SET {', '.join(marks)} WHERE {where};",
            "            END IF;",
        ]
        if marks
        else []
    )
    return "\n".join(
        [
            f"        SELECT {held} INTO _held FROM {of} t WHERE {where};",
            "        IF NOT FOUND THEN",
            "            RETURN 'gone';",
            "        END IF;",
            "        IF _text = ''::text THEN",
            *mark,
            "            RETURN 'settled';",
            "        END IF;",
            f"        IF _held = _text OR NOT {lags}",
            "                                 OR pg_catalog.length(_held) < pg_catalog.length(_text)",
            "                                    AND pg_catalog.starts_with(_text, _held)) THEN",
            "            RETURN 'settled';",
            "        END IF;",
            "        IF NOT _write THEN",
            "            RETURN 'lags';",
            "        END IF;",
            f"        UPDATE {of} t SET {', '.join(sets)}",
            f"        WHERE {where} AND {held} IS NOT DISTINCT FROM _held;",
            "        RETURN CASE WHEN FOUND THEN 'written'::text ELSE 'lags'::text END;",
        ]
    )
