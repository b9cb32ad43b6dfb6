"""The demo's page in Chromium: delay from a commit to the screen, and how quickly a device catches up."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import orjson
from playwright.async_api import BrowserContext, Playwright, ViewportSize, async_playwright

from benchmarks import machine
from benchmarks.actors import ARRIVAL
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, eventually, folder, spawn
from server.demo.site import STATIC

CHROMIUM: Final = Path("/usr/bin/chromium")
FLAGS: Final = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PAUSE: Final = 0.2
"""Seconds between two messages, so that they are shown one by one."""
WATCH: Final = """
    panel => {
        window.seen = {};
        new MutationObserver(() => {
            const now = performance.timeOrigin + performance.now();
            for (const text of panel.querySelectorAll('[data-testid=message] [data-testid=text]'))
                window.seen[text.textContent] ??= now;
        }).observe(panel, {childList: true, subtree: true, characterData: true});
    }
"""
ARRIVE: Final = """
    ([panel, seq]) => new Promise(done => {
        const began = performance.now();
        const place = panel.querySelector('[data-testid=position]');
        panel.querySelector('[data-testid=offline]').click();
        (function look() {
            if (Number(place.dataset.value) >= seq) done(performance.now() - began); else setTimeout(look, 5);
        })();
    })
"""
SAY: Final = """
    INSERT INTO messages (conversation_id, role, content, created_at)
    SELECT $1, 'user', text, clock_timestamp() - (cardinality($2) - i) * interval '1 ms'
    FROM unnest($2::text[]) WITH ORDINALITY AS said (text, i)
"""
SQLITE: Final = "--enable-features=IdbSqliteBackingStore,IdbSqliteOnDiskRollout"
"""With it, Chromium keeps IndexedDB in SQLite, without it in LevelDB."""


async def page(messages: int, backlog: int, sqlite: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the machine, and the figures: `messages` are shown one by one, `backlog` were missed. One device, whose
    database is on disk."""
    with folder() as profile:
        async with demo() as line, async_playwright() as playwright, chromium(playwright, profile, sqlite) as browser:
            sql = await asyncpg.connect(line["database_url"])
            tab = await browser.new_page()
            user, home = UUID(line["users"][0]["id"]), uuid4()
            await sql.execute("INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, 'measured')", home, user)
            await tab.add_init_script("localStorage.setItem('atlas-demo.devices', '[1]')")
            await tab.goto(line["http"])
            device = tab.get_by_test_id("device-1")
            await device.locator("[data-testid=status]", has_text="Live").wait_for(timeout=LIMIT * 1000)
            await device.evaluate(WATCH)
            waits = await one_by_one(sql, home, messages, PAUSE, lambda: device.evaluate("() => window.seen"))

            await device.get_by_test_id("offline").click()
            await say(sql, home, [padded(f"missed {i}") for i in range(backlog)])
            seq = await sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", user)
            panel = await device.element_handle()
            milliseconds = await tab.evaluate(ARRIVE, [panel, seq])
            about = machine.describe(await sql.fetchval("SHOW server_version"))
            about |= {"chromium": browser.browser.version if browser.browser else "", "indexeddb": backend(profile)}
            await sql.close()
    lost = messages - len(waits)
    waits = sorted(waits) or [0.0]
    return about, {
        **{f"p{share}_ms": waits[len(waits) * share // 100] for share in (50, 95)},
        "rows_per_second": backlog / milliseconds * 1000,
        "lost": lost,
        **{f"page.{kind}_gzipped": _gzipped(kind) for kind in ("js", "css")},
    }


def padded(text: str) -> str:
    """A message of 500 bytes."""
    return text.ljust(500, ".")


async def say(sql: Any, home: UUID, texts: list[str]) -> None:
    """Insert messages in one transaction, a millisecond apart."""
    await sql.execute(SAY, home, texts)


@asynccontextmanager
async def chromium(playwright: Playwright, profile: Path, sqlite: bool) -> AsyncIterator[BrowserContext]:
    """A browser with a profile on disk: without one, IndexedDB is in memory."""
    if not CHROMIUM.exists():
        raise BenchmarkError(f"There is no Chromium at {CHROMIUM}: install it (apt-get install chromium).")
    flags = [*FLAGS, SQLITE] if sqlite else FLAGS
    size: ViewportSize = {"width": 1280, "height": 800}
    browser = await playwright.chromium.launch_persistent_context(
        profile, executable_path=CHROMIUM, args=flags, viewport=size
    )
    try:
        yield browser
    finally:
        await browser.close()


def backend(profile: Path) -> str:
    """In what Chromium keeps IndexedDB."""
    return "LevelDB" if any(profile.glob("*/IndexedDB/*.leveldb")) else "SQLite"


def _gzipped(kind: str) -> int:
    """The bytes of the page's script or style sheet as the build compressed it."""
    (path,) = (STATIC / "assets").glob(f"page-*.{kind}.gz")
    return path.stat().st_size


async def one_by_one(
    sql: Any, home: UUID, messages: int, pause: float, look: Callable[[], Awaitable[dict[str, float]]]
) -> list[float]:
    """Return the milliseconds from the answer to each COMMIT until its message is in the document. `pause`: seconds
    between two. `look`: when the document showed each text, in milliseconds."""
    committed: dict[str, float] = {}
    for i in range(messages):
        text = f"shown {i}"
        await say(sql, home, [text])
        committed[text] = time.time() * 1000
        await asyncio.sleep(pause)
    seen: dict[str, float] = {}

    async def all_shown() -> bool:
        seen.update(await look())
        return committed.keys() <= seen.keys()

    with suppress(BenchmarkError):  # the caller counts the lost ones
        await eventually("all shown", all_shown, ARRIVAL)
    return [seen[text] - at for text, at in committed.items() if text in seen]


@asynccontextmanager
async def demo() -> AsyncIterator[dict[str, Any]]:
    with folder() as data:
        options = ("demo", "--json", "--no-replay", "--users", "2", "--port", "0", "--data", str(data))
        process = await spawn("server", *options, stdin=subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(LIMIT):
                line = await process.stdout.readline()
            yield orjson.loads(line)
        finally:
            process.terminate()
            await process.wait()
