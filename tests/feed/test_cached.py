"""Rows from a cache: whatever it lost or kept, an answer is what the database held at its position, and no device gets
one from before its own position."""

import random
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cursor import Position
from protocol.frames import COLUMNS, ID, SEQ
from server.declaration.chat import CHAT
from server.declaration.model import Kind
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.cached import CachedRows
from server.feed.change import Entry
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub, Lane, Phase
from server.feed.ports import ANYWHERE, Answer, Want
from tests.support.rows import Conversation, Message, MessageDeleted
from tests.support.sink import FakeSink

EPOCH = "a" * 16
REPORT = HistoryReport(EPOCH, (), 1, 1, 0, 0)
ANNE, BEN = str(UUID(int=1)), str(UUID(int=2))
CONVERSATION, ELSEWHERE = UUID(int=10), UUID(int=11)
WANT = [Want(CONVERSATION, None, 10)]
CONVERSATIONS, MESSAGES = CHAT.kind["conversation"], CHAT.kind["message"]


class Database:
    """The rows and the feed of Anne, who has two conversations. It remembers what it held at each position."""

    def __init__(self) -> None:
        self.tier = "core"
        self.away = False
        self.reads = 0
        self.head = Position(0)
        self.log: list[Entry] = []
        self.messages: list[Message] = []
        self.held: dict[Position, dict[UUID, list[str]]] = {self.head: {}}

    def write(self, text: str, conversation: UUID, mark: int) -> None:
        message = Message(0, UUID(int=100 + len(self.log)), conversation, "user", text, 1, 1)
        self.messages = [*self.messages, message]
        self._commit(message, message.id, mark)

    def delete_last(self, mark: int) -> None:
        if self.messages:
            *self.messages, gone = self.messages
            self._commit(MessageDeleted(0, gone.id), gone.id, mark)

    def _commit(self, row: Message | MessageDeleted, row_id: UUID, mark: int) -> None:
        before, self.head = self.head, Position(self.head.seq + 10, 0, mark)
        deletion = isinstance(row, MessageDeleted)
        self.log.append(Entry(self.head.seq, 1, before.seq, None, "m", row_id, row, mark, before.mark, deletion))
        self.held[self.head] = {
            conversation: [m.content for m in self.messages if m.conversation_id == conversation]
            for conversation in (CONVERSATION, ELSEWHERE)
        }

    def title(self, position: Position) -> str:
        return str(sum(map(len, self.held[position].values())))

    def _read(self) -> None:
        if self.away:
            raise UnavailableError("away")
        self.reads += 1

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        self._read()
        if kind is CONVERSATIONS:
            overview = Conversation(self.head.seq, CONVERSATION, self.title(self.head), 1, 1)
            return Answer(self.head, self.tier, [(0, overview)], cut=False)
        (want,) = wants
        rows = [m for m in self.messages if m.conversation_id == want.parent and user == ANNE]
        return Answer(self.head, self.tier, [(0, Message(self.head.seq, *row[ID:])) for row in rows], cut=False)


class Memory(dict[str, bytes]):
    """A cache."""

    async def get(self, key: str) -> bytes | None:  # type: ignore[override]  # the port's, not dict's
        return super().get(key)

    def put(self, key: str, value: bytes, seconds: int) -> None:
        self[key] = value


class House:
    """Rows from a cache before a database, and a device of Anne's that follows her feed in this process."""

    def __init__(self) -> None:
        self.database, self.cache = Database(), Memory()
        self.hub = Hub(lambda lane: None)
        self.history = History(self.hub)
        self.history.connected(REPORT)
        self.rows = CachedRows(self.database, self.cache, self.history, self.hub, Synced(CHAT))
        self.reader = self.hub.add(ANNE, uuid4(), FakeSink(), {})
        self.hub.place(self.reader, Position(0), Phase.HELLO)
        self.catch_up()

    @property
    def at(self) -> Position:
        """Where the device is."""
        assert self.reader.cohort is not None
        return self.reader.cohort.position

    def catch_up(self) -> None:
        """The pump reads for it, as far as the log goes."""
        self.hub.ring(ANNE, 1 << 60)
        for cohort in (cohort for lane in Lane for cohort in self.hub.take(lane, 10)):
            entries = [entry for entry in self.database.log if entry.seq > cohort.position.seq]
            self.hub.note(cohort, self.database.head, entries, CHAT)
            self.hub.advance(cohort, self.database.head, more=False)

    async def page(self, conversation: UUID = CONVERSATION, since: Position | None = None) -> Answer:
        return await self.rows.rows(MESSAGES, ANNE, [Want(conversation, None, 10)], 1_000, since or self.at)

    async def overview(self, since: Position | None = ANYWHERE) -> Answer:
        return await self.rows.rows(CONVERSATIONS, ANNE, [Want(None, None, 10)], 1_000, since)


@pytest.fixture
def house() -> House:
    return House()


def said(answer: Answer) -> list[str]:
    return [row[COLUMNS + MESSAGES.index["content"]] for _, row in answer.rows]


@given(
    steps=st.lists(
        st.sampled_from(["write", "elsewhere", "move", "catch up", "evict", "swap", "page", "other page", "snapshot"]),
        max_size=50,
    ),
    seed=st.integers(0, 1 << 32),
)
async def test_an_answer_is_what_the_database_held_at_its_position(steps: list[str], seed: int) -> None:
    rng = random.Random(seed)
    house = House()
    database, cache = house.database, house.cache
    for number, step in enumerate(steps):
        if step in ("write", "elsewhere"):
            database.write(f"text {number}", CONVERSATION if step == "write" else ELSEWHERE, rng.randrange(1, 1 << 60))
        elif step == "move":
            database.delete_last(rng.randrange(1, 1 << 60))
        elif step == "catch up":
            house.catch_up()
        elif step == "evict" and cache:
            del cache[rng.choice(list(cache))]
        elif step == "swap" and cache:
            cache[rng.choice(list(cache))] = rng.choice([*cache.values(), b"", b"\xc1", b"\x92\xa1x\xc0"])
        elif step in ("page", "other page"):
            conversation = CONVERSATION if step == "page" else ELSEWHERE
            answer = await house.page(conversation)
            assert said(answer) == database.held[answer.position].get(conversation, [])
            assert answer.position.seq >= house.at.seq
            assert {row[SEQ] for _, row in answer.rows} <= {answer.position.seq}
            assert said(await house.rows.rows(MESSAGES, BEN, [Want(conversation, None, 10)], 1_000, house.at)) == []
        elif step == "snapshot":
            overview = await house.overview()
            ((_, (*_, title, _, _)),) = overview.rows
            assert title == database.title(overview.position)


async def test_a_page_is_read_once_until_its_conversation_changes(house: House) -> None:
    house.database.write("hello", CONVERSATION, 1)
    house.catch_up()
    assert said(await house.page()) == ["hello"]
    house.database.write("somewhere else", ELSEWHERE, 2)
    house.catch_up()
    again = await house.page()
    assert (said(again), again.position, house.database.reads) == (["hello"], house.at, 1)
    house.database.write("world", CONVERSATION, 3)
    house.catch_up()
    assert (said(await house.page()), house.database.reads) == (["hello", "world"], 2)


async def test_a_page_that_a_device_further_on_has_asked_for_is_right_for_one_that_is_behind(house: House) -> None:
    house.database.write("hello", CONVERSATION, 1)
    behind = house.at
    house.catch_up()
    await house.page()
    assert said(await house.page(since=behind)) == ["hello"]
    assert house.database.reads == 1


async def test_a_page_of_before_a_deletion_is_read_again(house: House) -> None:
    house.database.write("hello", CONVERSATION, 1)
    house.catch_up()
    await house.page()
    house.database.delete_last(2)
    house.catch_up()
    assert said(await house.page()) == []


async def test_what_happened_while_nobody_was_here_is_not_known_to_have_left_a_page_alone(house: House) -> None:
    house.database.write("hello", CONVERSATION, 1)
    house.catch_up()
    await house.page()
    house.hub.remove(house.reader)
    house.database.write("somewhere else", ELSEWHERE, 2)
    await house.page(since=house.database.head)
    assert house.database.reads == 2


@pytest.mark.parametrize("since", [None, Position(10, 3, 1)])
async def test_a_device_whose_position_is_none_or_within_a_transaction_is_read_for(
    house: House, since: Position | None
) -> None:
    house.database.write("hello", CONVERSATION, 1)
    for _ in range(2):
        await house.rows.rows(MESSAGES, ANNE, WANT, 1_000, since)
    assert house.database.reads == 2


async def test_a_new_device_begins_where_an_earlier_one_began(house: House) -> None:
    house.database.write("hello", CONVERSATION, 1)
    first = await house.overview()
    house.database.write("world", CONVERSATION, 2)
    assert await house.overview() == first
    assert house.database.reads == 1


async def test_a_snapshot_for_a_cursor_that_leads_nowhere_is_read_and_kept(house: House) -> None:
    house.database.write("hello", CONVERSATION, 1)
    await house.overview()
    house.database.write("world", CONVERSATION, 2)
    afresh = await house.overview(None)
    assert afresh.position == house.database.head
    assert (await house.overview()).position == house.database.head


async def test_users_who_do_not_sync_are_not_kept(house: House) -> None:
    house.database.tier = "free"
    await house.overview()
    assert house.cache == {}


@pytest.mark.parametrize(
    "report", [replace(REPORT, epoch="b" * 16, lineage=(EPOCH,)), replace(REPORT, started=REPORT.started + 1)]
)
async def test_what_was_kept_in_another_history_or_before_postgres_was_started_is_not_found(
    house: House, report: HistoryReport
) -> None:
    await house.page()
    house.history.connected(report)
    await house.page()
    assert house.database.reads == 2


async def test_a_blind_server_asks_its_store_which_refuses(house: House) -> None:
    await house.page()
    await house.overview()
    house.history.set_blind("A trigger is missing.")
    await house.page()
    await house.overview()
    assert house.database.reads == 4


async def test_the_store_tells_that_postgres_is_away(house: House) -> None:
    house.database.away = True
    with pytest.raises(UnavailableError):
        await house.page()
    assert house.cache == {}
