"""python relay.py nchan|nats PORT DATABASE_URL: passes each notification on to a server that only has a publish API.

A notification is the user's id, a blank, and the row. It prints `ready` as soon as it listens.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import asyncpg
import uvloop

Publish = Callable[[str, bytes], object]
STREAM = {
    "name": "S", "subjects": ["c.*"], "storage": "file", "retention": "limits", "max_msgs_per_subject": 1000,
    "max_consumers": 100_000, "num_replicas": 1,
}  # fmt: skip
"""Its default limit is 1,000 consumers, and each device is one. If it keeps few messages of a subject, a burst of them
evicts some before they are delivered."""


async def to_nchan(port: int) -> Publish:
    """Requests one after the other on one connection, without waiting for the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ignore() -> None:
        while await reader.read(1 << 16):
            pass
        sys.exit("nchan ended the connection")

    tasks.append(asyncio.create_task(ignore()))

    def publish(user: str, row: bytes) -> None:
        head = f"POST /publish/{user} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(row)}\r\n\r\n".encode() + row)

    return publish


async def to_nats(port: int) -> Publish:
    """Without waiting until JetStream says that it has stored the message."""
    import nats  # type: ignore[import-not-found]  # it is not installed where this is checked

    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    answer = await connection.request("$JS.API.STREAM.CREATE.S", json.dumps(STREAM).encode(), timeout=10)
    if "error" in json.loads(answer.data):
        sys.exit(answer.data.decode())
    rows: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def pass_on() -> None:
        while True:
            user, row = await rows.get()
            await connection.publish(f"c.{user}", row)

    tasks.append(asyncio.create_task(pass_on()))
    return lambda user, row: rows.put_nowait((user, row))


async def main() -> None:
    publish = await {"nchan": to_nchan, "nats": to_nats}[sys.argv[1]](int(sys.argv[2]))

    def pass_on(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
        user, _, row = payload.partition(" ")
        publish(user, row.encode())

    listener = await asyncpg.connect(sys.argv[3])
    await listener.add_listener("changes", pass_on)
    print("ready", flush=True)  # noqa: T201 (its parent waits for it)
    await asyncio.wait(tasks)


tasks: list[asyncio.Task[None]] = []
uvloop.run(main())
