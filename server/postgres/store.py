"""Reads feeds, snapshots and pages: the `Store` of the read path, with one statement for each."""

from collections.abc import Sequence
from typing import Any, Final

from protocol.cursor import Position
from protocol.frames import FIRST_INSTANT, LAST_INSTANT, Instant, Key, Row
from protocol.schema import Type
from server.clock import machine_now
from server.declaration.model import Declaration, Kind
from server.declaration.sql.pieces import place_fields
from server.declaration.sql.reading import COLUMNS, FIRST, FIRST_OF_MANY, first_place
from server.declaration.synced import Synced
from server.declaration.values import Rows, read
from server.exceptions import UnavailableError
from server.feed.change import Entry, Reading, log_order
from server.feed.ports import Answer, Asked, Before, DeviceStatus, ReadingError, ReadKey, Want
from server.postgres.errors import StatementError, is_of_a_row
from server.postgres.pool import Pool, array
from server.postgres.timestamps import ALWAYS, NEVER

BEHIND_A_TRANSACTION: Final = (1 << 63) - 1
"""The n of a position after a whole transaction: no entry has a larger one."""
CHANGED: Final = "The declaration of what is synced has changed."
EVER: Final = (NEVER, ALWAYS)
OF_ENTRY: Final = list(COLUMNS).index("seq")
"""Where in a record of a feed the columns of the log's row begin."""
RECENT: Final = 2 * 86_400_000_000
"""Microseconds. Live devices receive rows younger than this. The first statement does not open older partitions."""
SOON: Final = 3_600_000_000
"""Microseconds by which a clock may be ahead. The first statement does not open newer partitions."""


class PostgresStore:
    """`Store` and `PresenceStore` on a pool of connections. What a `replica` answers may be behind `since`, and proves
    nothing where it finds no row of the gate."""

    def __init__(self, pool: Pool, synced: Synced, *, replica: bool = False) -> None:
        self._fetch = pool.fetch
        self._history = pool.history
        self._synced = synced
        self._replica = replica

    def _require_declared(self, asked: Declaration, digest: str | None) -> None:
        """Raises UnavailableError if the database has another declaration than `asked`, by which the statement was
        made, or this process has another one by now."""
        if digest != asked.digest:
            self._synced.on_mismatch()
        if digest != asked.digest or self._synced.declaration is not asked:
            raise UnavailableError(CHANGED)

    def _require(self, kind: Kind) -> Declaration:
        """The declaration in force. Raises UnavailableError if it does not have this kind as it is."""
        declaration = self._synced.declaration
        if declaration.kind.get(kind.name) != kind:
            raise UnavailableError(CHANGED)
        return declaration

    async def _find_no_row(self) -> None:
        """Make sure that a row of the gate that was not found does not exist. Raises UnavailableError if row level
        security may hide it, which the inspector may not have found yet: its user must not be treated as one who does
        not sync."""
        gate = self._synced.declaration.gate
        if self._replica or gate is None:
            return
        (record,) = await self._fetch("sees_gate", self._synced.gate_table)
        self._history.require(record["epoch"])
        if not record["sees"]:
            self._history.on_mismatch()
            hidden = f"Row level security hides rows of {self._synced.gate_table} from this server."
            raise UnavailableError(f"{hidden} Run `atlas-sync migrate`.")

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        now = machine_now()
        # A device that was away for longer would need the second statement anyway.
        near = min(key.after.seq for key in keys) >= now - RECENT
        bounds = (now - RECENT, now + SOON) if near else EVER
        readings, beyond = await self._read_feed(keys, rows, content_bytes, bounds)
        if beyond:
            again, _ = await self._read_feed([keys[i] for i in beyond], rows, content_bytes, EVER)
            for i, reading in zip(beyond, again, strict=True):
                readings[i] = reading
        return readings

    async def _read_feed(
        self, keys: Sequence[ReadKey], rows: int, content_bytes: int, bounds: tuple[Instant, Instant]
    ) -> tuple[list[Reading], list[int]]:
        """The readings, and the indices of those that lack rows beyond the bounds."""
        since, until = bounds
        declaration = self._synced.declaration
        records = await self._fetch_rows(
            "read_feed" if bounds != EVER else "read_feed_everywhere",
            array(key.user for key in keys),
            array(str(key.after.seq) for key in keys),
            array(str(key.after.n or BEHIND_A_TRANSACTION) for key in keys),
            min(key.after.seq for key in keys),
            rows,
            content_bytes,
            since,
            until,
            min(until, BEHIND_A_TRANSACTION),
        )
        heads = [0] * len(keys)
        marks = [0] * len(keys)
        tiers: list[str | None] = [None] * len(keys)
        entries: list[list[Entry]] = [[] for _ in keys]
        beyond: set[int] = set()
        self._require_declared(declaration, records[0]["declared"])
        for record in records:
            # In the order of reading.COLUMNS: by name, each of them costs a look-up.
            i, _, head, mark, tier, seq, *_, elsewhere, _ = record[: len(COLUMNS)]
            i -= 1
            heads[i], marks[i], tiers[i] = head or 0, mark or 0, tier
            if seq is not None:
                entries[i].append(self._entry(record))
            if elsewhere or heads[i] > until:
                beyond.add(i)
        if None in tiers:
            await self._find_no_row()
        for some in entries:
            if len(some) > 1:
                some.sort(key=log_order)  # they come sorted, but no plan guarantees it; sorting them again is cheap
        return [Reading(*found) for found in zip(heads, tiers, entries, marks, strict=True)], sorted(beyond)

    async def _fetch_rows(self, name: str, *arguments: object) -> list[Any]:
        """Raises UnavailableError, ReadingError."""
        try:
            return await self._fetch(name, *arguments)
        except StatementError as error:
            if is_of_a_row(error.__cause__):
                raise ReadingError(str(error)) from error
            raise

    def _entry(self, record: Any) -> Entry:
        seq, n, prev, mark, prev_mark, kind, op, row_id, texts, next_seq, _, found = record[OF_ENTRY : len(COLUMNS)]
        deletion = op == "d"
        rows = self._synced.rows.get(kind)
        key: Key = row_id if texts is None or rows is None else rows.key(texts)
        row: Row | None = None
        if rows is not None:  # else the kind was declared once, and is no more
            if deletion:
                row = rows.deletion(seq, key)
            elif found:
                row = rows.upsert(seq, key, self._synced.columns[kind](record))
        return Entry(seq, n, prev, next_seq, kind, key, row, mark or 0, prev_mark or 0, deletion)

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None = None
    ) -> Answer:
        places = [await self._place(kind, user, want.before) for want in wants]
        declaration = self._require(kind)
        made: Rows = self._synced.rows[kind.tag]
        records = await self._fetch_rows(
            f"list_{kind.name}",
            user,
            content_bytes,
            [want.rows for want in wants],
            [None if want.parent is None else str(want.parent) for want in wants],
            *([list(column) for column in zip(*places, strict=True)]),
            # Before the newest row: a row may have the largest of all keys.
            [int(want.before is None) for want in wants],
        )
        first = records[0]
        self._require_declared(declaration, first["declared"])
        if first["tier"] is None:
            await self._find_no_row()
        position = Position(first["head"], 0, first["head_mark"])
        found = [
            (record["i"] - 1, made.upsert(position.seq, _id(made, record["key"]), record[FIRST:]))
            for record in records
            if record["i"] is not None
        ]
        return Answer(position, first["tier"], found, cut=len(found) < (first["total"] or 0))

    async def rows_of(self, kind: Kind, asked: Sequence[Asked], content_bytes: int) -> list[Answer]:
        if len(asked) == 1:
            return [await self.rows(kind, asked[0].user, asked[0].wants, content_bytes)]
        lists = [(number, each.user, want) for number, each in enumerate(asked, 1) for want in each.wants]
        places = [await self._place(kind, user, want.before) for _, user, want in lists]
        declaration = self._require(kind)
        made: Rows = self._synced.rows[kind.tag]
        records = await self._fetch_rows(
            f"lists_{kind.name}",
            array(each.user for each in asked),
            content_bytes,
            [number for number, _, _ in lists],
            [want.rows for _, _, want in lists],
            [None if want.parent is None else str(want.parent) for _, _, want in lists],
            *([list(column) for column in zip(*places, strict=True)]),
            [int(want.before is None) for _, _, want in lists],
        )
        self._require_declared(declaration, records[0]["declared"])
        if any(record["tier"] is None for record in records):
            await self._find_no_row()
        answers: list[Answer] = []
        begins = begin = 0  # in `records`, and in `lists`
        for number, each in enumerate(asked, 1):
            end = begins + 1
            while end < len(records) and records[end]["number"] == number:
                end += 1
            mine, begins = records[begins:end], end
            position = Position(mine[0]["head"], 0, mine[0]["head_mark"])
            found = [
                (record["i"] - 1 - begin, made.upsert(position.seq, _id(made, record["key"]), record[FIRST_OF_MANY:]))
                for record in mine
                if record["i"] is not None
            ]
            answers.append(Answer(position, mine[0]["tier"], found, cut=len(found) < (mine[0]["total"] or 0)))
            begin += len(each.wants)
        return answers

    async def _place(self, kind: Kind, user: str, before: Before | None) -> Sequence[str | None]:
        """A place in a list, as texts; None is NULL."""
        if before is None:
            return first_place(kind)
        ids = before.id if isinstance(before.id, tuple) else (before.id,)
        fields = place_fields(kind)
        # An instant there may be any of those before it. They have one id on devices, so that all of them were sent.
        texts = [
            "-infinity" if field.of is Type.INSTANT and half == FIRST_INSTANT else str(half)
            for field, half in zip(kind.key, ids, strict=True)
        ]
        if kind.newest is None:
            return texts
        if before.at is None:
            return [None, *texts]
        if fields[0].of is not Type.INSTANT:
            return [read(fields[0], before.at), *texts]
        at = before.at
        if not FIRST_INSTANT < at < LAST_INSTANT:
            at = await self._exactly(kind, user, at, texts)
        return ["infinity" if at == ALWAYS else "-infinity" if at == NEVER else str(at), *texts]

    async def _exactly(self, kind: Kind, user: str, at: Instant, key: Sequence[str]) -> Instant:
        """The exact instant of a row whose instant was sent as `at`, one end of the range that a device can hold. If
        the row no longer exists, the place where such rows begin: to send some of them again does no harm."""
        beyond = (NEVER, at) if at < 0 else (at, ALWAYS)
        self._require(kind)
        records = await self._fetch(f"instant_{kind.name}", user, *beyond, *key)
        if not records:
            return ALWAYS if at > 0 else at
        instant, ahead = records[0]
        return (ALWAYS if ahead else NEVER) if instant is None else int(instant)

    async def heads(self, users: Sequence[str]) -> tuple[str, list[Position]]:
        (record,) = await self._fetch("heads", users)
        heads = zip(record["seqs"] or (), record["marks"] or (), strict=True)
        return record["epoch"], [Position(seq, 0, mark) for seq, mark in heads]

    async def record(self, server: str, statuses: Sequence[DeviceStatus]) -> None:
        columns = list(zip(*statuses, strict=True)) or [()] * len(DeviceStatus._fields)
        await self._fetch("record_devices", server, *columns)


def _id(made: Rows, key: Any) -> Key:
    return made.key(key) if isinstance(key, list) else key
