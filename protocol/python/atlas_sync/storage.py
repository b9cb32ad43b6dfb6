"""Keeps an outbox in memory, or in a SQLite file that survives crashes and power failures.

The only module of the client that knows SQLite. outbox.py decides what the entries mean.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from atlas_sync.checks import ProtocolError
from atlas_sync.outbox import Entry, EntryState, Head, unconfirmed
from atlas_sync.stored import pack_mutation, pack_schema, unpack_earlier, unpack_mutation, unpack_schema

APPLICATION = 0x41744C53  # SQLite's application_id, which marks a file as ours: «AtLS»
VERSION = 4  # of the tables: SQLite's user_version
LOCK_WITHIN = 0.5  # seconds; another process may be ending

_HEAD = """
CREATE TABLE atlas_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    owner BLOB NOT NULL, client_id BLOB NOT NULL,
    next_key INTEGER NOT NULL, next_n INTEGER NOT NULL,
    frame_bytes INTEGER NOT NULL, generation INTEGER NOT NULL, schema BLOB, ahead INTEGER
)
"""
_OUTBOX = """
CREATE TABLE atlas_outbox (
    key INTEGER PRIMARY KEY, n INTEGER NOT NULL, mutation BLOB NOT NULL,
    state TEXT NOT NULL, seq INTEGER, code TEXT, message TEXT, "column" TEXT
)
"""


class StorageError(Exception):
    """The file cannot be used. The message says what to do."""


class UnsentError(Exception):
    """`count` writes would be lost: neither the server nor another device has them."""

    def __init__(self, count: int) -> None:
        super().__init__(f"writes on this device only: {count}; let them be sent, or set discard_unsent")
        self.count = count


class MemoryStorage:
    """Keeps an outbox as long as the app runs: for tests, and for apps that need not keep unsent writes."""

    user: UUID | None = None

    def __init__(self) -> None:
        self.client_id = uuid4()
        self._head = Head()
        self._entries: dict[int, Entry] = {}

    def load(self) -> tuple[Head, list[Entry]]:
        return self._head, list(self._entries.values())

    def commit(self, head: Head, put: list[Entry], drop: list[int]) -> None:
        self._head = head
        self._entries.update((entry.key, entry) for entry in put)
        for key in drop:
            self._entries.pop(key, None)


class SqliteStorage:
    """One file of one user on one device, for one process at a time.

    Every commit is on the disk when it returns (WAL, synchronous=FULL), so it survives a power failure. Numbers belong
    to a user and a `client_id`: another user of this device needs another file.

    An app may keep its rows and its cursor in the same file, in tables whose names do not begin with `atlas_`. So it
    stores a batch, its cursor and what they confirm in one transaction::

        def on_batch(batch):
            with storage.transaction() as sql:
                ...  # apply batch.rows, keep batch.cursor
                outbox.advance(batch.seq)

    Raises StorageError for a file of another app, of a newer version, in use, or of another user. Close it after the
    device has ended.
    """

    def __init__(self, path: Path | str, user: UUID) -> None:
        self.user = user
        self._path = str(path)
        self._lent = False
        with ExitStack() as on_failure:
            try:
                # Other accounts must not read people's texts. SQLite gives its other files the permissions of this one.
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
                # isolation_level=None: each statement commits by itself, except after our own BEGIN.
                self._db = sqlite3.connect(self._path, timeout=LOCK_WITHIN, isolation_level=None)
                on_failure.callback(self._db.close)
                self._open(user)
            except sqlite3.DatabaseError as error:
                raise StorageError(self._words(error)) from error
            except OSError as error:
                raise StorageError(f"{self._path} cannot be opened ({error.strerror}): name another file.") from error
            on_failure.pop_all()

    def close(self) -> None:
        """Close the file. May be repeated."""
        self._db.close()

    def destroy(self, *, discard_unsent: bool = False) -> None:
        """Delete the file and all that is in it, the app's own tables too, as when the user signs out.

        Call it after the device has ended. Raises UnsentError, and deletes nothing, if there are writes that the server
        has not confirmed or has rejected, unless `discard_unsent` is set.
        """
        unsent = unconfirmed(self.load()[1])
        if unsent and not discard_unsent:
            raise UnsentError(len(unsent))
        self.close()
        for path in (self._path, f"{self._path}-wal", f"{self._path}-shm"):
            Path(path).unlink(missing_ok=True)

    def load(self) -> tuple[Head, list[Entry]]:
        head = self._db.execute(
            "SELECT next_key, next_n, frame_bytes, generation, schema, ahead FROM atlas_head"
        ).fetchone()
        rows = self._db.execute(
            'SELECT key, n, mutation, state, seq, code, message, "column" FROM atlas_outbox ORDER BY key'
        )
        try:
            entries = [
                Entry(key, n, unpack_mutation(mutation), EntryState(state), *rest)
                for key, n, mutation, state, *rest in rows
            ]
            next_key, next_n, frame_bytes, generation, packed, ahead = head
            schema = None if packed is None else unpack_schema(packed)
            return Head(next_key, next_n, frame_bytes, generation, schema, ahead), entries
        except (ProtocolError, ValueError) as error:
            raise StorageError(self._unreadable()) from error

    def commit(self, head: Head, put: list[Entry], drop: list[int]) -> None:
        """See Storage.

        Within `transaction` it may only delete entries, because a number that was given must not be rolled back. Raises
        RuntimeError for anything else.
        """
        if self._lent:
            if put:
                raise RuntimeError("Add to the outbox, and acknowledge, outside of the storage's transaction().")
            self._write(head, put, drop)
        else:
            with self._in_transaction():
                self._write(head, put, drop)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction on the app's own tables in this file: rolled back if the block raises. Await nothing within it.

        Entries that `Outbox.advance` deletes in a transaction that is rolled back are there again after the next start,
        and are deleted then.
        """
        with self._in_transaction():
            self._lent = True
            try:
                yield self._db
            finally:
                self._lent = False

    def renew(self) -> None:
        """Change the client_id of a file that was restored from a backup or copied. Call it before making the Outbox.

        Numbers start at 1 again. A mutation may be applied a second time if its answer arrived after the backup.
        """
        _, entries = self.load()
        pending = [entry.key for entry in entries if entry.state is EntryState.PENDING]
        with self._in_transaction():
            # The numbers of the old client_id are not valid for the new one.
            self._db.execute("UPDATE atlas_outbox SET n = 0, seq = coalesce(seq, CASE state WHEN 'acked' THEN 0 END)")
            self._db.executemany("UPDATE atlas_outbox SET n = ? WHERE key = ?", enumerate(pending, 1))
            self._db.execute("UPDATE atlas_head SET client_id = ?, next_n = ?", (uuid4().bytes, len(pending) + 1))
        self.client_id = self._client_id()

    # ---- Opening -----------------------------------------------------------------------------------------------------

    def _open(self, user: UUID) -> None:
        # Before the first read: SQLite then keeps its lock until the file is closed.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION and (application or tables):
            raise StorageError(f"{self._path} is another app's database: name another file.")
        if version > VERSION:
            raise StorageError(f"{self._path} was written by a newer version: update this app.")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with self._in_transaction():  # which also takes the lock
            if application != APPLICATION:
                self._create(user)
            elif version < VERSION:
                self._upgrade(version)
            (owner,) = self._db.execute("SELECT owner FROM atlas_head").fetchone()
        if owner != user.bytes:
            raise StorageError(f"{self._path} belongs to another user: keep one file for each.")
        self.client_id = self._client_id()

    def _create(self, user: UUID) -> None:
        self._db.execute(_HEAD)
        self._db.execute(_OUTBOX)
        head = Head()
        self._db.execute(
            "INSERT INTO atlas_head VALUES (1, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (user.bytes, uuid4().bytes, head.next_key, head.next_n, head.frame_bytes, head.generation),
        )
        self._db.execute(f"PRAGMA application_id = {APPLICATION}")
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _upgrade(self, version: int) -> None:
        """What an earlier version kept may have been sent: its instants must stay, so the clock counts as known."""
        if version == 3:
            self._db.execute("ALTER TABLE atlas_head ADD COLUMN ahead INTEGER")
            self._db.execute("UPDATE atlas_head SET ahead = 0 WHERE generation > 0")
        else:
            self._upgrade_chat(version)
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _upgrade_chat(self, version: int) -> None:
        """From version 1, which had no generation, or 2. Both had bounds of the chat schema, and only its mutations."""
        generation = "0" if version == 1 else "generation"
        self._db.execute("ALTER TABLE atlas_head RENAME TO atlas_earlier")
        self._db.execute(_HEAD)
        self._db.execute(
            "INSERT INTO atlas_head SELECT one, owner, client_id, next_key, next_n, frame_bytes, "
            f"{generation}, NULL, 0 FROM atlas_earlier"
        )
        self._db.execute("DROP TABLE atlas_earlier")
        self._db.execute('ALTER TABLE atlas_outbox ADD COLUMN "column" TEXT')
        for key, mutation in self._db.execute("SELECT key, mutation FROM atlas_outbox").fetchall():
            try:
                packed = pack_mutation(unpack_earlier(mutation))
            except ProtocolError as error:
                raise StorageError(self._unreadable()) from error
            self._db.execute("UPDATE atlas_outbox SET mutation = ? WHERE key = ?", (packed, key))

    def _client_id(self) -> UUID:
        (client_id,) = self._db.execute("SELECT client_id FROM atlas_head").fetchone()
        return UUID(bytes=client_id)

    def _unreadable(self) -> str:
        return f"{self._path} has a mutation that cannot be read: restore it, or delete it."

    def _words(self, error: sqlite3.DatabaseError) -> str:
        if "locked" in str(error):
            return f"{self._path} is in use by another process: end that one first, or name another file."
        if "not a database" in str(error):
            return f"{self._path} is no database: name another file."
        return f"{self._path} cannot be used ({error}): name another file."

    # ---- Writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _in_transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # on a full disk SQLite may have rolled it back already
                self._db.execute("ROLLBACK")
            raise

    def _write(self, head: Head, put: Iterable[Entry], drop: Iterable[int]) -> None:
        schema = None if head.schema is None else pack_schema(head.schema)
        self._db.execute(
            "UPDATE atlas_head SET next_key = ?, next_n = ?, frame_bytes = ?, generation = ?, schema = ?, ahead = ?",
            (head.next_key, head.next_n, head.frame_bytes, head.generation, schema, head.ahead),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO atlas_outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((e.key, e.n, pack_mutation(e.mutation), e.state.value, e.seq, e.code, e.message, e.column) for e in put),
        )
        self._db.executemany("DELETE FROM atlas_outbox WHERE key = ?", ((key,) for key in drop))
