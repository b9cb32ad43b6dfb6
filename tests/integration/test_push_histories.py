"""P4: a device that goes from database to database, each with a history of its own, against what each was given."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from atlas_sync.chat import rename_conversation
from atlas_sync.codec import CODECS
from atlas_sync.mutation import Applied as DeviceApplied
from atlas_sync.mutation import Mutation, Result
from atlas_sync.mutation import Rejected as DeviceRejected
from atlas_sync.outbox import EntryState, Outbox
from atlas_sync.schema import Schema
from atlas_sync.session import ErrorAnswer, Limits
from atlas_sync.storage import MemoryStorage
from atlas_sync.wire import Wire
from protocol.codec import MSGPACK
from protocol.frames import Error, Rejected
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.postgres.connection import statement
from server.postgres.timestamps import use_instants
from server.postgres.writer import PostgresWriter
from server.write import rules
from server.write.push import OwnedPush
from tests.support.audit import keep_audit
from tests.support.cluster import Cluster, administrator
from tests.support.device import now
from tests.support.rows import encoded_value

MOST = Limits(262_144, 1_000, 4, 3)

WIRE = Wire(CODECS["msgpack"], Schema.chat())
FAR = 3_600_000_000
LIVES = 60
TEXTS = "SELECT array_agg(said::int ORDER BY n) FROM audit WHERE id = $1 AND op = 'UPDATE'"


class Directly:
    """In a pool's place: one connection."""

    def __init__(self, sql: Any) -> None:
        self.sql = sql

    async def fetch(self, name: str, *arguments: object, seconds: float) -> list[Any]:
        return await self.sql.fetch(statement(name), *arguments)  # type: ignore[no-any-return]  # asyncpg's list


@pytest.fixture
async def databases(postgres_18: Cluster) -> AsyncIterator[list[Any]]:
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(3):
            made = await postgres_18.create()
            stack.push_async_callback(made.drop)
            connections.append(await stack.enter_async_context(administrator(made)))
            await keep_audit(connections[-1])
            await use_instants(connections[-1])
        yield connections


class Wanderer:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.user, self.conversation = uuid4(), uuid4()
        self.outbox = Outbox(MemoryStorage(), Schema.chat())
        self._said = 0
        self._texts: dict[int, int] = {}
        """By key; what no database takes has none."""

    async def begin(self, sql: Any) -> None:
        await sql.execute("INSERT INTO profiles (id, subscription_tier) VALUES ($1, 'core')", self.user)
        await sql.execute("INSERT INTO conversations (id, user_id) VALUES ($1, $2)", self.conversation, self.user)

    def say(self) -> None:
        self._said += 1
        good = self._rng.random() < 0.7
        at, somewhere = now(), self.conversation
        if not good:
            at, somewhere = self._rng.choice([(at + FAR, somewhere), (at, uuid4())])
        entry = self.outbox.add(rename_conversation(somewhere, str(self._said), at))
        if good:
            self._texts[entry.key] = self._said

    async def visit(self, sql: Any, generation: int) -> None:
        """One connection, on which a few things happen."""
        self.outbox.begin(MOST)
        takes = True
        for _ in range(self._rng.randrange(1, 10)):
            match self._rng.choice(["say", "say", "push", "push", "push", "reach"]):
                case "say":
                    self.say()
                case "push":
                    answered = await self._push(sql, generation, takes)
                    if answered is None:
                        return
                    takes = takes and not answered
                case "reach":
                    seqs = [entry.seq for entry in self.outbox.entries if entry.seq]
                    self.outbox.advance(self._rng.choice(seqs) if seqs else None)

    async def _push(self, sql: Any, generation: int, takes: bool) -> bool | None:
        """Whether it was acknowledged; None: the answer was lost."""
        found = self.outbox.next_push(MOST, WIRE, 1e9)
        if found is None:
            return False
        push = OwnedPush(
            user=self.user,
            client_id=self.outbox.client_id,
            session=str(generation),
            claims_client_id=takes,
            first=found.n,
            mutations=[rules.check(_sent(each), rules.forms(CHAT), MSGPACK, now()) for each in found.mutations],
            generation=generation,
            held=found.held,
        )
        (outcome,) = await PostgresWriter(Directly(sql), Synced(CHAT)).write([push], 5.0)  # type: ignore[arg-type]
        answer = rules.answer(push, outcome)
        if self._rng.random() < 0.15:
            return None
        if isinstance(answer, Error):
            assert (answer.code, answer.expected == found.n) == ("gap", False)
            refused = ErrorAnswer(answer.code, answer.message, True, "push", answer.id, None, answer.expected)
            self.outbox.push_failed(refused, 0, 0)
            return False
        self.outbox.acknowledge(tuple(map(_heard, answer.results)))
        return True

    async def check(self, sql: Any) -> None:
        there = await sql.fetchval(TEXTS, self.conversation) or []
        assert there == sorted(set(there)), "twice, or in another order"
        acked = {
            entry.key for entry in self.outbox.entries if entry.state is EntryState.ACKED and entry.seq is not None
        }
        assert {self._texts[key] for key in acked} <= set(there), "lost"
        assert not [entry for entry in self.outbox.quarantine if entry.key in self._texts], "rejected as another one"


def _sent(mutation: Mutation | None) -> Any:
    return None if mutation is None else MSGPACK.mutation(encoded_value(WIRE.mutation(mutation)))


def _heard(result: Any) -> Result:
    if isinstance(result, Rejected):
        return DeviceRejected(result.n, result.code, result.message)
    # To a device a repeat is the same.
    return DeviceApplied(result.n, result.seq)


async def test_whatever_numbers_it_is_given_each_database_has_all_once_and_in_order(databases: list[Any]) -> None:
    for seed in range(LIVES):
        rng = random.Random(seed)
        device = Wanderer(rng)
        for sql in databases:
            await device.begin(sql)
        for generation in range(1, rng.randrange(4, 12)):
            sql = rng.choice(databases)
            await device.visit(sql, generation)
            await device.check(sql)
