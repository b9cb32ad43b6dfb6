"""The Python writer and the Python device, while anything happens to them and to servers: at the end each device shows
what SELECT finds, and at no moment anything but a beginning of the answer, or less of what the server had confirmed."""

import asyncio
import contextlib
import pickle
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from atlas_sync import Device, Ended, Event, Replica, Schema, Stopped, Stream, StreamError, build_view
from tests.integration.test_streams import SERVICE, placeholder
from tests.support.client_device import Impatient
from tests.support.cluster import Database, administrator
from tests.support.oracle import held, select_everything
from tests.support.people import add_user
from tests.support.serving import ServerProcess, token
from tests.support.waiting import eventually

SCHEMA: Final = Schema.chat()
WORDS: Final = ["one ", "zwei ", "三", "🙂 ", "e\u0301 ", "\n"]
QUICK: Final = """
from datetime import timedelta
from server.postgres import streams
from server.streams import keeper
streams.PATIENCE, streams.SILENCE, keeper.TOUCH_SECONDS = timedelta(seconds=1), timedelta(seconds=3), 0.5
"""
"""A writer that died, and a row that lags, are waited for during a tenth of the time."""


SETTINGS: Final = {"ATLAS_SERVICE_TOKEN": SERVICE}


@dataclass
class Job:
    """An answer that is to be written. `ending`: how, unless somebody stops it."""

    user: UUID
    message: UUID
    text: str
    ending: str
    confirmed: int = 0
    """Characters of which some writer was told that the server has them."""
    states: set[str] = field(default_factory=set)
    """How it ended, as writers were told."""
    shared: bool = False
    """Two workers have it. Devices are shown at once what one of them writes, and it may be the other's turn."""


class World:
    def __init__(self, rng: random.Random, servers: list[ServerProcess], sql: Any) -> None:
        self.rng, self.servers, self.sql = rng, servers, sql
        self.jobs: dict[UUID, Job] = {}
        self.over = asyncio.Event()
        self.turn = asyncio.Lock()  # for the one connection

    def http(self) -> str:
        return f"http://127.0.0.1:{self.rng.choice(self.servers).port}"

    async def rest(self, most: float = 0.02) -> None:
        await asyncio.sleep(self.rng.uniform(0, most))

    async def store(self, job: Job, text: str) -> None:
        """The app commits the row, unless a longer text is in it: the other run of the job was here."""
        update = "UPDATE messages SET content = $1 WHERE id = $2 AND length(content) < length($1)"
        async with self.turn:
            await self.sql.execute(update, text, job.message)

    async def work(self, job: Job) -> None:
        """A worker, to which the queue gives the job again until it has ended."""
        while not self.over.is_set():
            out = Stream(self.http(), SERVICE, job.user, "message", job.message, "content", patience=30)
            try:
                if await self._write(job, out):
                    return
            except Stopped:
                job.states.add("stopped")
                if self.rng.random() < 0.5:
                    await self.store(job, out.text)
                return
            except Ended as ended:
                job.states.add(ended.state)
                return
            except ZeroDivisionError:
                job.states.add("failed")
                return
            except StreamError as error:
                if error.status != 409:  # the other worker that has this job
                    raise
            finally:
                job.confirmed = max(job.confirmed, out.offset)
            await self.rest()

    async def _write(self, job: Job, out: Stream) -> bool:
        """Returns whether that was the end."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(out)
            assert job.text.startswith(out.text), "not what was written before"
            while len(out.text) < len(job.text):
                size = self.rng.choice([1, 1, 3, 8, 40])
                await out.write(job.text[len(out.text) :][:size])
                job.confirmed = max(job.confirmed, out.offset)
                await self.rest()
                chance = self.rng.random()
                if chance < 0.01:  # the process is killed: it tells nobody
                    stack.pop_all()
                    await self._vanish(out)
                    return False
                if chance < 0.02:
                    await self.store(job, out.text)
                if job.ending == "raise" and len(out.text) > len(job.text) / 2:
                    raise ZeroDivisionError
                if job.ending == "vanish" and len(out.text) > len(job.text) / 2:
                    stack.pop_all()
                    await self._vanish(out)
                    return True
            if job.ending == "before":
                await self.store(job, job.text)
            await out.finish(write=job.ending == "write")
            job.states.add("done")
        if job.ending == "after":
            await self.rest(0.5)
            await self.store(job, job.text)
        return True

    async def _vanish(self, out: Stream) -> None:
        out._sending.leave(out._joined)
        await out._stack.aclose()

    async def kill_servers(self) -> None:
        while not self.over.is_set():
            await self.rest(2)
            server = self.rng.choice(self.servers)
            await server.kill()
            await server.start()


class Life:
    """A device: it goes, comes back, starts anew from what it had, and is slow now and then."""

    def __init__(self, world: World, user: UUID) -> None:
        self.world, self.user = world, user
        self.client_id = uuid4()
        self.replica = Replica(SCHEMA)
        self.cursor: bytes | None = None
        self.device: Device | None = None
        self.least: dict[Any, int] = {}
        """How much of each answer it has shown, as far as a writer was told that the server has it."""
        self.rng = random.Random(world.rng.random())

    async def live(self) -> None:
        """Until the world is over, and then until it is stopped."""
        while True:
            self.device = Device(
                f"ws{self.world.http()[4:]}/sync",
                user=self.user,
                token=lambda: token(self.user),
                client_id=self.client_id,
                schema=SCHEMA,
                cursor=self.cursor,
                on_batch=self.replica.receive,
                on_stream=self._follow,
                on_event=self._check,
                rng=Impatient(),
            )
            running = asyncio.create_task(self.device.run())
            if not self.world.over.is_set():
                over = asyncio.create_task(self.world.over.wait())
                await asyncio.wait([running, over], timeout=self.rng.uniform(0, 3))
                over.cancel()
            if self.world.over.is_set():
                await running
                return
            await self.device.stop()
            await running
            self.cursor = self.device.cursor
            self.replica = pickle.loads(pickle.dumps(self.replica))
            if self.rng.random() < 0.2:
                self.replica, self.cursor = Replica(SCHEMA), None
                self.least.clear()

    async def _follow(self, event: Any) -> None:
        if self.rng.random() < 0.02:
            await asyncio.sleep(0.2)
        self.replica.receive(event)

    def _check(self, event: Event) -> None:
        for key, shown in build_view(self.replica, [], self.replica.streams).rows["message"].items():
            job = self.world.jobs[key]  # type: ignore[index]  # of the chat schema
            assert job.user == self.user, "somebody else's answer"
            assert job.text.startswith(shown.row.content), "not a beginning of the answer"
            length, least = len(shown.row.content), self.least.get(key, 0)
            assert length >= least, f"{least} characters were shown, and now {length}"
            self.least[key] = 0 if job.shared else max(least, min(length, job.confirmed))

    async def shows_what_select_finds(self, sql: Any) -> bool:
        shown = build_view(self.replica, [], self.replica.streams).rows["message"].values()
        settled = all(each.state is None for each in shown)
        return settled and held(self.replica) == await select_everything(sql, self.user)


@pytest.mark.parametrize("seed", range(1))
async def test_each_device_shows_beginnings_of_answers_and_at_the_end_the_rows(database: Database, seed: int) -> None:
    rng = random.Random(seed)
    endings = ["write", "before", "after", "later", "raise", "vanish", "stop", "write"]
    async with (
        ServerProcess(database.server_url, QUICK, **SETTINGS) as one,
        ServerProcess(database.server_url, QUICK, **SETTINGS) as two,
        administrator(database) as sql,
        asyncio.TaskGroup() as tasks,
    ):
        world = World(rng, [one, two], sql)
        users = [await add_user(sql) for _ in range(2)]
        for user in users:
            for ending in endings:
                message = await placeholder(sql, user)
                text = "".join(rng.choices(WORDS, k=rng.randint(0, 300)))
                world.jobs[message] = Job(user, message, text, ending)
        lives = [Life(world, user) for user in users for _ in range(2)]
        living = [tasks.create_task(life.live()) for life in lives]
        killing = tasks.create_task(world.kill_servers())
        jobs = list(world.jobs.values())
        working = [tasks.create_task(world.work(job)) for job in jobs]
        for job in rng.sample(jobs, 4):
            job.shared = True
            working.append(tasks.create_task(world.work(job)))

        async def stop(job: Job) -> None:
            while not job.states:
                await world.rest(1)
                life = rng.choice([life for life in lives if life.user == job.user])
                with contextlib.suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(5):
                        if life.device is not None:
                            await life.device.stop_stream("message", job.message)

        stopping = [tasks.create_task(stop(job)) for job in jobs if job.ending == "stop"]
        async with asyncio.timeout(90):
            await asyncio.gather(*working, *stopping)
        world.over.set()
        await killing
        unsettled = "SELECT count(*) = 0 FROM sync.streams WHERE settled_at IS NULL"
        await eventually(lambda: sql.fetchval(unsettled))
        for life in lives:
            await eventually(partial(life.shows_what_select_finds, sql))
        for job in jobs:
            content = await sql.fetchval("SELECT content FROM messages WHERE id = $1", job.message)
            assert job.text.startswith(content)
            assert len(content) >= job.confirmed, "what was confirmed is lost"
            assert content == job.text or "done" not in job.states
        for life in lives:
            assert life.device is not None
            await life.device.stop()
        await asyncio.gather(*living)
