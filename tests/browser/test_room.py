"""Much history on a small screen, and little room on the disk."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from playwright.async_api import BrowserContext, Page, expect

from tests.browser.test_demo_page import Device, words
from tests.support.demo import Demo
from tests.support.waiting import eventually

MANY = 5_000
RENDERED = 200
"""Bubbles that a page may hold: a window of the history, however long that is."""
LITTLE_ROOM = """
    navigator.storage.estimate = async () => ({ usage: 95, quota: 100 });
"""


@pytest.fixture
async def sql(demo: Demo) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(demo.line["database_url"])
    yield connection
    await connection.close()


async def a_conversation(sql: Any, demo: Demo, title: str, messages: int, months_ago: int = 0) -> UUID:
    """With messages «title 0», «title 1», … a second apart."""
    conversation = uuid4()
    async with sql.transaction():
        await sql.execute(
            "INSERT INTO conversations (id, user_id, title, created_at, updated_at) "
            "SELECT $1, $2, $3, at, at FROM (SELECT now() - make_interval(months => $4)) AS t (at)",
            conversation,
            UUID(demo.line["users"][0]["id"]),
            title,
            months_ago,
        )
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content, created_at) "
            "SELECT $1, 'user', $2 || ' ' || i, now() - make_interval(months => $4, secs => $3 - i) "
            "FROM generate_series(0, $3 - 1) AS i",
            conversation,
            title,
            messages,
            months_ago,
        )
    return conversation


def listed(page: Page, title: str) -> Any:
    return Device(page, 1).panel.get_by_test_id("conversation").filter(has_text=title)


async def scroll_to(page: Page, title: str) -> None:
    """Down the list, as far as it takes."""

    async def seen() -> bool:
        if await listed(page, title).count():
            return True
        await Device(page, 1).panel.get_by_test_id("conversation").last.scroll_into_view_if_needed()
        return False

    await eventually(seen)


async def numbers(device: Device, title: str) -> list[int]:
    """Of the messages that are rendered, in their order."""
    shown = await device.panel.get_by_test_id("message").get_by_test_id("text").all_inner_texts()
    return [int(text.removeprefix(title)) for text in shown]


async def test_a_long_history_is_caught_up_and_paged_through_without_a_gap(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    page = await person.new_page()
    await page.goto(demo.page)
    device, title = Device(page, 1), words()
    await device.live()
    await device.switch_off()
    await a_conversation(sql, demo, title, MANY)
    await device.switch_on()
    await listed(page, title).click()
    await device.has(f"{title} {MANY - 1}")
    oldest = MANY
    while oldest > MANY - 600:
        shown = await numbers(device, title)
        assert len(shown) <= RENDERED
        assert shown == list(range(shown[0], shown[0] + len(shown)))
        if shown[0] < oldest:
            oldest = shown[0]
        await device.panel.get_by_test_id("message").first.scroll_into_view_if_needed()
        before = oldest

        async def older(before: int = before) -> bool:
            return (await numbers(device, title))[0] < before

        await eventually(older)


async def test_where_room_runs_out_old_conversations_leave_and_come_back_by_paging(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    old, unsent, young = words(), words(), words()
    for title, months in ((old, 8), (unsent, 9), (young, 0)):
        await a_conversation(sql, demo, title, 3, months)
    page = await person.new_page()
    await page.goto(demo.page)
    device = Device(page, 1)
    await device.live()
    await device.has_a_conversation_open()  # the page has found its layout
    for title in (young, old, unsent):
        await scroll_to(page, title)
    await device.switch_off()
    await listed(page, unsent).click()
    await device.say("not sent yet")
    await device.has("not sent yet")
    await page.add_init_script(LITTLE_ROOM)
    await page.reload()
    await device.has_a_conversation_open()
    await scroll_to(page, unsent)
    await expect(listed(page, old)).to_have_count(0)
    await expect(listed(page, young)).to_have_count(1)
    await device.switch_on()
    await listed(page, unsent).click()
    await device.settled("not sent yet")
    await page.evaluate("navigator.storage.estimate = async () => ({ usage: 5, quota: 100 })")
    await scroll_to(page, old)
