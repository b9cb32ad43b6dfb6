"""More sockets than one process may open are shared among several."""

import pytest

from benchmarks.idle import idle
from benchmarks.stage import stage


async def test_several_processes_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.actors.SHARE", 20)
    async with stage(users=50) as made:
        found = await idle(made, seconds=0.2)
        await made.disconnect()
        await made.devices.connect(made.server.port)
        written = await made.write(range(50))
        assert made.lost(written, await made.devices.arrivals(len(written))) == 0
    assert found["sockets"] == 50
    assert found["processes"] == 3
    assert found["statements_per_socket"] == found["statements"] / 50
