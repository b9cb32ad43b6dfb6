"""Metrics that no event updates: sampled once a second, and on request."""

import asyncio
from collections.abc import Sequence

from server import metrics
from server.feed.hub import Lane
from server.feed.pump import Pump
from server.feed.snapshot import Snapshots
from server.postgres.pool import Pool
from server.postgres.vitals import Vitals


class Gauges:
    def __init__(self, pools: Sequence[Pool], pump: Pump, snapshots: Snapshots, vitals: Vitals) -> None:
        self._pools = pools
        self._pump = pump
        self._snapshots = snapshots
        self._vitals = vitals

    async def run(self) -> None:
        """Once a second, sample the gauges and flush the buffered metrics. Runs until cancelled."""
        behind = {lane: metrics.BEHIND.labels(lane.name.lower()) for lane in Lane}
        while True:
            for lane, gauge in behind.items():
                gauge.set(self._pump.behind(lane))
            metrics.SNAPSHOTS_WAITING.set(self._snapshots.waiting)
            metrics.POOL_IN_USE.set(sum(pool.in_use for pool in self._pools))
            metrics.flush()
            await asyncio.sleep(1)

    async def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        await self._vitals.read()
        metrics.flush()
        return await asyncio.to_thread(metrics.expose)
