"""Instants of all times, the newest first; among them the ends of what a device can hold (SPEC.md, 2.4)."""

from typing import Any
from uuid import UUID

INSTANTS = [
    "infinity",
    "infinity",
    "294276-12-31",
    "9999-12-31 23:59:59.999999",
    "2255-06-05 23:47:34.740992",
    "2255-06-05 23:47:34.740991",
    "2255-06-05 23:47:34.740990",
    "2026-01-01",
    "1684-07-28 00:12:25.259009",
    "1684-07-28 00:12:25.259008",
    "1600-01-01",
    "0001-01-01",
    "0001-01-01",
    "4713-01-01 BC",
    "-infinity",
]


async def add_messages_of_all_times(sql: Any, conversation: UUID) -> None:
    for instant in INSTANTS:
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', $2::text,"
            " $2::text::timestamptz)",
            conversation,
            instant,
        )


async def add_conversations_of_all_times(sql: Any, user: UUID) -> None:
    for instant in INSTANTS:
        await sql.execute(
            "INSERT INTO conversations (user_id, title, updated_at) VALUES ($1, $2::text, $2::text::timestamptz)",
            user,
            instant,
        )
