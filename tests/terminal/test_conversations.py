"""`chat` and `watch` speak of conversations by their names, and of limits in characters."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Schema
from server.terminal.chat import HELP, too_long
from server.terminal.device import line
from server.terminal.watch import NAMES, Memory, Names, ordered
from tests.support.cluster import Database
from tests.support.commands import run_command
from tests.support.people import add_conversation, add_user
from tests.support.serving import ServerProcess, token

CHAT = Schema.chat()


def a_conversation(id: UUID, title: str | None, updated_at: int = 1) -> Row:  # noqa: A002 (the row's own field)
    return Row("conversation", 1, id, {"title": title, "created_at": 1, "updated_at": updated_at})


def a_message(conversation: UUID, content: str, at: int = 1) -> Row:
    values = {"conversation_id": conversation, "role": "user", "content": content, "created_at": at, "updated_at": at}
    return Row("message", 1, uuid4(), values)


async def test_chat_explains_its_commands_and_carries_them_out(database: Database, sql: Any, tmp_path: Path) -> None:
    user = await add_user(sql)
    ideas = await add_conversation(sql, user, "Ideas")
    typed = "/help\n/hlep\n/new a\0b\n/new\nPlan a trip\n/list\n/open 2\nto Ideas\n/open 9\n//slash\n/quit\nnot read\n"
    async with ServerProcess(database.server_url) as server:
        status, printed, _ = await run_command(
            *("chat", "--url", server.url, "--token", token(user), "--outbox-file", str(tmp_path / "chat.db")),
            *("--conversation", str(ideas)),
            typed=f"/list\n{typed}",
        )
    assert status == 0
    assert "/help names the commands" in printed
    assert all(each in printed for each in HELP)
    assert "title contains U+0000" in printed
    assert "There is no command /hlep; /help names them. To write that, type //hlep." in printed
    stored = (
        "SELECT title, content FROM messages m JOIN conversations c ON c.id = conversation_id ORDER BY m.created_at"
    )
    found = [tuple(row) for row in await sql.fetch(stored)]
    assert ("Plan a trip", "Plan a trip") in found, "its first message names it"
    assert {content for _, content in found} >= {"Plan a trip", "/slash"}
    assert not {content for _, content in found} & {"not read", "/help", "/hlep", "/new"}


def test_a_limit_is_told_in_characters() -> None:
    assert too_long("€" * 40_000) == "This text has 40,000 characters, and 33,333 of them fit. Shorten it by 6,667."
    assert "bytes" not in too_long("x" * 100_001)


def test_a_message_is_shown_with_the_name_of_its_conversation() -> None:
    conversation, unknown = uuid4(), uuid4()
    names = Names()
    message, other = a_message(conversation, "Hello"), a_message(unknown, "Hello")
    names.learn([message, a_conversation(conversation, "Ideas")], CHAT)
    assert f"{message.id}  in “Ideas”  role: user  content: Hello" in line(message, CHAT, names).plain
    assert f"conversation_id: {unknown}" in line(other, CHAT, names).plain
    assert "“Ideas”" in line(Deleted("conversation", 1, conversation), CHAT, names).plain
    names.learn([a_conversation(conversation, None)], CHAT)
    assert f"conversation_id: {conversation}" in line(message, CHAT, names).plain


def test_names_survive_a_restart_and_those_that_are_too_many_are_forgotten(tmp_path: Path) -> None:
    memory = Memory.load(tmp_path / "watch.json")
    memory.names.learn([a_conversation(uuid4(), f"title {i}") for i in range(NAMES + 3)], CHAT)
    memory.save(b"cursor")
    again = Memory.load(tmp_path / "watch.json")
    assert (again.cursor, again.client_id) == (b"cursor", memory.client_id)
    assert list(again.names.values()) == [f"title {i}" for i in range(3, NAMES + 3)]


def test_rows_are_shown_in_the_order_of_their_instants_a_conversation_before_its_messages() -> None:
    first, second = uuid4(), uuid4()
    rows = [
        a_message(second, "b", 40),
        a_conversation(second, "second", 40),
        a_message(first, "a", 10),
        a_conversation(first, "first", 20),
        a_message(second, "c", 50),
    ]
    shown = [line(row, CHAT).plain.split(": ")[-1] for row in ordered(rows, CHAT)]
    assert shown == ["a", "first", "second", "b", "c"]


async def test_watch_names_the_conversation_also_after_a_restart(database: Database, sql: Any, tmp_path: Path) -> None:
    user = await add_user(sql)
    ideas = await add_conversation(sql, user, "Ideas")
    say = "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'user', $2)"
    async with ServerProcess(database.server_url) as server:
        watch = ("watch", "--url", server.url, "--token", token(user), "--cursor-file", str(tmp_path / "watch.json"))
        for text in ("one", "two"):
            await sql.execute(say, ideas, text)
            status, printed, _ = await run_command(*watch, until=f"content: {text}")
            assert status == 0
            assert f"in “Ideas”  role: user  content: {text}" in printed
