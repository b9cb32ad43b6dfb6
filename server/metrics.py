"""Every figure that this server tells about itself, and what to do when one is bad.

prometheus-client keeps them. One of several processes (`supervisor.py`) keeps its own in files of a folder that all of
them share, so that whichever of them is asked answers for all.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, Generic, NamedTuple, Self, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from protocol.answers import CloseCode
from protocol.frames import (
    Applied,
    Conversation,
    ConversationDeleted,
    Message,
    MessageDeleted,
    Profile,
    ProfileDeleted,
    Repeated,
    Result,
    Row,
)

S = TypeVar("S", Counter, Histogram)
FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which several processes share a folder; prometheus-client reads it when it is imported."""
SECONDS: Final = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.125,
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Kept(ABC, Generic[S]):
    """A figure, or a series of one, of which the news are passed on once a second, by `settle`.

    prometheus-client takes a lock for each step, and there are half a dozen beside every change: together they would
    cost a twentieth of it.
    """

    def __init__(self, series: S) -> None:
        self._series: S = series
        self._children: dict[tuple[str, ...], Self] = {}

    def labels(self, *values: str) -> Self:
        if values not in self._children:
            self._children[values] = type(self)(self._series.labels(*values))
        return self._children[values]

    def settle(self) -> None:
        self._pass_on()
        for child in self._children.values():
            child.settle()

    @abstractmethod
    def _pass_on(self) -> None: ...


class Count(_Kept[Counter]):
    """A counter."""

    def __init__(self, series: Counter) -> None:
        super().__init__(series)
        self._more = 0.0

    def inc(self, more: float = 1) -> None:
        self._more += more

    def _pass_on(self) -> None:
        if self._more:
            self._series.inc(self._more)
            self._more = 0.0


class Spread(_Kept[Histogram]):
    """A histogram."""

    def __init__(self, series: Histogram) -> None:
        super().__init__(series)
        self._seen: list[float] = []

    def observe(self, value: float) -> None:
        self._seen.append(value)

    def _pass_on(self) -> None:
        for value in self._seen:
            self._series.observe(value)
        self._seen.clear()


class Question(StrEnum):
    """What an operator asks; it groups this list, the README's, the dashboard and the alerts."""

    IN_STEP = "Are devices in step?"
    POSTGRES = "Is Postgres the limit?"
    HURT = "Is someone hurting us?"


class Described(NamedTuple):
    """A figure, and the sentence that says what to do when it is bad."""

    name: str
    question: Question
    tells: str
    when_bad: str
    labels: Sequence[str]
    metric: MetricWrapperBase


disable_created_metrics()  # type: ignore[no-untyped-call]  # it ships none
REGISTRY: Final = CollectorRegistry()
CATALOGUE: Final[list[Described]] = []
_UNSETTLED: Final[list[Count | Spread]] = []


def _counter(name: str, question: Question, tells: str, when_bad: str, *labels: str) -> Count:
    metric = Counter(name, tells, labels, registry=REGISTRY)
    CATALOGUE.append(Described(f"{name}_total", question, tells, when_bad, labels, metric))
    _UNSETTLED.append(count := Count(metric))
    return count


def _gauge(name: str, question: Question, tells: str, when_bad: str, *labels: str, over: str = "livesum") -> Gauge:
    """`over`: what several processes make of it, as prometheus-client calls it."""
    metric = Gauge(name, tells, labels, registry=REGISTRY, multiprocess_mode=over)  # type: ignore[arg-type]  # a Literal
    CATALOGUE.append(Described(name, question, tells, when_bad, labels, metric))
    return metric


def _histogram(
    name: str, question: Question, tells: str, when_bad: str, *labels: str, buckets: Sequence[float] = SECONDS
) -> Spread:
    metric = Histogram(name, tells, labels, registry=REGISTRY, buckets=buckets)
    CATALOGUE.append(Described(name, question, tells, when_bad, labels, metric))
    _UNSETTLED.append(spread := Spread(metric))
    return spread


# --- Are devices in step?

CONNECTIONS = _gauge(
    "atlas_connections",
    Question.IN_STEP,
    "Connections that were welcomed, by their user's tier at the first welcome",
    "A sudden fall: look at atlas_closed_total for the code. Near 15,000 a process: add processes (WEB_CONCURRENCY), "
    "or raise the limit of open files.",
    "tier",
)
USERS = _gauge(
    "atlas_users",
    Question.IN_STEP,
    "Users with a welcomed connection, by tier",
    "As atlas_connections. A user who has devices on two processes or servers counts twice.",
    "tier",
)
HELLOS = _counter(
    "atlas_hellos",
    Question.IN_STEP,
    "Hellos that were welcomed, by outcome: resumed, or why a snapshot was sent",
    "Many `epoch` or `ahead`: the database was restored or failed over. Many `too_old`: devices stay away longer than "
    "the log is kept; raise ATLAS_LOG_DAYS. Many `new` from old users: clients lose their store.",
    "outcome",
)
DELIVERY = _histogram(
    "atlas_delivery_seconds",
    Question.IN_STEP,
    "From the commit of a change (its seq) until it was written to the last live reader here that was at that position",
    'Compare atlas_statement_seconds{name="read_feed"}: if that rose too, Postgres is the limit; if not, this '
    "process is (its core is full: add processes). A constant offset is the difference of two clocks: run NTP.",
)
BEHIND = _gauge(
    "atlas_behind",
    Question.IN_STEP,
    "Positions with readers that wait to be read for, live ones and those who catch up",
    "Growing: reading does not keep up. Look at atlas_postgres_up, then at atlas_statement_seconds and "
    "atlas_pool_waiting.",
    "lane",
)
STALLED = _gauge(
    "atlas_stalled",
    Question.IN_STEP,
    "Connections that take no data at this moment",
    "Some are phones in a tunnel. Many at once: the network between here and them, or the proxy, is full.",
)
SNAPSHOTS_WAITING = _gauge(
    "atlas_snapshots_waiting",
    Question.IN_STEP,
    "Snapshots that are not finished and wait for their turn",
    "It grows after a change of history, when every device starts over, and goes down by itself. Without one: see "
    "atlas_hellos_total for why.",
)
ROWS_SENT = _counter(
    "atlas_rows_sent",
    Question.IN_STEP,
    "Rows written to sockets, by kind",
    "Much more than users write: a job rewrites rows that did not change in any synced column's meaning "
    "(`updated_at` of many conversations, for instance).",
    "kind",
)
BYTES_SENT = _counter(
    "atlas_bytes_sent",
    Question.IN_STEP,
    "Bytes of rows' frames written to sockets",
    "Rising faster than atlas_rows_sent_total: messages grow. See ATLAS_CONTENT_BYTES.",
)
DOORBELLS = _counter(
    "atlas_doorbells",
    Question.IN_STEP,
    "Notifications of feeds that moved: `woke` a reader here, or `ignored` because nobody here was behind",
    "None while users write: NOTIFY does not arrive; see atlas_listening. Nearly all `ignored` is right with several "
    "processes: each hears everything.",
    "fate",
)
DOORBELLS_MISSED = _counter(
    "atlas_doorbells_missed",
    Question.IN_STEP,
    "Feeds that moved unheard, and were found by the sweep",
    "A few after each reconnection of LISTEN are expected. Steadily: a pooler sits before LISTEN (set "
    "ATLAS_LISTEN_URL), or triggers are disabled for some writers; run `atlas-sync doctor`.",
)
LISTENING = _gauge(
    "atlas_listening",
    Question.IN_STEP,
    "Processes whose LISTEN connection works",
    "Fewer than atlas_processes: changes wait for the sweep (ATLAS_SWEEP_SECONDS). Look for `doorbells are silent` "
    "in the log; check Postgres, the network, ATLAS_LISTEN_URL.",
)
PROCESSES = _gauge(
    "atlas_processes",
    Question.IN_STEP,
    "Processes that serve",
    "Fewer than WEB_CONCURRENCY: they die; look for `worker died` in the log.",
)
WORKERS_DIED = _counter(
    "atlas_workers_died",
    Question.IN_STEP,
    "Processes that died and were replaced",
    "Look for `worker died` and its status in the log: -9 is often the machine running out of memory.",
)
LISTEN_SECONDS = _gauge(
    "atlas_listen_seconds",
    Question.IN_STEP,
    "The last round trip of a notification to ourselves, the slowest process'",
    "Slow while statements are quick: long transactions fill the notification queue; see "
    "atlas_notification_queue_ratio.",
    over="livemax",
)
PUSHES = _counter(
    "atlas_pushes",
    Question.IN_STEP,
    "Pushes by answer: `acked`, or the code of the error",
    "`unavailable`: Postgres is away, or somebody holds locks on users' rows. `gap`: the database lost its tail. "
    "`replaced`: copies of one store are in use.",
    "answer",
)
MUTATIONS = _counter(
    "atlas_mutations",
    Question.IN_STEP,
    "Mutations that got a result",
    "Many `rejected`: look for `the database refused a mutation` in the log; a constraint or a trigger of the app "
    "refuses what a client writes. Many `repeated`: acks get lost on the way, so connections break.",
    "result",
)
ACK_SECONDS = _histogram(
    "atlas_ack_seconds",
    Question.IN_STEP,
    "From a push's arrival until its ack",
    'Compare atlas_statement_seconds{name="push"}: slow commits mean a slow disk, or NOTIFY\'s lock; else see '
    "atlas_push_group_mutations, and add processes.",
)

# --- Is Postgres the limit?

POSTGRES_UP = _gauge(
    "atlas_postgres_up",
    Question.POSTGRES,
    "1 if Postgres answered when these figures were asked for, else 0",
    "0: devices stay connected and wait. Start Postgres, or mend the way to it. If it runs, something holds a lock or "
    "all connections of the pool: see pg_stat_activity and atlas_pool_waiting.",
    over="livemostrecent",
)
BLIND = _gauge(
    "atlas_blind",
    Question.POSTGRES,
    "1 while this server would not see every change, or Postgres would not record it",
    "1: devices stay connected and wait, and start over afterwards. The log and /readyz say which trigger, policy or "
    "right is missing; run `atlas-sync migrate`.",
    over="livemax",
)
HISTORIES = _counter(
    "atlas_history_changes",
    Question.POSTGRES,
    "Times that a newer history of the database began to count, and every device started over",
    "Rising without a failover or a restore: somebody switches triggers or policies of ours off and on, or updates "
    "sync.meta.",
)
HISTORY_SPLIT = _gauge(
    "atlas_history_split",
    Question.POSTGRES,
    "1 while another Postgres answers with an earlier history than the one that is served",
    "1: a former primary is still running, and whoever writes there writes what is lost. Stop it.",
    over="livemax",
)
CLOCK_AHEAD = _gauge(
    "atlas_clock_ahead_seconds",
    Question.POSTGRES,
    "How far Postgres' clock is ahead of this machine's",
    "Beyond 2 either way: Postgres' clock counts for the times of writes and for tokens. Run NTP on both machines.",
    over="livemostrecent",
)
STATEMENT_SECONDS = _histogram(
    "atlas_statement_seconds",
    Question.POSTGRES,
    "How long our statements take, by name",
    "All slow: Postgres' disk or CPU, or atlas_oldest_transaction_seconds. Only one slow: run EXPLAIN (ANALYZE, "
    "BUFFERS) on sql/NAME.sql, and ANALYZE its tables.",
    "name",
)
READERS_PER_STATEMENT = _histogram(
    "atlas_readers_per_statement",
    Question.POSTGRES,
    "Positions read for by one statement",
    "Always at 256: this process is behind; see atlas_behind.",
    buckets=SIZES,
)
PUSH_GROUP_MUTATIONS = _histogram(
    "atlas_push_group_mutations",
    Question.POSTGRES,
    "Mutations committed by one transaction",
    "Always at ATLAS_PUSH_BATCH: writes come faster than one transaction at a time takes them. Add processes.",
    buckets=SIZES,
)
POOL_IN_USE = _gauge(
    "atlas_pool_in_use",
    Question.POSTGRES,
    "Connections of the pools that run a statement",
    "Always ATLAS_POOL_SIZE for each process: see which statements are slow before you raise it.",
)
POOL_WAITING = _gauge(
    "atlas_pool_waiting",
    Question.POSTGRES,
    "Statements that wait for a connection of the pool",
    "Above 0 for longer than moments: statements are slow, or ATLAS_POOL_SIZE is too small.",
)
NOTIFICATION_QUEUE = _gauge(
    "atlas_notification_queue_ratio",
    Question.POSTGRES,
    "How full Postgres' notification queue is (8 GB); at 1 every commit that notifies fails",
    "Rising: a session that listens sits in a transaction. Find it in pg_stat_activity by its xact_start, end it with "
    "pg_terminate_backend.",
    over="livemostrecent",
)
OLDEST_XMIN = _gauge(
    "atlas_oldest_xmin_transactions",
    Question.POSTGRES,
    "Transactions begun since the oldest snapshot that somebody still holds",
    "Large: rows cannot be cleaned away, and writing to feeds gets slower (a third of the speed within 30 s for a hot "
    "one). Look for a long query or pg_dump in pg_stat_activity, a forgotten prepared transaction or replication slot.",
    over="livemostrecent",
)
OLDEST_TRANSACTION = _gauge(
    "atlas_oldest_transaction_seconds",
    Question.POSTGRES,
    "Age of the oldest open transaction of this database",
    "As atlas_oldest_xmin_transactions; set idle_in_transaction_session_timeout for the app's role.",
    over="livemostrecent",
)
LOG_BYTES = _gauge(
    "atlas_log_bytes",
    Question.POSTGRES,
    "Size of the change log, its indexes included",
    "Growing without end: `atlas-sync maintain` does not run, or ATLAS_LOG_DAYS is more than the disk holds.",
    over="livemostrecent",
)
DEFAULT_ROWS_COUNTED: Final = 10_000
"""sync.vitals counts no further. Fewer of messages may stay for good; of the log, none."""
DEFAULT_ROWS = _gauge(
    "atlas_default_rows",
    Question.POSTGRES,
    "Rows in a default partition, counted up to 10,000",
    "At 10,000 of messages, or above 0 of the log, for longer than an hour: `atlas-sync maintain` does not run, or "
    "says in its log what stops it or what it leaves (see «Maintenance»).",
    "table",
    over="livemostrecent",
)
PARTITIONS_AHEAD = _gauge(
    "atlas_partitions_ahead_days",
    Question.POSTGRES,
    "How many days ahead of now partitions exist",
    "Below 14: `atlas-sync maintain` does not run. Start it; nothing is lost meanwhile.",
    "table",
    over="livemostrecent",
)
MAINTAINED_AGO = _gauge(
    "atlas_maintained_seconds_ago",
    Question.POSTGRES,
    "Since `atlas-sync maintain` last did all there was to do; infinite if it never did",
    "Above an hour: it does not run, or its log says what stops it. Start one (Procfile: `worker`); nothing is lost "
    "meanwhile.",
    over="livemostrecent",
)

# --- Is someone hurting us?

OPENED = _counter(
    "atlas_opened",
    Question.HURT,
    "Connections that were opened",
    "Much more than atlas_hellos_total: somebody connects without a valid hello, or clients in a loop; limit "
    "connections by address in the proxy.",
)
CLOSED = _counter(
    "atlas_closed",
    Question.HURT,
    "Connections that ended, by close code: the one we sent, else the one we got, else 1006",
    "4101: tokens of a wrong key or issuer. 4300: a broken client, or somebody tries things; the log has connection "
    "and user. 4003, 4005: one user opens too many. 4004: one sends too much. 4001: a fault of ours, with its "
    "traceback in the log. 1006: lines break.",
    "code",
)
CUT_OFF = _counter(
    "atlas_cut_off",
    Question.HURT,
    "Connections that were closed because they sent too much",
    "The log (`connection sends too much`) names connection and user.",
)

_ROW: Final = {
    kind: ROWS_SENT.labels(name)
    for kind, name in {
        Conversation: "conversation",
        Message: "message",
        Profile: "profile",
        ConversationDeleted: "deletion",
        MessageDeleted: "deletion",
        ProfileDeleted: "deletion",
    }.items()
}
_ACKED: Final = PUSHES.labels("acked")
_APPLIED: Final = MUTATIONS.labels("applied")
_REPEATED: Final = MUTATIONS.labels("repeated")
_REJECTED: Final = MUTATIONS.labels("rejected")
_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, *CloseCode})
"""A peer may send any number, and each would be a series of its own."""

# From 0 on: Prometheus sees no increase in a series that begins at 1, and the first fault is the one to notice.
for _code in _CODES:
    CLOSED.labels(str(int(_code)))
for _outcome in ("resumed", "new", "unreadable", "foreign", "epoch", "ahead", "too_old"):
    HELLOS.labels(_outcome)
for _tier in ("core", "studio"):
    CONNECTIONS.labels(_tier)
    USERS.labels(_tier)
for _answer in ("unavailable", "slow_down", "gap", "replaced", "local_only"):
    PUSHES.labels(_answer)


# Unknown, and not 0, before Postgres was asked.
for _gauge_of_postgres in (
    NOTIFICATION_QUEUE,
    OLDEST_XMIN,
    OLDEST_TRANSACTION,
    LOG_BYTES,
    MAINTAINED_AGO,
):
    _gauge_of_postgres.set(float("nan"))


def settle() -> None:
    """Pass on what was counted and observed since the last time. On the event loop's thread, as all of these."""
    for each in _UNSETTLED:
        each.settle()


def sent(rows: Sequence[Row], readers: int, size: int) -> None:
    """`rows` were written to so many readers, as `size` bytes in all."""
    if len(rows) == 1:
        _ROW[type(rows[0])].inc(readers)
    else:
        counts: dict[type[Row], int] = {}
        for row in rows:
            counts[type(row)] = counts.get(type(row), 0) + readers
        for kind, count in counts.items():
            _ROW[kind].inc(count)
    BYTES_SENT.inc(size)


def acked(results: Sequence[Result]) -> None:
    """A push was acknowledged with these results."""
    _ACKED.inc()
    counts = {_APPLIED: 0, _REPEATED: 0, _REJECTED: 0}
    for result in results:
        counts[
            _APPLIED if isinstance(result, Applied) else _REPEATED if isinstance(result, Repeated) else _REJECTED
        ] += 1
    for child, count in counts.items():
        if count:
            child.inc(count)


def closed(code: int) -> None:
    """A connection ended with this code."""
    CLOSED.labels(str(int(code)) if code in _CODES else "other").inc()


def shared() -> bool:
    """This is one of several processes that keep their figures together."""
    return FOLDER in os.environ


class _Everybody(Collector):
    """The figures of all processes that share the folder."""

    def collect(self) -> Iterable[Metric]:
        # A process that is killed while it makes a file leaves an empty one, and prometheus-client fails at that.
        files = [str(path) for path in Path(os.environ[FOLDER]).glob("*.db") if _is_made(path)]
        merged: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


def _is_made(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # its process died, and the supervisor took it away
        return False


def exposition() -> bytes:
    """All that is settled, of all processes, in Prometheus' text format. In any thread."""
    if not shared():
        return generate_latest(REGISTRY)
    everybody = CollectorRegistry()
    everybody.register(_Everybody())
    return generate_latest(everybody)
