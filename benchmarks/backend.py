"""An app's backend that reports usage: sends batches of events at a steady rate over a few connections.

Reads its orders as one line of JSON. Answers `ready` when it begins, and with a line of JSON when it is done.
"""

import asyncio
import random
import sys
import time
from typing import Any, Final
from uuid import uuid4

import orjson

CONNECTIONS: Final = 4


async def report(port: int, token: str, users: list[str], rate: float, batch: int, seconds: float) -> dict[str, Any]:
    """Send `rate` events per second. Returns the numbers of accepted and refused events, their tokens, and the
    milliseconds of each request."""
    # Made before it begins: a backend has a machine of its own, and its work must not be measured.
    bodies = [_body(users, batch) for _ in range(max(1, round(rate * seconds / batch)))]
    waits: list[float] = []
    sent = {"accepted": 0, "refused": 0, "tokens": 0}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    begun = time.monotonic()

    async def work(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due = begun + number * batch / rate
        while bodies:
            body, tokens = bodies.pop()
            await asyncio.sleep(due - time.monotonic())
            asked = time.monotonic()
            writer.write(
                b"POST /v1/usage HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (token.encode(), len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            waits.append(1000 * (time.monotonic() - asked))
            if head.startswith(b"HTTP/1.1 202"):
                sent["accepted"] += batch
                sent["tokens"] += tokens
            else:
                sent["refused"] += batch
            due += CONNECTIONS * batch / rate
        writer.close()

    await asyncio.gather(*map(work, range(CONNECTIONS)))
    return {**sent, "seconds": time.monotonic() - begun, "waits": sorted(waits)}


def _body(users: list[str], batch: int) -> tuple[bytes, int]:
    """A request, and how many tokens its events used. Nine of ten events used none."""
    tokens = 0
    events: list[dict[str, Any]] = []
    for number in range(batch):
        data: dict[str, Any] = {"screen": "conversation", "seconds": random.randint(1, 600)}
        if number % 10 == 0:
            given, got = random.randint(1, 3_000), random.randint(1, 800)
            tokens += given + got
            data = {"model": "a-model", "input_tokens": given, "output_tokens": got, "conversation_id": str(uuid4())}
        events.append({"user_id": random.choice(users), "event": "answered", "data": data})
    return orjson.dumps({"idempotency_key": str(uuid4()), "events": events}), tokens


if __name__ == "__main__":
    orders = orjson.loads(sys.stdin.readline())
    sys.stdout.write(orjson.dumps(asyncio.run(report(**orders))).decode() + "\n")
