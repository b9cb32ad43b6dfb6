"""How long an app's users wait for a write while Atlas Sync adopts their database.

The app's tables have 1,000,000 messages. Ordinary clients write 200 messages per second, each in a transaction with its
conversation's `updated_at`. Meanwhile `atlas-sync migrate` runs, and later `atlas-sync migrate --undo`, during which
writers wait until the rows written since are copied back. `before` and `after` are the same writes with nothing else
under way.
"""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import asyncpg

from benchmarks import machine
from benchmarks.actors import SECRET
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, folder, spawn
from benchmarks.stage import SETTINGS
from benchmarks.v1 import TABLES, Load, fill, writing
from server.declaration import chat
from server.demo.embedded import EmbeddedPostgres

CHAT_FILE: Final = Path(chat.__file__).with_name("chat.toml")

RATE: Final = 200.0
CALM: Final = 5.0
"""Seconds of writing with nothing else under way, before and after each part."""
COMMIT: Final = "SELECT count(*) FROM messages WHERE id = ANY ($1)"


async def adopt(messages: int, rate: float = RATE, calm: float = CALM) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the machine and the figures."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(folder())
        postgres = EmbeddedPostgres(place / "postgres", settings=SETTINGS)
        stack.callback(postgres.stop, immediate=True)
        postgres.start()
        sql = await asyncpg.connect(postgres.url())
        stack.callback(sql.terminate)
        await sql.execute(TABLES)
        await fill(sql, messages)
        await sql.execute("VACUUM ANALYZE")
        await sql.execute("CHECKPOINT")
        about = machine.describe(await sql.fetchval("SHOW server_version"))
        figures: dict[str, float] = {"messages": messages, "changes": rate, "lost": 0, "failed": 0}

        async def part(name: str, *command: str) -> None:
            async with writing(postgres.url(), rate) as load:
                await asyncio.sleep(calm)
                if command:
                    began = time.monotonic()
                    await _run(postgres.url(), *command)
                    figures[f"{name}_seconds"] = time.monotonic() - began
                await asyncio.sleep(calm)
            _record(name, load, figures)
            figures["lost"] += len(load.written) - await sql.fetchval(COMMIT, load.written)

        await part("before")
        await part("adopt", "migrate", "--declaration", str(CHAT_FILE))
        figures["lost"] += messages - await sql.fetchval(
            "SELECT count(*) FROM public.messages_v1 WHERE content <> 'written meanwhile'"
        )
        await part("after")
        await part("undo", "migrate", "--undo", "--yes")
        figures["lost"] += messages - await sql.fetchval(
            "SELECT count(*) FROM messages WHERE content <> 'written meanwhile'"
        )
    return about, figures


def _record(name: str, load: Load, figures: dict[str, float]) -> None:
    figures[f"{name}_written"] = len(load.written)
    figures[f"{name}_longest_ms"] = load.longest()
    figures[f"{name}_p99_ms"] = load.percentile(99)
    figures["failed"] += len(load.failures)
    if load.failures:
        raise BenchmarkError(f"Writes failed: {load.failures[0]}.")


async def _run(url: str, *command: str) -> None:
    environment = {**os.environ, "DATABASE_URL": url, "ATLAS_JWT_SECRET": SECRET}
    process = await spawn(
        "server", *command, env=environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT * 10):
            _, said = await process.communicate()
    finally:
        await end(process)
    if process.returncode:
        raise BenchmarkError(f"atlas-sync {' '.join(command)} failed: {said.decode()[-500:]}")
