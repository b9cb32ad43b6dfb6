"""What maintenance a database needs: a list of steps, computed from what was found in it. Pure.

A stray is a row in a default partition, because there was no partition for its time when it was written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final, Literal, Self

from server.config import MaintainSettings

Table = Literal["messages", "messages_archive", "log", "usage_logs"]
WEEKLY: Final = frozenset({"log", "usage_logs"})
"""Partitioned by weeks; the others by months."""

DEFAULTS: Final = ("messages", "log", "usage_logs")
"""The tables that have a default partition."""
AHEAD_MONTHS: Final = 3
"""Months after the current one for which partitions are made."""
FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD: Final = timedelta(days=731)
"""Strays dated before FIRST, or more than AHEAD in the future, stay in the default partition. A user who may insert a
message may choose its date, and each partition costs every statement time."""
FEW: Final = 1_000
"""Up to this many strays of a month stay too. They do not slow reading down: with as many of each month from FIRST to
AHEAD, making a partition takes 0.15 s. A partition for each of those months would make reading a page take 20 times as
long, for every user and for good."""
MOST: Final = 60
"""No partition is made for strays if messages has this many partitions, archived ones included: those of five years.
Reading a page takes twice as long with them as with none."""
KEY_DAYS: Final = 7
"""Days for which idempotency keys are kept. A backend that was told to keep its events for longer is broken."""
MANY: Final = 20_000
"""Moving more strays than this blocks writers for too long: 0.15 s for this many."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings."""

    log_days: int
    """The log is kept for this many days."""
    forget_days: int
    """Devices and installations are forgotten after this many days."""
    usage_days: int = 90
    """Events of usage are kept for this many days."""
    cost_floor: float = 5.0
    """A day that costs less than this is never unusual."""

    @classmethod
    def of(cls, settings: MaintainSettings) -> Self:
        return cls(settings.log_days, settings.forget_days, settings.usage_days, settings.cost_floor)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition other than a default partition."""

    of: Table
    name: str
    since: datetime
    """Inclusive."""
    until: datetime
    """Exclusive."""
    bounded: bool = False
    """It has a check constraint with its bounds."""
    validated: bool = False
    """That constraint is validated."""


@dataclass(frozen=True, slots=True)
class Strays:
    """Rows in a default partition whose times lie in one month, or for the log and usage_logs in one week."""

    of: Literal["messages", "log", "usage_logs"]
    since: datetime
    """The first instant of that month or week."""
    rows: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in a database."""

    now: datetime
    partitions: Sequence[Partition]
    strays: Sequence[Strays]
    forgotten_clients: bool
    """Some installations have not pushed or connected for `Policy.forget_days`."""
    forgotten_devices: bool
    """Some devices have not connected for `Policy.forget_days`."""
    silent_servers: bool
    """Some servers have not reported for a day."""
    expired_responses: bool
    """Some cached responses have expired, or the traces of computing and counting them are a day old."""
    uncounted_usage: bool = False
    """Some events are not counted, or costs do not follow the price list."""
    old_usage_keys: bool = False
    """Some idempotency keys are older than KEY_DAYS."""
    old_usage_conversations: bool = False
    """It is known of days which conversations were counted, although no event of these days can arrive."""
    archive_months: int | None = None
    """Messages older than this many months go to the archive, as the declaration says; None: none do."""
    partitioned: bool = True
    """messages is partitioned, as the declaration asks."""


@dataclass(frozen=True, slots=True)
class Make:
    """Make the partition of a month, or for the log and usage_logs of a week, and move its strays into it."""

    of: Table
    since: datetime
    strays: int = 0

    def __str__(self) -> str:
        moved = f", and move {self.strays} rows into it that strayed into the default partition" if self.strays else ""
        return f"make the partition of {self.of} from {self.since:%Y-%m-%d}{moved}"


@dataclass(frozen=True, slots=True)
class MoveToArchive:
    """Move the strays of a month into its archived partition."""

    partition: str
    since: datetime
    until: datetime
    rows: int

    def __str__(self) -> str:
        return f"move {self.rows} rows that strayed into the default partition to {self.partition}"


@dataclass(frozen=True, slots=True)
class TurnDefault:
    """Turn the default partition, in place, into the regular partition of a date range, and create a new default."""

    of: Literal["messages", "log", "usage_logs"]
    since: datetime
    until: datetime
    rows: int

    def __str__(self) -> str:
        return (
            f"turn the default partition of {self.of}, with {self.rows} rows, into the one "
            f"from {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d}"
        )


@dataclass(frozen=True, slots=True)
class Bound:
    """Add a partition's bounds as a check constraint that is not validated."""

    partition: str

    def __str__(self) -> str:
        return f"add the bounds of {self.partition} as a constraint"


@dataclass(frozen=True, slots=True)
class Validate:
    """Validate that constraint: read the partition, beside readers and writers."""

    partition: str

    def __str__(self) -> str:
        return f"validate the bounds of {self.partition}: read it"


@dataclass(frozen=True, slots=True)
class Archive:
    """Move a partition of messages to the archive."""

    partition: str

    def __str__(self) -> str:
        return f"move {self.partition} to messages_archive"


@dataclass(frozen=True, slots=True)
class DropLog:
    """Drop a partition of the log. Devices that were away for longer than the log reaches back get a snapshot."""

    partition: str

    def __str__(self) -> str:
        return f"drop {self.partition}, which is older than the log is kept"


@dataclass(frozen=True, slots=True)
class CountUsage:
    """Count the events of usage that are not counted yet into daily_usage and daily_costs."""

    def __str__(self) -> str:
        return "count usage into daily_usage and daily_costs"


@dataclass(frozen=True, slots=True)
class DropUsage:
    """Drop a partition of usage_logs. All of its events must be counted."""

    partition: str

    def __str__(self) -> str:
        return f"drop {self.partition}, which is older than events are kept"


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete the records of installations of the app, devices or servers that were not seen for long, or what is left
    of old usage."""

    what: Literal["clients", "devices", "servers", "usage_keys", "usage_conversations", "usage_events"]

    def __str__(self) -> str:
        if self.what.startswith("usage"):
            return f"forget old {self.what.removeprefix('usage_')} of usage"
        return f"forget {self.what} that were not seen for long"

    def days(self, policy: Policy) -> int:
        """The age after which it is forgotten."""
        if self.what == "usage_keys":
            return KEY_DAYS
        return policy.usage_days if self.what.startswith("usage") else policy.forget_days


@dataclass(frozen=True, slots=True)
class DeleteExpired:
    """Delete cached responses that have expired."""

    what: Literal["responses"] = "responses"

    def __str__(self) -> str:
        return "delete cached responses that have expired"


Step = (
    Make
    | MoveToArchive
    | TurnDefault
    | Bound
    | Validate
    | Archive
    | DropLog
    | CountUsage
    | DropUsage
    | Forget
    | DeleteExpired
)


def plan(seen: Seen, policy: Policy) -> list[Step]:
    """The steps, in order. After they are carried out, only partitions that were made of old strays are left to be
    archived or dropped."""
    return [
        *(CountUsage() for _ in range(seen.uncounted_usage)),
        *_strays(seen, policy),
        *_ahead(seen),
        *_archive(seen),
        *_drop(seen, policy),
        *(Forget("clients") for _ in range(seen.forgotten_clients)),
        *(Forget("devices") for _ in range(seen.forgotten_devices)),
        *(Forget("servers") for _ in range(seen.silent_servers)),
        *(Forget("usage_keys") for _ in range(seen.old_usage_keys)),
        *(Forget("usage_conversations") for _ in range(seen.old_usage_conversations)),
        *(Forget("usage_events") for _ in range(any(_is_old_usage(some, seen, policy) for some in seen.strays))),
        *(DeleteExpired() for _ in range(seen.expired_responses)),
    ]


def staying(seen: Seen, policy: Policy) -> str | None:
    """A sentence for an operator, if the strays of some month or week are more than FEW and stay in a default
    partition."""
    steps = list(_strays(seen, policy))
    left = [
        strays
        for strays in seen.strays
        if strays.rows > FEW
        and not any(_moves(step, strays) for step in steps)
        and not _is_old_usage(strays, seen, policy)
    ]
    if not left:
        return None
    first = ", ".join(f"{some.of} from {some.since:%Y-%m-%d}" for some in left[:3])
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    advice = "server/README.md, Maintenance, says what to do"
    return f"{_rows(left)} rows stay in a default partition ({first}{more}); {advice}"


def _moves(step: Step, strays: Strays) -> bool:
    match step:
        case Make(of, since):
            return since == strays.since and _family(of) == _family(strays.of)
        case MoveToArchive(_, since):
            return since == strays.since and strays.of == "messages"
        case TurnDefault(of, since, until):
            return of == strays.of and since <= strays.since < until
        case _:
            return False


def _strays(seen: Seen, policy: Policy) -> Iterator[Step]:
    horizon = _archive_horizon(seen)
    room = max(0, MOST - sum(some.of not in WEEKLY for some in seen.partitions))
    for of in DEFAULTS:
        runs: list[list[Strays]] = []
        some_stay = False
        for strays in sorted((some for some in seen.strays if some.of == of), key=lambda some: some.since):
            if not FIRST <= strays.since < seen.now + AHEAD or (
                of == "usage_logs" and not _is_kept(strays, seen, policy)
            ):
                some_stay = True
                continue
            until = _after(of, strays.since)
            there = _overlapping(seen, of, strays.since, until)
            if (
                there
                and there[0].of == "messages_archive"
                and there[0].since <= strays.since
                and until <= there[0].until
            ):
                yield MoveToArchive(there[0].name, strays.since, until, strays.rows)
            elif there:
                # A partition that the app made covers part of that month. Where the rest belongs is its owner's choice.
                some_stay = True
            elif runs and not _overlapping(seen, of, runs[-1][0].since, until):
                runs[-1].append(strays)
            else:
                runs.append([strays])
        # A run is a range of strays with no partition inside: the default partition could be turned into its partition.
        most = max(runs, key=lambda run: (_felt(run), _rows(run)), default=[])
        others = [run for run in runs if run is not most]
        turns = _rows(most) > MANY and not some_stay and not any(map(_felt, others))
        if turns and of == "messages":
            made = [*chain.from_iterable(others), most[-1]]
            turns = sum(not _is_due(seen, strays.since) for strays in made) <= room
        for strays in chain.from_iterable(others) if turns else _parted(seen, of, runs, room):
            archived = of == "messages" and horizon is not None and _after(of, strays.since) <= horizon
            yield Make("messages_archive" if archived else strays.of, strays.since, strays.rows)
        # Last, because the default partition must not contain other rows then.
        if turns:
            yield TurnDefault(most[0].of, most[0].since, _after(of, most[-1].since), _rows(most))


def _parted(seen: Seen, of: Table, runs: Sequence[Sequence[Strays]], room: int) -> Iterator[Strays]:
    """The strays that get partitions of their own, the youngest first. Those that are too many to move stay."""
    for strays in reversed(list(chain.from_iterable(runs))):
        if strays.rows > MANY:
            continue
        if of in WEEKLY or _is_due(seen, strays.since):
            yield strays
        elif strays.rows > FEW and room:
            room -= 1
            yield strays


def _is_due(seen: Seen, month: datetime) -> bool:
    """The partition of this month is made in any case."""
    return _start("messages", seen.now) <= month <= _end(seen.now)


def _end(now: datetime) -> datetime:
    """Partitions are made up to the one that contains this instant."""
    for _ in range(AHEAD_MONTHS):
        now = _after("messages", now)
    return now


def _rows(run: Sequence[Strays]) -> int:
    return sum(strays.rows for strays in run)


def _felt(run: Sequence[Strays]) -> bool:
    """Some month or week of the run has too many strays to be moved."""
    return any(strays.rows > MANY for strays in run)


def _ahead(seen: Seen) -> Iterator[Step]:
    end = _end(seen.now)
    for of in DEFAULTS:
        if of == "messages" and not seen.partitioned:
            continue
        planned = {strays.since for strays in seen.strays if strays.of == of}
        since = _start(of, seen.now)
        while since <= end:
            until = _after(of, since)
            if since not in planned and not _overlapping(seen, of, since, until):
                yield Make(of, since)
            since = until


def _archive(seen: Seen) -> Iterator[Step]:
    horizon = _archive_horizon(seen)
    for partition in seen.partitions:
        if horizon is not None and partition.of == "messages" and partition.until <= horizon:
            if not partition.bounded:
                yield Bound(partition.name)
            if not partition.validated:
                yield Validate(partition.name)
            yield Archive(partition.name)


def _drop(seen: Seen, policy: Policy) -> Iterator[Step]:
    oldest = seen.now - timedelta(days=policy.log_days)
    for partition in seen.partitions:
        if partition.of == "log" and partition.until <= oldest:
            yield DropLog(partition.name)
        if partition.of == "usage_logs" and partition.until <= _oldest_usage(seen, policy):
            yield DropUsage(partition.name)


def _oldest_usage(seen: Seen, policy: Policy) -> datetime:
    """Events before this instant are dropped. A day after none is accepted, so that all of them are counted by then."""
    return seen.now - timedelta(days=policy.usage_days + 1)


def _is_old_usage(strays: Strays, seen: Seen, policy: Policy) -> bool:
    return strays.of == "usage_logs" and not _is_kept(strays, seen, policy) and strays.since < seen.now


def _is_kept(strays: Strays, seen: Seen, policy: Policy) -> bool:
    """These events get a partition: one that need not be dropped, and that is made in any case when its time comes."""
    return _oldest_usage(seen, policy) - timedelta(weeks=1) < strays.since <= _end(seen.now)


def _archive_horizon(seen: Seen) -> datetime | None:
    """Messages created before this instant belong in the archive."""
    if seen.archive_months is None:
        return None
    months = seen.now.year * 12 + seen.now.month - 1 - seen.archive_months
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def _overlapping(seen: Seen, of: str, since: datetime, until: datetime) -> list[Partition]:
    """Partitions that overlap this range. Messages and its archive count as one table."""
    return [p for p in seen.partitions if _family(p.of) == _family(of) and p.since < until and p.until > since]


def _family(of: str) -> str:
    return "messages" if of == "messages_archive" else of


def _start(of: str, moment: datetime) -> datetime:
    """The first instant of its month, or for the log and usage_logs of its week."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday()) if of in WEEKLY else day.replace(day=1)


def _after(of: str, moment: datetime) -> datetime:
    """The start of the next month, or for the log and usage_logs the next week."""
    start = _start(of, moment)
    return start + timedelta(weeks=1) if of in WEEKLY else (start + timedelta(days=32)).replace(day=1)
