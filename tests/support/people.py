"""The SQL that a chat app would run, in the words of a test."""

from typing import Any
from uuid import UUID, uuid4


async def add_user(sql: Any, tier: str = "core", user: UUID | None = None) -> UUID:
    user = user or uuid4()
    await sql.execute("INSERT INTO profiles (id, subscription_tier) VALUES ($1, $2)", user, tier)
    return user


async def add_conversation(sql: Any, user: UUID, title: str = "a conversation") -> UUID:
    return UUID(
        str(await sql.fetchval("INSERT INTO conversations (user_id, title) VALUES ($1, $2) RETURNING id", user, title))
    )


async def add_message(sql: Any, conversation: UUID, content: str = "hello", role: str = "user") -> UUID:
    return UUID(
        str(
            await sql.fetchval(
                "INSERT INTO messages (conversation_id, role, content) VALUES ($1, $2, $3) RETURNING id",
                conversation,
                role,
                content,
            )
        )
    )
