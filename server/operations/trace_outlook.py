"""Whether a device has a row's last change, and if not, what has to happen first. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.errors import CloseCode, Instruction, instruction
from server.feed.ports import DeviceState
from server.operations.trace_facts import Device, Facts

SECOND: Final = 1_000_000
SILENT: Final = 60 * SECOND
"""Microseconds after which a server that has not reported is dead or cut off; it reports every 15 s."""
STUCK: Final = 60 * SECOND
"""Microseconds within which a live device receives a change: a sweep finds a lost doorbell within 30 s, and the server
reports the device's position 15 s later."""


class Outlook(StrEnum):
    """How a device will receive the row's last change."""

    HAS = "has"
    """It has received it."""
    COMING = "coming"
    SNAPSHOT = "snapshot"
    """In a snapshot that is under way."""
    STALLED = "stalled"
    """When its socket takes data again."""
    AWAY = "away"
    """When it comes back."""
    AWAY_LONG = "away_long"
    """By a snapshot, when it comes back: it was away for longer than the log goes back."""
    STAYS_AWAY = "stays_away"
    """Not before its user does something."""
    UNPAID = "unpaid"
    """Not while the plan does not sync."""
    STUCK = "stuck"
    """It is live and should have it."""


@dataclass(frozen=True, slots=True)
class Fate:
    """The last change of the row."""

    seq: int | None
    """Its feed position; None: the log does not go back to it."""
    deleted: bool


def outlook(facts: Facts, fate: Fate, device: Device) -> Outlook:
    connected = is_connected(facts, device)
    in_snapshot = connected and device.state == DeviceState.SNAPSHOT
    position = device.position
    head = facts.feed.head if facts.feed else 0
    counts = position is not None and position <= head and not in_snapshot
    # A change that the log has lost was received by every device at whose position the rest of the log continues.
    if counts and (device.resumes if fate.seq is None else (position or 0) >= fate.seq):
        return Outlook.HAS
    if facts.plan is None or not facts.plan.syncs:
        return Outlook.UNPAID
    if not connected:
        if device.state == DeviceState.CLOSED and _stays_away(device.close_code):
            return Outlook.STAYS_AWAY
        return Outlook.AWAY if device.resumes else Outlook.AWAY_LONG
    if in_snapshot:
        return Outlook.SNAPSHOT
    if device.state == DeviceState.STALLED:
        return Outlook.STALLED
    assert device.server_seen_at is not None
    due = max(fate.seq or 0, device.connected_at) + STUCK
    return Outlook.STUCK if device.state == DeviceState.LIVE and device.server_seen_at > due else Outlook.COMING


def is_connected(facts: Facts, device: Device) -> bool:
    """Its server says so, and has reported recently."""
    return (
        device.state != DeviceState.CLOSED
        and device.server_seen_at is not None
        and facts.now - device.server_seen_at <= SILENT
    )


def _stays_away(code: int | None) -> bool:
    # A connection that was replaced has a successor already.
    return code is not None and code != CloseCode.REPLACED and instruction(code) is Instruction.STAY_AWAY
