"""Machines whose histories part, for the tests of this folder."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import temporary_folder
from tests.support.histories import Machines, machines, prepare


def _prepared(version: str) -> Iterator[Path]:
    with temporary_folder() as folder:
        prepare(version, folder)
        yield folder


@pytest.fixture(scope="session")
def prepared_18() -> Iterator[Path]:
    yield from _prepared("18")


@pytest.fixture(scope="session")
def prepared_15() -> Iterator[Path]:
    yield from _prepared("15")


@pytest.fixture
def site(prepared_18: Path) -> Iterator[Machines]:
    """Machines with the newest PostgreSQL."""
    with temporary_folder() as folder, machines("18", folder, prepared_18) as made:
        yield made


@pytest.fixture(params=["18", "15"])
def every_site(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Machines with the newest and with the oldest PostgreSQL that is supported."""
    prepared = request.getfixturevalue(f"prepared_{request.param}")
    with temporary_folder() as folder, machines(request.param, folder, prepared) as made:
        yield made


def at_once(start: int, stop: int | None = None) -> int:
    return 0 if stop is None else start


PATIENCE = "import random; random.randrange = lambda start, stop=None: 0 if stop is None else start"
"""The same for a server that is a process of its own."""


@pytest.fixture(autouse=True)
def nobody_waits_longer_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks each device for another delay, up to seconds: here for the least."""
    monkeypatch.setattr(random, "randrange", at_once)
