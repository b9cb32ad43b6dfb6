"""Both storages keep an outbox; the file survives a crash of the app, and belongs to one user."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest

from atlas_sync.codec import CODECS
from atlas_sync.mutation import (
    Applied,
    Bounds,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    Rejected,
    RenameConversation,
)
from atlas_sync.outbox import Entry, EntryState, Head, Outbox
from atlas_sync.session import ErrorAnswer, Limits
from atlas_sync.storage import MemoryStorage, SqliteStorage, StorageError

USER, STRANGER, A, M = (UUID(int=n) for n in range(1, 5))
LIMITS = Limits(262_144, 1000, 4, mutations=100, title_bytes=1000, content_bytes=1000)
EVERY_KIND: list[Mutation] = [
    CreateConversation(A, "Wien, 東京 & 🚲", -(2**53)),
    CreateConversation(A, None, 2**53),
    RenameConversation(A, "", 1),
    DeleteConversation(A),
    CreateMessage(M, A, "user", "\x01\n«é»", 1),
    EditMessage(M, 1, "", 2),
    DeleteMessage(M, 1),
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
        return Outbox(self.storage)


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
    assert outbox.next_push(LIMITS, CODECS["msgpack"], 0) is not None
    outbox.acknowledge((Applied(1, 2**53 - 1), Rejected(2, "refused", "«nein»"), Applied(3, 9)))
    outbox.add(EVERY_KIND[3])
    again = device.restart()
    assert again.entries == (
        Entry(1, 1, EVERY_KIND[0], EntryState.ACKED, seq=2**53 - 1),
        Entry(2, 2, EVERY_KIND[1], EntryState.REJECTED, code="refused", message="«nein»"),
        Entry(3, 3, EVERY_KIND[2], EntryState.ACKED, seq=9),
        Entry(4, 4, EVERY_KIND[3]),
    )
    again.discard(2)
    again.advance(9)
    assert [entry.key for entry in device.restart().entries] == [1, 4]


def test_new_numbers_are_kept_and_a_retried_mutation_is_at_the_end(device: Device) -> None:
    outbox = device.restart()
    outbox.add(EVERY_KIND[0])
    outbox.next_push(LIMITS, CODECS["msgpack"], 0)
    outbox.acknowledge((Rejected(1, "refused", "no"),))
    for mutation in EVERY_KIND[1:4]:
        outbox.add(mutation)
    outbox.next_push(LIMITS, CODECS["msgpack"], 0)
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
    outbox.begin(LIMITS)
    outbox.add(EVERY_KIND[0])
    outbox.next_push(LIMITS, CODECS["msgpack"], 0)
    outbox.acknowledge((Applied(1, 5),))
    outbox.advance(5)
    outbox.generation(1_751_000_000_123_456)
    assert device.restart().entries == ()
    assert device.storage.load()[0] == Head(2, 2, Bounds(262_144, 1000, 1000), 1_751_000_000_123_456)


# ---- The file ------------------------------------------------------------------------------------------------------

ADDS_UNTIL_KILLED = """
import sys
from uuid import UUID
from atlas_sync.mutation import CreateMessage
from atlas_sync.outbox import Outbox
from atlas_sync.storage import SqliteStorage

outbox = Outbox(SqliteStorage(sys.argv[1], UUID(int=1)))
while True:
    n = len(outbox.entries) + 1
    outbox.add(CreateMessage(UUID(int=n), UUID(int=7), "user", "x" * 3000, 1))
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
            numbers = [entry.n for entry in Outbox(storage).entries]
            assert len(numbers) >= told
            assert numbers == list(range(1, len(numbers) + 1))
            assert [entry.mutation.id.int for entry in Outbox(storage).entries] == numbers


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
        Outbox(storage).add(EVERY_KIND[0])
    with pytest.raises(StorageError, match="another user"):
        SqliteStorage(path, STRANGER)
    with opened(path) as storage:
        assert (storage.client_id, len(Outbox(storage).entries)) == (client_id, 1)


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
        sql.execute("PRAGMA user_version = 3")
    with pytest.raises(StorageError, match="newer"):
        SqliteStorage(path, USER)


def test_a_file_of_the_version_before_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        client_id = storage.client_id
        Outbox(storage).add(EVERY_KIND[0])
        with storage.transaction() as sql:
            sql.execute("ALTER TABLE atlas_head DROP COLUMN generation")
            sql.execute("PRAGMA user_version = 1")
    for expected in (1, 2):
        with opened(path) as storage:
            outbox = Outbox(storage)
            assert (storage.client_id, [entry.n for entry in outbox.entries]) == (client_id, [1])
            assert outbox.generation(0) == expected


def test_an_unreadable_mutation_raises(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        Outbox(storage).add(EVERY_KIND[0])
        with storage.transaction() as sql:
            sql.execute("UPDATE atlas_outbox SET mutation = x'00'")
        with pytest.raises(StorageError, match="cannot be read"):
            Outbox(storage)


def test_rows_cursor_and_confirmed_entries_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        outbox = Outbox(storage)
        outbox.add(EVERY_KIND[0])
        outbox.next_push(LIMITS, CODECS["msgpack"], 0)
        outbox.acknowledge((Applied(1, 5),))
        with storage.transaction() as sql:
            sql.execute("CREATE TABLE cursor (bytes BLOB)")
        with suppress(ZeroDivisionError), storage.transaction() as sql:
            sql.execute("INSERT INTO cursor VALUES (x'01')")
            outbox.advance(5)
            raise ZeroDivisionError
    with opened(path) as storage:
        outbox = Outbox(storage)
        assert [entry.state for entry in outbox.entries] == [EntryState.ACKED]
        with storage.transaction() as sql:
            assert sql.execute("SELECT count(*) FROM cursor").fetchone() == (0,)
            sql.execute("INSERT INTO cursor VALUES (x'02')")
            outbox.advance(5)
    with opened(path) as storage, storage.transaction() as sql:
        assert Outbox(storage).entries == ()
        assert sql.execute("SELECT bytes FROM cursor").fetchone() == (b"\x02",)


def test_a_number_cannot_be_rolled_back(tmp_path: Path) -> None:
    with opened(tmp_path / "outbox.db") as storage:
        outbox = Outbox(storage)
        with pytest.raises(RuntimeError), storage.transaction():
            outbox.add(EVERY_KIND[0])
        assert outbox.entries == ()
        assert outbox.add(EVERY_KIND[0]).n == 1


def test_renew_gives_a_restored_file_another_client_id_whose_numbers_start_at_one(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with opened(path) as storage:
        before = storage.client_id
        outbox = Outbox(storage)
        for mutation in EVERY_KIND[:4]:
            outbox.add(mutation)
        outbox.next_push(Limits(262_144, 1, 1, 2, 1, 1), CODECS["msgpack"], 0)
        outbox.acknowledge((Applied(1, 5), Rejected(2, "refused", "no")))
        storage.renew()
        assert storage.client_id != before
        outbox = Outbox(storage)
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
