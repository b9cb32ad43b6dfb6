"""Both storages keep an outbox; the file survives a crash of the app, and belongs to one user."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import msgpack
import pytest

from atlas_sync.chat import (
    create_conversation,
    create_message,
    delete_conversation,
    delete_message,
    edit_message,
    rename_conversation,
)
from atlas_sync.codec import CODECS
from atlas_sync.mutation import Applied, Mutation, Rejected
from atlas_sync.outbox import Entry, EntryState, Head, Outbox
from atlas_sync.replica import Replica
from atlas_sync.rows import Row
from atlas_sync.schema import Schema
from atlas_sync.session import ErrorAnswer, Limits
from atlas_sync.storage import MemoryStorage, SqliteStorage, StorageError, UnsentError
from atlas_sync.wire import Wire

USER, STRANGER, A, M = (UUID(int=n) for n in range(1, 5))
LIMITS = Limits(262_144, 1000, 4, mutations=100)
CHAT = Schema.chat()
WIRE = Wire(CODECS["msgpack"], CHAT)
EVERY_KIND: list[Mutation] = [
    create_conversation(A, "Wien, 東京 & 🚲", -(2**53)),
    create_conversation(A, None, 2**53),
    rename_conversation(A, "", 1),
    delete_conversation(A),
    create_message(M, A, "user", "\x01\n«é»", 1),
    edit_message(M, 1, "", 2),
    delete_message(M, 1),
]


class Device:
    """A storage, and an app that is restarted."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path = kind, path
        self.storage: MemoryStorage | SqliteStorage = MemoryStorage() if kind == "memory" else SqliteStorage(path, USER)

    def restart(self) -> Outbox:
        if isinstance(self.storage, SqliteStorage):
            self.storage.close()
            self.storage = SqliteStorage(self.path, USER)
        return Outbox(self.storage, CHAT)


@pytest.fixture(params=["memory", "sqlite"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Device]:
    made = Device(request.param, tmp_path / "outbox.db")
    yield made
    if isinstance(made.storage, SqliteStorage):
        made.storage.close()


@contextmanager
def opened(path: Path, user: UUID = USER) -> Iterator[SqliteStorage]:
    storage = SqliteStorage(path, user)
    try:
        yield storage
    finally:
        storage.close()


# ---- What both do --------------------------------------------------------------------------------------------------


def test_a_new_storage_is_empty_and_has_a_client_id_which_it_keeps(device: Device) -> None:
    client_id = device.storage.client_id
    assert device.storage.load() == (Head(), [])
    assert device.restart().client_id == client_id
    assert MemoryStorage().client_id != client_id


def test_every_mutation_is_loaded_as_it_was_stored_in_its_order(device: Device) -> None:
    outbox = device.restart()
    added = [outbox.add(mutation) for mutation in EVERY_KIND]
    assert device.restart().entries == tuple(added)
    assert [entry.mutation for entry in added] == EVERY_KIND


def test_every_state_of_a_mutation_is_kept(device: Device) -> None:
    outbox = device.restart()
    outbox.begin(LIMITS)
    for mutation in EVERY_KIND[:3]:
        outbox.add(mutation)
    assert outbox.next_push(LIMITS, WIRE, 0) is not None
    outbox.acknowledge((Applied(1, 2**53 - 1), Rejected(2, "refused", "«nein»", "title"), Applied(3, 9)))
    outbox.add(EVERY_KIND[3])
    again = device.restart()
    assert again.entries == (
        Entry(1, 1, EVERY_KIND[0], EntryState.ACKED, seq=2**53 - 1),
        Entry(2, 2, EVERY_KIND[1], EntryState.REJECTED, code="refused", message="«nein»", column="title"),
        Entry(3, 3, EVERY_KIND[2], EntryState.ACKED, seq=9),
        Entry(4, 4, EVERY_KIND[3]),
    )
    again.discard(2)
    again.advance(9)
    assert [entry.key for entry in device.restart().entries] == [1, 4]


def test_new_numbers_are_kept_and_a_retried_mutation_is_at_the_end(device: Device) -> None:
    outbox = device.restart()
    outbox.add(EVERY_KIND[0])
    outbox.next_push(LIMITS, WIRE, 0)
    outbox.acknowledge((Rejected(1, "refused", "no"),))
    for mutation in EVERY_KIND[1:4]:
        outbox.add(mutation)
    outbox.next_push(LIMITS, WIRE, 0)
    outbox.push_failed(ErrorAnswer("gap", "m", True, "push", expected=1), 0, 0)
    outbox.retry(1)
    again = device.restart()
    assert [(entry.n, entry.mutation) for entry in again.entries] == [
        (1, EVERY_KIND[1]),
        (2, EVERY_KIND[2]),
        (3, EVERY_KIND[3]),
        (4, EVERY_KIND[0]),
    ]
    assert again.add(EVERY_KIND[5]).n == 5


def test_numbers_and_bounds_outlast_the_entries(device: Device) -> None:
    outbox = device.restart()
    limits = Limits(262_143, 1000, 4, mutations=100)
    outbox.begin(limits)
    outbox.add(EVERY_KIND[0])
    outbox.next_push(limits, WIRE, 0)
    outbox.acknowledge((Applied(1, 5),))
    outbox.advance(5)
    outbox.generation(1_751_000_000_123_456)
    assert device.restart().entries == ()
    assert device.storage.load()[0] == Head(2, 2, 262_143, 1_751_000_000_123_456)


# ---- The file ------------------------------------------------------------------------------------------------------

ADDS_UNTIL_KILLED = """
import sys
from uuid import UUID
from atlas_sync.chat import create_message
from atlas_sync.outbox import Outbox
from atlas_sync.schema import Schema
from atlas_sync.storage import SqliteStorage

outbox = Outbox(SqliteStorage(sys.argv[1], UUID(int=1)), Schema.chat())
while True:
    n = len(outbox.entries) + 1
    outbox.add(create_message(UUID(int=n), UUID(int=7), "user", "x" * 3000, 1))
    print(n, flush=True)
"""


def test_every_add_that_returned_survives_the_killing_of_the_app(tmp_path: Path) -> None:
    path, told = tmp_path / "outbox.db", 0
    root = Path(__file__).parents[2]
    for lines in (1, 7, 40):
        command = [sys.executable, "-c", ADDS_UNTIL_KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as app:
            assert app.stdout is not None
            for _ in range(lines):
                told = int(app.stdout.readline())
            app.kill()
            for line in app.stdout.read().splitlines(keepends=True):
                told = int(line) if line.endswith("\n") else told
        with opened(path) as storage:
            numbers = [entry.n for entry in Outbox(storage, CHAT).entries]
            assert len(numbers) >= told
            assert numbers == list(range(1, len(numbers) + 1))
            assert [entry.mutation.id for entry in Outbox(storage, CHAT).entries] == [UUID(int=n) for n in numbers]


def test_a_file_is_used_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Two processes would give the same numbers to different mutations."""
    path = tmp_path / "outbox.db"
    with opened(path), pytest.raises(StorageError, match="in use"):
        SqliteStorage(path, USER)
    with opened(path):
        pass


def test_a_file_belongs_to_one_user(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        client_id = storage.client_id
        Outbox(storage, CHAT).add(EVERY_KIND[0])
    with pytest.raises(StorageError, match="another user"):
        SqliteStorage(path, STRANGER)
    with opened(path) as storage:
        assert (storage.client_id, len(Outbox(storage, CHAT).entries)) == (client_id, 1)


def test_a_file_of_another_program_is_named_and_not_changed(tmp_path: Path) -> None:
    text, empty, other = tmp_path / "letter.txt", tmp_path / "empty", tmp_path / "other.db"
    text.write_bytes(b"Dear Sirs, " * 500)
    empty.touch()
    foreign = sqlite3.connect(other)
    foreign.execute("CREATE TABLE letters (words TEXT)")
    foreign.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(StorageError, match=path.name):
            SqliteStorage(path, USER)
        assert path.read_bytes() == before
    with pytest.raises(StorageError, match="nowhere"):
        SqliteStorage(tmp_path / "nowhere" / "outbox.db", USER)
    with opened(empty):
        pass


def test_a_file_of_a_newer_version_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage, storage.transaction() as sql:
        sql.execute("PRAGMA user_version = 5")
    with pytest.raises(StorageError, match="newer"):
        SqliteStorage(path, USER)


EARLIER: dict[int, str] = {
    1: "next_key INTEGER NOT NULL, next_n INTEGER NOT NULL, frame_bytes INTEGER NOT NULL,"
    " title_bytes INTEGER, content_bytes INTEGER",
    2: "next_key INTEGER NOT NULL, next_n INTEGER NOT NULL, frame_bytes INTEGER NOT NULL,"
    " title_bytes INTEGER, content_bytes INTEGER, generation INTEGER NOT NULL DEFAULT 0",
}
"""What the head of a file had in each earlier version, after its first columns."""


def earlier_file(path: Path, version: int, *mutations: list[object]) -> None:
    """A file as an earlier version left it."""
    sql = sqlite3.connect(path)
    sql.execute(
        "CREATE TABLE atlas_head (one INTEGER PRIMARY KEY CHECK (one = 1), owner BLOB NOT NULL,"
        f" client_id BLOB NOT NULL, {EARLIER[version]})"
    )
    sql.execute(
        "CREATE TABLE atlas_outbox (key INTEGER PRIMARY KEY, n INTEGER NOT NULL, mutation BLOB NOT NULL,"
        " state TEXT NOT NULL, seq INTEGER, code TEXT, message TEXT)"
    )
    head = [1, USER.bytes, UUID(int=77).bytes, 12, 9, 200_000, 1000, None, *([31] if version == 2 else [])]
    sql.execute(f"INSERT INTO atlas_head VALUES ({', '.join('?' * len(head))})", head)
    for n, mutation in enumerate(mutations, 1):
        state = ("rejected", None, "unknown_message", "said") if n == 2 else ("pending", None, None, None)
        sql.execute("INSERT INTO atlas_outbox VALUES (?, ?, ?, ?, ?, ?, ?)", (n, n, msgpack.packb(mutation), *state))
    sql.execute("PRAGMA application_id = 0x41744C53")
    sql.execute(f"PRAGMA user_version = {version}")
    sql.commit()
    sql.close()


@pytest.mark.parametrize("version", EARLIER)
def test_a_file_of_an_earlier_version_keeps_its_content(tmp_path: Path, version: int) -> None:
    path = tmp_path / "outbox.db"
    a, m = A.bytes, M.bytes
    earlier_file(
        path,
        version,
        ["+c", a, "Wien, 東京 & 🚲", -(2**53)],
        ["+c", a, None, 2**53],
        ["~c", a, "", 1],
        ["-c", a],
        ["+m", m, a, "user", "\x01\n«é»", 1],
        ["~m", m, 1, "", 2],
        ["-m", m, 1],
    )
    for expected in (1, 2):
        with opened(path) as storage:
            outbox = Outbox(storage, CHAT)
            assert (storage.client_id, [entry.n for entry in outbox.entries]) == (UUID(int=77), [1, 2, 3, 4, 5, 6, 7])
            assert [entry.mutation for entry in outbox.entries] == EVERY_KIND
            assert [(entry.code, entry.message) for entry in outbox.quarantine] == [("unknown_message", "said")]
            head = storage.load()[0]
            assert (head.next_key, head.next_n, head.frame_bytes, head.schema) == (12, 9, 200_000, None)
            assert outbox.generation(0) == expected + (31 if version == 2 else 0)
    with opened(path) as storage:
        assert Outbox(storage, CHAT).add(EVERY_KIND[0]).n == 9


def test_a_file_of_an_earlier_version_that_cannot_be_read_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    earlier_file(path, 2, ["-c", A.bytes], ["+x", A.bytes])
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot be read"):
            SqliteStorage(path, USER)
    sql = sqlite3.connect(path)
    assert sql.execute("PRAGMA user_version").fetchone() == (2,)
    assert sql.execute("SELECT title_bytes FROM atlas_head").fetchone() == (1000,)
    sql.close()


@pytest.mark.parametrize(("generation", "ahead"), [(0, None), (31, 0)])
def test_what_an_earlier_version_may_have_sent_keeps_its_instants(
    tmp_path: Path, generation: int, ahead: int | None
) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage, storage.transaction() as sql:
        sql.execute("UPDATE atlas_head SET generation = ?", (generation,))
        sql.execute("ALTER TABLE atlas_head DROP COLUMN ahead")
        sql.execute("PRAGMA user_version = 3")
    with opened(path) as storage:
        assert storage.load()[0] == Head(generation=generation, ahead=ahead)
        Outbox(storage, CHAT).keep_time(5, 10**16)
    with opened(path) as storage:
        assert Outbox(storage, CHAT).ahead == 5


def test_the_server_s_schema_is_kept(device: Device) -> None:
    storage = device.storage
    Outbox(storage).learn(CHAT)
    device.restart()
    assert device.storage.load()[0].schema == CHAT


def test_an_unreadable_mutation_raises(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        Outbox(storage, CHAT).add(EVERY_KIND[0])
        with storage.transaction() as sql:
            sql.execute("UPDATE atlas_outbox SET mutation = x'00'")
        with pytest.raises(StorageError, match="cannot be read"):
            Outbox(storage, CHAT)


def test_rows_cursor_and_confirmed_entries_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        outbox = Outbox(storage, CHAT)
        outbox.add(EVERY_KIND[0])
        outbox.next_push(LIMITS, WIRE, 0)
        outbox.acknowledge((Applied(1, 5),))
        with storage.transaction() as sql:
            sql.execute("CREATE TABLE cursor (bytes BLOB)")
        with suppress(ZeroDivisionError), storage.transaction() as sql:
            sql.execute("INSERT INTO cursor VALUES (x'01')")
            outbox.advance(5)
            raise ZeroDivisionError
    with opened(path) as storage:
        outbox = Outbox(storage, CHAT)
        assert [entry.state for entry in outbox.entries] == [EntryState.ACKED]
        with storage.transaction() as sql:
            assert sql.execute("SELECT count(*) FROM cursor").fetchone() == (0,)
            sql.execute("INSERT INTO cursor VALUES (x'02')")
            outbox.advance(5)
    with opened(path) as storage, storage.transaction() as sql:
        assert Outbox(storage, CHAT).entries == ()
        assert sql.execute("SELECT bytes FROM cursor").fetchone() == (b"\x02",)


def test_a_number_cannot_be_rolled_back(tmp_path: Path) -> None:
    with opened(tmp_path / "outbox.db") as storage:
        outbox = Outbox(storage, CHAT)
        with pytest.raises(RuntimeError), storage.transaction():
            outbox.add(EVERY_KIND[0])
        assert outbox.entries == ()
        assert outbox.add(EVERY_KIND[0]).n == 1


def test_renew_gives_a_restored_file_another_client_id_whose_numbers_start_at_one(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        before = storage.client_id
        outbox = Outbox(storage, CHAT)
        for mutation in EVERY_KIND[:4]:
            outbox.add(mutation)
        outbox.next_push(Limits(262_144, 1, 1, 2), WIRE, 0)
        outbox.acknowledge((Applied(1, 5), Rejected(2, "refused", "no")))
        storage.renew()
        assert storage.client_id != before
        outbox = Outbox(storage, CHAT)
        assert [(entry.n, entry.state) for entry in outbox.entries] == [
            (0, EntryState.ACKED),
            (0, EntryState.REJECTED),
            (1, EntryState.PENDING),
            (2, EntryState.PENDING),
        ]
        assert outbox.add(EVERY_KIND[4]).n == 3
        assert outbox.client_id == storage.client_id
    with opened(path) as storage:
        assert storage.client_id == outbox.client_id


def test_what_is_on_this_device_only_is_exported_as_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        outbox = Outbox(storage, CHAT)
        for mutation in EVERY_KIND:
            outbox.add(mutation)
        outbox.next_push(LIMITS, WIRE, 0)
        outbox.acknowledge(
            (Applied(1, 5), Rejected(2, "refused", "It cannot be."), *(Applied(n, 5) for n in range(3, 8)))
        )
        assert [each["state"] for each in outbox.export()["unsent"]] == ["rejected"]
        outbox.distrust_acks()
        replica = Replica(CHAT)
        replica.apply([Row("conversation", 1, A, {"title": "held", "created_at": 1, "updated_at": 1})])
        exported = outbox.export(replica.rows)
        assert json.loads(json.dumps(exported)) == exported
        assert (exported["user"], exported["client_id"]) == (str(USER), str(storage.client_id))
        unsent = exported["unsent"]
        assert [(each["op"], each["kind"]) for each in unsent] == [
            ("+", "conversation"),
            ("+", "conversation"),
            ("~", "conversation"),
            ("-", "conversation"),
            ("+", "message"),
            ("~", "message"),
            ("-", "message"),
        ]
        assert unsent[0]["columns"] == {"title": "Wien, 東京 & 🚲"}
        assert (unsent[1]["code"], unsent[1]["message"]) == ("refused", "It cannot be.")
        assert unsent[2]["row"] == {"title": "held", "created_at": 1, "updated_at": 1}
        assert unsent[4]["row"] is None
        assert unsent[5]["id"] == [str(M), 1]
        with pytest.raises(UnsentError, match="on this device only: 7"):
            storage.destroy()
        assert len(Outbox(storage, CHAT).entries) == 7
        storage.destroy(discard_unsent=True)
        assert list(tmp_path.iterdir()) == []
    with opened(path) as storage:
        assert storage.load() == (Head(), [])
        storage.destroy()
        assert list(tmp_path.iterdir()) == []
