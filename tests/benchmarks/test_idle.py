"""Several processes share the sockets when there are too many for one."""

import pytest

from benchmarks.idle import idle
from benchmarks.stage import stage


async def test_server_and_load_generator_may_have_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
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
