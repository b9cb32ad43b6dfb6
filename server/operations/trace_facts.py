"""What is known of one message, of its owner and of the owner's devices. Pure."""

from dataclasses import dataclass
from uuid import UUID

from protocol.frames import Instant


@dataclass(frozen=True, slots=True)
class Message:
    """Where the row lies; never what it says."""

    owner: UUID | None
    """None: its conversation does not exist."""
    conversation: UUID
    role: str
    content_bytes: int
    created_at: Instant | None
    """None: infinite."""
    updated_at: Instant | None
    newer: int
    """Messages in its conversation that are newer; 1,000 stands for more."""
    archived: bool


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of the change log."""

    seq: int
    n: int
    op: str
    """u upsert, d deletion."""
    place: int
    """Among the `rows` of its transaction, from 1 on."""
    rows: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """A conversation that was deleted after the message was last heard of."""

    conversation: UUID
    seq: int
    certain: bool
    """It is known to be the message's."""


@dataclass(frozen=True, slots=True)
class Plan:
    tier: str | None
    status: str | None
    has_profile: bool


@dataclass(frozen=True, slots=True)
class Feed:
    head: int
    """0: there is none."""
    log_head: int | None
    """The newest entry's seq; None without entries."""
    log_first: int | None
    before_first: int | None
    """The feed's seq before the oldest entry; 0: the feed began with it."""


@dataclass(frozen=True, slots=True)
class Device:
    """As its server noted it last."""

    client_id: UUID
    session: str
    server: str
    state: str
    position: int | None
    close_code: int | None
    connected_at: Instant
    noted_at: Instant
    server_seen_at: Instant | None
    """When that server last noted anything; None if it is not known any more."""
    resumes: bool
    """The log goes on from its position."""


@dataclass(frozen=True, slots=True)
class Client:
    """How far an installation of the app has pushed."""

    client_id: UUID
    last_mutation: int
    pushed_at: Instant
    rejected: dict[int, str]
    """Codes of the last push's, by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What Postgres knows, at one moment. What depends on the owner is empty where none is known."""

    message_id: UUID
    asked_user: UUID | None
    now: Instant
    log_since: Instant | None
    """Where the oldest partition of the log begins; None: it has no beginning."""
    is_conversation: bool
    """The id is a conversation's."""
    searched_all: bool
    """The whole log was searched, because no owner was known."""
    message: Message | None
    copies: int
    """Rows that have this id."""
    owner: UUID | None
    plan: Plan | None = None
    feed: Feed | None = None
    changes: tuple[Change, ...] = ()
    """The newest first; no more than twenty."""
    changes_total: int = 0
    first_change: int | None = None
    """The seq of the oldest that the log still has."""
    deletions: tuple[Deletion, ...] = ()
    devices: tuple[Device, ...] = ()
    clients: tuple[Client, ...] | None = None
    """None: not known, or this login may not ask."""

    @property
    def somebody_elses(self) -> bool:
        return self.asked_user is not None and self.message is not None and self.message.owner != self.asked_user
