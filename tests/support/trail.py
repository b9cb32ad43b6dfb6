"""The trail of a database, recorded by triggers as an app may have them.

It has every change that the server made for a device, and the keys that others gave to rows.
"""

import json
import re
from collections import Counter
from typing import Any, Final, NamedTuple

from tests.support.cluster import SERVER_LOGINS

TRAIL: Final = f"""
    CREATE SCHEMA trail;
    CREATE TABLE trail.steps (
        n bigint GENERATED ALWAYS AS IDENTITY, kind text, op text, sub text, key text[], former jsonb, said jsonb
    );
    CREATE TABLE trail.given (kind text, key text[]);
    CREATE FUNCTION trail.follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        former text[];
        said text[];
    BEGIN
        -- Not by way of JSON: a column of the type json may hold what jsonb refuses.
        IF TG_OP <> 'INSERT' THEN
            EXECUTE TG_ARGV[1] USING OLD INTO former;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            EXECUTE TG_ARGV[1] USING NEW INTO said;
        END IF;
        IF session_user IN {SERVER_LOGINS} THEN
            INSERT INTO trail.steps (kind, op, sub, key, former, said)
            VALUES (TG_ARGV[0], TG_OP, nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub',
                    coalesce(former, said), CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
                    CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
        ELSIF said IS DISTINCT FROM former AND TG_OP <> 'DELETE' THEN
            INSERT INTO trail.given VALUES (TG_ARGV[0], said);
        END IF;
        RETURN NULL;
    END
    $$;
"""
MARK: Final = re.compile("#[0-9a-f]{12};")


class Step(NamedTuple):
    kind: str
    op: str
    sub: str
    """The user for whom the server wrote."""
    key: tuple[str, ...]
    """As texts."""
    marks: frozenset[str]
    """The marks of texts that this step wrote."""


async def follow(sql: Any, tables: dict[str, str]) -> None:
    """Record what the server does to these tables, which are quoted, by kind."""
    await sql.execute(TRAIL)
    for kind, table in tables.items():
        key = await sql.fetchval(
            "SELECT string_agg(format('($1).%I::text', attname), ', ' ORDER BY n) "
            "FROM pg_index, unnest(indkey) WITH ORDINALITY AS k (attnum, n) "
            "JOIN pg_attribute a USING (attnum) WHERE indrelid = $1::text::regclass AND indisprimary "
            "AND attrelid = indrelid",
            table,
        )
        await sql.execute(
            f"CREATE TRIGGER trail AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW "
            f"EXECUTE FUNCTION trail.follow('{kind}', 'SELECT ARRAY[{key}]')"
        )


async def steps(sql: Any) -> list[Step]:
    """In their order."""
    found = await sql.fetch("SELECT * FROM trail.steps ORDER BY n")
    return [
        Step(kind, op, sub, tuple(key), frozenset(_marks(said) - _marks(former)))
        for _, kind, op, sub, key, former, said in found
    ]


async def given(sql: Any) -> set[tuple[str, tuple[str, ...]]]:
    """The kinds and keys of rows that others than the server inserted, or gave another key."""
    return {(kind, tuple(key)) for kind, key in await sql.fetch("SELECT kind, key FROM trail.given")}


def counted(steps: list[Step]) -> Counter[str]:
    """How often each mark was written."""
    return Counter(mark for step in steps for mark in step.marks)


def _marks(document: str | None) -> set[str]:
    return set() if document is None else set(MARK.findall(json.dumps(json.loads(document))))
