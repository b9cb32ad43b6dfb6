"""Rows from a cache: whatever it lost or kept, an answer is what the database held at its position, and no device gets
one from before its own position."""

import random
from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cursor import Position
from protocol.frames import Before, Conversation, Message, Profile
from server.exceptions import UnavailableError
from server.feed import kept
from server.feed.cached import TAIL_ROWS, CachedRows
from server.feed.change import Entry, Reading
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub
from server.feed.ports import ANYWHERE, MessagesRead, Overview, ReadKey, Titles, Want

EPOCH = "a" * 16
ANNE, BEN = str(UUID(int=1)), str(UUID(int=2))
CONVERSATION = UUID(int=10)
WANT = [Want(CONVERSATION, None, 10)]


class Database:
    """The store of a user whose one conversation gets messages. It remembers what it held at each position."""

    def __init__(self) -> None:
        self.tier = "core"
        self.reads = 0
        self.positions = [Position(0)]
        self.log: list[Entry] = []
        self.held: dict[tuple[str, Position], list[str]] = {(ANNE, Position(0)): [], (BEN, Position(0)): []}
        self.texts: list[str] = []

    @property
    def head(self) -> Position:
        return self.positions[-1]

    def write(self, text: str, mark: int) -> None:
        before, now = self.head, Position(self.head.seq + 10, 0, mark)
        self.texts = [*self.texts, text]
        message = self._message(len(self.texts), text)
        self.log = [entry._replace(next_seq=entry.next_seq or now.seq) for entry in self.log]
        self.log.append(Entry(now.seq, 1, before.seq, None, "m", message.id, message, now.mark, before.mark))
        self.positions.append(now)
        self.held[ANNE, now], self.held[BEN, now] = self.texts, []

    def lose_the_tail(self) -> None:
        """As a disk image that is older: the same history, and a later write may get the same seq."""
        if self.log:
            self.log.pop()
            self.positions.pop()
            self.texts = self.texts[:-1]

    def _message(self, number: int, text: str) -> Message:
        return Message(self.head.seq, UUID(int=100 + number), CONVERSATION, "user", text, number, number)

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        self.reads += 1
        readings = []
        for key in keys:
            behind = [entry for entry in self.log if entry.seq > key.after.seq][:rows]
            readings.append(Reading(self.head.seq, self.tier, behind, self.head.mark))
        return readings

    async def conversations(
        self, user: str, before: Before | None, rows: int, content_bytes: int, since: Position | None
    ) -> Overview:
        self.reads += 1
        found = [Conversation(self.head.seq, CONVERSATION, str(len(self.texts)), 1, 1)] if user == ANNE else []
        return Overview(self.head, self.tier, Profile(self.head.seq, UUID(user), "core", None), found, [])

    async def titles(self, user: str, ids: Sequence[UUID], content_bytes: int, since: Position | None) -> Titles:
        self.reads += 1
        return Titles(self.head, [], [])

    async def messages(
        self, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> MessagesRead:
        self.reads += 1
        texts = self.texts if user == ANNE else []
        return MessagesRead(self.head, [(0, self._message(i, text)) for i, text in enumerate(texts, 1)], False)

    async def heads(self, users: Sequence[str]) -> tuple[str, list[Position]]:
        raise NotImplementedError


class Memory(dict[str, bytes]):
    """A cache."""

    async def get(self, key: str) -> bytes | None:  # type: ignore[override]  # the port's, not dict's
        return super().get(key)

    async def put(self, key: str, value: bytes) -> None:
        self[key] = value


def history() -> History:
    found = History(Hub(lambda lane: None))
    found.connected(HistoryReport(EPOCH, (), 1, 1, 0, 0))
    return found


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def cache() -> Memory:
    return Memory()


@pytest.fixture
def rows(database: Database, cache: Memory) -> CachedRows:
    return CachedRows(database, cache, history())


def said(answer: MessagesRead) -> list[str]:
    return [message.content for _, message in answer.messages]


@given(
    steps=st.lists(st.sampled_from(["write", "lose", "evict", "swap", "page", "snapshot", "stranger"]), max_size=40),
    seed=st.integers(0, 1 << 32),
)
async def test_an_answer_is_what_the_database_held_at_its_position(steps: list[str], seed: int) -> None:
    rng = random.Random(seed)
    database, cache = Database(), Memory()
    rows = CachedRows(database, cache, history())
    for number, step in enumerate(steps):
        if step == "write":
            database.write(f"text {number}", mark=rng.randrange(1, 1 << 60))
        elif step == "lose":
            database.lose_the_tail()
        elif step == "evict" and cache:
            del cache[rng.choice(list(cache))]
        elif step == "swap" and cache:
            cache[rng.choice(list(cache))] = rng.choice([*cache.values(), b"", b"\xc1", b"\x92\xa1x\xc0"])
        elif step == "page":
            since = rng.choice(database.positions)
            answer = await rows.messages(ANNE, WANT, 1_000, since)
            assert said(answer) == database.held[ANNE, answer.position]
            assert answer.position in database.positions
            assert answer.position.seq >= since.seq
        elif step == "snapshot":
            overview = await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
            assert overview.position in database.positions
            assert overview.conversations[0].title == str(len(database.held[ANNE, overview.position]))
        elif step == "stranger":
            assert (await rows.messages(BEN, WANT, 1_000, database.head)).messages == []


async def test_the_same_page_at_the_same_position_is_read_once(database: Database, rows: CachedRows) -> None:
    database.write("hello", mark=1)
    first = await rows.messages(ANNE, WANT, 1_000, database.head)
    assert await rows.messages(ANNE, WANT, 1_000, database.head) == first
    assert await rows.titles(ANNE, [CONVERSATION], 1_000, database.head) == await rows.titles(
        ANNE, [CONVERSATION], 1_000, database.head
    )
    before = Before(5, CONVERSATION)
    assert await rows.conversations(ANNE, before, 10, 1_000, database.head) == await rows.conversations(
        ANNE, before, 10, 1_000, database.head
    )
    assert database.reads == 3


@pytest.mark.parametrize("since", [None, Position(10, 3, 1)])
async def test_a_device_whose_position_is_none_or_within_a_transaction_is_read_for(
    database: Database, cache: Memory, rows: CachedRows, since: Position | None
) -> None:
    database.write("hello", mark=1)
    for _ in range(2):
        await rows.messages(ANNE, WANT, 1_000, since)
    assert (database.reads, cache) == (2, {})


async def test_an_overview_that_was_kept_is_given_with_the_tier_of_this_moment(
    database: Database, rows: CachedRows
) -> None:
    database.write("hello", mark=1)
    first = await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
    database.write("world", mark=2)
    database.tier = "studio"
    second = await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
    assert (second.tier, second.position, second.conversations) == ("studio", first.position, first.conversations)
    database.tier = "free"
    assert (await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)).position == database.head


async def test_an_overview_of_long_ago_is_read_again(database: Database, rows: CachedRows) -> None:
    database.write("hello", mark=1)
    await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
    for number in range(TAIL_ROWS + 1):
        database.write("more", mark=2 + number)
    assert (await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)).position == database.head


async def test_an_overview_whose_transaction_was_lost_is_read_again(database: Database, rows: CachedRows) -> None:
    database.write("lost", mark=1)
    await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
    database.lose_the_tail()
    database.write("instead", mark=2)
    assert (await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)).position == Position(10, 0, 2)


async def test_users_who_do_not_sync_are_not_kept(database: Database, cache: Memory, rows: CachedRows) -> None:
    database.tier = "free"
    await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
    assert cache == {}


async def test_what_was_kept_in_another_history_is_not_found(database: Database, cache: Memory) -> None:
    known = history()
    rows = CachedRows(database, cache, known)
    database.write("hello", mark=1)
    await rows.messages(ANNE, WANT, 1_000, database.head)
    known.connected(HistoryReport("b" * 16, (EPOCH,), 1, 1, 1, 0))
    await rows.messages(ANNE, WANT, 1_000, database.head)
    assert database.reads == 2


async def test_a_blind_server_asks_its_store_which_refuses(database: Database, cache: Memory) -> None:
    known = history()
    rows = CachedRows(database, cache, known)
    await rows.messages(ANNE, WANT, 1_000, database.head)
    await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
    known.set_blind("A trigger is missing.")
    await rows.messages(ANNE, WANT, 1_000, database.head)
    await rows.conversations(ANNE, None, 10, 1_000, ANYWHERE)
    assert database.reads == 4


def test_a_key_depends_on_everything_that_an_answer_depends_on() -> None:
    keys = {
        kept.key(epoch, user, position, *request)
        for epoch in ("a", "b")
        for user in (ANNE, BEN)
        for position in (None, Position(1), Position(2), Position(1, 0, 1))
        for request in (("messages", WANT, 10), ("messages", WANT, 11), ("messages", [], 10), ("titles", [], 10))
    }
    assert len(keys) == 2 * 2 * 4 * 4


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_answer_are_none(data: bytes) -> None:
    assert kept.unpack(Overview, "key", data) is None
    assert kept.unpack(Titles, "key", data) is None
    assert kept.unpack(MessagesRead, "key", data) is None


def test_an_answer_that_was_kept_under_another_key_is_none() -> None:
    titles = Titles(Position(1, 0, 2), [Conversation(1, CONVERSATION, None, 1, 1)], [CONVERSATION])
    data = kept.pack("key", titles)
    assert kept.unpack(Titles, "key", data) == titles
    assert kept.unpack(Titles, "another", data) is None
    assert kept.unpack(Overview, "key", data) is None


async def test_the_store_tells_that_postgres_is_away(cache: Memory) -> None:
    class Away(Database):
        async def messages(self, *_: object) -> MessagesRead:
            raise UnavailableError("away")

    with pytest.raises(UnavailableError):
        await CachedRows(Away(), cache, history()).messages(ANNE, WANT, 1_000, ANYWHERE)
    assert cache == {}
