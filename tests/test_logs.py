"""Log lines of one turn of the loop are written together; none waits longer, is lost, or overtakes another."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from io import StringIO
from uuid import UUID

import pytest
import structlog

from server import logs
from server.logs import Lines


class Counting(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return super().write(text)


@pytest.fixture
def stream() -> Counting:
    return Counting()


async def test_lines_of_one_turn_are_written_together_at_its_end(stream: Counting) -> None:
    lines = Lines(stream)
    lines.info("one")
    lines.debug("two")
    assert stream.writes == []
    await asyncio.sleep(0)
    lines.info("three")
    await asyncio.sleep(0)
    assert stream.writes == ["one\ntwo\n", "three\n"]


async def test_a_warning_is_written_at_once_behind_what_was_before_it(stream: Counting) -> None:
    lines = Lines(stream)
    lines.info("one")
    lines.warning("two")
    assert stream.writes == ["one\ntwo\n"]
    await asyncio.sleep(0)
    assert stream.writes == ["one\ntwo\n"]


def test_without_a_loop_each_line_is_written_at_once(stream: Counting) -> None:
    lines = Lines(stream)
    lines.info("one")
    lines.info("two")
    assert stream.writes == ["one\n", "two\n"]


def test_a_loop_that_was_closed_does_not_keep_the_lines_of_the_next_one(stream: Counting) -> None:
    lines = Lines(stream)
    loop = asyncio.new_event_loop()
    loop.call_soon(lines.info, "one")
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert stream.writes == []

    async def log_and_wait() -> None:
        lines.info("two")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(log_and_wait())
    assert stream.getvalue() == "one\ntwo\n"


@pytest.fixture
def configured(stream: Counting) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.configure("info", "json", stream)
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("configured")
async def test_what_libraries_log_stands_behind_what_was_logged_before(stream: Counting) -> None:
    structlog.get_logger().info("ours")
    logging.getLogger("a library").warning("theirs")
    ours, theirs = stream.getvalue().splitlines()
    assert "ours" in ours
    assert "theirs" in theirs


@pytest.mark.usefixtures("configured")
def test_any_value_can_be_logged(stream: Counting) -> None:
    values: list[object] = [1, None, "ä", "\ud800", 1 << 70, UUID(int=1), StringIO, {1: 2}, b"\xff"]
    for value in values:
        structlog.get_logger().info("an event", value=value)
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in said] == ["an event"] * len(values)
    assert [line["value"] for line in said[:4]] == values[:4]
