"""`python -m server.demo.assistant`: answers questions until its standard input ends, as it does when the demo ends.

It takes DATABASE_URL, ATLAS_URL (the server's, http), ATLAS_SERVICE_TOKEN, and ATLAS_SPEED: how many times as fast as a
model it writes. It may be killed at any moment. The next one continues each answer where it was.
"""

import asyncio
import os
import sys
from typing import Final

import structlog

from atlas_sync import Ended, Stopped, Stream, StreamError
from server import logs
from server.app import loop_factory
from server.demo.assistant.answers import choose
from server.demo.assistant.pace import typed
from server.demo.assistant.questions import Question, Questions
from server.exceptions import UnavailableError

log = structlog.get_logger()

STANDARD_INPUT: Final = 0


class ModelError(Exception):
    """What a model raises when it fails."""


class Assistant:
    def __init__(self, questions: Questions, url: str, token: str, speed: float) -> None:
        self._questions = questions
        self._url = url
        self._token = token
        self._speed = speed

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for question in await self._questions.interrupted():
                tasks.create_task(self._answer(question))
            async for question in self._questions.taken():
                tasks.create_task(self._answer(question))

    async def _answer(self, question: Question) -> None:
        """Write the answer, and store what was written, however it ended."""
        again = question.again > 0 and not question.interrupted
        try:
            try:
                state, text = await self._write(question, restart=again)
            except Ended:
                # A stream of before: of the answer that is to be replaced, or one that the server has given up.
                state, text = await self._write(question, restart=True)
        except StreamError as error:
            log.warning("an answer could not be written", error=str(error))
            state, text = "failed", None  # the server writes what it has
        await self._questions.settle(question, state, text)

    async def _write(self, question: Question, *, restart: bool) -> tuple[str, str | None]:
        """The state in which the answer ended, and its text. Raises Ended if it had ended before it was begun."""
        answer = choose(question.text, question.again)
        out = Stream(self._url, self._token, question.user, "message", question.answer, "content", restart=restart)
        try:
            async with out:
                # An interrupted answer continues where it was.
                for pause, piece in typed(answer.text.removeprefix(out.text), seed=str(question.id)):
                    await asyncio.sleep(pause / self._speed)
                    await out.write(piece)
                if answer.breaks_off:
                    raise ModelError
        except Stopped:
            # Without one the row stays: nothing was written yet, or the row has had the text for long.
            return "stopped", out.text or None
        except ModelError:
            return "failed", out.text
        return "done", out.text


async def main() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(STANDARD_INPUT, ended.set)
    async with Questions.opened(os.environ["DATABASE_URL"]) as questions:
        speed = float(os.environ.get("ATLAS_SPEED", "1"))
        assistant = Assistant(questions, os.environ["ATLAS_URL"], os.environ["ATLAS_SERVICE_TOKEN"], speed)
        answering = asyncio.create_task(assistant.run())
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait((answering, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await answering  # raises
        answering.cancel()


if __name__ == "__main__":
    logs.configure("warning", "console")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(main())
        except UnavailableError as error:
            log.warning("the assistant ends, and the next one continues", error=str(error))
            sys.exit(1)
