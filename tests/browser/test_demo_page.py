"""What the demo's page promises at first sight, in a real browser against the real server and a real Postgres."""

import asyncio
import signal
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.support.demo import Demo

SCREENSHOTS = Path(__file__).parents[2] / "screenshots"


class Device:
    """One of the devices on the page, as a person sees it."""

    def __init__(self, page: Page, number: int) -> None:
        self.panel = page.get_by_test_id(f"device-{number}")

    async def has_a_conversation_open(self) -> None:
        await expect(self.panel.get_by_test_id("composer")).to_be_visible()

    async def say(self, text: str) -> None:
        composer = self.panel.get_by_test_id("composer")
        await composer.fill(text)
        await composer.press("Enter")

    def message(self, text: str) -> Locator:
        return self.panel.get_by_test_id("message").filter(has_text=text)

    async def has(self, *texts: str) -> None:
        for text in texts:
            await expect(self.message(text)).to_have_count(1)

    async def settled(self, text: str) -> None:
        await expect(self.message(text)).to_have_attribute("data-state", "synced")

    async def switch_off(self) -> None:
        await self.panel.get_by_test_id("offline").click()
        await expect(self.panel.get_by_test_id("status")).to_have_text("Offline")

    async def switch_on(self) -> None:
        await self.panel.get_by_test_id("offline").click()
        await self.live()

    async def live(self) -> None:
        await expect(self.panel.get_by_test_id("status")).to_have_text("Live")

    async def order(self, *texts: str) -> None:
        shown = [await each.inner_text() for each in await self.panel.get_by_test_id("message").all()]
        places = [next(i for i, message in enumerate(shown) if text in message) for text in texts]
        assert places == sorted(places), shown


async def two_devices(person: BrowserContext, demo: Demo) -> tuple[Page, Device, Device]:
    """Live, with the newest conversation open on both."""
    page = await person.new_page()
    await page.goto(demo.page)
    left, right = Device(page, 1), Device(page, 2)
    for device in (left, right):
        await device.live()
        await device.has_a_conversation_open()
    return page, left, right


def words() -> str:
    return f"words {uuid4().hex[:8]}"


async def test_what_is_typed_on_one_device_is_on_the_other(demo: Demo, person: BrowserContext) -> None:
    _, left, right = await two_devices(person, demo)
    for device, other in ((left, right), (right, left)):
        text = words()
        await device.say(text)
        await other.has(text)
        await device.settled(text)


async def test_two_devices_that_wrote_apart_settle_when_they_meet(demo: Demo, person: BrowserContext) -> None:
    _, left, right = await two_devices(person, demo)
    await left.switch_off()
    apart = [words() for _ in range(4)]
    for i, text in enumerate(apart):
        device = left if i % 2 else right
        await device.say(text)
        # It has its instant before the other one is asked for the next.
        await expect(device.message(text)).to_have_count(1)
    await expect(left.message(apart[1])).to_have_attribute("data-state", "pending")
    await expect(left.panel.get_by_test_id("pending")).to_contain_text("2")
    await expect(right.message(apart[1])).to_have_count(0)
    await left.switch_on()
    for device in (left, right):
        await device.has(*apart)
        for text in apart:
            await device.settled(text)
        await device.order(*apart)


async def test_reloaded_without_a_server_everything_is_still_there(demo: Demo, person: BrowserContext) -> None:
    page, left, _ = await two_devices(person, demo)
    before, after = words(), words()
    await left.say(before)
    await left.settled(before)
    await page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    await demo.end()
    await page.reload()
    left = Device(page, 1)
    await left.has_a_conversation_open()
    await left.has(before)
    await left.say(after)
    await left.has(after)
    await page.reload()
    await expect(left.message(after)).to_have_attribute("data-state", "pending")
    await demo.start()
    await left.settled(after)


async def test_a_server_that_is_killed_while_somebody_types_costs_nothing(demo: Demo, person: BrowserContext) -> None:
    _, left, right = await two_devices(person, demo)
    texts = [words() for _ in range(30)]

    async def typing() -> None:
        for text in texts:
            await left.say(text)

    typed = asyncio.create_task(typing())
    await right.has(texts[5])
    await demo.end(signal.SIGKILL)
    await demo.start()
    await typed
    for device in (left, right):
        await device.has(*texts)
        await device.order(*texts)
    await left.settled(texts[-1])


async def test_a_device_that_is_added_has_what_the_others_have(demo: Demo, person: BrowserContext) -> None:
    page, left, _ = await two_devices(person, demo)
    text = words()
    await left.say(text)
    await page.get_by_test_id("add-device").click()
    third = Device(page, 3)
    await third.has(text)


async def test_it_can_be_used_by_keyboard_alone(demo: Demo, person: BrowserContext) -> None:
    page, _, right = await two_devices(person, demo)
    text = words()
    composer = page.get_by_test_id("device-1").get_by_test_id("composer")
    for _ in range(80):
        await page.keyboard.press("Tab")
        if await composer.evaluate("element => element === document.activeElement"):
            break
    else:
        pytest.fail("Tab does not lead to the composer")
    await page.keyboard.type(text)
    await page.keyboard.press("Enter")
    await right.has(text)


@pytest.mark.parametrize(
    ("name", "scheme", "width", "height"),
    [("light", "light", 1280, 800), ("dark", "dark", 1280, 800), ("phone", "light", 390, 844)],
)
async def test_it_looks_like_something(
    demo: Demo, person: BrowserContext, name: str, scheme: str, width: int, height: int
) -> None:
    """To be looked at; and nothing reaches beyond the edge."""
    page = await person.new_page()
    await page.set_viewport_size({"width": width, "height": height})
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.goto(demo.page)
    await Device(page, 1).live()
    if name != "phone":
        await Device(page, 2).has_a_conversation_open()
    SCREENSHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png")
    if name == "phone":
        await Device(page, 1).panel.get_by_test_id("conversation").first.click()
    await Device(page, 1).has_a_conversation_open()
    await page.screenshot(path=SCREENSHOTS / f"{name}-conversation.png")
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
