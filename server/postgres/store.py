"""Reads feeds, snapshots and pages: the `Store` of the read path, with one statement for each."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from protocol.cursor import Position
from protocol.frames import (
    FIRST_INSTANT,
    LAST_INSTANT,
    Before,
    Conversation,
    ConversationDeleted,
    Instant,
    Message,
    MessageDeleted,
    Profile,
    ProfileDeleted,
    Row,
)
from server.clock import machine_now
from server.exceptions import UnavailableError
from server.feed.change import Entry, Reading
from server.feed.ports import DeviceStatus, MessagesRead, Overview, ReadKey, Titles, Want
from server.postgres.pool import Pool
from server.postgres.timestamps import ALWAYS, NEVER

BEHIND_A_TRANSACTION: Final = (1 << 63) - 1
"""The n of a position after a whole transaction: no entry has a larger one."""
LARGEST_UUID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
EVER: Final = (NEVER, ALWAYS)
RECENT: Final = 2 * 86_400_000_000
"""Microseconds. Live devices receive messages younger than this. The first statement does not open older partitions."""
SOON: Final = 3_600_000_000
"""Microseconds by which a clock may be ahead. The first statement does not open newer partitions."""
ROW_BYTES: Final = 100
"""Bytes that a row counts beside its text. The statements read_*.sql limit their result with this number. A test
compares them."""


class PostgresStore:
    """`Store` and `PresenceStore` on a pool of connections. What a `replica` answers may be behind `since`, and proves
    nothing where it finds no profile."""

    def __init__(self, pool: Pool, *, replica: bool = False) -> None:
        self._fetch = pool.fetch
        self._history = pool.history
        self._replica = replica

    async def _find_no_profile(self) -> None:
        """Make sure that a profile that was not found does not exist. Raises UnavailableError if row level security may
        hide it, which the inspector may not have found yet: its user must not be treated as one who does not pay."""
        if self._replica:
            return
        (record,) = await self._fetch("sees_profiles")
        self._history.require(record["epoch"])
        if not record["sees"]:
            self._history.on_mismatch()
            raise UnavailableError("Row level security hides profiles from this server. Run `atlas-sync migrate`.")

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
        records = await self._fetch(
            "read_feed" if bounds != EVER else "read_feed_everywhere",
            _literal(key.user for key in keys),
            _literal(str(key.after.seq) for key in keys),
            _literal(str(key.after.n or BEHIND_A_TRANSACTION) for key in keys),
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
        for record in records:
            i = record["i"] - 1
            heads[i], marks[i], tiers[i] = record["head"] or 0, record["head_mark"] or 0, record["tier"]
            if record["seq"] is not None:
                entries[i].append(_entry(record))
            if record["elsewhere"] or heads[i] > until:
                beyond.add(i)
        if None in tiers:
            await self._find_no_profile()
        for some in entries:
            if len(some) > 1:
                some.sort(key=_in_log_order)  # they come sorted, but no plan guarantees it; sorting them again is cheap
        return [Reading(*found) for found in zip(heads, tiers, entries, marks, strict=True)], sorted(beyond)

    async def conversations(
        self, user: str, before: Before | None, rows: int, content_bytes: int, since: Position | None = None
    ) -> Overview:
        at, last = (None, None) if before is None else (before.at, before.id)
        if at is not None and not FIRST_INSTANT < at < LAST_INSTANT:
            at = await self._exactly(at, "instant_of_conversation", user, last)
        records = await self._fetch("read_conversations", user, at, last, rows, content_bytes)
        first = records[0]
        position = _head(first)
        found, rest = _whole(position.seq, records)
        if not first["has_profile"]:
            await self._find_no_profile()
        profile = _profile(position.seq, UUID(user), first) if first["has_profile"] else None
        return Overview(position, first["tier"], profile, found, rest)

    async def titles(self, user: str, ids: Sequence[UUID], content_bytes: int, since: Position | None = None) -> Titles:
        records = await self._fetch("read_titles", user, ids, content_bytes)
        position = _head(records[0])
        return Titles(position, *_whole(position.seq, records))

    async def messages(
        self, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None = None
    ) -> MessagesRead:
        ats = [ALWAYS if want.before is None else want.before.at for want in wants]
        for i, want in enumerate(wants):
            if want.before is not None and not FIRST_INSTANT < ats[i] < LAST_INSTANT:
                beyond = (NEVER, ats[i]) if ats[i] < 0 else (ats[i], ALWAYS)
                ats[i] = await self._exactly(ats[i], "instant_of_message", user, want.before.id, *beyond)
        records = await self._fetch(
            "read_messages",
            user,
            [want.conversation for want in wants],
            ats,
            [LARGEST_UUID if want.before is None else want.before.id for want in wants],
            [want.rows for want in wants],
            content_bytes,
        )
        position = _head(records[0])
        found = [
            (record["i"] - 1, _message(position.seq, record["id"], record))
            for record in records
            if record["i"] is not None
        ]
        return MessagesRead(position, found, cut=len(found) < (records[0]["total"] or 0))

    async def _exactly(self, at: Instant, statement: str, *arguments: object) -> Instant:
        """The exact instant of a row whose instant was sent as `at`, one end of the range that a device can hold. If
        the row no longer exists, the place where such rows begin: to send some of them again does no harm."""
        records = await self._fetch(statement, *arguments)
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


def _literal(items: Iterable[str]) -> str:
    """A Postgres array literal. The items must need no quotes."""
    return "{" + ",".join(items) + "}"


def _head(record: Any) -> Position:
    return Position(record["head"], 0, record["head_mark"])


def _in_log_order(entry: Entry) -> tuple[int, int]:
    return entry.seq, entry.n


def _whole(as_of: int, records: Sequence[Any]) -> tuple[list[Conversation], list[UUID]]:
    """The conversations that fitted into the byte limit, and the ids of the others."""
    found = [_conversation(as_of, record["id"], record) for record in records if record["whole"]]
    return found, [record["id"] for record in records if record["whole"] is False]


def _profile(seq: int, row_id: UUID, record: Any) -> Profile:
    return Profile(seq, row_id, record["tier"], record["status"])


def _conversation(seq: int, row_id: UUID, record: Any) -> Conversation:
    return Conversation(seq, row_id, record["title"], record["created_at"], record["updated_at"])


def _message(seq: int, row_id: UUID, record: Any) -> Message:
    return Message(
        seq,
        row_id,
        record["conversation_id"],
        record["role"],
        record["content"],
        record["created_at"],
        record["updated_at"],
    )


UPSERT: Final[dict[str, Callable[[int, UUID, Any], Row]]] = {"p": _profile, "c": _conversation, "m": _message}
DELETION: Final[dict[str, Callable[[int, UUID], Row]]] = {
    "p": ProfileDeleted,
    "c": ConversationDeleted,
    "m": MessageDeleted,
}


def _entry(record: Any) -> Entry:
    seq, kind, row_id = record["seq"], record["kind"], record["row_id"]
    row: Row | None
    if record["op"] == "d":
        row = DELETION[kind](seq, row_id)
    elif record["found"] if kind != "p" else record["tier"] is not None:
        row = UPSERT[kind](seq, row_id, record)
    else:
        row = None
    marks = record["mark"] or 0, record["prev_mark"] or 0
    return Entry(seq, record["n"], record["prev"], record["next_seq"], kind, row_id, row, *marks)
