"""The Python client of Atlas Sync: a device that stays in step with its user's rows, and writes through an outbox.

Device connects and reconnects, Outbox keeps what was written until the server has it, Replica and build_view hold and
show the rows. README.md shows how they work together; the protocol is in SPEC.md.
"""

from atlas_sync.checks import ProtocolError
from atlas_sync.codec import Encoding
from atlas_sync.connection import PageError
from atlas_sync.device import Device, Status, StayAway
from atlas_sync.mutation import Applied, Delete, Insert, Mutation, Rejected, Repeated, Result, Update, WriteError
from atlas_sync.outbox import Entry, EntryState, Outbox, Storage
from atlas_sync.reason import Reason
from atlas_sync.replica import Replica
from atlas_sync.rows import Deleted, Key, Row
from atlas_sync.schema import Column, Devices, Kind, Schema
from atlas_sync.session import (
    Acknowledged,
    Batch,
    ErrorAnswer,
    Event,
    Limits,
    Live,
    PageArrived,
    Pong,
    Refreshed,
    SchemaArrived,
    StopAnswered,
    Welcomed,
)
from atlas_sync.storage import MemoryStorage, SqliteStorage, StorageError, UnsentError
from atlas_sync.stream import Stream
from atlas_sync.stream_text import Ended, Stopped, StreamError
from atlas_sync.streams import HeldStream, StreamGrew, Streams, StreamsNamed
from atlas_sync.view import Certainty, Shown, Synced, View, build_view

__all__ = [
    "Acknowledged",
    "Applied",
    "Batch",
    "Certainty",
    "Column",
    "Delete",
    "Deleted",
    "Device",
    "Devices",
    "Encoding",
    "Ended",
    "Entry",
    "EntryState",
    "ErrorAnswer",
    "Event",
    "HeldStream",
    "Insert",
    "Key",
    "Kind",
    "Limits",
    "Live",
    "MemoryStorage",
    "Mutation",
    "Outbox",
    "PageArrived",
    "PageError",
    "Pong",
    "ProtocolError",
    "Reason",
    "Refreshed",
    "Rejected",
    "Repeated",
    "Replica",
    "Result",
    "Row",
    "Schema",
    "SchemaArrived",
    "Shown",
    "SqliteStorage",
    "Status",
    "StayAway",
    "StopAnswered",
    "Stopped",
    "Storage",
    "StorageError",
    "Stream",
    "StreamError",
    "StreamGrew",
    "Streams",
    "StreamsNamed",
    "Synced",
    "UnsentError",
    "Update",
    "View",
    "Welcomed",
    "WriteError",
    "build_view",
]
