"""Rows of the chat schema, column by column."""

from uuid import UUID

from atlas_sync.rows import Row


def profile_row(seq: int, user: UUID, tier: str, status: str | None) -> Row:
    return Row("profile", seq, user, {"tier": tier, "status": status})


def conversation_row(seq: int, key: UUID, title: str | None, created_at: int, updated_at: int) -> Row:
    return Row("conversation", seq, key, {"title": title, "created_at": created_at, "updated_at": updated_at})


def message_row(
    seq: int, key: UUID, conversation: UUID, role: str, content: str, created_at: int, updated_at: int
) -> Row:
    columns = {"conversation_id": conversation, "role": role, "content": content}
    return Row("message", seq, key, {**columns, "created_at": created_at, "updated_at": updated_at})
