"""`chat` shows an answer while it grows, and stops it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from atlas_sync import Stopped, Stream
from tests.support.cluster import Database
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import serving, token
from tests.support.waiting import LIMIT

SERVICE = "a service token of the tests, at least 32 characters"


class Terminal:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed = ""

    async def shows(self, text: str) -> None:
        assert self.process.stdout is not None
        while text not in self.printed:
            said = await asyncio.wait_for(self.process.stdout.read(1_000), LIMIT)
            assert said, self.printed
            self.printed += said.decode()

    async def types(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()


async def test_an_answer_grows_at_the_end_of_its_line_until_it_is_stopped(
    database: Database, sql: Any, tmp_path: Path
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user, "Ideas")
    async with serving(database, service_token=SERVICE) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "chat", "--url", server.url, "--token", token(user)),
            *("--outbox-file", str(tmp_path / "chat.db"), "--conversation", str(conversation)),
            env={**os.environ, "COLUMNS": "4000", "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        terminal = Terminal(process)
        try:
            await terminal.shows("· live")
            answer = await add_message(sql, conversation, "", "assistant")
            async with Stream(server.http, SERVICE, user, "message", answer, "content") as out:
                await out.write("One ")
                await terminal.shows("assistant  One")
                await out.write("two, ")
                await terminal.shows("One two,")
                # What others say stands below, and the answer goes on in another line.
                await add_message(sql, conversation, "Hello")
                await terminal.shows("Hello\n")
                await out.write("three")
                await terminal.shows("assistant  three")
                await terminal.types("/stop")
                async with asyncio.timeout(LIMIT):
                    assert await out.stopped()
                with pytest.raises(Stopped):
                    await out.write(", four")
            await sql.execute("UPDATE messages SET content = $2 WHERE id = $1", answer, out.text)
            await add_message(sql, conversation, "the last one")
            await terminal.shows("the last one")
            await terminal.types("/quit")
            async with asyncio.timeout(LIMIT):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert out.text == "One two, three"
    assert terminal.printed.count("assistant") == 2
    assert "four" not in terminal.printed
