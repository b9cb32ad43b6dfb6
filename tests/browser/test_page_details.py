"""What the demo's page does in the moments in which a person looks closely."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.browser.test_demo_page import Device, two_devices, words
from tests.support.demo import Demo

FINGER = 44
"""CSS pixels that a finger needs."""
TOO_SMALL = """
    least => [...document.querySelectorAll('button, select, summary, input, textarea, a[href]')]
        .filter(each => each.closest('.markdown') === null && each.checkVisibility({visibilityProperty: true}))
        .map(each => [each.outerHTML.slice(0, 120), each.getBoundingClientRect()])
        .filter(([, {width, height}]) => width > 0 && (width < least - 0.5 || height < least - 0.5))
        .map(([html, {width, height}]) => `${Math.round(width)} x ${Math.round(height)}: ${html}`)
"""
LETTERS = """
    titles => titles.map(title => Math.min(1, title.clientWidth / title.scrollWidth) * title.textContent.length)
"""
"""How many letters of each title are seen, and those that are not cut count as all of theirs."""


@pytest.fixture
async def sql(demo: Demo) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(demo.line["database_url"])
    yield connection
    await connection.close()


def first_user(demo: Demo) -> UUID:
    return UUID(demo.line["users"][0]["id"])


async def a_conversation(sql: Any, demo: Demo, title: str, *answers: str) -> UUID:
    made = uuid4()
    await sql.execute(
        "INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, $3)", made, first_user(demo), title
    )
    for answer in answers:
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'assistant', $2)", made, answer
        )
    return made


def listed(device: Device, title: str) -> Locator:
    return device.panel.get_by_test_id("conversation").filter(has_text=title)


async def has_focus_within(element: Locator) -> None:
    handle = await element.element_handle()
    await element.page.wait_for_function("element => element.contains(document.activeElement)", arg=handle)


# ---- the keyboard --------------------------------------------------------------------------------------------------


async def test_after_editing_deleting_and_renaming_by_keyboard_the_focus_is_where_it_was(
    demo: Demo, person: BrowserContext
) -> None:
    page, left, right = await two_devices(person, demo)
    first, second = words(), words()
    for text in (first, second):
        await left.say(text)
        await left.settled(text)
    keys = page.keyboard
    log = left.panel.get_by_role("log")
    await log.focus()
    await keys.press("ArrowUp")
    for ends in ("Enter", "Escape"):
        await has_focus_within(left.message(second))
        await keys.press("Tab")
        await keys.press("Enter")
        await expect(left.panel.get_by_test_id("edit-text")).to_be_focused()
        await keys.type(" edited")
        await keys.press(ends)
        await expect(left.panel.get_by_test_id("edit-text")).to_have_count(0)
        await has_focus_within(left.message(second))
    await right.has(f"{second} edited")

    await left.message(second).get_by_test_id("delete").focus()
    await keys.press("Enter")
    await page.get_by_test_id("confirm").press("Enter")
    await expect(left.message(second)).to_have_count(0)
    await has_focus_within(left.message(first))

    for ends in ("Enter", "Escape"):
        await left.panel.get_by_test_id("rename").press("Enter")
        await keys.type(words())
        await keys.press(ends)
        await expect(left.panel.get_by_test_id("rename")).to_be_focused()


# ---- connections ---------------------------------------------------------------------------------------------------


async def test_while_conversations_are_fetched_the_page_says_so(demo: Demo, person: BrowserContext) -> None:
    page = await person.new_page()
    # It opens, and nothing answers.
    await page.route_web_socket(re.compile("/sync$"), lambda _: None)
    await page.goto(demo.page)
    empty = Device(page, 1).panel.get_by_test_id("list-empty")
    await expect(empty).to_have_text("Fetching your conversations…")
    await expect(page.get_by_text("No conversations yet")).to_have_count(0)
    await Device(page, 2).panel.get_by_test_id("offline").click()
    await expect(Device(page, 2).panel.get_by_test_id("list-empty")).to_have_text(
        "Your conversations come when this device’s network is on."
    )


async def test_a_server_that_is_away_is_told_apart_from_a_network_that_is_off(
    demo: Demo, person: BrowserContext
) -> None:
    _, left, right = await two_devices(person, demo)
    trouble = [device.panel.get_by_test_id("trouble") for device in (left, right)]
    await right.switch_off()
    await demo.end()
    await expect(left.panel.get_by_test_id("status")).to_have_text("No server")
    await expect(left.panel.get_by_test_id("offline")).to_have_text("Network on")
    await expect(trouble[0]).to_have_text(re.compile(r"^Server unreachable, trying again in \d+ sTry now$"))
    await expect(right.panel.get_by_test_id("status")).to_have_text("Offline")
    await expect(right.panel.get_by_test_id("offline")).to_have_text("Network off")
    await expect(trouble[1]).to_be_hidden()
    await demo.start()
    await left.panel.get_by_test_id("reconnect").click()
    await left.live()
    await expect(trouble[0]).to_be_hidden()


async def test_who_is_on_the_free_plan_is_told_why_nothing_arrives(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    await sql.execute("UPDATE profiles SET subscription_tier = 'free' WHERE id = $1", first_user(demo))
    try:
        page = await person.new_page()
        await page.goto(demo.page)
        left = Device(page, 1)
        await expect(left.panel.get_by_test_id("trouble")).to_contain_text("on the free plan")
        await expect(left.panel.get_by_test_id("status")).to_have_text("This device only")
        await left.panel.get_by_test_id("new-conversation").click()
        text = words()
        await left.say(text)
        await left.has(text)
    finally:
        await sql.execute("UPDATE profiles SET subscription_tier = 'core' WHERE id = $1", first_user(demo))


# ---- what is not saved ---------------------------------------------------------------------------------------------


async def test_a_message_whose_conversation_was_deleted_can_be_copied_and_saved_in_a_new_one(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    await person.grant_permissions(["clipboard-read", "clipboard-write"])
    page, left, _ = await two_devices(person, demo)
    title, text = words(), f"{words()} to be kept"
    gone = await a_conversation(sql, demo, title)
    await listed(left, title).click()
    await left.switch_off()
    await left.say(text)
    await left.has(text)
    await sql.execute("DELETE FROM conversations WHERE id = $1", gone)
    await left.switch_on()
    tray = left.panel.get_by_test_id("tray")
    await expect(tray).to_contain_text("Its conversation was deleted on another device.")
    await expect(tray.get_by_test_id("retry")).to_have_count(0)
    await tray.get_by_test_id("copy").click()
    await expect(tray.get_by_test_id("copy")).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == text
    await tray.get_by_test_id("save-elsewhere").dblclick()
    await expect(tray).to_have_count(0)
    await left.settled(text)
    await expect(left.panel.get_by_test_id("title")).to_have_text(text)
    assert await sql.fetchval("SELECT count(*) FROM messages WHERE content = $1", text) == 1
    await expect(listed(left, text)).to_have_count(1)


async def test_what_the_server_may_accept_later_can_be_tried_again(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    _, left, _ = await two_devices(person, demo)
    text = words()
    await sql.execute(f"ALTER TABLE messages ADD CONSTRAINT for_now CHECK (content <> '{text}') NOT VALID")
    await left.say(text)
    message = left.message(text)
    await expect(message).to_have_attribute("data-state", "rejected")
    await expect(message.get_by_test_id("save-elsewhere")).to_have_count(0)
    await sql.execute("ALTER TABLE messages DROP CONSTRAINT for_now")
    await message.get_by_test_id("retry").press("Enter")
    await left.settled(text)
    await has_focus_within(message)


async def test_a_text_that_is_too_long_is_told_in_characters(demo: Demo, person: BrowserContext) -> None:
    _, left, _ = await two_devices(person, demo)
    composer = left.panel.get_by_test_id("composer")
    await composer.fill("€" * 40_000)
    await composer.press("Enter")
    alert = left.panel.get_by_role("alert")
    await expect(alert).to_have_text(
        "Not sent: This text has 40,000 characters, and 33,333 of them fit. Shorten it by 6,667."
    )
    assert len(await composer.input_value()) == 40_000
    await composer.fill("short")
    await expect(alert).to_have_count(0)


# ---- the list ------------------------------------------------------------------------------------------------------


async def test_a_conversation_with_a_message_that_waits_has_a_clock(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    _, left, _ = await two_devices(person, demo)
    title = words()
    await a_conversation(sql, demo, title)
    await listed(left, title).click()
    clock = listed(left, title).get_by_title("A message is waiting to be sent")
    await expect(clock).to_have_count(0)
    await left.switch_off()
    await left.say(words())
    await expect(clock).to_have_count(1)
    await left.switch_on()
    await expect(clock).to_have_count(0)


async def test_dots_of_what_was_not_read_survive_a_reload_and_changes_while_the_page_was_closed(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    page, left, _ = await two_devices(person, demo)
    read, before, meanwhile = words(), words(), words()
    await a_conversation(sql, demo, read)
    await listed(left, read).click()
    await a_conversation(sql, demo, before)
    await expect(listed(left, before).get_by_test_id("unread")).to_have_count(1)
    await page.close()
    await a_conversation(sql, demo, meanwhile)
    page = await person.new_page()
    await page.goto(demo.page)
    left = Device(page, 1)
    for title in (before, meanwhile):
        await expect(listed(left, title).get_by_test_id("unread")).to_have_count(1)
    await expect(left.panel.get_by_test_id("unread")).to_have_count(2)
    await listed(left, before).click()
    await expect(left.panel.get_by_test_id("unread")).to_have_count(1)
    await page.reload()
    await expect(listed(left, meanwhile).get_by_test_id("unread")).to_have_count(1)
    await expect(listed(left, before).get_by_test_id("unread")).to_have_count(0)


async def test_a_new_conversation_is_made_once_and_named_by_its_first_message(
    demo: Demo, person: BrowserContext, sql: Any
) -> None:
    _, left, right = await two_devices(person, demo)
    count = "SELECT count(*) FROM conversations WHERE user_id = $1"
    before = await sql.fetchval(count, first_user(demo))
    await left.panel.get_by_test_id("new-conversation").dblclick()
    await expect(left.panel.get_by_test_id("title")).to_have_text("New conversation")
    title = f"{words()} is what this is about, in so many words that the title is cut"
    await left.say(f"{title}\nand a second line")
    cut = f"{title[:46]}"
    await expect(left.panel.get_by_test_id("title")).to_have_text(re.compile(f"^{cut}.*…$"))
    assert len(await left.panel.get_by_test_id("title").inner_text()) <= 61
    await left.say("The second message changes nothing.")
    await left.settled("The second message changes nothing.")
    await expect(left.panel.get_by_test_id("title")).to_have_text(re.compile(f"^{cut}.*…$"))
    await expect(right.panel.get_by_test_id("conversation").filter(has_text=cut)).to_have_count(1)
    assert await sql.fetchval(count, first_user(demo)) == before + 1


async def test_with_three_devices_titles_are_not_cut_to_a_few_letters(demo: Demo, person: BrowserContext) -> None:
    page, _, _ = await two_devices(person, demo)
    await page.get_by_test_id("add-device").click()
    await Device(page, 3).live()
    seen = await page.locator(".list-title:visible").evaluate_all(LETTERS)
    whole = await page.locator(".list-title:visible").all_inner_texts()
    assert seen
    assert all(letters >= min(18, len(title)) - 0.5 for letters, title in zip(seen, whole, strict=True)), seen


# ---- fingers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180)], ids=["phone", "tablet"])
async def test_everything_is_large_enough_for_a_finger(demo: Demo, chromium: Browser, width: int, height: int) -> None:
    context = await chromium.new_context(viewport={"width": width, "height": height}, has_touch=True, is_mobile=True)
    page = await context.new_page()
    await page.goto(demo.page)
    device = Device(page, 1)
    await device.live()
    assert await page.evaluate(TOO_SMALL, FINGER) == []
    back = device.panel.get_by_test_id("back")
    if await back.is_visible():
        await back.tap()
        assert await page.evaluate(TOO_SMALL, FINGER) == []
    await device.panel.get_by_test_id("new-conversation").tap()
    await device.say("touched")
    await device.message("touched").get_by_test_id("text").tap()
    await expect(device.message("touched").get_by_test_id("edit")).to_be_visible()
    assert await page.evaluate(TOO_SMALL, FINGER) == []
    await device.message("touched").get_by_test_id("edit").tap()
    assert await page.evaluate(TOO_SMALL, FINGER) == []
    await demo.end()
    await expect(device.panel.get_by_test_id("trouble")).to_be_visible()
    assert await page.evaluate(TOO_SMALL, FINGER) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    await context.close()


# ---- Markdown ------------------------------------------------------------------------------------------------------

ANSWER = """
## Heading

Some **bold** words, `code`, [a link](https://example.org/page) and &copy;.

1. one
2. two
   - nested

```ts
const a = '<b>';
```

| a | b |
|---|--:|
| 1 | 2 |
"""
HOSTILE = {
    "a script": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "an address that is a script": "[one](javascript:window.hacked=1) [two](JaVaScRiPt:window.hacked=1) "
    "[three](&#106;avascript:window.hacked=1) [four](java\tscript:window.hacked=1) <javascript:window.hacked=1>",
    "other schemes": "[one](data:text/html,<script>window.hacked=1</script>) [two](vbscript:x) "
    "[three](file:///etc/passwd) [four](blob:x) [five](//evil.example/x) [six](/demo.json)",
    "an image of another host": "![tracked](https://evil.example/pixel.png) "
    "![x](data:image/svg+xml,<svg/onload=hacked=1>)",
    "an attribute": '[x](https://example.org "\\" onmouseover=window.hacked=1 x=\\"") '
    '[y](https://example.org/"onclick="hacked=1)',
    "a style": "<style>*{display:none}</style><iframe src=https://evil.example></iframe>",
    "deep quotes": ">" * 20_000 + " deep",
    "deep lists": "- " * 10_000 + "deep",
    "deep brackets": "[" * 20_000 + "]" * 20_000,
    "many stars": "**_* " * 8_000,
    "a wide table": "|a" * 3_000 + "\n" + "|-" * 3_000 + "\n" + "|a\n" * 3_000,
}
UNKNOWN = """
    text => [...text.querySelectorAll('*')].map(each => each.localName).filter(name => ![
        'div', 'p', 'ul', 'ol', 'li', 'blockquote', 'strong', 'em', 's', 'table', 'thead', 'tbody', 'tr', 'th', 'td',
        'h4', 'h5', 'h6', 'a', 'pre', 'code', 'hr', 'br', 'span', 'button'].includes(name))
"""


async def shown_answer(page: Page, title: str) -> Locator:
    device = Device(page, 1)
    await listed(device, title).click()
    return device.panel.get_by_test_id("message").get_by_test_id("text").last


async def test_an_answer_in_markdown_is_shown_as_it_is_meant(demo: Demo, person: BrowserContext, sql: Any) -> None:
    await person.grant_permissions(["clipboard-read", "clipboard-write"])
    page, _, _ = await two_devices(person, demo)
    title = words()
    await a_conversation(sql, demo, title, ANSWER)
    answer = await shown_answer(page, title)
    await expect(answer.get_by_role("heading", name="Heading")).to_be_visible()
    await expect(answer.locator("strong")).to_have_text("bold")
    await expect(answer.locator("p code")).to_have_text("code")
    await expect(answer.locator("p").first).to_contain_text("©")
    await expect(answer.locator("ol > li")).to_have_count(2)
    await expect(answer.locator("ol ul > li")).to_have_text("nested")
    await expect(answer.locator("pre code")).to_have_text("const a = '<b>';")
    await expect(answer.locator("tbody td")).to_have_text(["1", "2"])
    link = answer.get_by_role("link")
    await expect(link).to_have_attribute("href", "https://example.org/page")
    await expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    await answer.get_by_test_id("copy").click()
    await expect(answer.get_by_test_id("copy")).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == "const a = '<b>';"
    await expect(listed(Device(page, 1), title)).to_contain_text("Heading Some bold words, code, a link")


async def test_what_a_person_types_stays_as_it_was_typed(demo: Demo, person: BrowserContext) -> None:
    _, left, _ = await two_devices(person, demo)
    text = f"{words()} **not bold** [x](https://example.org)"
    await left.say(text)
    await expect(left.message("not bold").get_by_test_id("text").last).to_have_text(text)


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_answer_runs_nothing_fetches_nothing_and_stops_nothing(
    demo: Demo, person: BrowserContext, sql: Any, kind: str
) -> None:
    page, left, _ = await two_devices(person, demo)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    title, after = words(), words()
    made = await a_conversation(sql, demo, title, HOSTILE[kind], after)
    answer = await shown_answer(page, title)
    await left.has(after)
    answer = left.panel.get_by_test_id("message").get_by_test_id("text").first
    assert await answer.evaluate(UNKNOWN) == []
    attributes = "text => [...text.querySelectorAll('*')].flatMap(each => each.getAttributeNames())"
    assert not [name for name in await answer.evaluate(attributes) if name.startswith("on") or name in ("style", "src")]
    for address in await answer.locator("a").evaluate_all("links => links.map(link => link.href)"):
        assert re.match(r"https://(example\.org|evil\.example)/", address), address
    for link in (await answer.locator("a").all())[:3]:
        await link.hover()
    assert await page.evaluate("window.hacked") is None
    assert [url for url in asked if not url.startswith(demo.page)] == []
    assert await answer.locator("*").count() < 10_000
    await sql.execute("DELETE FROM conversations WHERE id = $1", made)
