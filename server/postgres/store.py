"""Reads feeds, snapshots and pages: the `Store` of the read path, with one statement for each."""

from collections.abc import Sequence
from typing import Any, Final

from protocol.cursor import Position
from protocol.frames import FIRST_INSTANT, LAST_INSTANT, Instant, Key, Row
from protocol.schema import Type
from server.clock import machine_now
from server.declaration.model import Declaration, Kind
from server.declaration.sql.reading import FIRST, first_place, least, place_fields
from server.declaration.synced import Synced
from server.declaration.values import Rows, read
from server.exceptions import UnavailableError
from server.feed.change import Entry, Reading
from server.feed.ports import Answer, Before, DeviceStatus, ReadKey, Want
from server.postgres.pool import Pool, array
from server.postgres.timestamps import ALWAYS, NEVER

BEHIND_A_TRANSACTION: Final = (1 << 63) - 1
"""The n of a position after a whole transaction: no entry has a larger one."""
CHANGED: Final = "The declaration of what is synced has changed."
EVER: Final = (NEVER, ALWAYS)
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
        records = await self._fetch(
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
            i = record["i"] - 1
            heads[i], marks[i], tiers[i] = record["head"] or 0, record["head_mark"] or 0, record["tier"]
            if record["seq"] is not None:
                entries[i].append(self._entry(record))
            if record["elsewhere"] or heads[i] > until:
                beyond.add(i)
        if None in tiers:
            await self._find_no_row()
        for some in entries:
            if len(some) > 1:
                some.sort(key=_in_log_order)  # they come sorted, but no plan guarantees it; sorting them again is cheap
        return [Reading(*found) for found in zip(heads, tiers, entries, marks, strict=True)], sorted(beyond)

    def _entry(self, record: Any) -> Entry:
        seq, kind, deletion = record["seq"], record["kind"], record["op"] == "d"
        rows = self._synced.rows.get(kind)
        texts = record["row_key"]
        key: Key = record["row_id"] if texts is None or rows is None else rows.key(texts)
        row: Row | None = None
        if rows is not None:  # else the kind was declared once, and is no more
            if deletion:
                row = rows.deletion(seq, key)
            elif record["found"]:
                row = rows.upsert(seq, key, self._synced.columns[kind](record))
        mark, before = record["mark"] or 0, record["prev_mark"] or 0
        return Entry(seq, record["n"], record["prev"], record["next_seq"], kind, key, row, mark, before, deletion)

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None = None
    ) -> Answer:
        places = [await self._place(kind, user, want.before) for want in wants]
        declaration = self._require(kind)
        made: Rows = self._synced.rows[kind.tag]
        records = await self._fetch(
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

    async def _place(self, kind: Kind, user: str, before: Before | None) -> Sequence[str]:
        """A place in a list, as texts."""
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
            return [least(fields[0]), *texts]
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


def _in_log_order(entry: Entry) -> tuple[int, int]:
    return entry.seq, entry.n
