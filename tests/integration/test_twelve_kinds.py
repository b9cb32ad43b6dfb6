"""P1, P4, P9 for a schema with keys and columns of every type: no byte of another user; whatever a peer sends, the
answer is a documented one."""

import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.codec import MSGPACK, Codec
from protocol.frames import Ack, Error, Hello, Live, Page, Pong, Rejected, Result, ToClient
from protocol.schema import Column, Kind, Type
from tests.support.cluster import Cluster, administrator, declared
from tests.support.device import UNLIMITED, now
from tests.support.faults import seeded
from tests.support.peer import Peer, both_codecs, peer
from tests.support.rows import encoded_value
from tests.support.schemas import TWELVE
from tests.support.serving import Running, serving, token

TRANSACTIONS = 60
ANNE, BERT = UUID(int=0xA11E << 64 | 7, version=4), UUID(int=0xBE27 << 64 | 9, version=4)


class Plain:
    """A connection that keeps every byte, and knows the schema that the server sent."""

    def __init__(self, one: Peer) -> None:
        self.codec = one.codec
        self.received = b""
        self.kinds: dict[str, Kind] = {}
        self._one = one
        self._n = 1

    async def say(self, value: object) -> None:
        await self._one.say_raw(bytes(encoded_value(value, self.codec)))

    async def hear(self) -> ToClient:
        data = await self._one.socket.recv()
        data = data.encode() if isinstance(data, str) else data
        self.received += data
        return self.codec.decode_to_client(data)

    async def hear_a(self, *types: type) -> Any:
        while not isinstance(frame := await self.hear(), types):
            pass
        return frame

    async def greet(self, user: UUID) -> None:
        await self._one.say(Hello(token=token(user), client_id=uuid4(), schema=""))
        while not isinstance(frame := await self.hear(), Live):
            if hasattr(frame, "kinds"):
                self.kinds = {kind.name: kind for kind in frame.kinds}

    async def is_served(self) -> None:
        await self.say({"t": "ping"})
        await self.hear_a(Pong)

    async def push(self, *mutations: object) -> list[Result]:
        results: list[Result] = []
        for begin in range(0, len(mutations), 100):
            some = mutations[begin : begin + 100]
            await self.say({"t": "push", "n": self._n, "mutations": some})
            answer = await self.hear_a(Ack, Error)
            assert isinstance(answer, Ack), answer
            self._n += len(some)
            results += answer.results
        return results

    async def ask(self, **fields: object) -> Page | Error:
        await self.say({"t": "page", "id": 1, **fields})
        answer: Page | Error = await self.hear_a(Page, Error)
        return answer

    def knows(self, user: UUID) -> bool:
        return user.bytes in self.received or str(user).encode() in self.received


@contextlib.asynccontextmanager
async def plain(server: Running, user: UUID, codec: Codec = MSGPACK) -> AsyncIterator[Plain]:
    async with peer(server.url, codec) as one:
        made = Plain(one)
        await made.greet(user)
        yield made


@dataclass
class Two:
    """Two users with rows of all kinds, of which no text of one is in the rows of the other."""

    server: Running
    sql: Any

    async def write(self, rng: random.Random) -> None:
        await TWELVE.write(self.sql, rng, [ANNE, BERT], crossing=False)


@pytest.fixture
async def two(postgres_18: Cluster) -> AsyncIterator[Two]:
    async with (
        declared(postgres_18, TWELVE.declaration.read_text(), TWELVE.ddl) as database,
        administrator(database) as sql,
        serving(database, **UNLIMITED) as server,
    ):
        for user in (ANNE, BERT):
            await TWELVE.add_user(sql, user)
        yield Two(server, sql)


async def parents(two: Two, kind: Kind, user: UUID) -> list[Any]:
    """The keys of some rows to which rows of this kind may belong."""
    assert kind.parent is not None
    return list((await TWELVE.expected(two.sql, user))[kind.parent])[:20]


# ---- No byte of another user ---------------------------------------------------------------------------------------


@both_codecs
async def test_two_busy_users_never_get_a_byte_of_each_other(two: Two, codec: Codec) -> None:
    rng = seeded()
    async with plain(two.server, ANNE, codec) as anne, plain(two.server, BERT, codec) as bert:
        assert anne.kinds.keys() == TWELVE.selects.keys()
        for _ in range(TRANSACTIONS):
            await two.write(rng)
        for device, user, other in ((anne, ANNE, BERT), (bert, BERT, ANNE)):
            for kind in device.kinds.values():
                if kind.parent is None:
                    assert isinstance(await device.ask(kind=kind.name, limit=500), Page)
                    continue
                for parent in await parents(two, kind, user):
                    assert isinstance(await device.ask(kind=kind.name, parent=parent), Page)
                for parent in await parents(two, kind, other):
                    page = await device.ask(kind=kind.name, parent=parent)
                    assert isinstance(page, Page)
                    assert (page.rows, page.more) == ([], False), kind.name
            await device.is_served()
        # New devices too.
        async with plain(two.server, ANNE, codec) as late, plain(two.server, BERT, codec) as later:
            pass
    for device in (anne, late):
        assert device.knows(ANNE)
        assert not device.knows(BERT)
    for device in (bert, later):
        assert device.knows(BERT)
        assert not device.knows(ANNE)


async def test_no_mutation_of_another_user_touches_a_row_of_any_kind(two: Two) -> None:
    """And what is answered is what would be, were there no such rows."""
    held, own = await TWELVE.expected(two.sql, ANNE), await TWELVE.expected(two.sql, BERT)
    feed = "SELECT seq FROM sync.feeds WHERE user_id = $1"
    before = await two.sql.fetchval(feed, ANNE)
    async with plain(two.server, BERT) as bert:
        for kind in bert.kinds.values():
            if kind.devices is None:
                continue
            for key in list(held[kind.name])[:5]:
                mutations: list[list[object]] = [["-", kind.tag, key]] if kind.devices.delete else []
                mutations += [["~", kind.tag, key, {name: good(kind, name)}, now()] for name in kind.devices.update]
                for result in await bert.push(*mutations):
                    # A key that names the user is that of a row of Bert's own, or of none.
                    code = result.code if isinstance(result, Rejected) else "applied"
                    assert code in ("applied", "unknown_row"), (kind.name, result)
                if kind.devices.insert is None:
                    continue
                columns = {name: good(kind, name) for name in kind.devices.insert}
                taken, below = dict(columns), dict(columns)
                if kind.parent is not None:
                    wire = kind.columns[0].name
                    taken[wire], below[wire] = next(iter(own[kind.parent])), next(iter(held[kind.parent]))
                    unused = fresh(kind, below)
                    if kind.name == "labelled":
                        unused = [below[wire], next(iter(own["label"]))]
                    (result,) = await bert.push(["+", kind.tag, unused, below, now()])
                    assert isinstance(result, Rejected), kind.name
                    assert result.code == "unknown_parent"
                if kind.name in ("labelled", "draft", "reaction"):
                    continue  # the parent is a part of the key
                (result,) = await bert.push(["+", kind.tag, key, taken, now()])
                assert isinstance(result, Rejected), kind.name
                assert result.code in ("bad_id", "refused"), (kind.name, result)
        await bert.is_served()
    assert not bert.knows(ANNE)
    assert await TWELVE.expected(two.sql, ANNE) == held
    assert await two.sql.fetchval(feed, ANNE) == before


GOOD: dict[Type, object] = {
    Type.TEXT: "bert",
    Type.UUID: None,
    Type.BOOL: True,
    Type.INT: 7,
    Type.BIGINT: 7,
    Type.FLOAT: 0.5,
    Type.NUMERIC: "0.5",
    Type.DATE: "2026-01-01",
    Type.JSON: "{}",
    Type.ARRAY: "[]",
    Type.BYTES: None,
}


def good(kind: Kind, name: str) -> object:
    """A value that may be written."""
    if (kind.name, name) == ("message", "role"):
        return "user"
    return GOOD[column(kind, name).of]


def column(kind: Kind, name: str) -> Column:
    return next(each for each in kind.columns if each.name == name)


def fresh(kind: Kind, columns: dict[str, object]) -> object:
    """A key that no row has."""
    some: dict[Type, object] = {Type.UUID: uuid4(), Type.TEXT: str(uuid4())}
    made = [some.get(of, random.randrange(1 << 30)) for of in kind.key]
    if kind.name in ("labelled", "draft", "reaction"):
        made[0] = columns[kind.columns[0].name]
    return made[0] if len(made) == 1 else made


# ---- Hostile peers -------------------------------------------------------------------------------------------------

WRONG: dict[Type, list[object]] = {
    Type.TEXT: [7, True, 0.5],
    Type.UUID: ["", "x", 7, True, 0.5, "0" * 31],
    Type.BOOL: [0, 1, "true", 0.5],
    Type.INT: ["", "x", True, 1.5, 1 << 31, -(1 << 31) - 1, "2147483648", "9" * 5_000, "0x10", "٣"],
    Type.BIGINT: ["", "x", True, 1.5, 1 << 63, str(1 << 63), str(-(1 << 63) - 1), "9" * 5_000],
    Type.FLOAT: ["", "x", True, "1", "nan", "inf"],
    Type.NUMERIC: ["", "x", 1, 1.5, True, "1e99999", "--1", "1;", "9" * 5_000],
    Type.INSTANT: ["", "x", True, 1.5, 1 << 53, -(1 << 53), "0"],
    Type.DATE: ["", "x", 7, True, "yesterday", "2026-1-1", "2026-13-01", "2026-02-30", "9999999-01-01", "now"],
    Type.JSON: ["", "{", "[1,]", "nul", "NaN", 7, True, "'x'", "[" * 50_000, "[" * 50_000 + "]" * 50_000],
    Type.ARRAY: ["", "{}", "7", "null", "[", 7, True, "[" * 20_000],
    Type.BYTES: ["!", "AAA", 7, True, 0.5],
}
CONTAINERS: list[object] = [[], {}, [[]], {"x": []}, [1] * 1_000, {"x": 1}]


def hostile(kind: Kind) -> Iterator[tuple[str, object]]:
    """Mutations of a kind that no row can take: with one value that does not fit, each."""
    assert kind.devices is not None
    columns: dict[str, object] = {name: good(kind, name) for name in kind.devices.insert or kind.devices.update}
    if kind.parent is not None:
        columns[kind.columns[0].name] = uuid4()
    key = fresh(kind, columns)
    op = "+" if kind.devices.insert is not None else "~"
    if kind.devices.insert is not None and kind.parent is not None:
        wire = kind.columns[0].name
        for wrong in (*WRONG[column(kind, wire).of], None):
            yield f"bad_value:{wire}", [op, kind.tag, key, {**columns, wire: wrong}, now()]
    for name in kind.devices.insert or kind.devices.update:
        of = column(kind, name)
        for wrong in (*WRONG[of.of], *([] if of.nullable else [None])):
            yield f"bad_value:{name}", [op, kind.tag, key, {**columns, name: wrong}, now()]
        for wrong in CONTAINERS:
            yield "malformed", [op, kind.tag, key, {**columns, name: wrong}, now()]
    halves = list(key) if isinstance(key, list) else [key]
    for i, of_half in enumerate(kind.key):
        for wrong in (*WRONG[of_half], None):
            broken = [*halves[:i], wrong, *halves[i + 1 :]]
            yield "bad_value", ["-", kind.tag, broken if len(broken) > 1 else broken[0]]
        for wrong in ({}, [[]], {"x": 1}):
            yield "malformed", ["-", kind.tag, [*halves[:i], wrong, *halves[i + 1 :]]]
    for parts in ([], halves[:-1], [*halves, 1], [*halves, *halves, *halves], [halves]):
        yield "malformed", ["-", kind.tag, parts]
    for name in ("", "id", "user_id", "xmax", "ctid", "x" * 10_000, '"; DROP TABLE messages; --'):
        if all(each.name != name for each in kind.columns):
            yield "not_allowed", [op, kind.tag, key, {**columns, name: "x"}, now()]


@both_codecs
async def test_a_value_that_does_not_fit_its_column_is_rejected_alone_and_says_where(two: Two, codec: Codec) -> None:
    before = [await TWELVE.expected(two.sql, user) for user in (ANNE, BERT)]
    async with plain(two.server, BERT, codec) as bert:
        for kind in bert.kinds.values():
            if kind.devices is None:
                mutations: list[tuple[str, object]] = [
                    ("not_allowed", [op, kind.tag, *rest])
                    for op, rest in (("+", [7, {}, now()]), ("~", [7, {}, now()]), ("-", [7]))
                ]
            else:
                mutations = list(hostile(kind))
            wrong = {}
            for (expected, mutation), result in zip(
                mutations, await bert.push(*(mutation for _, mutation in mutations)), strict=True
            ):
                assert isinstance(result, Rejected), mutation
                code, _, name = expected.partition(":")
                if (result.code, result.column or "") != (code, name):
                    wrong[str(mutation)[:200]] = result
                assert len(result.message) < 300
            assert not wrong, kind.name
        await bert.is_served()
    assert [await TWELVE.expected(two.sql, user) for user in (ANNE, BERT)] == before


@both_codecs
async def test_a_page_of_no_list_or_no_place_is_refused_whatever_the_key(two: Two, codec: Codec) -> None:
    async with plain(two.server, BERT, codec) as bert:
        for kind in bert.kinds.values():
            fields: dict[str, object] = {"kind": kind.name}
            if kind.parent is not None:
                (parent, *_) = await parents(two, kind, BERT)
                fields["parent"] = parent
                of_parent = bert.kinds[kind.parent].key[0]
                for wrong in (*WRONG[of_parent], *CONTAINERS, None):
                    await is_refused(bert, {"kind": kind.name, "parent": wrong})
                await is_refused(bert, {"kind": kind.name})
            else:
                await is_refused(bert, {**fields, "parent": uuid4()})
            key: Any = next(iter((await TWELVE.expected(two.sql, BERT))[kind.name]))
            halves = list(key) if isinstance(key, tuple) else [key]
            at = WRONG[column(kind, kind.newest).of] if kind.newest is not None else [1, "x", True]
            for wrong in (*at, *CONTAINERS):
                await is_refused(bert, {**fields, "before": [wrong, key]})
            for i, of in enumerate(kind.key):
                for wrong in (*WRONG[of], {}, [[]], None):
                    broken = [*halves[:i], wrong, *halves[i + 1 :]]
                    await is_refused(bert, {**fields, "before": [None, broken if len(broken) > 1 else broken[0]]})
            for parts in ([], halves[:-1], [*halves, 1], [*halves] * 3):
                await is_refused(bert, {**fields, "before": [None, parts]})
            for before in (7, "x", True, {}, {"0": None, "1": key}, [None], [None, key, key]):
                await is_refused(bert, {**fields, "before": before})
            page = await bert.ask(**fields, before=[None, key])
            assert isinstance(page, Page), (kind.name, page)
        await bert.is_served()


async def is_refused(one: Plain, fields: dict[str, object]) -> None:
    answer = await one.ask(**fields)
    assert isinstance(answer, Error), fields
    assert (answer.code, answer.retryable, answer.answers, answer.id) == ("bad_page", False, "page", 1), fields


@both_codecs
async def test_a_window_of_a_thousand_kinds_is_a_bad_frame_and_one_of_unknown_kinds_is_ignored(
    two: Two, codec: Codec
) -> None:
    hello = {"t": "hello", "token": token(BERT), "client_id": uuid4()}
    wrong: list[object] = [
        {f"kind_{n}": 1 for n in range(1_000)},
        {"message": -1},
        {"message": 501},
        {"message": "1"},
        {"message": 1.5},
        {"message": None},
        {"message": {}},
        {"message": [1]},
        {"x" * 65: 1},
        [["message", 1]],
        7,
    ]
    for window in wrong:
        async with peer(two.server.url, codec) as one:
            await one.say_raw(bytes(encoded_value({**hello, "window": window}, codec)))
            code, error = await one.closed()
            assert error is not None, window
            assert (code, error.code) == (4300, "bad_frame"), window
    async with peer(two.server.url, codec) as one:
        made = Plain(one)
        await made.say({**hello, "window": {"nothing": 5, "": 0, "message": 0, "c": 3}})
        await made.hear_a(Live)
        await made.is_served()


async def test_ten_thousand_columns_of_one_patch_are_rejected_and_hold_nobody_up(two: Two) -> None:
    async with plain(two.server, ANNE) as anne, plain(two.server, BERT) as bert:
        columns = {f"column_{n}": 7 for n in range(10_000)}
        (result,) = await bert.push(["+", "c", uuid4(), columns, now()])
        assert isinstance(result, Rejected)
        assert (result.code, result.column) == ("not_allowed", None)
        await anne.is_served()
        await bert.is_served()


def test_there_are_wrong_values_of_every_type() -> None:
    assert set(WRONG) == set(Type)
