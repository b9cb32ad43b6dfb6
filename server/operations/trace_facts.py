"""The facts of a trace: what Postgres knows of one row, of its owner and of the owner's devices. Pure."""

from dataclasses import dataclass
from uuid import UUID

from protocol.frames import Instant


@dataclass(frozen=True, slots=True)
class Row:
    """It, without its content."""

    owner: UUID | None
    """None: its parent does not exist, or has no owner."""
    parent: str | None
    """The key of its parent."""
    role: str | None
    bytes: int
    """Of what people say in it."""
    created_at: Instant | None
    """None: infinite, or not known."""
    updated_at: Instant | None
    newer: int
    """How many rows of its list are newer, up to 1,000."""
    archived: bool


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of the change log."""

    seq: int
    n: int
    op: str
    """u: the row was created or changed; d: deleted."""
    place: int
    """Its number among the `rows` of its transaction, from 1."""
    rows: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """A parent that was deleted after the row's last change."""

    parent: str
    seq: int
    certain: bool
    """It is known that the row belonged to it."""


@dataclass(frozen=True, slots=True)
class Plan:
    tier: str | None
    status: str | None
    has_profile: bool
    """There is a row that decides, or none is needed."""
    syncs: bool = True


@dataclass(frozen=True, slots=True)
class Feed:
    head: int
    """The feed's position by its own row; 0: there is no feed."""
    log_head: int | None
    """The seq of the newest entry; None without entries."""
    log_first: int | None
    """The seq of the oldest entry that the log still has."""
    before_first: int | None
    """The feed's position before that entry; 0: the feed began with it."""


@dataclass(frozen=True, slots=True)
class Device:
    """The last report of its server."""

    client_id: UUID
    session: str
    server: str
    state: str
    position: int | None
    close_code: int | None
    connected_at: Instant
    noted_at: Instant
    server_seen_at: Instant | None
    """When that server last reported anything; None: no longer known."""
    resumes: bool
    """The log continues at its position, so it would not need a snapshot."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of a column of it, without its text."""

    column: str
    state: str
    """open, done, failed or stopped."""
    length: int
    """Characters; perhaps 0 once it is settled."""
    server: str
    """The process that appended last."""
    opened_at: Instant
    touched_at: Instant
    """The last sign of life of its writer."""
    stop_at: Instant | None
    """When somebody wanted it to end."""
    ended_at: Instant | None
    settled_at: Instant | None
    failures: int
    """How often in a row its text could not be written into the row."""


@dataclass(frozen=True, slots=True)
class Client:
    """How far an installation of the app has pushed."""

    client_id: UUID
    last_mutation: int
    pushed_at: Instant
    rejected: dict[int, str]
    """Codes of the mutations of its last push that were rejected, by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What Postgres knows, in one snapshot. Fields that depend on the owner are empty if there is none."""

    key: str
    kind: str
    table: str
    parent_kind: str | None
    window: int | None
    """How many rows of its list a new device gets; None: all."""
    asked_user: UUID | None
    now: Instant
    log_since: Instant | None
    """The lower bound of the log's oldest partition; None: it has none."""
    is_parent: bool
    """The key belongs to a row of the parent's kind."""
    searched_all: bool
    """The whole log was searched, because no owner was known."""
    row: Row | None
    touch: str | None
    """A statement that has the row recorded again."""
    copies: int
    """How many rows have this id."""
    owner: UUID | None
    plan: Plan | None = None
    feed: Feed | None = None
    changes: tuple[Change, ...] = ()
    """The newest first, twenty at most."""
    changes_total: int = 0
    first_change: int | None = None
    """The seq of the oldest change that the log still has."""
    deletions: tuple[Deletion, ...] = ()
    streams: tuple[Stream, ...] = ()
    devices: tuple[Device, ...] = ()
    clients: tuple[Client, ...] | None = None
    """None: not known, or this login may not ask."""

    @property
    def somebody_elses(self) -> bool:
        return self.asked_user is not None and self.row is not None and self.row.owner != self.asked_user
