"""Answers that grow: on every device and tab, over reloads and times offline, until they are whole or stopped."""

import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import psutil
import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect

from server.demo.assistant import answers
from tests.browser.test_demo_page import Device
from tests.support.demo import Demo
from tests.support.waiting import eventually

WATCH: Final = """
    globalThis.seen = [];
    const shown = new Map();
    new MutationObserver(() => {
        for (const bubble of document.querySelectorAll('[data-role=assistant] [data-testid=text]')) {
            const panel = bubble.closest('.device').id;
            const { id } = bubble.closest('[data-id]').dataset;
            const text = bubble.querySelector('.dots') === null ? bubble.textContent : '';
            if (shown.get(panel + id) === text) continue;
            shown.set(panel + id, text);
            seen.push([panel, id, text]);
        }
    }).observe(document, { childList: true, subtree: true, characterData: true });
"""
"""Notes each text that an answer ever had on the page."""
MARKS: Final = re.compile(r"[\s*#>|`-]+|\b\d+\. ")


def a_story() -> str:
    """A question for a long answer; each is another one, so that its conversation is found by its title."""
    return f"Story {uuid4().hex[:8]}"


def words(text: str) -> str:
    """A text without what Markdown makes of it."""
    return MARKS.sub("", text)


@pytest.fixture
async def sql(demo: Demo) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(demo.line["database_url"])
    yield connection
    await connection.close()


class Reader(Device):
    """A device before which somebody asks, and reads the answers."""

    async def ask(self, question: str) -> None:
        """In a new conversation."""
        await self._goes_back()
        await self.panel.get_by_test_id("new-conversation").click()
        await expect(self.panel.get_by_text("Write the first one")).to_be_visible()
        await self.say(question)

    @property
    def answer(self) -> Locator:
        return self.panel.locator("[data-testid=message][data-role=assistant]").last

    @property
    def text(self) -> Locator:
        return self.answer.get_by_test_id("text")

    async def grows(self, beyond: int = 0) -> int:
        """Wait until more than so many characters are shown, of an answer that is being written. Returns how many."""
        await expect(self.answer).to_have_attribute("data-growing", "true")
        length = 0

        async def longer() -> bool:
            nonlocal length
            length = len(await self.text.inner_text())
            return length > beyond

        await eventually(longer)
        await expect(self.answer).to_have_attribute("data-growing", "true")
        return length

    async def is_whole(self) -> str:
        await expect(self.answer).not_to_have_attribute("data-growing", "true")
        return await self.text.inner_text()

    async def opens(self, title: str) -> None:
        await self._goes_back()
        await self.panel.get_by_test_id("conversation").filter(has_text=title).first.click()

    async def _goes_back(self) -> None:
        """To the list, where there is room for one only."""
        if await self.panel.get_by_test_id("back").is_visible():
            await self.panel.get_by_test_id("back").click()


async def readers(context: BrowserContext, demo: Demo) -> tuple[Page, Reader, Reader]:
    """Two live devices on a page that notes what it shows."""
    page = await context.new_page()
    await page.add_init_script(WATCH)
    await page.goto(demo.page)
    left, right = Reader(page, 1), Reader(page, 2)
    for device in (left, right):
        await device.live()
        await device.has_a_conversation_open()
    return page, left, right


async def stored(sql: Any, demo: Demo) -> tuple[str, str]:
    """Id and text of the newest answer in Postgres, once nobody writes to it."""

    async def settled() -> bool:
        return bool(
            await sql.fetchval("SELECT NOT EXISTS (SELECT FROM questions WHERE progress IN ('asked', 'writing'))")
        )

    await eventually(settled)
    row = await sql.fetchrow(
        "SELECT m.id, m.content FROM messages m JOIN questions q ON q.answer_id = m.id "
        "JOIN conversations c ON c.id = m.conversation_id WHERE c.user_id = $1 ORDER BY q.asked_at DESC LIMIT 1",
        UUID(demo.line["users"][0]["id"]),
    )
    return str(row["id"]), row["content"]


async def seen(page: Page, answer: str) -> dict[str, list[str]]:
    """What each device on the page ever showed of an answer, since the page was loaded."""
    shown: dict[str, list[str]] = {}
    for panel, row, text in await page.evaluate("seen"):
        if row == answer:
            shown.setdefault(panel, []).append(words(text))
    return shown


def only_grew(texts: Sequence[str], whole: str) -> None:
    """Each is a beginning of what was written, and none is shorter than the one before."""
    assert texts
    assert texts[-1] == words(whole)
    for before, after in pairwise(texts):
        assert words(whole).startswith(after), after
        assert len(after) >= len(before), f"{before!r} was shown, and then {after!r}"


async def test_an_answer_grows_everywhere_over_a_reload_and_a_time_offline(
    demo: Demo, asker: BrowserContext, sql: Any
) -> None:
    page, left, right = await readers(asker, demo)
    story = a_story()
    tab, inside, _ = await readers(asker, demo)
    await left.ask(story)
    for device in (right, inside):
        await device.opens(story)
        await device.grows()
    await right.switch_off()
    before = await right.text.inner_text()
    reached = await left.grows(len(before) + 100)
    assert await right.text.inner_text() == before
    await expect(right.answer).to_contain_text("Goes on when this device is online")
    await tab.reload()
    assert await inside.grows() >= 1
    await right.switch_on()
    await right.grows(reached)
    whole = [await each.is_whole() for each in (left, right, inside)]
    answer, text = await stored(sql, demo)
    assert text == answers.STORY.strip()
    assert len(set(whole)) == 1
    for shown in (await seen(page, answer), await seen(tab, answer)):
        for texts in shown.values():
            only_grew(texts, text)
    # What the tab had was there at once.
    assert (await seen(tab, answer))["device-1"][0] != ""


async def test_stop_on_the_phone_ends_it_on_the_laptop_and_keeps_the_text(
    demo: Demo, asker: BrowserContext, sql: Any
) -> None:
    page, laptop, phone = await readers(asker, demo)
    story = a_story()
    await laptop.ask(story)
    await laptop.grows(100)
    await phone.opens(story)
    await phone.grows()
    await phone.panel.get_by_test_id("stop").click()
    for device in (laptop, phone):
        await expect(device.answer.get_by_test_id("ended")).to_have_text("Stopped")
        await expect(device.panel.get_by_test_id("stop")).to_have_count(0)
    answer, text = await stored(sql, demo)
    assert answers.STORY.startswith(text)
    assert 100 < len(text) < len(answers.STORY.strip())
    for texts in (await seen(page, answer)).values():
        only_grew(texts, text)
    # The next one by keyboard.
    await laptop.say("Tell me another story")
    await laptop.grows(20)
    await laptop.panel.get_by_test_id("composer").press("Escape")
    await expect(phone.answer.get_by_test_id("ended")).to_have_text("Stopped")
    await expect(laptop.panel.get_by_test_id("composer")).to_be_focused()


async def test_ask_again_writes_another_text_in_the_same_place(demo: Demo, asker: BrowserContext, sql: Any) -> None:
    page, left, right = await readers(asker, demo)
    await left.ask("Something to eat, please")
    await left.grows()
    await left.is_whole()
    answer, first = await stored(sql, demo)
    assert first == answers.RECIPE.strip()
    await right.opens("Something to eat")
    await right.has("kneading")
    await left.answer.hover()
    await left.answer.get_by_test_id("again").click()
    await right.grows()
    await left.has("tomatoes on toast")
    for device in (left, right):
        await device.is_whole()
        await expect(device.panel.locator("[data-role=assistant]")).to_have_count(1)
    again, second = await stored(sql, demo)
    assert (again, second) == (answer, answers.TEA.strip())
    for texts in (await seen(page, answer)).values():
        whole = texts.index(words(first)) + 1
        only_grew(texts[:whole], first)
        only_grew(texts[whole:], second)


async def test_an_assistant_that_is_killed_has_its_answer_continued(
    demo: Demo, asker: BrowserContext, sql: Any
) -> None:
    page, left, _ = await readers(asker, demo)
    story = a_story()
    await left.ask(story)
    reached = await left.grows(200)
    (assistant,) = [each for each in psutil.Process(demo.pid).children() if "server.demo.assistant" in each.cmdline()]
    os.kill(assistant.pid, signal.SIGKILL)
    await left.grows(reached + 300)
    await left.panel.get_by_test_id("stop").click()
    await left.is_whole()
    answer, text = await stored(sql, demo)
    assert answers.STORY.startswith(text)
    await expect(left.panel.locator("[data-role=assistant]")).to_have_count(1)
    only_grew((await seen(page, answer))["device-1"], text)


async def test_two_conversations_are_answered_at_once_and_the_list_says_so(demo: Demo, asker: BrowserContext) -> None:
    _, left, right = await readers(asker, demo)
    story = a_story()
    await left.ask(story)
    # It would take the other one's conversation, as long as that looks empty there.
    await right.opens(story)
    await right.grows()
    await right.ask("A long tale, please")
    for device in (left, right):
        await device.grows()
    for title in (story, "A long tale"):
        item = left.panel.get_by_test_id("conversation").filter(has_text=title).first
        await expect(item).to_contain_text("Writing …")
    for device in (left, right):
        await device.panel.get_by_test_id("stop").click()
        await expect(device.answer.get_by_test_id("ended")).to_have_text("Stopped")
    await expect(left.panel.get_by_text("Writing …")).to_have_count(0)


async def test_a_question_that_was_asked_offline_is_answered_once_it_arrives(demo: Demo, asker: BrowserContext) -> None:
    _, left, right = await readers(asker, demo)
    await left.switch_off()
    await left.ask("Hello, are you there?")
    await expect(left.message("are you there")).to_have_attribute("data-state", "pending")
    await left.switch_on()
    await left.has("I am this demo's assistant")
    await right.opens("Hello, are you")
    await right.has("I am this demo's assistant")


async def test_a_failed_answer_says_so_and_can_be_asked_again(demo: Demo, asker: BrowserContext, sql: Any) -> None:
    _, left, _ = await readers(asker, demo)
    await left.ask("Please fail")
    await expect(left.answer.get_by_test_id("ended")).to_have_text("Not finished")
    _, text = await stored(sql, demo)
    assert text == answers.FAILURE.strip()
    await left.has("the new text takes the place")
    await left.answer.get_by_test_id("again").click()
    await left.grows()


async def test_who_reads_in_the_middle_stays_there_while_it_grows(demo: Demo, asker: BrowserContext) -> None:
    page, left, _ = await readers(asker, demo)
    story = a_story()
    await left.ask(story)
    await left.grows(900)
    scroller = left.panel.locator(".messages")
    below = "box => box.scrollHeight - box.scrollTop - box.clientHeight"
    assert await scroller.evaluate(below) <= 1
    await scroller.hover()
    await page.mouse.wheel(0, -40)
    await eventually(lambda: scroller.evaluate(f"box => ({below})(box) > 1"))
    place = await left.text.evaluate("text => text.getBoundingClientRect().top")
    reached = await left.grows()
    await left.grows(reached + 300)
    assert await left.text.evaluate("text => text.getBoundingClientRect().top") == place
    await left.panel.get_by_test_id("to-end").click()
    await left.grows(reached + 500)
    assert await scroller.evaluate(below) <= 1
    await left.panel.get_by_test_id("stop").click()


async def test_it_is_told_to_those_who_do_not_see_it_once_and_does_not_move_where_that_is_not_wanted(
    demo: Demo, asker: BrowserContext
) -> None:
    page, left, _ = await readers(asker, demo)
    await page.emulate_media(reduced_motion="reduce")
    await left.ask("Hello")
    await left.grows()
    await expect(left.answer).to_have_attribute("aria-live", "off")
    progress = left.panel.get_by_test_id("progress")
    await expect(progress).to_have_text("The assistant is writing. Escape stops it.")
    moving = await page.evaluate(
        "document.getAnimations().filter(each => each.effect.getTiming().iterations > 1).length"
    )
    assert moving == 0
    await left.is_whole()
    await expect(left.answer).not_to_have_attribute("aria-live", "off")
    await expect(progress).to_contain_text("The assistant has answered: Hello! I am this demo's assistant.")


async def test_what_is_written_while_ask_is_off_asks_nobody(demo: Demo, asker: BrowserContext, sql: Any) -> None:
    _, left, right = await readers(asker, demo)
    for device in (left, right):
        await expect(device.panel.get_by_test_id("ask")).to_have_attribute("aria-pressed", "true")
    await left.panel.get_by_test_id("ask").click()
    await expect(right.panel.get_by_test_id("ask")).to_have_attribute("aria-pressed", "false")
    await left.ask("Tell nobody this story")
    await left.settled("Tell nobody")
    asked = "SELECT count(*) FROM questions q JOIN messages m ON m.id = q.message_id WHERE m.content LIKE $1"
    assert await sql.fetchval(asked, "Tell nobody%") == 0
    await right.panel.get_by_test_id("ask").click()
    await left.say("Tell somebody")
    await eventually(lambda: sql.fetchval(asked + " AND q.progress <> 'asked'", "Tell somebody%"))
