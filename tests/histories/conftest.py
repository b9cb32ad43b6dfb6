"""Machines whose histories part, for the tests of this folder."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import temporary_folder
from tests.support.histories import Machines, machines, prepare, room


@pytest.fixture(scope="session")
def prepared() -> Iterator[Path]:
    """A data folder with the database, for copies."""
    with temporary_folder(room()) as folder:
        prepare("18", folder / "prepared")
        yield folder / "prepared"


@pytest.fixture(scope="session")
def empty() -> Iterator[Path]:
    """A data folder of another cluster, with the same logins and no database."""
    with temporary_folder(room()) as folder:
        prepare("18", folder / "empty", empty=True)
        yield folder / "empty"


@pytest.fixture
def site(prepared: Path) -> Iterator[Machines]:
    with temporary_folder(room()) as folder, machines("18", folder, prepared) as made:
        yield made


def at_once(start: int, stop: int | None = None) -> int:
    return 0 if stop is None else start


PATIENCE = "import random; random.randrange = lambda start, stop=None: 0 if stop is None else start"
"""The same for a server that is a process of its own."""


@pytest.fixture(autouse=True)
def nobody_waits_longer_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks each device for another delay, up to seconds: here for the least."""
    monkeypatch.setattr(random, "randrange", at_once)
