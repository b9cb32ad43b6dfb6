"""Real schemas as fixtures: tables, a declaration, a writer, and what each user's devices must hold by plain SQL.

Nothing here knows the product: it is an oracle for it. The tables and declarations are in tests/schemas.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from tests.support.schemas import aichat, framework, large, selfhosted, supachat, twelve, v1
from tests.support.schemas.writing import Change, NothingToPickError, Values

FOLDER: Final = Path(__file__).parents[2] / "schemas"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST_INSTANT: Final = (1 << 53) - 1
"""Microseconds. An instant beyond it, or before its negative, travels as the nearest that is not."""

Key = UUID | str | int
Id = Key | tuple[Key, ...]
State = dict[str, dict[Id, tuple[Any, ...]]]
"""By the kinds' names, by the rows' keys: the values of the columns, in the order of the declaration.

uuid is UUID. bigint is int, whatever its size. float is float, or text where it is no finite number. numeric and date
are text. instant is in microseconds since 1970-01-01 UTC, clamped. json is what it says, array a list, bytes are bytes.
"""
Outcome = Literal["committed", "rolled back", "refused"]


class RollbackError(Exception):
    """Rolls a transaction back."""


@dataclass(frozen=True)
class Schema:
    """A schema, and an app that writes to it."""

    name: str
    ddl: str
    """Makes the tables in an empty database."""
    declaration: Path
    changes: tuple[Change, ...]
    picks: Mapping[str, str]
    """Queries of one column: the rows that a change can name."""
    start: tuple[str, ...]
    """Statements that make a user with some rows."""
    selects: Mapping[str, str]
    """For each kind, a query of the rows of `$user`: the key, then the columns, under their names on the wire."""
    pairs: frozenset[str]
    """Kinds whose key has two columns."""

    async def add_user(self, sql: Any, user: UUID) -> None:
        """With some rows of each kind."""
        values = Values(sql, random.Random(str(user)), self.picks, user, user)
        for statement in self.start:
            query, arguments = await values.bind(statement)
            await sql.execute(query, *arguments)

    async def write(self, sql: Any, rng: random.Random, users: list[UUID], crossing: bool = True) -> Outcome:
        """Run a random transaction of one to four changes, for users that exist.

        `crossing`: rows may go from one user to another. If not, every text begins with the user who holds it.
        Refused is what a transaction cannot do beside others: a foreign key or unique key forbids it, or a deadlock.
        """
        # In a fixed order, as the documentation asks of transactions that write for several users.
        chosen = sorted(rng.choice(users) for _ in range(rng.choice((1, 1, 2, 3, 4))))
        try:
            async with sql.transaction():
                await sql.execute(f"SELECT setseed({rng.random()})")
                for user in chosen:
                    await self._change(sql, rng, user, rng.choice(users), crossing)
                if rng.random() < 0.1:
                    raise RollbackError
        except RollbackError:
            return "rolled back"
        except (asyncpg.ForeignKeyViolationError, asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
            return "refused"
        return "committed"

    async def expected(self, sql: Any, user: UUID) -> State:
        """What the devices of this user must hold, as far as the declaration has the kinds."""
        values = Values(sql, random.Random(0), {}, user, user)
        state: State = {}
        for kind, select in self.selects.items():
            width = 2 if kind in self.pairs else 1
            rows = state[kind] = {}
            query, arguments = await values.bind(select)
            statement = await sql.prepare(query)
            types = [attribute.type.name for attribute in statement.get_attributes()]
            for record in await statement.fetch(*arguments):
                row = tuple(_value(of, value) for of, value in zip(types, record, strict=True))
                rows[row[0] if width == 1 else row[:width]] = row[width:]
        return state

    async def _change(self, sql: Any, rng: random.Random, user: UUID, other: UUID, crossing: bool) -> None:
        if rng.random() < 0.1:
            try:
                async with sql.transaction():  # a savepoint
                    await self._one_change(sql, rng, user, other, crossing)
                    if rng.random() < 0.5:
                        raise RollbackError
            except RollbackError:
                pass
        else:
            await self._one_change(sql, rng, user, other, crossing)

    async def _one_change(self, sql: Any, rng: random.Random, user: UUID, other: UUID, crossing: bool) -> None:
        changes = [each for each in self.changes if crossing or not each.crosses]
        while True:
            (chosen,) = rng.choices(changes, [each.weight for each in changes])
            values = Values(sql, rng, self.picks, user, other)
            try:
                bound = [await values.bind(statement) for statement in chosen.statements]
            except NothingToPickError:
                continue
            for query, arguments in bound:
                await sql.execute(query, *arguments)
            return


def _value(of: str, value: Any) -> Any:
    """A value that was selected as this type, as State has it."""
    if value is None:
        return None
    match of:
        case "uuid":
            return UUID(int=value.int)
        case "json" | "jsonb":
            return json.loads(value)
        case "timestamp" | "timestamptz":
            micros = (value.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
            return min(max(micros, -LAST_INSTANT), LAST_INSTANT)
        case "float4" | "float8":
            if value - value != 0:
                return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
            return float(f"{value:.6g}") if of == "float4" else value  # all that the writers write have few digits
        case "int8[]":
            return _texts_of(value)
    return value


def _texts_of(value: Any) -> Any:
    """An array's integers as text."""
    if isinstance(value, list):
        return [_texts_of(each) for each in value]
    return None if value is None else str(value)


def _schema(module: ModuleType) -> Schema:
    name = module.__name__.rpartition(".")[2]
    return Schema(
        name,
        (FOLDER / name / "ddl.sql").read_text(),
        FOLDER / name / "sync.toml",
        module.CHANGES,
        module.PICKS,
        module.START,
        module.SELECTS,
        module.PAIRS,
    )


V1: Final = _schema(v1)
TWELVE: Final = _schema(twelve)
ALL: Final = (V1, *map(_schema, (aichat, supachat, large, selfhosted, framework)), TWELVE)
