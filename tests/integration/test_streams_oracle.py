"""Streams, whatever happens: each text that a device holds was written by somebody, no right character is taken back,
nobody else sees it, and at the end every device shows what the row has.

What an append's answer promises: nothing but a crash of Postgres takes it away, and that only if it was answered less
than 600 ms before, because these commits wait for no disk. What the answer to an end promises: the text stays.

A longer run, and the same again: tests/support/faults.py.
"""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any
from uuid import UUID

from tests.support.cluster import Cluster, Database, administrator, crashing_cluster
from tests.support.faults import go_wrong, seconds, seeded
from tests.support.people import add_conversation, add_user
from tests.support.serving import ServerProcess
from tests.support.streaming import SERVICE, Answer, App, Job, StreamDevice
from tests.support.waiting import eventually

SECONDS = seconds(4)
SETTLE = 30.0
"""Seconds until every device must be up to date, once the faults have ended."""
WRITERS = 8
TIME_PASSES = """
    UPDATE sync.streams SET look_at = now(), touched_at = touched_at - interval '1 minute',
                            ended_at = ended_at - interval '1 minute'
    WHERE settled_at IS NULL
"""
"""For a minute no writer gave a sign of life, and no row was written."""


class Backend:
    """The app: it inserts rows, and has jobs write their texts; when one dies, another goes on."""

    def __init__(
        self, servers: list[ServerProcess], app: App, conversations: dict[UUID, UUID], rng: random.Random
    ) -> None:
        self._servers = servers
        self._app = app
        self._conversations = conversations
        self._rng = rng
        self.answers: dict[UUID, Answer] = {}
        self.ends = 0

    async def run(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            await self._answer(ending)

    async def _answer(self, ending: asyncio.Event) -> None:
        rng = self._rng
        user = rng.choice(list(self._conversations))
        answer = Answer(UUID(int=rng.getrandbits(128)), user, rng.choice(["", "", "the former answer"]))
        answer.attempt(0, "")
        self.answers[answer.message] = answer
        await self._app.execute(
            "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'assistant', $3) "
            "ON CONFLICT DO NOTHING",
            answer.message,
            self._conversations[user],
            answer.base,
        )
        while True:
            if rng.random() < 0.15:  # a job that is taken for dead, and one that goes on in its place
                ends = await asyncio.gather(*(self._job(answer).run(only=False) for _ in range(2)))
            else:
                ends = [await self._job(answer).run(only=True)]
            if any(ends):
                self.ends += 1
                return
            if rng.random() < 0.05:
                answer.deleted = True
                await self._app.execute("DELETE FROM messages WHERE id = $1", answer.message)
                return
            if ending.is_set() or rng.random() < 0.1:
                return  # nobody goes on

    def _job(self, answer: Answer) -> Job:
        return Job(self._servers, self._app, answer, random.Random(self._rng.random()))


class Faults:
    """What goes wrong."""

    def __init__(
        self,
        rng: random.Random,
        servers: list[ServerProcess],
        cluster: Cluster,
        backend: Backend,
        devices: list[StreamDevice],
    ) -> None:
        self._rng = rng
        self._servers = servers
        self._cluster = cluster
        self._backend = backend
        self._devices = devices

    async def run(self, lasts: float) -> Counter[str]:
        faults = [
            self.a_server_is_killed,
            self.a_server_is_killed,
            self.notices_are_cut,
            self.every_connection_to_postgres_is_cut,
            self.postgres_crashes,
        ]
        return await go_wrong(faults, self._rng, lasts, 0.8)

    async def a_server_is_killed(self) -> None:
        server = self._rng.choice(self._servers)
        await server.kill()
        await asyncio.sleep(self._rng.random() * 0.5)
        await server.start()

    async def notices_are_cut(self) -> None:
        await self._cluster.end_connections("query ILIKE 'NOTIFY%'")

    async def every_connection_to_postgres_is_cut(self) -> None:
        await self._cluster.end_connections()

    async def postgres_crashes(self) -> None:
        at = asyncio.get_running_loop().time()
        self._cluster.crash()  # on this thread, so nobody hears anything meanwhile
        for answer in self._backend.answers.values():
            answer.crashed(at)
        for device in self._devices:
            device.crashes += 1


async def test_every_device_shows_what_was_written_and_at_the_end_what_the_row_has() -> None:
    rng = seeded()
    async with crashing_cluster("18") as cluster:
        await _run(cluster, await cluster.create(), rng)


async def _run(cluster: Cluster, database: Database, rng: random.Random) -> None:
    sql = await database.connect()
    users = [await add_user(sql) for _ in range(3)]
    conversations = {user: await add_conversation(sql, user) for user in users}
    stranger = await add_user(sql)
    await sql.close()
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                ServerProcess(database.server_url, ATLAS_SERVICE_TOKEN=SERVICE, ATLAS_HELLOS_PER_MINUTE="100000")
            )
            for _ in range(2)
        ]
        backend = Backend(servers, App(database.url), conversations, random.Random(rng.random()))
        devices = [
            StreamDevice(servers, user, backend.answers, random.Random(rng.random()))
            for user in (*users, *users, stranger)
        ]
        following = [asyncio.create_task(device.run()) for device in devices]
        ending = asyncio.Event()
        writing = [asyncio.create_task(backend.run(ending)) for _ in range(WRITERS)]
        faults = Faults(rng, servers, cluster, backend, devices)
        failing = asyncio.create_task(faults.run(SECONDS))
        done, _ = await asyncio.wait([failing, *following, *writing], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        ending.set()
        async with asyncio.timeout(SETTLE):
            await asyncio.gather(*writing)

        sql = await stack.enter_async_context(administrator(database))
        await eventually(lambda: _settled(sql), SETTLE)
        for device in devices:
            device.calm = True
        for user, device in zip((*users, *users, stranger), devices, strict=True):
            rows = dict(await sql.fetch(OF_USER, user))
            await _follows(device, rows, following)
        for answer in backend.answers.values():
            await _learn(sql, answer)
            answer.check(await sql.fetchval("SELECT content FROM messages WHERE id = $1", answer.message))
        for device in devices:
            device.check()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        print(failing.result(), backend.ends, len(backend.answers), [device.counts for device in devices])  # noqa: T201
        assert backend.ends > 5
        for server in servers:
            assert not [event for event in server.log if "exception" in event]


OF_USER = """
    SELECT m.id, m.content FROM messages m JOIN conversations c ON c.id = m.conversation_id WHERE c.user_id = $1
"""


async def _settled(sql: Any) -> bool:
    """No writer is there any more: time passes until no stream is left that is not settled."""
    await sql.execute(TIME_PASSES)
    await asyncio.sleep(0.05)
    return bool(await sql.fetchval("SELECT NOT EXISTS (SELECT FROM sync.streams WHERE settled_at IS NULL)"))


async def _learn(sql: Any, answer: Answer) -> None:
    """The texts of streams that no job has ended."""
    if answer.whole is None:
        for id_ in answer.ids:
            answer.whole = await sql.fetchval(
                "SELECT coalesce(string_agg(text, '' ORDER BY at), '') FROM sync.stream_text WHERE stream = $1",
                UUID(id_),
            )


async def _follows(device: StreamDevice, rows: dict[UUID, str], tasks: list[asyncio.Task[None]]) -> None:
    """Wait until the device shows these texts. Raises what ended one of the tasks."""

    def follows() -> bool:
        for task in tasks:
            if task.done():
                task.result()
        return not device.lacks(rows)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE):
            await eventually(follows, 2 * SETTLE)
    assert not device.lacks(rows)
