"""P1 to P5, and P8, on the tables of seven apps: whatever happens, at the end every device of any user holds what
SELECT finds, and what devices pushed was applied exactly once, or rejected and not applied at all.

Each run has random writers by SQL, devices that push and read pages, cut connections, and a server that is killed.
A longer run, and the same again: tests/support/faults.py. ATLAS_ORACLE_STATISTICS prints what happened.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import pytest

from server.postgres.migrate import migrate
from server.postgres.publication import Doorbells
from tests.schemas.test_schemas import declared, quoted
from tests.support.any_author import Author, Made, Stranger
from tests.support.any_device import AnyDevice, GoneError
from tests.support.any_values import JSON, MSGPACK, Id, Kind
from tests.support.cluster import Cluster, Database, administrator
from tests.support.faults import seconds, seeded
from tests.support.schemas import ALL, LAST_INSTANT, Schema, State
from tests.support.serving import ServerProcess
from tests.support.trail import Step, counted, follow, given, steps
from tests.support.waiting import eventually

SECONDS: Final = seconds(1.2)
SETTLE: Final = 40.0
"""Seconds until every device must be up to date, once the faults have ended."""
PAUSE: Final = 0.02
"""Seconds between two mutations of a device, or two transactions of a writer, on average."""
ISOLATED: Final = ("aichat", "large", "twelve")
"""Schemas of which no row goes from one user to another on the newest PostgreSQL. On the oldest it is the others."""
OLDEST: Final[dict[str, Any]] = {"instant": -LAST_INSTANT, "int": -(1 << 31), "bigint": -(1 << 63), "text": ""}
"""What NULL counts as in the order of a list."""

every_schema = pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)


class Run:
    """One history of one schema."""

    def __init__(self, schema: Schema, database: Database, rng: random.Random, *, crossing: bool) -> None:
        self.schema = schema
        self.database = database
        self.rng = rng
        self.crossing = crossing
        self.users = sorted(UUID(int=rng.getrandbits(128), version=4) for _ in range(2 if crossing else 3))
        self.devices: list[AnyDevice] = []
        self.authors: list[Author] = []
        self.written: Counter[str] = Counter()
        self._states: dict[UUID, State] = {}
        self._given: set[tuple[str, tuple[str, ...]]] = set()

    async def prepare(self, sql: Any) -> None:
        await sql.execute(self.schema.ddl)
        for user in self.users:
            await self.schema.add_user(sql, user)
        for _ in range(30):
            await self.schema.write(sql, self.rng, self.users, self.crossing)
        text = self.schema.declaration.read_text()
        doorbells = Doorbells.WAL if self.database.streamed else Doorbells.LISTEN
        await migrate(self.database.url, text=text, name=self.schema.name, doorbells=doorbells)
        await follow(sql, {name: quoted(kind["table"]) for name, kind in declared(self.schema).items()})
        await self.look(sql)

    async def look(self, sql: Any) -> None:
        """Select what each user has."""
        self._states = {user: await self.schema.expected(sql, user) for user in self.users}

    def strangers(self, user: UUID) -> list[Stranger]:
        """Rows that others had when they were looked at."""
        kinds = declared(self.schema)
        return [
            Stranger(kind, key, values[0] if "parent" in kinds[kind] else None)
            for other, state in self._states.items()
            if other != user
            for kind, rows in state.items()
            if kind in kinds
            for key, values in rows.items()
        ]

    def add_devices(self, url: str) -> None:
        for user in self.users:
            strangers = self.strangers(user)
            others = [other for other in self.users if other != user]
            forbidden = () if self.crossing else tuple(str(other).encode() for other in others)
            for number in range(3):
                rng = random.Random(self.rng.getrandbits(64))
                narrow = dict.fromkeys(declared(self.schema), 2) if number == 2 else None
                device = AnyDevice(url, user, (MSGPACK, JSON)[number % 2], rng, window=narrow, forbidden=forbidden)
                self.devices.append(device)
                if number < 2:
                    self.authors.append(Author(device, rng, self.schema.name, strangers, crossing=self.crossing))

    def check(self) -> None:
        for device in self.devices:
            device.check()

    # --- what happens

    async def write(self, sql: Any, rng: random.Random) -> None:
        """Write by SQL until cancelled."""
        while True:
            self.written[await self.schema.write(sql, rng, self.users, self.crossing)] += 1
            await asyncio.sleep(rng.expovariate(1 / PAUSE))

    async def push(self, author: Author) -> None:
        """Write on a device until cancelled, connected or not."""
        while True:
            author.write()
            await author.device.push()
            await asyncio.sleep(self.rng.expovariate(1 / PAUSE))

    async def page(self, device: AnyDevice) -> None:
        """Read pages until cancelled."""
        while True:
            held = device.rows.held
            kinds = [kind for kind in device.rows.kinds.values() if kind.parent is None or held[kind.parent]]
            if kinds:
                kind = self.rng.choice(kinds)
                parent = None if kind.parent is None else self.rng.choice(list(held[kind.parent]))
                with contextlib.suppress(GoneError):
                    await device.pages(kind, parent)
            await asyncio.sleep(self.rng.expovariate(1 / PAUSE))

    async def break_things(self, server: ServerProcess) -> None:
        """Cut connections until cancelled, and kill the server once."""
        killed = False
        loop = asyncio.get_running_loop()
        at = loop.time() + self.rng.uniform(0.2, 0.5) * SECONDS
        while True:
            if not killed and loop.time() > at:
                killed = True
                await server.kill()
                await server.start()
            self.rng.choice(self.devices).cut()
            await asyncio.sleep(self.rng.expovariate(1 / (4 * PAUSE)))

    # --- what is true in the end

    async def settle(self, sql: Any) -> None:
        """Wait until each device has received everything."""

        async def have() -> bool:
            self.check()
            for device in self.devices:
                await device.push()
            return all(device.settled for device in self.devices)

        await eventually(have, SETTLE)
        heads = {row["user_id"]: row["seq"] for row in await sql.fetch("SELECT user_id, seq FROM sync.feeds")}

        def arrived() -> bool:
            self.check()
            return all(device.live and device.position >= heads.get(device.user, 0) for device in self.devices)

        await eventually(arrived, SETTLE)
        await self.look(sql)

    async def compare(self) -> None:
        for device in self.devices:
            await self._see_everything(device)
            expected = with_parents(device, self._states[device.user])
            found = {kind: {key: row.values for key, row in rows.items()} for kind, rows in device.rows.held.items()}
            assert_same(found, expected, device)
        for user in self.users:
            await self._read_every_list(next(device for device in self.devices if device.user == user))

    async def _see_everything(self, device: AnyDevice) -> None:
        """Page back through the lists that a snapshot may have left out in part."""
        for kind in device.rows.kinds.values():
            above: list[Id] = [None] if kind.parent is None else list(device.rows.held[kind.parent])
            expected = self._states[device.user][kind.name]
            for parent in above:
                held = len(device.rows.held[kind.name] if parent is None else device.rows.of_parent(kind, parent))
                there = sum(parent is None or values[0] == parent for values in expected.values())
                if held < there and (device.narrow or there > (kind.window or there)):
                    await device.pages(kind, parent)

    async def _read_every_list(self, device: AnyDevice) -> None:
        """Pages joined are the list, in its order."""
        state = with_parents(device, self._states[device.user])
        for kind in device.rows.kinds.values():
            above: list[Id] = [None] if kind.parent is None else list(state[kind.parent])
            for parent in self.rng.sample(above, min(len(above), 8)):
                joined = await device.pages(kind, parent)
                rows = {k: v for k, v in state[kind.name].items() if parent is None or v[0] == parent}
                assert Counter(joined) == Counter(list(rows)), (kind.name, parent)
                places = [place(kind, key, rows[key]) for key in joined]
                assert places == sorted(places, reverse=True), (kind.name, places)

    async def check_pushes(self, sql: Any) -> None:
        trail, self._given = await steps(sql), await given(sql)
        written = counted(trail)
        order = {mark: i for i, step in enumerate(trail) for mark in step.marks}
        for author in self.authors:
            results, last = author.device.results, -1
            assert results.keys() == author.made.keys(), "not everything has a result"
            for n, made in author.made.items():
                if not self._may_be_mine(author, made):
                    assert results[n] in made.may, (results[n], made)
                if made.mark is None:
                    continue
                applied = results[n] == "applied"
                assert written[made.mark] <= applied, (written[made.mark], results[n], made)
                assert written[made.mark] == applied or not made.writes, (results[n], made)
                if written[made.mark]:
                    assert order[made.mark] > last, "out of the order of writing"
                    last = order[made.mark]
        self._check_keys(trail)
        self._check_counts(trail)

    def _may_be_mine(self, author: Author, made: Made) -> bool:
        """Whether another's row was meant, and its key may be that of a row of the author's user by now."""
        if not made.bad.startswith("their"):
            return False
        meant = (made.kind.parent, made.parent) if made.bad == "their parent" else (made.kind.name, made.key)
        parts = meant[1] if isinstance(meant[1], tuple) else (meant[1],)
        return (meant[0], tuple(map(str, parts))) in self._given or any(
            other.bad == "their key" and (other.kind.name, other.key) == meant and each.device.results[n] == "applied"
            for each in self.authors
            if each.device.user == author.device.user
            for n, other in each.made.items()
        )

    def _check_keys(self, trail: list[Step]) -> None:
        """A new row was inserted once; and nobody deleted a row of another."""
        inserted = Counter((step.kind, step.key) for step in trail if step.op == "INSERT")
        again = Counter(
            (made.kind.name, (str(made.key),))
            for author in self.authors
            for n, made in author.made.items()
            if made.bad.endswith("key") and author.device.results[n] == "applied"
        )
        deleted = {(step.sub, step.kind, step.key) for step in trail if step.op == "DELETE"}
        for author in self.authors:
            for n, made in author.made.items():
                if isinstance(made.key, tuple):
                    continue
                name = made.kind.name, (str(made.key),)
                if made.op == "+" and made.writes and not made.bad:
                    once = author.device.results[n] == "applied"
                    assert once <= inserted[name] <= once + again[name], (inserted[name], made)
                mine = self.crossing or self._may_be_mine(author, made)
                if made.op == "-" and made.bad == "their row" and not mine:
                    assert (str(author.device.user), *name) not in deleted, made

    def _check_counts(self, trail: list[Step]) -> None:
        """Kinds without a text that devices update: each update changed a row once."""
        for kind in self.devices[0].rows.kinds.values():
            updates = kind.devices.get("update", [])
            if updates and not any(kind.types[name].removesuffix("?") in ("text", "json", "array") for name in updates):
                expected = sum(
                    author.device.results[n] == "applied"
                    for author in self.authors
                    for n, made in author.made.items()
                    if made.op == "~" and made.kind == kind
                )
                assert sum(step.kind == kind.name and step.op == "UPDATE" for step in trail) == expected, kind.name


def place(kind: Kind, key: Id, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What orders a list. Instants that a device cannot hold have no order among themselves."""
    if kind.order is None:
        return (key,)
    of, nil = kind.types[kind.newest or ""].removesuffix("?"), values[kind.order] is None
    if nil:
        return (False, OLDEST[of], key)  # older than every value
    at = values[kind.order]
    return (True, at, () if of == "instant" and abs(at) == LAST_INSTANT else key)


def with_parents(device: AnyDevice, state: State) -> State:
    """As devices hold it: rows whose parent has a parent have the key of that one, too."""
    kinds = device.rows.kinds
    return {
        name: {
            key: (values[0], state[kind.parent][values[0]][0], *values[1:])
            if kind.parent is not None and kinds[kind.parent].parent is not None
            else values
            for key, values in state[name].items()
        }
        for name, kind in kinds.items()
    }


def assert_same(found: State, expected: State, device: AnyDevice) -> None:
    for kind, rows in expected.items():
        held = found[kind]
        lacks = {key: rows[key] for key in rows.keys() - held.keys()}
        stale = {key: held[key] for key in held.keys() - rows.keys()}
        wrong = {key: (held[key], rows[key]) for key in rows.keys() & held.keys() if not same(held[key], rows[key])}
        where = f"{kind} on {device.client_id} ({device.wire.subprotocol}, {device.whys})"
        assert not lacks, where
        assert not stale, where
        assert not wrong, where


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """1 is not True."""
    return one == other and repr(one).count("True") == repr(other).count("True")


@contextlib.asynccontextmanager
async def background(*coroutines: Any) -> AsyncIterator[None]:
    """An exception of one fails the test."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@every_schema
async def test_every_device_holds_what_select_finds(every_postgres: Cluster, schema: Schema) -> None:
    rng = seeded(int(every_postgres.version))
    crossing = (schema.name in ISOLATED) == (every_postgres.version == "15")
    database = await every_postgres.create("template0")
    database.streamed = not crossing
    run = Run(schema, database, rng, crossing=crossing)
    try:
        async with administrator(run.database) as sql:
            await run.prepare(sql)
            await carry_out(run, sql)
    finally:
        await run.database.drop()


async def carry_out(run: Run, sql: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        environment = {"ATLAS_HELLOS_PER_MINUTE": "10000", "ATLAS_PUSH_RATE": "10000", "ATLAS_SWEEP_SECONDS": "1"}
        server = await stack.enter_async_context(ServerProcess(run.database.server_url, **environment))
        run.add_devices(server.url)
        writers = [await stack.enter_async_context(administrator(run.database)) for _ in range(3)]
        for device in run.devices:
            device.start()
            stack.push_async_callback(device.stop)
        async with background(
            *(run.write(each, random.Random(run.rng.getrandbits(64))) for each in writers),
            *(run.push(author) for author in run.authors),
            *(run.page(device) for device in run.devices),
            run.break_things(server),
        ):
            await asyncio.sleep(SECONDS)
            await eventually(lambda: server.process is not None and server.process.returncode is None)
        await run.settle(sql)
        await run.compare()
        await run.check_pushes(sql)
        if os.environ.get("ATLAS_ORACLE_STATISTICS"):
            report(run)


def report(run: Run) -> None:
    results = Counter(
        (made.op, made.kind.name, made.bad, author.device.results[n])
        for author in run.authors
        for n, made in author.made.items()
    )
    print(run.written, [device.connections for device in run.devices], *sorted(results.items()), sep="\n")  # noqa: T201
