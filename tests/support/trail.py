"""The trail of a database: every change that the server made for a device, recorded by triggers as an app may have."""

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
    CREATE FUNCTION trail.follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        IF session_user IN {SERVER_LOGINS} THEN
            INSERT INTO trail.steps (kind, op, sub, key, former, said)
            SELECT TG_ARGV[0], TG_OP, nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub',
                   ARRAY(SELECT to_jsonb(CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END) ->> k
                         FROM unnest(string_to_array(TG_ARGV[1], '/')) AS k),
                   CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
                   CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
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
            "SELECT string_agg(attname, '/' ORDER BY n) FROM pg_index, unnest(indkey) WITH ORDINALITY AS k (attnum, n) "
            "JOIN pg_attribute a USING (attnum) WHERE indrelid = $1::text::regclass AND indisprimary "
            "AND attrelid = indrelid",
            table,
        )
        await sql.execute(
            f"CREATE TRIGGER trail AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW "
            f"EXECUTE FUNCTION trail.follow('{kind}', '{key}')"
        )


async def steps(sql: Any) -> list[Step]:
    """In their order."""
    found = await sql.fetch("SELECT * FROM trail.steps ORDER BY n")
    return [
        Step(kind, op, sub, tuple(key), frozenset(_marks(said) - _marks(former)))
        for _, kind, op, sub, key, former, said in found
    ]


def counted(steps: list[Step]) -> Counter[str]:
    """How often each mark was written."""
    return Counter(mark for step in steps for mark in step.marks)


def _marks(document: str | None) -> set[str]:
    return set() if document is None else set(MARK.findall(json.dumps(json.loads(document))))
