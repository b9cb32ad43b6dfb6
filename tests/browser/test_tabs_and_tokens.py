"""What a browser does to a page: several tabs, frozen ones, and tokens that end while it sleeps."""

import json
import time
from uuid import UUID

from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from server.edge.auth import mint
from tests.browser.test_demo_page import Device, words
from tests.support.demo import Demo

SHORT = 6
"""Seconds that a token lives; each connection must get through several."""


async def a_tab(person: BrowserContext, demo: Demo) -> tuple[Page, Device]:
    page = await person.new_page()
    await page.goto(demo.page)
    device = Device(page, 1)
    await device.live()
    await device.has_a_conversation_open()
    return page, device


async def test_two_tabs_that_write_offline_to_one_conversation_send_each_message_once(
    demo: Demo, person: BrowserContext, chromium: Browser
) -> None:
    _, one = await a_tab(person, demo)
    _, other = await a_tab(person, demo)
    await one.switch_off()
    await expect(other.panel.get_by_test_id("status")).to_have_text("Offline")
    texts = [words() for _ in range(6)]
    for i, text in enumerate(texts):
        await (one if i % 2 else other).say(text)
        await (other if i % 2 else one).has(text)
    await one.switch_on()
    elsewhere = await chromium.new_context()
    _, third = await a_tab(elsewhere, demo)
    for device in (one, other, third):
        await device.has(*texts)
        await device.order(*texts)
    await elsewhere.close()


async def test_a_tab_that_holds_the_socket_and_is_frozen_does_not_block_the_others(
    demo: Demo, person: BrowserContext, chromium: Browser
) -> None:
    first, leader = await a_tab(person, demo)
    second, follower = await a_tab(person, demo)
    elsewhere = await chromium.new_context()
    _, far = await a_tab(elsewhere, demo)
    frozen = await person.new_cdp_session(first)
    await frozen.send("Page.setWebLifecycleState", {"state": "frozen"})
    await second.bring_to_front()
    there, here = words(), words()
    await follower.say(here)
    await far.has(here)
    await far.say(there)
    await follower.has(there)
    await frozen.send("Page.setWebLifecycleState", {"state": "active"})
    await first.bring_to_front()
    thawed = words()
    await leader.say(thawed)
    for device in (leader, follower, far):
        await device.has(here, there, thawed)
    await elsewhere.close()


async def test_tokens_that_end_one_after_the_other_are_no_reason_to_reload(demo: Demo, person: BrowserContext) -> None:
    secret = (demo.folder / "jwt-secret").read_text()
    given = 0

    async def short_lived(route: Route) -> None:
        nonlocal given
        given += 1
        users = [
            {
                **user,
                "token": mint(
                    UUID(user["id"]),
                    secret,
                    audience="authenticated",
                    issuer="tests",
                    lifetime=SHORT,
                    now=time.time(),
                ),
            }
            for user in demo.line["users"]
        ]
        await route.fulfill(content_type="application/json", body=json.dumps({"url": "/sync", "users": users}))

    await person.route("**/demo.json", short_lived)
    page, one = await a_tab(person, demo)
    other = Device(page, 2)
    end = time.monotonic() + 2.5 * SHORT
    while time.monotonic() < end:
        text = words()
        # As a person types: as quickly as possible took a core for 15 s.
        await one.panel.get_by_test_id("composer").press_sequentially(text, delay=100)
        await one.panel.get_by_test_id("composer").press("Enter")
        await other.has(text)
        await one.settled(text)
    assert given >= 3
