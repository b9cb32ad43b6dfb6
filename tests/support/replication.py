"""What a publication sends: the changes that a logical slot has decoded (pgoutput), and subscriptions."""

import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from tests.support.cluster import Database

LOGICAL: Final = {"wal_level": "logical", "max_replication_slots": "10", "max_wal_senders": "10"}
"""Settings of a cluster that publishes."""


@dataclass(frozen=True)
class Sent:
    """One change of a row."""

    op: str
    """I, U or D."""
    table: str
    old: dict[str, str | None] | None
    """What tells the row that was changed or deleted, if that was sent."""
    new: dict[str, str | None] | None


class Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        (found,) = struct.unpack_from(f">{form}", self._data, self._at)
        self._at += struct.calcsize(form)
        return int(found)

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        found, self._at = self._data[self._at : end].decode(), end + 1
        return found

    def char(self) -> str:
        return chr(self.number("B"))

    def bytes(self, count: int) -> bytes:
        found, self._at = self._data[self._at : self._at + count], self._at + count
        return found

    def ended(self) -> bool:
        return self._at == len(self._data)


async def sent(sql: Any, slot: str, publication: str) -> list[Sent]:
    """The changes since the last call."""
    rows = await sql.fetch(
        "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', "
        "'publication_names', $2)",
        slot,
        publication,
    )
    tables: dict[int, tuple[str, list[str]]] = {}
    found = []
    for row in rows:
        reader = Reader(row["data"])
        match reader.char():
            case "R":
                number, schema, name = reader.number("i"), reader.text(), reader.text()
                reader.char()
                columns = []
                for _ in range(reader.number("h")):
                    reader.char()
                    columns.append(reader.text())
                    reader.bytes(8)
                tables[number] = f"{schema}.{name}", columns
            case "I" | "U" | "D" as op:
                table, columns = tables[reader.number("i")]
                tuples = {}
                while not reader.ended():
                    which = reader.char()
                    tuples[which] = dict(zip(columns, _tuple(reader), strict=True))
                found.append(Sent(op, table, tuples.get("K", tuples.get("O")), tuples.get("N")))
    return found


def _tuple(reader: Reader) -> list[str | None]:
    """The values, as text; None also for one that was not sent because it is stored elsewhere and did not change."""
    return [
        reader.bytes(reader.number("i")).decode() if reader.char() == "t" else None for _ in range(reader.number("h"))
    ]


@contextlib.asynccontextmanager
async def slot(sql: Any, name: str) -> AsyncIterator[str]:
    await sql.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
    try:
        yield name
    finally:
        await sql.execute("SELECT pg_drop_replication_slot($1)", name)


@contextlib.asynccontextmanager
async def subscription(publisher: Database, subscriber: Any, publication: str) -> AsyncIterator[None]:
    """Of a database of the same cluster: its slot must be made beforehand."""
    async with contextlib.AsyncExitStack() as stack:
        admin = await publisher.connect()
        stack.push_async_callback(admin.close)
        name = await stack.enter_async_context(slot(admin, f"of_{publisher.name}"))
        await subscriber.execute(
            f"CREATE SUBSCRIPTION copy CONNECTION '{publisher.url}' PUBLICATION {publication} "
            f"WITH (create_slot = false, slot_name = '{name}')"
        )
        try:
            yield
        finally:
            await subscriber.execute("ALTER SUBSCRIPTION copy DISABLE")
            await subscriber.execute("ALTER SUBSCRIPTION copy SET (slot_name = NONE)")
            await subscriber.execute("DROP SUBSCRIPTION copy")
            while await admin.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = $1", name):
                pass
