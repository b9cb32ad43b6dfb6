"""The Python client of Atlas Sync: a device that stays in step with its user's rows, and writes through an outbox.

Device connects and reconnects, Outbox keeps what was written until the server has it, Replica and build_view hold and
show the rows. README.md shows how they work together; the protocol is in SPEC.md.
"""

from atlas_sync.codec import Encoding, ProtocolError
from atlas_sync.connection import PageError
from atlas_sync.device import Device, Status, StayAway
from atlas_sync.mutation import (
    Applied,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    Rejected,
    RenameConversation,
    Repeated,
    Result,
    WriteError,
)
from atlas_sync.outbox import Entry, EntryState, Outbox, Storage
from atlas_sync.replica import Conversation, Deleted, Message, Profile, Replica, Row
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
    Welcomed,
)
from atlas_sync.storage import MemoryStorage, SqliteStorage, StorageError
from atlas_sync.view import Certainty, Shown, Synced, View, build_view

__all__ = [
    "Acknowledged",
    "Applied",
    "Batch",
    "Certainty",
    "Conversation",
    "CreateConversation",
    "CreateMessage",
    "DeleteConversation",
    "DeleteMessage",
    "Deleted",
    "Device",
    "EditMessage",
    "Encoding",
    "Entry",
    "EntryState",
    "ErrorAnswer",
    "Event",
    "Limits",
    "Live",
    "MemoryStorage",
    "Message",
    "Mutation",
    "Outbox",
    "PageArrived",
    "PageError",
    "Pong",
    "Profile",
    "ProtocolError",
    "Refreshed",
    "Rejected",
    "RenameConversation",
    "Repeated",
    "Replica",
    "Result",
    "Row",
    "Shown",
    "SqliteStorage",
    "Status",
    "StayAway",
    "Storage",
    "StorageError",
    "Synced",
    "View",
    "Welcomed",
    "WriteError",
    "build_view",
]
