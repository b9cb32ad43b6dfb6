"""P2, P7: a snapshot comes only for a reason in SPEC.md, and at `live` a device holds what SELECT finds."""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from atlas_sync.replica import Replica
from protocol.codec import MSGPACK
from protocol.cursor import Cursor, Position
from protocol.frames import ID, SEQ, Changes, Hello, Live, Pong, Snapshot, ToClient, Welcome
from tests.support.cluster import Database
from tests.support.oracle import State, held, select_everything
from tests.support.peer import CHAT, Peer, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Conversation, Message, Profile
from tests.support.serving import Running, serving, token
from tests.support.waiting import LIMIT

FRAME = 280_000
"""«Some 260 KB» (SPEC.md 2.5)."""
EVERYTHING = (500, 200)

pytestmark = pytest.mark.shared_database(every_postgres=True)

# ---- A device ------------------------------------------------------------------------------------------------------


Batch = Snapshot | Changes


@dataclass
class Device:
    """A device that keeps its rows and its cursor from connection to connection."""

    url: str
    user: UUID
    window: tuple[int, int] = EVERYTHING
    replica: Replica = field(default_factory=lambda: Replica(CHAT))
    cursor: bytes | None = None
    welcome: Welcome | None = None
    batches: list[Batch] = field(default_factory=list)
    """Of the last connection."""

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Peer]:
        """Say hello, and hang up in the end."""
        conversations, messages = self.window
        async with peer(self.url) as one:
            one.replica = self.replica
            self.welcome = await one.greet(self.user, self.cursor, {"conversation": conversations, "message": messages})
            self.batches = []
            yield one

    async def hear(self, one: Peer) -> ToClient:
        frame = await one.hear()
        assert isinstance(frame, Batch | Live | Pong), frame
        if isinstance(frame, Batch):
            self.batches.append(frame)
        self.cursor = one.cursor
        return frame

    async def until_live(self, one: Peer, at_each: Callable[[], Awaitable[None]] | None = None) -> None:
        while not isinstance(await self.hear(one), Live):
            if at_each is not None:
                await at_each()

    async def catch_up(self) -> None:
        """Connect, be live, and hang up."""
        async with self.connected() as one:
            await self.until_live(one)

    @property
    def why(self) -> str | None:
        """Why the last connection began with a snapshot; None if it did not."""
        assert self.welcome is not None
        snapshot = any(isinstance(batch, Snapshot) for batch in self.batches)
        assert (self.welcome.mode == "snapshot") == (self.welcome.why is not None) == snapshot
        return self.welcome.why

    def state(self) -> State:
        return held(self.replica)


@pytest.fixture
async def device(server: Running, sql: Any, user: UUID) -> Device:
    """It has a cursor, and holds a conversation with two messages."""
    conversation = await add_conversation(sql, user)
    await add_message(sql, conversation, "one")
    await add_message(sql, conversation, "two")
    made = Device(server.url, user)
    await made.catch_up()
    assert made.why == "new"
    assert made.state() == await select_everything(sql, user)
    return made


async def resumes(device: Device, sql: Any) -> None:
    before = device.cursor
    await device.catch_up()
    assert device.why is None
    assert device.welcome is not None
    assert device.state() == await select_everything(sql, device.user), before


async def starts_over(device: Device, sql: Any, why: str) -> None:
    await device.catch_up()
    assert device.why == why
    assert device.state() == await select_everything(sql, device.user)
    await resumes(device, sql)


# ---- Each reason for a snapshot ------------------------------------------------------------------------------------


async def test_a_device_without_a_cursor_gets_a_snapshot_because_it_is_new(device: Device, sql: Any) -> None:
    device.cursor = None
    await starts_over(device, sql, "new")


@pytest.mark.parametrize("cursor", [b"", b"x" * 128], ids=["empty", "as long as may be"])
async def test_bytes_that_are_no_cursor_are_unreadable(device: Device, sql: Any, cursor: bytes) -> None:
    """Which bytes are none is tested in tests/protocol/test_cursor.py."""
    device.cursor = cursor
    await starts_over(device, sql, "unreadable")


async def test_a_cursor_of_another_history_gets_a_snapshot_because_of_its_epoch(device: Device, sql: Any) -> None:
    assert device.cursor is not None
    cursor = Cursor.decode(device.cursor)
    assert cursor is not None
    device.cursor = cursor._replace(epoch="0123456789abcdef").encode()
    await starts_over(device, sql, "epoch")


async def test_after_a_restore_old_cursors_are_of_another_epoch(device: Device, database: Database, sql: Any) -> None:
    await sql.execute("UPDATE sync.meta SET history = gen_random_uuid()")
    assert device.welcome is not None
    before = device.welcome.epoch
    async with serving(database) as another:
        device.url = another.url
        await starts_over(device, sql, "epoch")
    assert device.welcome.epoch != before


async def test_when_the_history_changes_under_a_server_live_devices_start_over(
    device: Device, database: Database, sql: Any
) -> None:
    async with serving(database, sweep=0.05) as server, peer(server.url) as one:
        await one.greet(device.user, device.cursor)
        await one.hear_a(Live)
        await sql.execute("UPDATE sync.meta SET history = gen_random_uuid()")
        code, error = await one.closed()
        assert error is not None
        assert (error.code, error.retryable, code) == ("position_lost", True, 4200)
        device.url = server.url
        await starts_over(device, sql, "epoch")


async def test_a_cursor_that_the_feed_has_not_reached_is_ahead(device: Device, sql: Any) -> None:
    """The tail of the history was lost, as by a failover to a replica that lagged."""
    await sql.execute("UPDATE sync.feeds SET seq = prev WHERE user_id = $1", device.user)
    await sql.execute("DELETE FROM sync.log WHERE seq > (SELECT seq FROM sync.feeds WHERE user_id = $1)", device.user)
    await starts_over(device, sql, "ahead")


async def test_a_cursor_is_ahead_when_the_feed_has_gone_another_way_beyond_it(device: Device, sql: Any) -> None:
    await sql.execute("UPDATE sync.feeds SET seq = prev WHERE user_id = $1", device.user)
    await sql.execute("DELETE FROM sync.log WHERE seq > (SELECT seq FROM sync.feeds WHERE user_id = $1)", device.user)
    await add_conversation(sql, device.user, "what happened instead")
    await starts_over(device, sql, "ahead")


@pytest.mark.parametrize("position", [Position(2**63 - 1), Position(2**63 - 1, 2**63 - 1), Position(2**62, 1)])
async def test_a_made_up_cursor_from_the_far_future_is_ahead(device: Device, sql: Any, position: Position) -> None:
    assert device.welcome is not None
    device.cursor = Cursor.of(device.welcome.epoch, device.user, position).encode()
    await starts_over(device, sql, "ahead")


async def test_a_user_whose_feed_is_gone_is_ahead_of_it(device: Device, sql: Any) -> None:
    await sql.execute("DELETE FROM sync.log")
    await sql.execute("DELETE FROM sync.feeds")
    await starts_over(device, sql, "ahead")


async def test_changes_that_are_no_longer_kept_are_too_old(device: Device, sql: Any) -> None:
    await add_conversation(sql, device.user, "while it was away")
    await sql.execute("DELETE FROM sync.log WHERE user_id = $1", device.user)
    await starts_over(device, sql, "too_old")


async def test_a_cursor_before_a_hole_is_too_old(device: Device, sql: Any) -> None:
    await add_conversation(sql, device.user, "lost")
    await sql.execute("DELETE FROM sync.log WHERE user_id = $1", device.user)
    await add_conversation(sql, device.user, "kept")
    await starts_over(device, sql, "too_old")


async def test_a_hole_between_changes_that_are_kept_is_never_passed_over(device: Device, sql: Any) -> None:
    await add_conversation(sql, device.user, "kept")
    lost = await add_conversation(sql, device.user, "lost")
    await add_conversation(sql, device.user, "kept, too")
    await sql.execute("DELETE FROM sync.log WHERE row_id = $1", lost)
    await starts_over(device, sql, "too_old")


async def test_a_dropped_partition_of_the_log_is_too_old(device: Device, sql: Any) -> None:
    await add_conversation(sql, device.user, "while it was away")
    partition = await sql.fetchval(
        "SELECT DISTINCT tableoid::regclass::text FROM sync.log WHERE user_id = $1", device.user
    )
    await sql.execute(f"DROP TABLE {partition}")
    await starts_over(device, sql, "too_old")


@pytest.mark.parametrize("position", [Position(0, 1), Position(1), Position(1, 7)])
async def test_a_made_up_cursor_from_before_everything_is_no_place_to_resume_at(
    device: Device, sql: Any, position: Position
) -> None:
    assert device.welcome is not None
    device.cursor = Cursor.of(device.welcome.epoch, device.user, position).encode()
    await device.catch_up()
    assert device.why in ("too_old", "ahead")
    assert device.state() == await select_everything(sql, device.user)


# ---- No reason, no snapshot ----------------------------------------------------------------------------------------


async def test_a_cursor_at_the_head_resumes_and_nothing_is_sent(device: Device, sql: Any) -> None:
    cursor = device.cursor
    await resumes(device, sql)
    assert device.batches == []
    assert device.cursor == cursor


async def test_a_cursor_at_the_head_resumes_even_when_the_log_is_empty(device: Device, sql: Any) -> None:
    await sql.execute("DELETE FROM sync.log")
    await resumes(device, sql)


async def test_a_cursor_behind_the_head_resumes_with_what_it_missed(device: Device, sql: Any) -> None:
    conversation = await add_conversation(sql, device.user, "while it was away")
    await add_message(sql, conversation, "this too")
    await sql.execute("DELETE FROM messages WHERE content = 'one'")
    await resumes(device, sql)
    assert sum(len(batch.rows) for batch in device.batches) == 3


async def test_the_oldest_change_that_is_kept_is_enough(device: Device, sql: Any) -> None:
    await add_conversation(sql, device.user, "the first that it missed")
    await sql.execute("DELETE FROM sync.log l USING sync.feeds f WHERE l.user_id = f.user_id AND l.seq < f.seq")
    await add_conversation(sql, device.user, "the second")
    await resumes(device, sql)


async def test_a_user_whose_feed_never_moved_resumes(server: Running, sql: Any) -> None:
    """Rows from before the triggers were there."""
    user = uuid4()
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        await add_user(sql, user=user)
        await add_message(sql, await add_conversation(sql, user))
    device = Device(server.url, user)
    await device.catch_up()
    assert device.why == "new"
    assert device.state() == await select_everything(sql, user)
    await resumes(device, sql)
    await add_conversation(sql, user, "the first change")
    await resumes(device, sql)
    assert len(device.batches) == 1


async def test_a_restart_of_the_server_causes_no_snapshot(device: Device, database: Database, sql: Any) -> None:
    for _ in range(2):
        async with serving(database) as another:
            device.url = another.url
            await resumes(device, sql)
            await add_conversation(sql, device.user)


async def test_a_cursor_of_another_device_of_the_same_user_causes_no_snapshot(device: Device, sql: Any) -> None:
    other = Device(device.url, device.user, replica=copy.deepcopy(device.replica), cursor=device.cursor)
    await resumes(other, sql)


async def test_another_window_causes_no_snapshot(device: Device, sql: Any) -> None:
    device.window = (1, 0)
    await resumes(device, sql)


async def test_a_cursor_of_every_batch_is_a_place_to_resume_at(server: Running, sql: Any, user: UUID) -> None:
    """In the middle of a transaction that is larger than a batch, too."""
    device = Device(server.url, user)
    await device.catch_up()
    conversation = await add_conversation(sql, user)
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', 'number ' || i"
        " FROM generate_series(1, 1700) i",
        conversation,
    )
    await add_conversation(sql, user, "and one more")
    partial, cursor = 0, device.cursor
    while not (partial and device.cursor == cursor):
        cursor = device.cursor
        async with device.connected() as one:
            frame = await device.hear(one)  # and hang up
        assert device.why is None
        partial += isinstance(frame, Changes) and frame.partial
    assert partial > 1
    assert device.state() == await select_everything(sql, user)


async def test_a_partial_position_whose_rest_is_gone_is_too_old(server: Running, sql: Any, user: UUID) -> None:
    device = Device(server.url, user)
    await device.catch_up()
    await fill(sql, user, conversations=6, messages=150)
    async with device.connected() as one:
        while not any(isinstance(batch, Changes) and batch.partial for batch in device.batches):
            await device.hear(one)
    await sql.execute("DELETE FROM sync.log")
    await starts_over(device, sql, "too_old")


# ---- The window ----------------------------------------------------------------------------------------------------


async def fill(sql: Any, user: UUID, conversations: int, messages: int, size: int = 10) -> None:
    """Conversations of so many messages each, with equal instants among both."""
    await sql.execute(
        "WITH made AS (INSERT INTO conversations (user_id, title, updated_at)"
        "   SELECT $1, 'number ' || i, now() - (i / 2) * interval '1 hour' FROM generate_series(1, $2::int) i"
        "   RETURNING id)"
        " INSERT INTO messages (conversation_id, role, content, created_at)"
        " SELECT id, 'user', repeat('x', $4::int), now() - (i / 2) * interval '9 days'"
        " FROM made, generate_series(1, $3::int) i",
        user,
        conversations,
        messages,
        size,
    )


async def snapshot_frames(one: Peer) -> list[Snapshot]:
    return [frame for frame in await one.hear_until(Live) if isinstance(frame, Snapshot)]


@pytest.mark.parametrize("window", [(0, 0), (0, 200), (1, 1), (3, 2), (4, 0), (7, 5), (8, 6), (500, 200)], ids=str)
async def test_a_snapshot_is_exactly_the_newest_as_far_as_the_window_goes(
    every_database: Database, every_sql: Any, window: tuple[int, int]
) -> None:
    sql = every_sql
    user = await add_user(sql)
    await fill(sql, user, conversations=7, messages=5)
    async with serving(every_database) as server, peer(server.url) as one:
        await one.greet(user, window={"conversation": window[0], "message": window[1]})
        rows = [row for frame in await snapshot_frames(one) for row in frame.rows]
    newest = await sql.fetch(
        "SELECT id FROM conversations WHERE user_id = $1 ORDER BY updated_at DESC, id DESC LIMIT $2", user, window[0]
    )
    messages = await sql.fetch(
        "SELECT m.id FROM unnest($1::uuid[]) c, LATERAL (SELECT id FROM messages WHERE conversation_id = c"
        " ORDER BY created_at DESC, id DESC LIMIT $2) m",
        [record["id"] for record in newest],
        window[1],
    )
    assert [row.id for row in rows if isinstance(row, Profile)] == [user]
    assert {row.id for row in rows if isinstance(row, Conversation)} == {record["id"] for record in newest}
    assert {row.id for row in rows if isinstance(row, Message)} == {record["id"] for record in messages}
    assert len(rows) == 1 + len(newest) + len(messages)


async def test_a_snapshot_without_a_window_has_fifty_conversations_of_fifty_messages(
    server: Running, sql: Any, user: UUID
) -> None:
    await fill(sql, user, conversations=52, messages=51)
    async with peer(server.url) as one:
        await one.say(Hello(token=token(user), client_id=uuid4()))
        rows = [row for frame in await snapshot_frames(one) for row in frame.rows]
    assert sum(isinstance(row, Conversation) for row in rows) == 50
    assert sum(isinstance(row, Message) for row in rows) == 50 * 50


async def test_a_user_with_nothing_gets_the_profile(server: Running, user: UUID) -> None:
    device = Device(server.url, user)
    await device.catch_up()
    assert device.state() == {("p", user): ("core", None)}


async def test_a_change_outside_the_window_arrives(server: Running, sql: Any, user: UUID) -> None:
    await fill(sql, user, conversations=3, messages=2)
    device = Device(server.url, user, window=(1, 1))
    await device.catch_up()
    oldest = await sql.fetchval("SELECT id FROM conversations WHERE user_id = $1 ORDER BY updated_at, id LIMIT 1", user)
    assert oldest not in device.replica.rows["conversation"]
    message = await add_message(sql, oldest, "here")
    await device.catch_up()
    assert message in device.replica.rows["message"]


# ---- The frames of a snapshot --------------------------------------------------------------------------------------


async def test_the_seq_of_every_row_is_the_as_of_of_its_frame(server: Running, sql: Any, user: UUID) -> None:
    await fill(sql, user, conversations=60, messages=20)
    async with peer(server.url) as one:
        await one.greet(user)
        frames = await snapshot_frames(one)
    assert len(frames) > 2
    for frame in frames:
        assert {row[SEQ] for row in frame.rows} <= {frame.as_of}


async def test_only_the_last_frame_has_the_cursor_and_live_has_the_same(server: Running, sql: Any, user: UUID) -> None:
    await fill(sql, user, conversations=60, messages=20)
    async with peer(server.url) as one:
        await one.greet(user)
        *frames, live = await one.hear_until(Live)
    assert isinstance(live, Live)
    cursors = [frame.cursor for frame in frames if isinstance(frame, Snapshot)]
    assert cursors == [*[None] * (len(frames) - 1), live.cursor]


async def test_no_row_comes_twice_in_a_snapshot(server: Running, sql: Any, user: UUID) -> None:
    await fill(sql, user, conversations=40, messages=30, size=1_000)
    async with peer(server.url) as one:
        await one.greet(user, window={"conversation": 500, "message": 200})
        rows = [row for frame in await snapshot_frames(one) for row in frame.rows]
    assert len({row[ID] for row in rows}) == len(rows) == 1 + 40 + 40 * 30


@pytest.mark.parametrize(
    ("conversations", "messages", "size"),
    [(30, 20, 10_000), (3, 4, 300_000), (1, 200, 30_000), (60, 1, 100_000)],
    ids=["many", "large", "one conversation", "one message each"],
)
async def test_a_large_snapshot_comes_in_several_frames_and_is_whole(
    server: Running, sql: Any, user: UUID, conversations: int, messages: int, size: int
) -> None:
    await fill(sql, user, conversations, messages, size)
    device = Device(server.url, user)
    await device.catch_up()
    assert len(device.batches) > 3
    assert device.state() == await select_everything(sql, user)
    await resumes(device, sql)


async def sizes(server: Running, user: UUID, cursor: bytes | None = None) -> list[tuple[int, int]]:
    """Rows and bytes of each frame until the device is live."""
    found: list[tuple[int, int]] = []
    async with peer(server.url) as one:
        await one.greet(user, cursor)
        while True:
            async with asyncio.timeout(LIMIT):
                data = await one.socket.recv()
            assert isinstance(data, bytes)
            frame = MSGPACK.decode_to_client(data)
            if not isinstance(frame, Snapshot | Changes):
                return found
            found.append((len(frame.rows), len(data)))


@pytest.mark.parametrize(("messages", "size"), [(12, 100_000), (6, 200_000)])
async def test_the_frame_of_a_snapshot_has_some_260_kilobytes_at_most(
    server: Running, sql: Any, user: UUID, messages: int, size: int
) -> None:
    await fill(sql, user, 1, messages, size)
    frames = await sizes(server, user)
    assert max(size for _, size in frames) <= FRAME, frames


async def test_a_row_that_is_larger_than_a_frame_travels_alone(server: Running, sql: Any, user: UUID) -> None:
    conversation = await add_conversation(sql, user)
    for content in ("x", "x" * 1_000_000, "x"):
        await add_message(sql, conversation, content)
    frames = await sizes(server, user)
    assert [rows for rows, size in frames if size > FRAME] == [1], frames


async def test_long_titles_make_small_frames(server: Running, sql: Any, user: UUID) -> None:
    await sql.execute(
        "INSERT INTO conversations (user_id, title) SELECT $1, repeat('x', 20000) FROM generate_series(1, 40)", user
    )
    frames = await sizes(server, user)
    assert max(size for _, size in frames) <= FRAME, frames


async def test_the_frames_of_missed_changes_are_as_small_as_those_of_a_snapshot(
    device: Device, server: Running, sql: Any
) -> None:
    conversation: Any = next(iter(device.replica.rows["conversation"]))
    for size in [*[100_000] * 6, 1_000, 1_000_000, 1_000]:
        await add_message(sql, conversation, "x" * size)
    frames = await sizes(server, device.user, device.cursor)
    assert sum(rows for rows, _ in frames) == 9
    assert [rows for rows, size in frames if size > FRAME] == [1], frames


# ---- What happens meanwhile ----------------------------------------------------------------------------------------


async def test_changes_between_two_frames_of_a_snapshot_are_not_lost(server: Running, sql: Any, user: UUID) -> None:
    """The messages cannot be read before the changes are committed: the list of conversations is older than they."""
    await fill(sql, user, conversations=20, messages=5)
    conversations = [row["id"] for row in await sql.fetch("SELECT id FROM conversations WHERE user_id = $1", user)]
    device = Device(server.url, user)
    async with device.connected() as one:
        async with sql.transaction():
            await sql.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            while not device.batches:
                await device.hear(one)
            await add_message(sql, conversations[0], "made meanwhile")
            await sql.execute(
                "UPDATE messages SET content = 'changed meanwhile' WHERE conversation_id = $1", conversations[1]
            )
            await sql.execute("DELETE FROM messages WHERE conversation_id = $1", conversations[2])
            await sql.execute("DELETE FROM conversations WHERE id = $1", conversations[3])
            await sql.execute(
                "UPDATE messages SET conversation_id = $2 WHERE conversation_id = $1", *conversations[4:6]
            )
            await sql.execute("UPDATE conversations SET title = 'changed meanwhile' WHERE id = $1", conversations[6])
            await add_message(sql, await add_conversation(sql, user, "new"), "in a new conversation")
            await sql.execute("UPDATE profiles SET subscription_status = 'changed meanwhile' WHERE id = $1", user)
        await device.until_live(one)
    assert device.state() == await select_everything(sql, user)
    await resumes(device, sql)


async def test_changes_at_every_frame_of_a_snapshot_are_not_lost(server: Running, sql: Any, user: UUID) -> None:
    await fill(sql, user, conversations=30, messages=6, size=8_000)
    conversations = [row["id"] for row in await sql.fetch("SELECT id FROM conversations WHERE user_id = $1", user)]
    device = Device(server.url, user)

    async def write() -> None:
        if len(conversations) < 4:
            return
        await add_message(sql, conversations[0], "made meanwhile")
        await sql.execute("DELETE FROM conversations WHERE id = $1", conversations.pop())
        await sql.execute(
            "DELETE FROM messages WHERE id IN"
            " (SELECT id FROM messages WHERE conversation_id = $1 ORDER BY created_at LIMIT 2)",
            conversations[1],
        )
        await sql.execute("UPDATE messages SET content = 'changed' WHERE conversation_id = $1", conversations[-1])

    async with device.connected() as one:
        await device.until_live(one, write)
        await add_conversation(sql, user, "the last one")
        while "the last one" not in {row.title for row in device.replica.rows["conversation"].values()}:
            await device.hear(one)
    assert device.state() == await select_everything(sql, user)


async def test_a_conversation_made_anew_meanwhile_has_only_its_new_messages(
    server: Running, sql: Any, user: UUID
) -> None:
    await fill(sql, user, conversations=3, messages=3)
    again = await sql.fetchval("SELECT id FROM conversations WHERE user_id = $1 LIMIT 1", user)
    device = Device(server.url, user)
    async with device.connected() as one:
        async with sql.transaction():
            await sql.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            while not device.batches:
                await device.hear(one)
            await sql.execute("DELETE FROM conversations WHERE id = $1", again)
            await sql.execute("INSERT INTO conversations (id, user_id) VALUES ($1, $2)", again, user)
            await add_message(sql, again, "new")
        await device.until_live(one)
    assert device.state() == await select_everything(sql, user)


async def test_an_interrupted_snapshot_starts_over(server: Running, sql: Any, user: UUID) -> None:
    await fill(sql, user, conversations=30, messages=20, size=5_000)
    device = Device(server.url, user)
    async with device.connected() as one:
        while len(device.batches) < 2:
            await device.hear(one)
    assert device.cursor is None
    await starts_over(device, sql, "new")


async def test_two_devices_with_snapshots_of_their_own_hold_the_same(server: Running, sql: Any, user: UUID) -> None:
    await fill(sql, user, conversations=30, messages=20, size=1_000)
    devices = [Device(server.url, user) for _ in range(4)]
    await asyncio.gather(*(device.catch_up() for device in devices))
    expected = await select_everything(sql, user)
    assert all(device.state() == expected for device in devices)


async def test_a_device_that_got_a_snapshot_is_sent_changes_like_any_other(
    server: Running, sql: Any, user: UUID
) -> None:
    async with peer(server.url) as one:
        await one.greet(user)
        live = await one.hear_a(Live)
        await add_conversation(sql, user)
        changes = await one.hear_a(Changes)
        assert changes.from_ == live.cursor


async def test_at_live_the_profile_and_the_list_are_of_one_moment(server: Running, sql: Any, user: UUID) -> None:
    """While one transaction after another changes both. Pieces of a snapshot bring one and then the other, and the
    changes behind them what they lack of each other."""
    conversation = await add_conversation(sql, user, "0")

    async def write(number: int) -> None:
        async with sql.transaction():
            await sql.execute("UPDATE conversations SET title = $1 WHERE id = $2", str(number), conversation)
            await sql.execute("UPDATE profiles SET subscription_status = $1 WHERE id = $2", str(number), user)

    await write(0)
    done = asyncio.Event()

    async def writing() -> None:
        number = 0
        while not done.is_set():
            number += 1
            await write(number)

    task = asyncio.create_task(writing())
    try:
        for _ in range(20):
            async with peer(server.url) as one:
                await one.greet(user)
                await one.hear_a(Live)
                held = one.replica.rows
                assert held["profile"][user].status == held["conversation"][conversation].title
    finally:
        done.set()
        await task
