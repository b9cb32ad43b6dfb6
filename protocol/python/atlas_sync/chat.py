"""The chat schema's mutations, named by what they do. Each is an Insert, an Update or a Delete."""

from typing import Final
from uuid import UUID

from atlas_sync.mutation import Delete, Insert, Update

PROFILE: Final = "profile"
CONVERSATION: Final = "conversation"
MESSAGE: Final = "message"


def create_conversation(conversation: UUID, title: str | None, at: int) -> Insert:
    """`at` here and below: microseconds since 1970-01-01 UTC, from `Device.now`."""
    return Insert(CONVERSATION, conversation, {"title": title}, at)


def rename_conversation(conversation: UUID, title: str | None, at: int) -> Update:
    return Update(CONVERSATION, conversation, {"title": title}, at)


def delete_conversation(conversation: UUID) -> Delete:
    """Deletes its messages too."""
    return Delete(CONVERSATION, conversation)


def create_message(message: UUID, conversation: UUID, role: str, content: str, at: int) -> Insert:
    """Servers accept the role "user", or those that their declaration has."""
    return Insert(MESSAGE, message, {"conversation_id": conversation, "role": role, "content": content}, at)


def edit_message(message: UUID, created_at: int, content: str, at: int) -> Update:
    """`created_at`, here and below, is that of the row."""
    return Update(MESSAGE, (message, created_at), {"content": content}, at)


def delete_message(message: UUID, created_at: int) -> Delete:
    return Delete(MESSAGE, (message, created_at))
