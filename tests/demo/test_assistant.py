"""The assistant, where an answer was stopped before it could write any of it."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from server.demo.assistant.__main__ import Assistant
from server.demo.assistant.questions import Question, Questions
from tests.support.fake_streams import TOKEN, USER, FakeStreams


class Settled(Questions):
    """What became of questions, without Postgres."""

    def __init__(self) -> None:
        self.settled: list[tuple[UUID, str, str | None]] = []

    async def settle(self, question: Question, progress: str, text: str | None) -> None:
        self.settled.append((question.answer, progress, text))


@pytest.fixture
async def fake() -> AsyncIterator[FakeStreams]:
    server = FakeStreams()
    await server.start()
    yield server
    await server.stop()


async def test_a_row_keeps_its_text_when_the_stream_has_none_for_it(fake: FakeStreams) -> None:
    """It was stopped before its first word, or its text is in the row and the server has forgotten it."""
    answer, questions = uuid4(), Settled()
    body = {"user": str(USER), "kind": "message", "id": str(answer), "column": "content", "restart": False}
    fake.stop_stream(fake.streams.open(body)[1]["stream"])
    question = Question(uuid4(), uuid4(), USER, "how?", 0, answer, interrupted=True)
    await Assistant(questions, fake.url, TOKEN, 1000.0)._answer(question)
    assert questions.settled == [(answer, "stopped", None)]
