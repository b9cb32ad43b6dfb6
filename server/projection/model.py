"""How many machines, bytes and dollars so many users take in a month, with Atlas Sync or with a client that polls.

Bytes, storage and CPU grow in proportion to the users. Machines are bought whole: cores of the server and of the
database, and GiB of the cache, are rounded up. What is needed only from a size on begins there.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from server.projection.assumptions import Assumptions

SIZES: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
"""Users, of the table."""
DAY: Final = 86_400.0
DAYS: Final = 365 / 12
"""Of a month."""
HOURS: Final = 24 * DAYS
GIB: Final = 2.0**30
GB: Final = 1e9


class Client(Enum):
    SYNC = "Atlas Sync"
    FULL = "polls all"
    DELTA = "polls newer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What so many users take. Of rates, the peak."""

    users: int
    client: Client
    online: float
    """Devices at once, at the peak."""
    changes: float
    """A second: rows are written in one commit each."""
    statements: float
    """A second: the server's, or the polls', with those that write."""
    server_load: float
    """Cores that the server uses."""
    server_cores: int
    """Cores that are bought, one process each."""
    database_load: float
    """Cores that Postgres uses."""
    databases: int
    database_cores: int
    """Of all databases, without replicas."""
    copies: float
    """Of each database: itself and its replicas."""
    stored: float
    """GiB in one copy."""
    cache: int
    """GiB."""
    sent: float
    """GB a month, to devices."""
    assets: float
    """GB a month, from the CDN."""
    asset_requests: float
    """A month."""
    samples: float
    """Of figures, a month."""
    logged: float
    """GB a month."""

    @property
    def connections(self) -> float:
        """Of a process."""
        return self.online / self.server_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """USD a month."""

    database: float
    servers: float
    cache: float
    cdn: float
    monitoring: float
    network: float

    @property
    def total(self) -> float:
        return self.database + self.servers + self.cache + self.cdn + self.monitoring + self.network


@dataclass(frozen=True, slots=True)
class _Activity:
    """What these users do, a day on average."""

    users: int
    active: float
    devices: float
    online: float
    """At once."""
    questions: float
    answers: float
    """Changes of answers, and all other changes."""
    texts: float
    """Bytes of the texts of all changes."""
    visits: float
    new: float
    """Devices that come for the first time."""
    events: float

    @property
    def changes(self) -> float:
        return self.questions + self.answers


def _activity(users: int, a: Assumptions) -> _Activity:
    active = users * a.active_share
    devices = active * a.devices
    questions = active * a.questions
    answers = questions * a.answers * a.changes_an_answer
    return _Activity(
        users=users,
        active=active,
        devices=devices,
        online=devices * a.online_hours / 24,
        questions=questions,
        answers=answers + active * a.other_changes,
        texts=questions * a.question_bytes + answers * a.answer_bytes,
        visits=devices * a.visits,
        new=active * a.new_devices / DAYS,
        events=users * a.usage_events,
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """What differs between the clients. A day, of all users together."""

    statements: float
    server: float
    """Seconds of CPU."""
    server_share: float
    """Of a core, for that."""
    database: float
    """Seconds of CPU."""
    bytes: float
    commits: float
    """A second and database, at most."""
    log: float
    """Bytes of the change log."""
    cached: float
    """Bytes, at once."""


def _text_of_a_row(a: Assumptions) -> float:
    """Bytes, on average of the messages of a history."""
    return (a.question_bytes + a.answers * a.answer_bytes) / (1 + a.answers)


def _sync(do: _Activity, a: Assumptions) -> _Way:
    snapshot = a.snapshot_rows * (a.snapshot_row_bytes + _text_of_a_row(a))
    beats = do.online * DAY / a.heartbeat_seconds
    server = (
        # Every device is counted like the first, of which a change is read and encoded too.
        do.answers * a.devices * a.change_server_us
        + do.questions * (a.push_server_us + max(0.0, a.devices - 1) * a.change_server_us)
        + do.visits * a.resume_server_ms * 1000
        + do.new * a.snapshot_rows * a.snapshot_server_us
    )
    return _Way(
        statements=do.answers * a.change_statements
        + do.questions * a.push_statements
        + do.visits * a.resume_statements
        + do.new * a.snapshot_statements,
        server=server / 1e6 + do.online * DAY * a.idle_percent / 100 / 100_000,
        # Every process receives the doorbells of a database, as many as it may commit.
        server_share=a.utilisation * (1 - a.commits * a.doorbell_us / 1e6),
        database=(
            do.answers * a.change_postgres_us
            + do.questions * a.push_postgres_us
            + do.visits * a.resume_postgres_ms * 1000
            + do.new * a.snapshot_rows * a.snapshot_postgres_us
        )
        / 1e6,
        # Each device gets each change once, when it happens or when it comes back.
        bytes=a.devices
        * (
            do.answers * (a.change_bytes + a.packet_bytes)
            + do.questions * (a.push_bytes + 2 * a.packet_bytes)  # the ack, and the way back
            + do.texts
        )
        + do.visits * (a.resume_bytes + 3 * a.packet_bytes)  # the upgrade, `welcome`, `live`
        + beats * (a.heartbeat_bytes + a.packet_bytes)
        + do.new * snapshot,
        commits=a.commits,
        log=do.changes * a.change_rows * a.log_bytes,
        cached=do.active * (a.cached_share * snapshot + a.cached_answers * a.answer_bytes),
    )


def _polling(do: _Activity, a: Assumptions, *, full: bool) -> _Way:
    polls = do.online * DAY / a.poll_seconds
    whole = a.full_poll_statements * (a.poll_header_bytes + a.packet_bytes) + a.poll_gzip_share * a.poll_rows * (
        a.poll_row_bytes + _text_of_a_row(a)
    )
    if full:
        statements, server, postgres = a.full_poll_statements, a.full_poll_server_us, a.full_poll_postgres_us
        sent = polls * whole
    else:
        statements, server, postgres = a.delta_poll_statements, a.delta_poll_server_us, a.delta_poll_postgres_us
        rows = a.devices * (do.changes * a.poll_row_bytes + do.texts) * a.poll_gzip_share
        sent = polls * statements * (a.poll_header_bytes + a.packet_bytes) + rows + do.new * whole
    return _Way(
        statements=polls * statements + do.changes,
        server=polls * server / 1e6,
        server_share=a.utilisation,
        database=(polls * postgres + do.changes * a.write_postgres_us) / 1e6,
        bytes=sent,
        commits=a.write_commits,
        log=0.0,
        cached=0.0,
    )


def needs(users: int, client: Client, a: Assumptions) -> Needs:
    do = _activity(users, a)
    way = _sync(do, a) if client is Client.SYNC else _polling(do, a, full=client is Client.FULL)
    peak = a.peak_factor / DAY
    online = min(do.devices, do.online * a.peak_factor)
    changes = do.changes * peak
    server_load = way.server * peak
    server_cores = max(
        1,
        math.ceil(server_load / way.server_share),
        math.ceil(online / a.process_connections),
        math.ceil(online * a.connection_kib / 2**20 / a.server_core_gib),
    ) + (math.ceil(a.spare_servers) if users >= a.spare_servers_from else 0)
    database_load = (way.database + do.events * a.usage_postgres_us / 1e6) * peak
    databases = max(1, math.ceil(changes / (a.utilisation * way.commits)))
    messages = do.questions * (1 + a.answers) * (a.message_bytes + _text_of_a_row(a))
    events = do.events * a.usage_bytes
    daily = messages + way.log + events
    stored = messages * a.history_months * DAYS + way.log * a.log_days + events * a.usage_days
    return Needs(
        users=users,
        client=client,
        online=online,
        changes=changes,
        statements=way.statements * peak,
        server_load=server_load,
        server_cores=server_cores,
        database_load=database_load,
        databases=databases,
        database_cores=max(
            databases,
            math.ceil(database_load / a.utilisation),
            math.ceil(daily * a.hot_days / GIB / a.database_core_gib),
        ),
        copies=1 + (a.replicas if users >= a.replicas_from else 0.0),
        stored=stored * a.storage_spare / GIB,
        cache=math.ceil(way.cached / GIB) if users >= a.cache_from else 0,
        sent=way.bytes * DAYS / GB,
        assets=DAYS * (do.devices * a.releases / DAYS * a.asset_bytes + do.visits * a.document_bytes) / GB,
        asset_requests=DAYS * do.visits + do.devices * a.releases,
        samples=server_cores * a.process_series * DAYS * DAY / a.scrape_seconds,
        logged=DAYS * do.visits * a.log_line_bytes / GB if client is Client.SYNC else 0.0,
    )


def costs(need: Needs, a: Assumptions) -> Costs:
    balanced = need.users >= a.balancer_from
    watched = need.users >= a.monitoring_from
    units = max(need.online / a.balancer_unit_connections, need.sent / HOURS / a.balancer_unit_gb)
    return Costs(
        database=need.copies * (need.database_cores * HOURS * a.database_core_price + need.stored * a.storage_price)
        + need.stored * a.backups * a.backup_price,
        servers=need.server_cores * HOURS * a.server_core_price,
        cache=need.cache * HOURS * a.cache_price,
        cdn=need.assets * a.cdn_price + need.asset_requests / 1e6 * a.cdn_requests_price,
        monitoring=need.samples / 1e6 * a.samples_price + need.logged * a.logs_price + a.dashboards_price
        if watched
        else 0.0,
        network=need.sent * a.egress_price
        + (HOURS * (a.balancer_price + units * a.balancer_unit_price) if balanced else 0.0),
    )
