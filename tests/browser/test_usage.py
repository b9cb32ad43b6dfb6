"""What a person used today, on every device of the demo's page, as soon as it is reported."""

import re
from uuid import uuid4

import httpx
from playwright.async_api import BrowserContext, expect

from tests.browser.test_demo_page import two_devices
from tests.support.demo import Demo
from tests.support.waiting import LIMIT


async def test_usage_that_the_backend_reports_is_on_both_devices(demo: Demo, person: BrowserContext) -> None:
    page, left, right = await two_devices(person, demo)
    user = await page.get_by_test_id("user").input_value()
    home = {"Authorization": f"Bearer {demo.line['service_token']}"}
    async with httpx.AsyncClient(base_url=demo.line["http"], headers=home, trust_env=False, timeout=LIMIT) as backend:

        async def report(input_tokens: int) -> None:
            data = {"model": "small", "input_tokens": input_tokens, "conversation_id": str(uuid4())}
            event = {"user_id": user, "event": "answered", "data": data}
            answer = await backend.post("/v1/usage", json={"idempotency_key": str(uuid4()), "events": [event]})
            assert answer.status_code == 202, answer.text

        used = [device.panel.get_by_test_id("used-today") for device in (left, right)]
        await report(10**9)
        for each in used:
            await expect(each).to_have_text(
                re.compile(r"^Used today: \d+ conversations?, 1,000(,\d{3}){2} tokens, cost")
            )
        before = await used[0].inner_text()
        await left.switch_off()
        await report(10**9)
        await expect(used[1]).to_have_text(re.compile(r"2,000(,\d{3}){2} tokens"))
        await expect(used[0]).to_have_text(before)
        await left.switch_on()
        await expect(used[0]).to_have_text(await used[1].inner_text())
