"""The list of all metrics, each with the sentence that says what to do when it is bad."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

from protocol import errors
from protocol.errors import CloseCode
from server import tiers
from server.metrics import limits
from server.metrics.instruments import SECONDS, SIZES, BufferedCounter, BufferedHistogram


class Question(StrEnum):
    """The operator's questions. They group this list, the table of metrics, the dashboard and the alerts."""

    IN_STEP = "Are devices in step?"
    POSTGRES = "Is Postgres the limit?"
    RELIEF = "Do caches and replicas help?"
    COST = "What does it cost?"
    HURT = "Is someone hurting us?"


class Described(NamedTuple):
    """A metric with its documentation."""

    name: str
    question: Question
    tells: str
    when_bad: str
    labels: Sequence[str]
    metric: MetricWrapperBase


disable_created_metrics()  # type: ignore[no-untyped-call]  # it ships none
REGISTRY: Final = CollectorRegistry()
CATALOGUE: Final[list[Described]] = []
BUFFERED: Final[list[BufferedCounter | BufferedHistogram]] = []


def _counter(name: str, question: Question, tells: str, when_bad: str, *labels: str) -> BufferedCounter:
    metric = Counter(name, tells, labels, registry=REGISTRY)
    CATALOGUE.append(Described(f"{name}_total", question, tells, when_bad, labels, metric))
    BUFFERED.append(counter := BufferedCounter(metric))
    return counter


def _gauge(name: str, question: Question, tells: str, when_bad: str, *labels: str, over: str = "livesum") -> Gauge:
    """`over` is prometheus-client's name for how the values of several processes become one."""
    metric = Gauge(name, tells, labels, registry=REGISTRY, multiprocess_mode=over)  # type: ignore[arg-type]  # a Literal
    CATALOGUE.append(Described(name, question, tells, when_bad, labels, metric))
    return metric


def _histogram(
    name: str, question: Question, tells: str, when_bad: str, *labels: str, buckets: Sequence[float] = SECONDS
) -> BufferedHistogram:
    metric = Histogram(name, tells, labels, registry=REGISTRY, buckets=buckets)
    CATALOGUE.append(Described(name, question, tells, when_bad, labels, metric))
    BUFFERED.append(histogram := BufferedHistogram(metric))
    return histogram


# --- Are devices in step?

CONNECTIONS = _gauge(
    "atlas_connections",
    Question.IN_STEP,
    "Open connections that were welcomed, by the tier of their user at the first welcome",
    "A sudden fall: look at atlas_closed_total for the close codes. Near 15,000 per process: add processes "
    "(WEB_CONCURRENCY), or raise the limit of open files.",
    "tier",
)
USERS = _gauge(
    "atlas_users",
    Question.IN_STEP,
    "Users with a welcomed connection, by tier",
    "See atlas_connections. A user with devices on two processes or servers counts twice.",
    "tier",
)
HELLOS = _counter(
    "atlas_hellos",
    Question.IN_STEP,
    "Welcomed hellos by outcome: `resumed`, or the reason for a snapshot",
    "Many `epoch` or `ahead`: the database was restored or failed over. Many `too_old`: devices stay away longer "
    "than the log is kept; raise ATLAS_LOG_DAYS. Many `new` from old users: clients lose their store.",
    "outcome",
)
DELIVERY = _histogram(
    "atlas_delivery_seconds",
    Question.IN_STEP,
    "Time from the commit of a change (its seq) until it was written to the last live reader at that position in "
    "this process",
    'Compare atlas_statement_seconds{name="read_feed"}. If that rose too, Postgres is the limit. If not, the core '
    "of this process is full: add processes. A constant offset is the difference between two clocks: run NTP.",
)
BEHIND = _gauge(
    "atlas_behind",
    Question.IN_STEP,
    "Positions whose readers wait for a read, by lane: live readers, and readers that catch up",
    "Growing: reading does not keep up. Look at atlas_postgres_up, then at atlas_statement_seconds and "
    "atlas_pool_waiting.",
    "lane",
)
STALLED = _gauge(
    "atlas_stalled",
    Question.IN_STEP,
    "Connections whose socket accepts no data at this moment",
    "A few are normal, such as phones in a tunnel. Many at once: the network to the devices, or the proxy, is "
    "congested.",
)
SNAPSHOTS_WAITING = _gauge(
    "atlas_snapshots_waiting",
    Question.IN_STEP,
    "Unfinished snapshots that wait for their turn",
    "It rises after a change of history, when every device starts over, and falls by itself. Otherwise, "
    "atlas_hellos_total shows why devices start over.",
)
ROWS_SENT = _counter(
    "atlas_rows_sent",
    Question.IN_STEP,
    "Rows written to sockets, by kind",
    "Much more than users write: a job updates rows without a change that users see (for example, `updated_at` of "
    "many conversations).",
    "kind",
)
BYTES_SENT = _counter(
    "atlas_bytes_sent",
    Question.IN_STEP,
    "Bytes written to sockets in frames with rows",
    "Rising faster than atlas_rows_sent_total: rows get larger. See `limits` in the declaration.",
)
DOORBELLS = _counter(
    "atlas_doorbells",
    Question.IN_STEP,
    "Notifications that a feed moved: `woke` if a reader here was behind, `carried` if the WAL brought its rows, too, "
    "else `ignored`",
    "None while users write: NOTIFY does not arrive; see atlas_listening. With several processes nearly all are "
    "`ignored`, because each process receives all of them. Few `carried` with ATLAS_DOORBELLS=wal: see which tables "
    "`atlas-sync doctor` says are left out.",
    "fate",
)
DOORBELLS_MISSED = _counter(
    "atlas_doorbells_missed",
    Question.IN_STEP,
    "Feeds that moved without a notification, found by the sweep",
    "A few after each reconnection of LISTEN are normal. A steady rate: a pooler sits before LISTEN (set "
    "ATLAS_LISTEN_URL), or triggers are disabled for some writers; run `atlas-sync doctor`.",
)
LISTENING = _gauge(
    "atlas_listening",
    Question.IN_STEP,
    "Processes that doorbells reach, by LISTEN or by the WAL",
    "Fewer than atlas_processes: changes wait for the sweep (ATLAS_SWEEP_SECONDS). Look for `doorbells are silent` "
    "in the log; check Postgres, the network and ATLAS_LISTEN_URL.",
)
STREAMING = _gauge(
    "atlas_streaming",
    Question.IN_STEP,
    "Processes that read changes from the WAL (ATLAS_DOORBELLS)",
    "Fewer than atlas_processes: the others LISTEN, which is slower and loses nothing. Look for `changes are not "
    "streamed` in the log; `atlas-sync doctor` says what is missing.",
)
PROCESSES = _gauge(
    "atlas_processes",
    Question.IN_STEP,
    "Processes that serve devices",
    "Fewer than WEB_CONCURRENCY: processes die; look for `worker died` in the log.",
)
WORKERS_DIED = _counter(
    "atlas_workers_died",
    Question.IN_STEP,
    "Processes that died and were replaced",
    "Look for `worker died` and its status in the log: -9 often means that the machine ran out of memory.",
)
LISTEN_SECONDS = _gauge(
    "atlas_listen_seconds",
    Question.IN_STEP,
    "Last round trip of a notification that a process sent to itself; the slowest process counts",
    "Slow while statements are quick: long transactions fill the notification queue; see "
    "atlas_notification_queue_ratio.",
    over="livemax",
)
PUSHES = _counter(
    "atlas_pushes",
    Question.IN_STEP,
    "Pushes by answer: `acked`, or the code of the error",
    "`unavailable`: Postgres is away, or somebody holds locks on users' rows. `gap`: the database lost its latest "
    "commits. `replaced`: copies of one store are in use.",
    "answer",
)
MUTATIONS = _counter(
    "atlas_mutations",
    Question.IN_STEP,
    "Mutations by result",
    "Many `rejected`: look for `the database rejected a mutation` in the log; a constraint or a trigger of the app "
    "refuses what a client writes. Many `repeated`: acks are lost on the way, so connections break.",
    "result",
)
ACK_SECONDS = _histogram(
    "atlas_ack_seconds",
    Question.IN_STEP,
    "Time from the arrival of a push until its ack",
    'Compare atlas_statement_seconds{name="push"}. Slow commits mean a slow disk, or the lock that NOTIFY takes. '
    "Otherwise, see atlas_push_group_mutations, and add processes.",
)

# --- Is Postgres the limit?

POSTGRES_UP = _gauge(
    "atlas_postgres_up",
    Question.POSTGRES,
    "1 if Postgres answered when these metrics were requested, else 0",
    "0: devices stay connected and wait. Start Postgres, or repair the connection to it. If Postgres runs, "
    "something holds a lock or all connections of the pool: see pg_stat_activity and atlas_pool_waiting.",
    over="livemostrecent",
)
BLIND = _gauge(
    "atlas_blind",
    Question.POSTGRES,
    "1 while this server would miss changes, or Postgres would not record them",
    "1: devices stay connected and wait, and start over afterwards. The log and /readyz name the missing trigger, "
    "policy or right; run `atlas-sync migrate`.",
    over="livemax",
)
HISTORIES = _counter(
    "atlas_history_changes",
    Question.POSTGRES,
    "Changes to a newer history of the database, after which every device started over",
    "Rising without a failover or a restore: somebody disables and enables triggers or policies of Atlas Sync, or "
    "updates sync.meta.",
)
HISTORY_SPLIT = _gauge(
    "atlas_history_split",
    Question.POSTGRES,
    "1 while another Postgres answers with an earlier history than the one that is served",
    "1: a former primary is still running, and writes to it will be lost. Stop it.",
    over="livemax",
)
CLOCK_AHEAD = _gauge(
    "atlas_clock_ahead_seconds",
    Question.POSTGRES,
    "How far Postgres' clock is ahead of this machine's",
    f"Beyond {limits.CLOCK_SECONDS:g} either way: Postgres' clock decides the times of writes and the end of "
    "tokens. Run NTP on both machines.",
    over="livemostrecent",
)
STATEMENT_SECONDS = _histogram(
    "atlas_statement_seconds",
    Question.POSTGRES,
    "Duration of the server's SQL statements, by name",
    "All are slow: check Postgres' disk and CPU, and atlas_oldest_transaction_seconds. Only one is slow: run "
    "EXPLAIN (ANALYZE, BUFFERS) on sql/NAME.sql, and ANALYZE its tables.",
    "name",
)
READERS_PER_STATEMENT = _histogram(
    "atlas_readers_per_statement",
    Question.POSTGRES,
    "Positions read by one statement",
    "Always 256: this process does not keep up; see atlas_behind.",
    buckets=SIZES,
)
PUSH_GROUP_MUTATIONS = _histogram(
    "atlas_push_group_mutations",
    Question.POSTGRES,
    "Mutations committed by one transaction",
    "Always ATLAS_PUSH_BATCH: writes arrive faster than one transaction at a time commits them. Add processes.",
    buckets=SIZES,
)
POOL_IN_USE = _gauge(
    "atlas_pool_in_use",
    Question.POSTGRES,
    "Connections of the pools that run a statement",
    "Always ATLAS_POOL_SIZE per process: find out which statements are slow before you raise it.",
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
    "Used share of Postgres' notification queue (8 GB); at 1 every commit that notifies fails",
    f"Above {limits.NOTIFICATION_QUEUE:g}: a session that listens is in a transaction. Find it in pg_stat_activity "
    "by its xact_start, and end it with pg_terminate_backend.",
    over="livemostrecent",
)
OLDEST_XMIN = _gauge(
    "atlas_oldest_xmin_transactions",
    Question.POSTGRES,
    "Transactions begun since the oldest snapshot that is still held",
    f"Above {limits.OLDEST_SNAPSHOT_TRANSACTIONS:,}: dead rows cannot be removed, and writing to feeds gets slower "
    "(a third of the speed within 30 s for a hot one). Look for a long query or pg_dump in pg_stat_activity, a "
    "forgotten prepared transaction or replication slot.",
    over="livemostrecent",
)
OLDEST_TRANSACTION = _gauge(
    "atlas_oldest_transaction_seconds",
    Question.POSTGRES,
    "Age of the oldest open transaction of this database",
    f"Above {limits.OLDEST_TRANSACTION_SECONDS:,}: see atlas_oldest_xmin_transactions, and set "
    "idle_in_transaction_session_timeout for the app's role.",
    over="livemostrecent",
)
LOG_BYTES = _gauge(
    "atlas_log_bytes",
    Question.POSTGRES,
    "Size of the change log with its indexes",
    "Growing without end: `atlas-sync maintain` does not run, or ATLAS_LOG_DAYS is more than the disk holds.",
    over="livemostrecent",
)
DEFAULT_ROWS = _gauge(
    "atlas_default_rows",
    Question.POSTGRES,
    f"Rows in a default partition, counted up to {limits.DEFAULT_ROWS_COUNTED:,}",
    f"At {limits.DEFAULT_ROWS_COUNTED:,} of messages, or above 0 of the log, for longer than an hour: `atlas-sync "
    "maintain` does not run, or its log says what stops it or which rows it leaves (see «Maintenance»).",
    "table",
    over="livemostrecent",
)
PARTITIONS_AHEAD = _gauge(
    "atlas_partitions_ahead_days",
    Question.POSTGRES,
    "Days from now for which partitions exist",
    f"Below {limits.PARTITIONS_AHEAD_DAYS}: `atlas-sync maintain` does not run. Start it; nothing is lost meanwhile.",
    "table",
    over="livemostrecent",
)
MAINTAINED_AGO = _gauge(
    "atlas_maintained_seconds_ago",
    Question.POSTGRES,
    "Time since `atlas-sync maintain` last did all there was to do; infinite if it never did",
    f"Above {limits.MAINTAINED_SECONDS:,}: it does not run, or its log says what stops it. Start one (Procfile: "
    "`worker`); nothing is lost meanwhile.",
    over="livemostrecent",
)
STREAM_BEHIND = _gauge(
    "atlas_stream_behind_bytes",
    Question.POSTGRES,
    "Bytes of WAL that Postgres has written and the process that reads it has not received; the worst process counts",
    "Growing: Postgres decodes more slowly than others write. It has to decode the writes to all tables of the "
    "database. At 1 GiB the server listens instead.",
    over="livemax",
)

# --- Is someone hurting us?

OPENED = _counter(
    "atlas_opened",
    Question.HURT,
    "Connections opened",
    "Much more than atlas_hellos_total: somebody connects without a valid hello, or clients reconnect in a loop. "
    "Limit connections by address in the proxy.",
)
CLOSED = _counter(
    "atlas_closed",
    Question.HURT,
    "Connections that ended, by close code: the one we sent, else the one we received, else 1006",
    "4101: tokens of a wrong key or issuer. 4300: a broken client, or somebody tries things; the log names "
    "connection and user. 4003, 4005: one user opens too many. 4004: one sends too much. 4001: a fault of the "
    "server, with its traceback in the log. 1006: connections break.",
    "code",
)
CUT_OFF = _counter(
    "atlas_cut_off",
    Question.HURT,
    "Connections closed because they sent too much",
    "The log (`connection sends too much`) names connection and user.",
)

# --- Do caches and replicas help?

REDIS_UP = _gauge(
    "atlas_redis_up",
    Question.RELIEF,
    "1 if Redis answered last, else 0; no value without REDIS_URL",
    "0: everything is read from Postgres instead, and nothing fails. Start Redis, or repair the connection to it; the "
    "log (`redis is away`) has the reason.",
    over="livemostrecent",
)
REDIS_SECONDS = _histogram(
    "atlas_redis_seconds",
    Question.RELIEF,
    "Duration of commands to Redis, by name, waiting for a connection included",
    "More than a few milliseconds: Redis is further away than Postgres, or overloaded. At 50 ms it counts as away.",
    "name",
)
REDIS_FAILURES = _counter(
    "atlas_redis_failures",
    Question.RELIEF,
    "Commands to Redis that failed: `away`, it did not answer in time; `refused`, it answered with an error",
    "Many `refused`: the log (`redis refuses a command`) has its reason. If its memory is full, set maxmemory-policy "
    "to allkeys-lru.",
    "why",
)
RESPONSES = _counter(
    "atlas_responses",
    Question.RELIEF,
    "Requests for cached responses by outcome: found in this `process`, in `redis`, in `postgres`, or `waited` for "
    "another caller; the caller `computes`; `busy`, another one does; `missed`, a look without a lease",
    "Few are found: the scope or the model changes with every request, or the ttl is too short. Many `busy`: callers "
    "do not wait, or leases of callers that died have to end first; shorten them.",
    "outcome",
)
RESPONSES_STORED = _counter(
    "atlas_responses_stored",
    Question.RELIEF,
    "Computed responses by result: `stored`, or `refused` because their lease was over or they were deleted meanwhile",
    'Far fewer than atlas_responses_total{outcome="computes"}: callers take leases and store nothing, and others wait '
    "for them in vain. Many `refused`: computing takes longer than the lease; ask for longer ones.",
    "result",
)
RESPONSES_SAVED_COST = _counter(
    "atlas_responses_saved_cost",
    Question.RELIEF,
    "Cost of the responses that were found instead of computed, as their callers gave it",
    "0 while responses are found: callers store them without `cost`.",
)
RESPONSES_SAVED_TOKENS = _counter(
    "atlas_responses_saved_tokens",
    Question.RELIEF,
    "Tokens of the responses that were found instead of computed, as their callers gave them",
    "0 while responses are found: callers store them without `tokens`.",
)
RESPONSES_BYTES = _gauge(
    "atlas_responses_bytes",
    Question.RELIEF,
    "Memory of the responses that processes keep",
    "Always ATLAS_RESPONSES_MIB for each process while few are found in the `process`: raise it.",
)
RESPONSES_UNCOUNTED = _counter(
    "atlas_responses_uncounted",
    Question.RELIEF,
    "Hits that were not added to hit_count",
    "Above 0: Postgres was away for long, or when a process ended. The figures above count all hits.",
)

REPLICAS = _gauge(
    "atlas_replicas",
    Question.RELIEF,
    "Replicas of ATLAS_REPLICA_URLS by state: `used`, or `left`: it does not answer, lags, or is of another history",
    "`left`: the primary does their work. The log (`a replica is not used`) has the reason. A replica is used again as "
    "soon as it is well.",
    "state",
    over="livemostrecent",
)
REPLICA_LAG = _gauge(
    "atlas_replica_lag_seconds",
    Question.RELIEF,
    "How far each replica is behind the primary, by its number in ATLAS_REPLICA_URLS",
    "Growing: the replica replays slowly; look for long queries on it, and at its disk. From 5 s on it is not used.",
    "replica",
    over="livemostrecent",
)
READS = _counter(
    "atlas_reads",
    Question.RELIEF,
    "Statements that a replica could answer (catch-up, snapshots, pages), by who did; none without ATLAS_REPLICA_URLS",
    "Many `primary` while all replicas are used: devices are ahead of them. Compare atlas_replica_lag_seconds.",
    "by",
)
KEPT = _counter(
    "atlas_kept_answers",
    Question.RELIEF,
    "Pieces of snapshots and pages looked up in Redis: `hit`, `miss`, `older` than what the device has, or `unusable`, "
    "kept by another version",
    "Few `hit` in hours of many reads: Redis evicts what it keeps; give it more memory, or a maxmemory-policy of "
    "allkeys-lru. Many `unusable` while no new version is deployed: something else writes to these keys.",
    "result",
)

# --- Streams

STREAMS_OPEN = _gauge(
    "atlas_streams_open",
    Question.IN_STEP,
    "Open streams that this process appended to last",
    "Growing while nobody writes: writers end without `done` or `failed`, and count as gone after 30 s of silence.",
)
STREAM_APPENDS = _counter(
    "atlas_stream_appends",
    Question.IN_STEP,
    "Parts of streams that were written to Postgres",
    "Compare atlas_stream_groups: many small groups are many transactions.",
)
STREAM_GROUPS = _histogram(
    "atlas_stream_groups",
    Question.POSTGRES,
    "Streams that one transaction appended to",
    "Above 128: one process writes for many streams. Spread the writers over more processes.",
    buckets=SIZES,
)
STREAM_DELIVERY = _histogram(
    "atlas_stream_delivery_seconds",
    Question.IN_STEP,
    "From an append in another process to the send to devices of this one. It includes the difference of the clocks",
    "p99 above 0.1: this process is busy, or Postgres is slow; compare atlas_statement_seconds of read_streams.",
)
STREAM_STOPS = _counter(
    "atlas_stream_stops",
    Question.IN_STEP,
    "Stops of open streams that devices asked for",
    "Many: answers are too slow or too long for people.",
)
STREAM_STOP_KNOWN = _histogram(
    "atlas_stream_told_seconds",
    Question.IN_STEP,
    "From the end of a stopped stream until its writer was told",
    "Above 1: writers do not append, and do not wait at GET /v1/streams/ID/stop. They compute what nobody sees.",
)
STREAMS_SETTLED = _counter(
    "atlas_streams_settled",
    Question.IN_STEP,
    "Streams whose text is in its row, by who wrote it: the `app` or the `server`; `refused`: it could not be written",
    "Many `server` without `write` in the app: writers die. `refused`: the log names the SQLSTATE; a trigger or a "
    "constraint of the app refuses the text, which is kept and tried again.",
    "by",
)

# --- What does it cost?

USAGE_EVENTS = _counter(
    "atlas_usage_events",
    Question.COST,
    "Events of usage, of the `server` or of the app's `backend`, by what became of them",
    "Many `put_off`: Postgres is away or slow, and the backend keeps them. `dropped`: so it is, and the server's own "
    "events are lost. `refused`: the answers to POST /v1/usage say why.",
    "source",
    "fate",
)
USAGE_PENDING = _gauge(
    "atlas_usage_pending_seconds",
    Question.COST,
    "Age of the oldest event that is not counted into daily_usage; no value without ATLAS_USAGE",
    f"Above {limits.USAGE_PENDING_SECONDS:,}: `atlas-sync maintain` does not run, or its log says what stops it. "
    "Nothing is lost meanwhile.",
    over="livemostrecent",
)
COST_TODAY = _gauge(
    "atlas_cost_today",
    Question.COST,
    "Cost of the present day (UTC) by tier, in the currency of the price list",
    "Higher than on other days at this time: `atlas-sync costs` shows which users and models cause it.",
    "tier",
    over="livemostrecent",
)
COST_UNUSUAL = _gauge(
    "atlas_cost_unusual",
    Question.COST,
    "Users and tiers whose cost of today or yesterday is outside the usual range of their last 14 days",
    "Above 0: `atlas-sync costs` names them, with their usual range. A key that leaked, a loop in the app, or success.",
    "of",
    over="livemostrecent",
)
COST_WITHOUT_PRICE = _gauge(
    "atlas_cost_models_without_price",
    Question.COST,
    "Models that were used today or yesterday and are not in the price list",
    "Above 0: costs are too low. `atlas-sync costs` names the models; add them to sync.model_prices.",
    over="livemostrecent",
)

CODES: Final = frozenset({1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, *CloseCode})
"""Close codes with a series of their own. A peer may send any number; all others are counted as `other`."""
OUTCOMES: Final = ("resumed", "new", "unreadable", "foreign", "epoch", "schema", "ahead", "too_old")
"""Of a hello. `feed.resume.Why` has the reasons for a snapshot, and a test compares the two: this package lies below
`feed` and cannot import it."""
COST_TIERS: Final = (*sorted(tiers.SYNCED), "free", "other")
"""Tiers whose cost has a series of its own. The app's backend may name any; all others are summed as `other`."""
PUSH_ERRORS: Final = (errors.UNAVAILABLE, errors.SLOW_DOWN, errors.GAP, errors.REPLACED, errors.LOCAL_ONLY)

# Start these series at 0: Prometheus sees no increase in a series that begins at 1, and the first fault counts most.
for _code in CODES:
    CLOSED.labels(str(int(_code)))
for _outcome in OUTCOMES:
    HELLOS.labels(_outcome)
for _result in ("acked", *(error.code for error in PUSH_ERRORS)):
    PUSHES.labels(_result)
for _why in ("away", "refused"):
    REDIS_FAILURES.labels(_why)
for _by in ("replica", "primary"):
    READS.labels(_by)
for _state in ("used", "left"):
    REPLICAS.labels(_state)
for _result in ("hit", "miss", "older", "unusable"):
    KEPT.labels(_result)
for _command in ("eval", "get", "set"):
    REDIS_SECONDS.labels(_command)
for _source, _fates in {
    "server": ("written", "dropped"),
    "backend": ("written", "repeated", "put_off", "refused"),
}.items():
    for _fate in _fates:
        USAGE_EVENTS.labels(_source, _fate)
for _of in ("users", "tiers"):
    COST_UNUSUAL.labels(_of)
for _tier in COST_TIERS:
    COST_TODAY.labels(_tier)
for _outcome in ("process", "redis", "postgres", "waited", "computes", "busy", "missed"):
    RESPONSES.labels(_outcome)
for _by in ("app", "server", "refused"):
    STREAMS_SETTLED.labels(_by)
for _result in ("stored", "refused"):
    RESPONSES_STORED.labels(_result)
for _tier in sorted(tiers.SYNCED):
    CONNECTIONS.labels(_tier)
    USERS.labels(_tier)

# Unknown, and not 0, until Postgres or Redis was asked.
_OF_ANOTHER: Final = (
    NOTIFICATION_QUEUE,
    OLDEST_XMIN,
    OLDEST_TRANSACTION,
    LOG_BYTES,
    MAINTAINED_AGO,
    REDIS_UP,
    USAGE_PENDING,
)
for _gauge_of_another in (*_OF_ANOTHER, REPLICA_LAG.labels("1")):
    _gauge_of_another.set(float("nan"))
