"""Waiting for a condition, with a bound, instead of sleeping and hoping."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

LIMIT = 20.0
"""Seconds. Generous: it is reached only by what never comes."""


async def eventually(condition: Callable[[], object | Awaitable[object]], limit: float = LIMIT) -> Any:
    """The first truthy value of `condition`, asked for again and again. Fails after `limit` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert loop.time() < end, f"not within {limit} s: {condition}"
        await asyncio.sleep(0.005)
