"""The rows that an app shows: the synced rows with the outbox's effects over them (SPEC.md, 8.8).

Pure: computed from its arguments each time. The synced rows are never changed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from atlas_sync.mutation import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    RenameConversation,
)
from atlas_sync.outbox import Entry, EntryState
from atlas_sync.replica import Conversation, Message

R = TypeVar("R", Conversation, Message)


class Certainty(IntEnum):
    """How certain a row is. A row that several mutations changed is as certain as the least certain of them."""

    SYNCED = 0
    """The server sent the row as it is shown."""
    ACKED = 1
    """The server has made the change durable; it has not arrived through the feed yet."""
    PENDING = 2
    """The server has not answered the change yet."""
    REJECTED = 3
    """The row was created here, and the server rejected it: show it as «not delivered». `entry` says why."""


@dataclass(frozen=True, slots=True)
class Shown(Generic[R]):
    """A row, and how certain it is. `entry` is the last entry of the outbox that changed it; None if it is synced.

    A row that only the outbox has gets seq 0.
    """

    row: R
    certainty: Certainty = Certainty.SYNCED
    entry: Entry | None = None


@dataclass(slots=True)
class View:
    """The rows to show, by id."""

    conversations: dict[UUID, Shown[Conversation]] = field(default_factory=dict)
    messages: dict[UUID, Shown[Message]] = field(default_factory=dict)


class Synced(Protocol):
    """The rows as the server sent them: a Replica, or an object of the app's."""

    @property
    def conversations(self) -> Mapping[UUID, Conversation]: ...

    @property
    def messages(self) -> Mapping[UUID, Message]: ...


def build_view(synced: Synced, entries: Iterable[Entry]) -> View:
    """Compute the rows to show. `entries` are those of the outbox, in its order.

    A rejected edit, renaming or deletion has no effect: the row is shown as the server has it, and the quarantine keeps
    the mutation. A rejected creation stays visible, marked, so that no text disappears while a person reads it.
    """
    shown = Overlay(synced)
    rejected = []
    for entry in entries:
        if entry.state is EntryState.REJECTED:
            rejected.append(entry)
        else:
            shown.put(entry.mutation, Certainty.ACKED if entry.state is EntryState.ACKED else Certainty.PENDING, entry)
    for entry in rejected:
        if isinstance(entry.mutation, CreateConversation | CreateMessage):
            shown.put(entry.mutation, Certainty.REJECTED, entry)
    return shown.view


class Overlay:
    """A view being computed: applies mutations one after the other, as the server would."""

    def __init__(self, synced: Synced) -> None:
        self.view = View(
            {key: Shown(row) for key, row in synced.conversations.items()},
            {key: Shown(row) for key, row in synced.messages.items()},
        )
        self._gone: set[UUID] = set()  # conversations and messages that the outbox deletes

    def put(self, mutation: Mutation, certainty: Certainty, entry: Entry) -> None:
        conversations, messages = self.view.conversations, self.view.messages
        match mutation:
            case CreateConversation(id=key, title=title, at=at):
                if key not in conversations and not (key in self._gone and certainty is Certainty.REJECTED):
                    self._gone.discard(key)
                    conversations[key] = Shown(Conversation(0, key, title, at, at), certainty, entry)
            case RenameConversation(id=key, title=title, at=at):
                if (conversation := conversations.get(key)) is not None:
                    row = replace(conversation.row, title=title, updated_at=max(at, conversation.row.updated_at))
                    conversations[key] = _touched(conversation, row, certainty, entry)
            case DeleteConversation(id=key):
                self._gone.add(key)
                conversations.pop(key, None)
                for gone in [m.row.id for m in messages.values() if m.row.conversation_id == key]:
                    del messages[gone]
            case CreateMessage(id=key, conversation_id=home, role=role, content=content, at=at):
                deleted = key in self._gone and certainty is Certainty.REJECTED
                # A conversation that is not held may be outside of the window: only a deleted one hides its messages.
                if key not in messages and home not in self._gone and not deleted:
                    messages[key] = Shown(Message(0, key, home, role, content, at, at), certainty, entry)
                    self._move_up(home, at, certainty)
            case EditMessage(id=key, created_at=created_at, content=content, at=at):
                if (message := messages.get(key)) is not None and message.row.created_at == created_at:
                    edited = replace(message.row, content=content, updated_at=max(at, message.row.updated_at))
                    messages[key] = _touched(message, edited, certainty, entry)
            case DeleteMessage(id=key, created_at=created_at):
                self._gone.add(key)
                if (message := messages.get(key)) is not None and message.row.created_at == created_at:
                    del messages[key]

    def _move_up(self, home: UUID, at: int, certainty: Certainty) -> None:
        """A new message updates its conversation's `updated_at`. The conversation itself stays as certain as it was."""
        conversation = self.view.conversations.get(home)
        if conversation is not None and conversation.row.updated_at < at and certainty is not Certainty.REJECTED:
            self.view.conversations[home] = replace(conversation, row=replace(conversation.row, updated_at=at))


def _touched(shown: Shown[R], row: R, certainty: Certainty, entry: Entry) -> Shown[R]:
    return Shown(row, max(shown.certainty, certainty), entry)
