"""When a metric is bad: each limit once, with its reason.

`atlas-sync top` (monitoring/rules.py) and the alert rules (monitoring/alerts.yml) compare with the same limits; a test
compares every number in alerts.yml with `ALERTS`. Two differences are wanted. An alert waits until a condition has
lasted (its `for:`) and calculates rates over minutes, while `top` judges the present. And `top` shows single events as
they happen where an alert waits for a repetition.
"""

from collections.abc import Mapping
from typing import Final

# --- Are devices in step?

SLOW_SECONDS: Final = 1.0
"""For the 99th percentile of delivery, ack and each statement, and for the round trip of LISTEN. After about a second
people notice that they wait. One statement that takes it leaves nothing of it for the delivery."""
PERCENTILE: Final = 0.99
BEHIND: Final = 256
"""Positions that wait in one lane: more than one statement reads (`GROUP` in feed/pump.py)."""
SNAPSHOTS_WAITING: Final = 100
"""A few wait at any time, for sockets that are slow. A hundred take seconds."""
DOORBELLS_MISSED: Final = 0.02
"""Per second, and as a share of the doorbells that woke somebody: each reconnection of LISTEN misses a few."""
CONNECTIONS: Final = 100
"""With fewer connections, half of them may leave by chance: one office that closes its laptops."""
CONNECTIONS_LEFT: Final = 0.5
"""The share that is left after a fall."""
STALLED: Final = 50
"""Below that many, one train in a tunnel is a large share."""
STALLED_SHARE: Final = 0.05
"""Phones in tunnels stay below it."""
WORKERS_DIED: Final = 2
"""In half an hour. One death may be a coincidence, and the supervisor repairs it."""
STARTED_OVER: Final = ("unreadable", "foreign", "epoch", "schema", "ahead", "too_old")
"""Outcomes of the hellos of devices that had a cursor and get a snapshot nevertheless."""
START_OVERS: Final = 0.1
"""Such devices per second: below it, any share is chance."""
START_OVERS_SHARE: Final = 0.2
"""Of all hellos: with a log of days, some devices stay away too long every day."""
PUSHES_UNAVAILABLE_SHARE: Final = 0.05
"""Of all pushes: a short wait for one user's lock stays below it."""
REJECTED: Final = 0.05
"""Mutations per second: below it, any share is chance."""
REJECTED_SHARE: Final = 0.05
"""Of all mutations: clients check the rules themselves, so hardly any should be rejected."""
REPEATED_SHARE: Final = 0.5
"""Of all mutations; `top` alone shows it. Reconnecting devices repeat what was on its way, for a moment."""

# --- Is Postgres the limit?

CLOCK_SECONDS: Final = 2.0
"""Either way: less may be a slow answer just as well (`TOLERATED` in clock.py)."""
GROUP_MEDIAN: Final = 128
"""Half of what one statement reads or one transaction commits: more than that is no longer a burst."""
NOTIFICATION_QUEUE: Final = 0.1
"""The queue is empty when all is well. From a tenth to full, at which commits fail, leaves time to act."""
OLDEST_TRANSACTION_SECONDS: Final = 300
"""No request takes five minutes. A hot feed is at a third of its speed after 30 s, but every backup of a small database
and many a migration last minutes; an alert for each would be ignored."""
OLDEST_SNAPSHOT_TRANSACTIONS: Final = 1_000_000
"""What a busy database (3,000 commits per second) begins in the same five minutes. A quiet one reaches it only by a
forgotten snapshot."""
LOG_BYTES: Final = 10e9
"""Below it, no disk is at risk."""
LOG_GROWTH: Final = 2
"""Times its size of a week ago: users do not double in a week."""
DEFAULT_ROWS_COUNTED: Final = 10_000
"""Of messages. sync.vitals counts no further. Fewer may stay for good; of the log, none."""
PARTITIONS_AHEAD_DAYS: Final = 14
"""Time to act: after the last day, rows go to the default partition."""
MAINTAINED_SECONDS: Final = 3_600
"""`atlas-sync maintain` runs every five minutes: a dozen runs failed."""

# --- Do caches and replicas help?

RESPONSES_COMPUTED: Final = 0.05
"""Leases per second: below it, one caller that fails is half of all."""
RESPONSES_STORED_SHARE: Final = 0.5
"""Of the responses that callers compute. Some fail, because models do."""

# --- What does it cost?

USAGE_PENDING_SECONDS: Final = 3_600
"""Events are counted every five minutes: a dozen rounds failed."""

# --- Is someone hurting us?

OPENED: Final = 5
"""Connections per second: below it, nobody is hurt."""
HELLOS_SHARE: Final = 0.2
"""Of the connections opened, those that should at least be welcomed. Most of the others are tokens that just ended."""
TOKENS_REFUSED: Final = 0.2
"""Connections per second: a device with a wrong clock tries every few seconds."""
TOKENS_REFUSED_SHARE: Final = 0.1
"""Of the connections opened."""
BAD_FRAMES: Final = 0.2
"""Connections per second. One broken device that reconnects with the longest back-off stays below it."""
TOO_MANY_SOCKETS: Final = 0.1
"""Connections per second: one user who opens one tab too many stays below it."""

ALERTS: Final[Mapping[str, tuple[float, ...]]] = {
    "AtlasProcessesDie": (WORKERS_DIED, WORKERS_DIED),
    "AtlasListenSlow": (SLOW_SECONDS,),
    "AtlasDeliverySlow": (PERCENTILE, SLOW_SECONDS),
    "AtlasBehind": (BEHIND,),
    "AtlasDoorbellsMissed": (DOORBELLS_MISSED, DOORBELLS_MISSED),
    "AtlasSnapshotFlood": (START_OVERS, START_OVERS_SHARE),
    "AtlasSnapshotsWaiting": (SNAPSHOTS_WAITING,),
    "AtlasConnectionsFell": (CONNECTIONS, CONNECTIONS_LEFT),
    "AtlasStalled": (STALLED, STALLED_SHARE),
    "AtlasPushesUnavailable": (PUSHES_UNAVAILABLE_SHARE,),
    "AtlasMutationsRejected": (REJECTED, REJECTED_SHARE),
    "AtlasAckSlow": (PERCENTILE, SLOW_SECONDS),
    "AtlasClockOff": (CLOCK_SECONDS, -CLOCK_SECONDS),
    "AtlasStatementSlow": (PERCENTILE, SLOW_SECONDS),
    "AtlasNotificationQueue": (NOTIFICATION_QUEUE,),
    "AtlasOldestTransaction": (OLDEST_TRANSACTION_SECONDS,),
    "AtlasOldestSnapshot": (OLDEST_SNAPSHOT_TRANSACTIONS,),
    "AtlasLogGrows": (LOG_BYTES, LOG_GROWTH),
    "AtlasDefaultRows": (DEFAULT_ROWS_COUNTED,),
    "AtlasPartitionsEnd": (PARTITIONS_AHEAD_DAYS,),
    "AtlasNotMaintained": (MAINTAINED_SECONDS,),
    "AtlasResponsesNotStored": (RESPONSES_COMPUTED, RESPONSES_STORED_SHARE),
    "AtlasUsageNotCounted": (USAGE_PENDING_SECONDS,),
    "AtlasTokensRefused": (TOKENS_REFUSED, TOKENS_REFUSED_SHARE),
    "AtlasBadFrames": (BAD_FRAMES,),
    "AtlasNoHellos": (OPENED, HELLOS_SHARE),
    "AtlasTooManySockets": (TOO_MANY_SOCKETS,),
}
"""Alert → the limits that its expression compares with, in their order. An alert that is not here compares metrics with
each other or with 0."""
