"""The adapter by which `atlas-sync conform` drives the Python client: JSON lines in and out (protocol/CLIENT.md).

An app in small: rows, floors and cursor are in one file with the outbox, and change in one transaction with it.
"""

import asyncio
import json
import pickle
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from atlas_sync import (
    Batch,
    Delete,
    Device,
    EntryState,
    Insert,
    Outbox,
    Replica,
    Schema,
    SqliteStorage,
    StayAway,
    Update,
    build_view,
)

CHAT = Schema.chat()


class App:
    """One device, from `connect` until the standard input ends."""

    def __init__(self, command: dict[str, Any]) -> None:
        user = UUID(command["user"])
        self.token = str(command["token"])
        self.storage = SqliteStorage(Path(command["store"]) / "device.db", user)
        self.outbox = Outbox(self.storage, CHAT)
        with self.storage.transaction() as sql:
            sql.execute("CREATE TABLE IF NOT EXISTS app (one INTEGER PRIMARY KEY, cursor BLOB, replica BLOB)")
            kept = sql.execute("SELECT cursor, replica FROM app").fetchone()
        cursor = None if kept is None else kept[0]
        # Our own file, which nobody else writes.
        self.replica: Replica = Replica(CHAT) if kept is None else pickle.loads(kept[1])
        self.device = Device(
            command["url"],
            user=user,
            token=lambda: self.token,
            client_id=self.outbox.client_id,
            on_batch=self.store,
            schema=CHAT,
            cursor=cursor,
            window=command["window"] or None,
            outbox=self.outbox,
            on_stream=self.replica.receive,
        )
        self.tasks: set[asyncio.Task[Any]] = {asyncio.create_task(self.run())}
        self.stopped = False

    async def run(self) -> None:
        try:
            await self.device.run()
        except StayAway:
            self.stopped = True

    def store(self, batch: Batch) -> None:
        with self.storage.transaction() as sql:
            self.replica.receive(batch)
            self.outbox.advance(batch.seq)
            self.keep(sql, batch.cursor)

    def keep(self, sql: Any, cursor: bytes | None) -> None:
        sql.execute("INSERT OR REPLACE INTO app VALUES (1, ?, ?)", (cursor, pickle.dumps(self.replica)))

    async def older(self, kind: str, parent: UUID | None) -> None:
        with self.replica.older(kind, parent) as older:
            page = await self.device.page(kind, parent, older.before)
            older.apply(page)
            with self.storage.transaction() as sql:
                self.keep(sql, self.device.cursor)

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "token":
                self.token = str(command["token"])
            case "write":
                self.write(command)
            case "older":
                parent = None if command["parent"] is None else UUID(command["parent"])
                self.tasks.add(asyncio.create_task(self.older(command["kind"], parent)))
            case "rows":
                rows = [row for held in self.replica.rows.values() for row in held.values()]
                return {"rows": [[row.kind, str(row.id), plain(row.values)] for row in rows]}
            case "shown":
                view = build_view(self.replica, self.outbox.entries, self.replica.streams)
                shown = [each for rows in view.rows.values() for each in rows.values()]
                return {"rows": [[e.row.kind, str(e.row.id), plain(e.row.values), e.state] for e in shown]}
            case "stop":
                self.tasks.add(asyncio.create_task(self.device.stop_stream(command["kind"], UUID(command["id"]))))
            case "status":
                entries = self.outbox.entries
                return {
                    "state": "stopped" if self.stopped else self.device.status.value,
                    "pending": sum(each.state is EntryState.PENDING for each in entries),
                    "rejected": [each.code for each in entries if each.state is EntryState.REJECTED],
                }
            case unknown:
                return {"error": f"{unknown} is no command"}
        return {}

    def write(self, command: dict[str, Any]) -> None:
        kind, key, columns = CHAT[command["kind"]], UUID(command["id"]), dict(command["columns"])
        for column in kind.columns:
            if column.type == "uuid" and column.name in columns:
                columns[column.name] = UUID(columns[column.name])
        if command["op"] == "+":
            self.device.write(Insert(kind.name, key, columns, self.device.now()))
            return
        target = kind.target(self.replica.rows[kind.name][key])
        if command["op"] == "~":
            self.device.write(Update(kind.name, target, columns, self.device.now()))
        else:
            self.device.write(Delete(kind.name, target))

    async def end(self) -> None:
        await self.device.stop()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.storage.close()


def plain(values: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, UUID) else value for name, value in values.items()}


async def main(make: type[App] = App) -> None:
    app: App | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            if command["do"] == "connect":
                app, answer = make(command), dict[str, Any]()
            else:
                answer = {"error": "connect first"} if app is None else app.answer(command)
        except Exception as error:  # the runner tells it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)  # noqa: T201 (what it is for)
    if app is not None:
        await app.end()


if __name__ == "__main__":
    asyncio.run(main())
