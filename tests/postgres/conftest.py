"""Fixtures of the tests of adoption and undo."""

from collections.abc import AsyncIterator

import pytest

from tests.support import chat_app
from tests.support.chat_app import App
from tests.support.cluster import Cluster


@pytest.fixture
async def app(every_postgres: Cluster) -> AsyncIterator[App]:
    """The app, with 2,000 messages, on each PostgreSQL."""
    async with chat_app.app(every_postgres) as made:
        yield made


@pytest.fixture
async def newest_app(postgres_18: Cluster) -> AsyncIterator[App]:
    """The same on one of them, for what does not depend on the version."""
    async with chat_app.app(postgres_18, messages=200) as made:
        yield made
