"""What makes benchmarks quick whose figures nobody reads."""

import pytest

from tests.support.cluster import room


@pytest.fixture(autouse=True)
def nobody_waits_for_what_only_figures_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a disk, nor long for a server to be at rest: a benchmark of ten devices does so twelve times."""
    monkeypatch.setattr("benchmarks.processes.PLACE", room())
    monkeypatch.setattr("benchmarks.stage.REST", 0.1)
