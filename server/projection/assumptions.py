"""The assumptions of a projection: which there are, and the TOML that holds them, one named line each.

A line is `name = { value = 2, unit = "devices", assumed = "why" }`. Instead of `assumed` it may have `measured`, with
the command and the figure, or `price`, with whose price it is and of when.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from server.exceptions import ConfigError

LARGEST: Final = 1e12
"""Of any value: what is calculated from it stays finite."""
SMALLEST: Final = 1e-6
"""Of a value that others are divided by, for the same reason."""
BYTES: Final = 1 << 20
"""Of the longest file: the one of this package has some 15 KB."""


class Source(StrEnum):
    MEASURED = "measured"
    ASSUMED = "assumed"
    PRICE = "price"


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    value: float
    unit: str
    source: Source
    said: str
    """Of `measured` the command and the figure, of `assumed` why, of `price` whose and of when."""


def _line(unit: str, *, least: float = 0.0, most: float = LARGEST) -> Any:
    return field(metadata={"unit": unit, "least": least, "most": most})


def _divisor(unit: str, *, most: float = LARGEST) -> Any:
    return _line(unit, least=SMALLEST, most=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """The values by name. assumptions.toml says what each means."""

    # What people do
    active_share: float = _line("share of users", most=1.0)
    devices: float = _line("devices an active user")
    online_hours: float = _line("hours a device and day", most=24.0)
    visits: float = _line("visits a device and day")
    new_devices: float = _line("devices an active user and month")
    questions: float = _line("messages an active user and day")
    answers: float = _line("messages a question")
    changes_an_answer: float = _line("changes an answer")
    other_changes: float = _line("changes an active user and day")
    question_bytes: float = _line("bytes")
    answer_bytes: float = _line("bytes")
    usage_events: float = _line("events a user and day")
    peak_factor: float = _line("times the average", least=1.0)
    # Bytes on the wire
    change_bytes: float = _line("bytes a change, without text")
    push_bytes: float = _line("bytes a push, without text")
    resume_bytes: float = _line("bytes a resume")
    snapshot_rows: float = _line("rows a snapshot")
    snapshot_row_bytes: float = _line("bytes a row, without text")
    heartbeat_bytes: float = _line("bytes a heartbeat")
    heartbeat_seconds: float = _divisor("seconds")
    packet_bytes: float = _line("bytes a frame or answer")
    # Statements and CPU
    change_statements: float = _line("statements a change")
    push_statements: float = _line("statements a push")
    resume_statements: float = _line("statements a resume")
    snapshot_statements: float = _line("statements a snapshot")
    change_server_us: float = _line("µs a change and device")
    push_server_us: float = _line("µs a push")
    resume_server_ms: float = _line("ms a resume")
    snapshot_server_us: float = _line("µs a row")
    idle_percent: float = _line("% of a core, of 100,000 connections")
    doorbell_us: float = _line("µs a change and process")
    change_postgres_us: float = _line("µs a change")
    push_postgres_us: float = _line("µs a push")
    resume_postgres_ms: float = _line("ms a resume")
    snapshot_postgres_us: float = _line("µs a row")
    usage_postgres_us: float = _line("µs an event")
    commits: float = _divisor("commits a second and database")
    # The client that polls
    poll_seconds: float = _divisor("seconds")
    poll_rows: float = _line("rows a full poll")
    poll_row_bytes: float = _line("bytes a row, without text")
    poll_gzip_share: float = _line("share of the bytes", most=1.0)
    poll_header_bytes: float = _line("bytes an answer")
    full_poll_statements: float = _line("statements a full poll")
    full_poll_server_us: float = _line("µs a full poll")
    full_poll_postgres_us: float = _line("µs a full poll")
    delta_poll_statements: float = _line("statements a delta poll")
    delta_poll_server_us: float = _line("µs a delta poll")
    delta_poll_postgres_us: float = _line("µs a delta poll")
    write_postgres_us: float = _line("µs a change")
    write_commits: float = _divisor("commits a second and database")
    # What is stored
    message_bytes: float = _line("bytes a message, without text")
    log_bytes: float = _line("bytes a changed row")
    change_rows: float = _line("changed rows a change")
    usage_bytes: float = _line("bytes an event")
    history_months: float = _line("months")
    log_days: float = _line("days")
    usage_days: float = _line("days")
    hot_days: float = _line("days")
    storage_spare: float = _line("times the bytes", least=1.0)
    backups: float = _line("copies")
    # Machines
    utilisation: float = _divisor("share of a core", most=1.0)
    process_connections: float = _divisor("connections a process")
    connection_kib: float = _line("KiB a connection")
    server_core_gib: float = _divisor("GiB a core")
    database_core_gib: float = _divisor("GiB a core")
    spare_servers: float = _line("cores")
    replicas: float = _line("replicas")
    cached_share: float = _line("share of active users", most=1.0)
    cached_answers: float = _line("answers an active user")
    asset_bytes: float = _line("bytes a release and device")
    document_bytes: float = _line("bytes a visit")
    releases: float = _line("releases a month")
    process_series: float = _line("series a process")
    scrape_seconds: float = _divisor("seconds")
    log_line_bytes: float = _line("bytes a connection")
    balancer_unit_connections: float = _divisor("connections a unit")
    balancer_unit_gb: float = _divisor("GB a unit and hour")
    # From which size on
    spare_servers_from: float = _line("users")
    balancer_from: float = _line("users")
    monitoring_from: float = _line("users")
    replicas_from: float = _line("users")
    cache_from: float = _line("users")
    # Prices
    server_core_price: float = _line("USD a core and hour")
    database_core_price: float = _line("USD a core and hour")
    storage_price: float = _line("USD a GiB and month")
    backup_price: float = _line("USD a GiB and month")
    cache_price: float = _line("USD a GiB and hour")
    cdn_price: float = _line("USD a GB")
    cdn_requests_price: float = _line("USD a million requests")
    egress_price: float = _line("USD a GB")
    balancer_price: float = _line("USD an hour")
    balancer_unit_price: float = _line("USD a unit and hour")
    samples_price: float = _line("USD a million samples")
    logs_price: float = _line("USD a GB")
    dashboards_price: float = _line("USD a month")


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a file says."""

    values: Assumptions
    lines: tuple[Line, ...]
    """In the order of the file."""


def parse(text: str, file: str) -> Sheet:
    """Read the assumptions. Every line must be there, and no other. Raises ConfigError, which calls the text `file`."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # ValueError: an integer of more digits than Python converts.
        raise ConfigError(
            f"{file} is not TOML ({error}). `atlas-sync project --print-assumptions` prints one."
        ) from None
    known = {each.name: each.metadata for each in fields(Assumptions)}
    if unknown := sorted(found.keys() - known.keys()):
        raise ConfigError(
            f"{file} has lines that mean nothing: {_names(unknown)}. Remove them, or correct their names."
        )
    if missing := sorted(known.keys() - found.keys()):
        raise ConfigError(f"{file} lacks {_names(missing)}. Copy from what `--print-assumptions` prints.")
    try:
        lines = tuple(_read(name, line, known[name]) for name, line in found.items())
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    values = Assumptions(**{line.name: line.value for line in lines})
    if values.commits * values.doorbell_us > 900_000:
        raise ConfigError(
            f"{file}: `commits` doorbells a second of `doorbell_us` each take more than 90 % of a process. "
            "Lower one of the two."
        )
    return Sheet(values, lines)


def _read(name: str, line: object, known: Mapping[str, Any]) -> Line:
    sources = [source.value for source in Source]
    form = f'`{name}` must be {{ value = …, unit = "{known["unit"]}", {" or ".join(sources)} = "…" }}'
    if not isinstance(line, dict):
        raise ConfigError(f"{form}.")
    if extra := sorted(line.keys() - {"value", "unit", *sources}):
        raise ConfigError(f"{form}; {_names(extra)} is not known.")
    given = [source for source in Source if source.value in line]
    if len(given) != 1 or "value" not in line or "unit" not in line:
        raise ConfigError(f"{form}, with one of the last.")
    said, value = line[given[0].value], line["value"]
    if not isinstance(said, str) or not said.strip():
        raise ConfigError(f"`{given[0].value}` of `{name}` must be a text.")
    if line["unit"] != known["unit"]:
        raise ConfigError(f'The unit of `{name}` must be "{known["unit"]}".')
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"The value of `{name}` must be a number.")
    least, most = known["least"], known["most"]
    if not least <= value <= most:  # nor is NaN
        raise ConfigError(f"The value of `{name}` must be from {least:g} to {most:g}.")
    return Line(name, float(value), known["unit"], given[0], " ".join(said.split()))


def _names(names: list[str]) -> str:
    """The first of them: a foreign file may have thousands, of any length."""
    some = ", ".join(f"`{name[:40]}`" for name in names[:5])
    return some if len(names) <= 5 else f"{some} and {len(names) - 5} more"
