"""Questions in Postgres: each is answered once, in one row, whoever dies meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.declaration.check import load
from server.declaration.typescript import module
from server.demo import seed
from server.demo.assistant.questions import Question, Questions
from server.demo.run import DECLARATION
from server.exceptions import UnavailableError
from server.postgres.migrate import migrate
from server.postgres.tables import facts
from tests.support.cluster import Database
from tests.support.npm import PAGE
from tests.support.people import add_conversation, add_message
from tests.support.waiting import LIMIT


@pytest.fixture
async def database(database: Database) -> Database:
    """The demo's."""
    await seed.let_ask(database.url)
    await migrate(database.url, text=DECLARATION)
    return database


@contextlib.asynccontextmanager
async def an_assistant(database: Database) -> AsyncIterator[Questions]:
    """With a connection of the login that it has."""
    password = await seed.assistant_login(database.url)
    url = database.cluster.postgres.url(database.name, seed.ASSISTANT_LOGIN, password)
    async with Questions.opened(url) as questions:
        yield questions


async def asked(sql: Any, message: UUID) -> UUID:
    made: UUID = await sql.fetchval(
        "INSERT INTO questions (conversation_id, message_id) "
        "SELECT conversation_id, id FROM messages WHERE id = $1 RETURNING id",
        message,
    )
    return made


async def next_of(questions: Questions) -> Question:
    async with asyncio.timeout(LIMIT):
        return await anext(questions.taken())


async def test_the_page_has_the_schema_of_the_demos_declaration(database: Database, sql: Any) -> None:
    declaration = load(DECLARATION, await facts(sql), "the demo's")
    assert (PAGE / "src" / "schema.ts").read_text() == module(declaration.schema)


async def test_a_question_gets_the_row_of_its_answer_and_keeps_what_was_written(
    database: Database, sql: Any, user: UUID
) -> None:
    message = await add_message(sql, await add_conversation(sql, user), "Why?")
    async with an_assistant(database) as questions:
        waiting = asyncio.create_task(next_of(questions))
        await asked(sql, message)
        question = await waiting
        assert (question.user, question.text, question.again) == (user, "Why?", 0)
        row = "SELECT role, content FROM messages WHERE id = $1"
        assert tuple(await sql.fetchrow(row, question.answer)) == ("assistant", "")
        await questions.settle(question, "stopped", "Because")
        assert tuple(await sql.fetchrow(row, question.answer)) == ("assistant", "Because")
    found = await sql.fetchrow("SELECT progress, answer_id FROM questions")
    assert tuple(found) == ("stopped", question.answer)


async def test_asked_again_the_answer_takes_the_same_row(database: Database, sql: Any, user: UUID) -> None:
    message = await add_message(sql, await add_conversation(sql, user))
    async with an_assistant(database) as questions:
        answers = []
        for again in range(3):
            await asked(sql, message)
            question = await next_of(questions)
            assert question.again == again
            await questions.settle(question, "done", f"text {again}")
            answers.append(question.answer)
    assert len(set(answers)) == 1
    assert await sql.fetchval("SELECT content FROM messages WHERE role = 'assistant'") == "text 2"


async def test_an_answer_that_was_deleted_gets_a_new_row(database: Database, sql: Any, user: UUID) -> None:
    message = await add_message(sql, await add_conversation(sql, user))
    async with an_assistant(database) as questions:
        await asked(sql, message)
        first = await next_of(questions)
        await questions.settle(first, "done", "text")
        await sql.execute("DELETE FROM messages WHERE id = $1", first.answer)
        await asked(sql, message)
        second = await next_of(questions)
    assert second.answer != first.answer
    assert await sql.fetchval("SELECT count(*) FROM messages WHERE role = 'assistant'") == 1


async def test_a_conversation_gets_one_answer_at_a_time_and_others_do_not_wait(
    database: Database, sql: Any, user: UUID
) -> None:
    here, there = [await add_conversation(sql, user) for _ in range(2)]
    async with an_assistant(database) as questions:
        await asked(sql, await add_message(sql, here, "first"))
        first = await next_of(questions)
        older = await asked(sql, await add_message(sql, here, "second"))
        await asked(sql, await add_message(sql, here, "third"))
        await asked(sql, await add_message(sql, there, "elsewhere"))
        assert (await next_of(questions)).text == "elsewhere"
        waiting = asyncio.create_task(next_of(questions))
        await questions.settle(first, "done", "text")
        # Of those that waited, the newest.
        assert (await waiting).text == "third"
        assert await sql.fetchval("SELECT progress FROM questions WHERE id = $1", older) == "passed"


async def test_a_question_of_another_ones_message_is_never_answered(database: Database, sql: Any, user: UUID) -> None:
    stranger = await sql.fetchval("INSERT INTO profiles (id) VALUES (gen_random_uuid()) RETURNING id")
    theirs = await add_message(sql, await add_conversation(sql, stranger), "secret")
    mine = await add_conversation(sql, user)
    await sql.execute("INSERT INTO questions (conversation_id, message_id) VALUES ($1, $2)", mine, theirs)
    async with an_assistant(database) as questions:
        await asked(sql, await add_message(sql, mine, "mine"))
        assert (await next_of(questions)).text == "mine"
    assert await sql.fetchval("SELECT count(*) FROM messages WHERE role = 'assistant'") == 1


async def test_what_an_assistant_that_died_was_writing_is_known_to_the_next(
    database: Database, sql: Any, user: UUID
) -> None:
    await asked(sql, await add_message(sql, await add_conversation(sql, user)))
    async with an_assistant(database) as questions:
        begun = await next_of(questions)
    async with an_assistant(database) as questions:
        (found,) = await questions.interrupted()
        assert found.interrupted
        assert (found.id, found.answer, found.again) == (begun.id, begun.answer, 0)
        await questions.settle(found, "done", "text")
        assert await questions.interrupted() == []


async def test_the_assistant_may_write_answers_and_nothing_else(database: Database, sql: Any, user: UUID) -> None:
    password = await seed.assistant_login(database.url)
    login = await asyncpg.connect(database.url, user=seed.ASSISTANT_LOGIN, password=password)
    try:
        for statement in (
            "DELETE FROM messages",
            "UPDATE messages SET role = 'user'",
            "UPDATE profiles SET subscription_tier = 'core'",
            "INSERT INTO questions DEFAULT VALUES",
            "SELECT * FROM sync.log",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await login.execute(statement)
    finally:
        await login.close()


async def test_a_connection_that_breaks_ends_the_assistant(database: Database, sql: Any) -> None:
    async with an_assistant(database) as questions:
        waiting = asyncio.create_task(next_of(questions))
        await asyncio.sleep(0)
        while not waiting.done():
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            await asyncio.wait([waiting], timeout=0.05)
        with pytest.raises(UnavailableError):
            await waiting
