"""The TypeScript client and its store in Chromium, without a page: a real server, a real socket, a database on disk."""

from pathlib import Path
from statistics import median
from typing import Any, Final
from uuid import uuid4

import asyncpg
from playwright.async_api import async_playwright

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from benchmarks.page import backend, chromium, demo, one_by_one, padded, say
from benchmarks.processes import folder, launch

CLIENT: Final = Path(__file__).parents[1] / "protocol/js"
PROGRAM: Final = Path(__file__).parent / "programs/store.ts"
BUILD: Final = """
    import { build } from 'esbuild';
    const [program, outfile, packages] = process.argv.slice(1);
    const options = { entryPoints: [program], outfile, nodePaths: [packages] };
    await build({ ...options, bundle: true, minify: true, format: 'iife', logLevel: 'warning' });
"""
DOCUMENT: Final = "() => document.body.replaceChildren(document.createElement('ul'))"
SHOWN: Final = 50
"""Messages that a query shows."""
TURNS: Final = 20
"""Messages shown one by one, and queries."""
PAUSE: Final = 0.1
"""Seconds between two messages, so that they are shown one by one."""


async def store(backlog: int, held: int, pending: int, sqlite: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the machine, and the figures: `backlog` messages were missed, then the device holds `held` more, and then
    `pending` mutations wait."""
    with folder() as built, folder() as profile:
        script = built / "measured.js"
        await _build(script)
        async with demo() as line, async_playwright() as playwright, chromium(playwright, profile, sqlite) as browser:
            sql = await asyncpg.connect(line["database_url"])
            person = line["users"][0]
            home = uuid4()
            await sql.execute(
                "INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, 'measured')", home, person["id"]
            )
            url = line["http"].replace("http", "ws", 1) + "/sync"
            who = [url, person["id"], person["token"]]

            tab = await browser.new_page()

            async def begin() -> None:
                """Begin a new page, at an address of the server: another origin may not connect."""
                await tab.goto(f"{line['http']}/measured")
                await tab.evaluate(DOCUMENT)
                await tab.evaluate(script.read_text())

            await begin()
            await tab.evaluate("([...who]) => measured.catchUp(...who)", who)
            await tab.evaluate("() => measured.close()")
            await say(sql, home, [padded(f"missed {i}") for i in range(backlog)])
            await begin()
            behind = await tab.evaluate("([...who]) => measured.catchUp(...who)", who)
            await begin()
            shown = min(SHOWN, backlog)
            first = await tab.evaluate("([...args]) => measured.first(...args)", [*who, str(home), shown])
            await tab.evaluate("([...args]) => measured.fill(...args)", [str(home), held, padded("held")])
            await begin()
            await tab.evaluate("([...args]) => measured.first(...args)", [*who, str(home), shown])
            waits = await one_by_one(sql, home, TURNS, PAUSE, lambda: tab.evaluate("() => measured.seen"))
            queries = await tab.evaluate(
                "([...args]) => measured.pending(...args)", [person["id"], str(home), pending, TURNS, SHOWN]
            )
            about = machine.describe(await sql.fetchval("SHOW server_version"))
            about |= {"chromium": browser.browser.version if browser.browser else "", "indexeddb": backend(profile)}
            await sql.close()
    return about, {
        "rows_per_second": backlog / behind * 1000,
        "first_ms": first,
        "one_ms": median(waits) if waits else 0.0,
        "lost": TURNS - len(waits),
        "pending_query_ms": median(queries),
    }


async def _build(script: Path) -> None:
    arguments = ("--input-type=module", "--eval", BUILD, str(PROGRAM), str(script), str(CLIENT / "node_modules"))
    process = await launch("node", *arguments, cwd=CLIENT)
    if await process.wait() != 0:
        raise BenchmarkError(f"The program could not be built: run npm ci in {CLIENT.name}.")
