"""Fixtures of the client's tests."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.fake_server import FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """A server whose frames the test sends."""
    fake = FakeServer()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    """Fails the test if a task outlives it."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    assert not left
