"""Bytes and rows are those of the events that were measured, and nothing is lost. Speed is not tested."""

import pytest

from benchmarks.baseline import CONVERSATIONS, MESSAGES
from benchmarks.stage import stage
from benchmarks.volume import volume


async def test_volume_counts_the_rows_and_bytes_of_each_event_and_loses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.stage.REST", 0.1)
    async with stage(3) as made:
        found = await volume(made, rate=100.0, seconds=0.2)
    assert found["lost"] == 0
    assert found["snapshot_rows"] == 1 + CONVERSATIONS * (1 + MESSAGES)
    assert found["poll_answers"] == 1 + CONVERSATIONS
    assert 0 < found["poll_gzip_share"] < 1
    # A row's ids and instants alone take 40 bytes; JSON writes out their names too.
    assert 40 < found["snapshot_bytes_per_row_without_text"] < found["poll_bytes_per_row_without_text"]
    # A push is acknowledged, and brings back the message and its conversation. What comes together shares a frame.
    assert found["push_bytes_without_text"] > 2 * 40
    assert found["change_bytes_without_text"] > found["heartbeat_bytes"] > 0
    assert found["metrics_series"] > 100
    # Two lines for each connection, one when it opens and one when it closes.
    assert found["log_line_bytes_per_connection"] > 200
    for name in ("server_us_per_change", "postgres_us_per_change", "plain_postgres_us_per_change"):
        assert found[name] > 0
