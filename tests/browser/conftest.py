"""The demo, and a real browser before it."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from benchmarks.page import CHROMIUM, FLAGS
from tests.support.cluster import temporary_folder
from tests.support.demo import Demo
from tests.support.waiting import LIMIT

THERE = CHROMIUM.exists()
expect.set_options(timeout=LIMIT * 1_000)


@pytest.fixture(scope="session")
def one_demo() -> Iterator[Demo]:
    with temporary_folder() as folder:
        made = Demo(folder, "--with", "usage", "--speed", "3")
        yield made
        asyncio.run(made.end())


@pytest.fixture
async def demo(one_demo: Demo) -> Demo:
    """The same for all tests. One that a test has ended starts again, at its address."""
    if not one_demo.runs:
        await one_demo.start()
    return one_demo


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    if not THERE:
        reason = f"there is no Chromium at {CHROMIUM}: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def person(asker: BrowserContext) -> BrowserContext:
    """A browser profile of its own, in which what is written asks nobody, unless a test switches that on."""
    await asker.add_init_script("if (location.protocol === 'http:') localStorage['atlas-demo.ask'] ??= 'false'")
    return asker


@pytest.fixture
async def asker(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A browser profile of its own. What a page reports as an error fails the test."""
    context = await chromium.new_context(viewport={"width": 1280, "height": 800})
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    await context.close()
    assert not errors
