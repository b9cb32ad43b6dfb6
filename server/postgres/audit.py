"""How a database fits the declaration that it follows: who syncs, whose rows they are, and which indexes lists have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

from server.declaration import audit
from server.declaration.model import Declaration, Gate

PATIENCE: Final = "5s"
"""Limit on one statement: some of them read whole tables."""
NAMED: Final = 8
"""Values of the gate's column that are named."""
NULL: Final = "NULL"


@dataclass(frozen=True, slots=True)
class Audience:
    """Users by the value of the gate's column."""

    admitted: dict[str, int]
    others: dict[str, int]

    @classmethod
    def of(cls, gate: Gate, counts: Mapping[str | None, int]) -> "Audience":
        syncs = {value: users for value, users in counts.items() if gate.admits("" if value is None else value)}
        named = {NULL if value is None else value: users for value, users in syncs.items()}
        others = {NULL if value is None else value: n for value, n in counts.items() if value not in syncs}
        return cls(named, others)

    def __str__(self) -> str:
        lets_in, keeps_out = sum(self.admitted.values()), sum(self.others.values())
        inside = f" ({_listed(self.admitted)})" if self.admitted else ""
        outside = f", and keeps out {keeps_out:,} ({_listed(self.others)})" if self.others else ""
        return f"the gate lets in {lets_in:,} user{'' if lets_in == 1 else 's'}{inside}{outside}"


def _listed(counts: Mapping[str, int]) -> str:
    some = ", ".join(f"{value} {users:,}" for value, users in list(counts.items())[:NAMED])
    return some if len(counts) <= NAMED else f"{some} and {len(counts) - NAMED} more"


async def audience(connection: Any, declaration: Declaration) -> Audience | None:
    """None without a gate, or if the users cannot be counted in time."""
    query, gate = audit.gate(declaration), declaration.gate
    if query is None or gate is None:
        return None
    try:
        rows = await _patiently(connection, query)
    except asyncpg.QueryCanceledError:
        return None
    return Audience.of(gate, {row["value"]: row["users"] for row in rows})


async def ownerless(connection: Any, declaration: Declaration) -> list[str]:
    """Sentences about rows that belong to nobody."""
    found = []
    for name, query in audit.ownerless(declaration).items():
        kind = declaration.kind[name]
        assert kind.owner is not None
        try:
            ((none, unknown),) = await _patiently(connection, query)
        except asyncpg.QueryCanceledError:
            continue
        held = f"{kind.owner.name} of kind {name}"
        if none:
            found.append(f"{held} is NULL in {none:,} row{'' if none == 1 else 's'}")
        if unknown:
            found.append(f"{held} names no user in {unknown:,} row{'' if unknown == 1 else 's'}")
    return found


async def without_index(connection: Any, declaration: Declaration) -> dict[str, str]:
    """By kind: the statement that creates the index that its list lacks."""
    found = {}
    for each in audit.lists(declaration):
        async with connection.transaction():
            # A plan that sorts or reads a whole table now has no other way.
            await connection.execute("SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off")
            await connection.execute("SET LOCAL enable_incremental_sort = off; SET LOCAL enable_bitmapscan = off")
            plan = orjson.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {each.query}"))
        if not _is_served(plan[0]["Plan"]):
            found[each.kind] = each.statement
    return found


def _is_served(plan: dict[str, Any]) -> bool:
    if plan["Node Type"] in ("Sort", "Incremental Sort", "Seq Scan", "Bitmap Heap Scan"):
        return False
    # An index that begins with other columns is read as a whole.
    if plan["Node Type"] in ("Index Scan", "Index Only Scan") and "Index Cond" not in plan:
        return False
    return all(_is_served(each) for each in plan.get("Plans", ()))


async def _patiently(connection: Any, query: str) -> list[Any]:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = '{PATIENCE}'")
        return list(await connection.fetch(query))
