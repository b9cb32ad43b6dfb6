"""Whether Postgres answers, as the figures say it."""

from typing import Any

import pytest

from server import metrics
from server.exceptions import UnavailableError
from server.postgres.vitals import Vitals


class FailingPool:
    """A pool whose statements fail. `found`: the epoch of a history that is found meanwhile."""

    def __init__(self, found: str | None) -> None:
        self.epoch = "first"
        self._found = found

    @property
    def history(self) -> "FailingPool":
        return self

    async def fetch(self, name: str, **options: object) -> list[Any]:
        self.epoch = self._found or self.epoch
        raise UnavailableError("the connection was closed")


@pytest.mark.parametrize(("found", "up"), [(None, 0), ("second", 1)])
async def test_a_connection_that_another_history_closes_does_not_mean_that_postgres_is_away(
    found: str | None, up: int
) -> None:
    await Vitals(FailingPool(found)).read()  # type: ignore[arg-type]  # as much of a pool as it uses
    assert [sample.value for each in metrics.POSTGRES_UP.collect() for sample in each.samples] == [up]
