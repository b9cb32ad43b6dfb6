"""Fixtures of the tests of Redis."""

from collections.abc import AsyncIterator

import pytest

from tests.support.redis import RedisProcess, running_redis


@pytest.fixture
async def redis() -> AsyncIterator[RedisProcess]:
    async with running_redis() as process:
        yield process
