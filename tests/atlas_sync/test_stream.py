"""A writer in Python, whatever the network and the server do."""

import asyncio
import contextlib
import gc
import logging
import re
import sys
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from atlas_sync import Ended, Stopped, Stream, StreamError, stream_group, stream_sender
from atlas_sync import stream as stream_module
from atlas_sync.stream_http import Http, Reply
from tests.support.fake_server import soon
from tests.support.fake_streams import ROW, TOKEN, USER, FakeStreams, Fault
from tests.support.waiting import eventually

README = Path(stream_module.__file__).parents[1] / "README.md"
pytestmark = pytest.mark.usefixtures("no_task_is_left")


@pytest.fixture
async def fake() -> AsyncIterator[FakeStreams]:
    server = FakeStreams()
    await server.start()
    yield server
    await server.stop()


def make(fake: FakeStreams, key: Any = ROW, **options: Any) -> Stream:
    return Stream(fake.url, TOKEN, USER, "message", key, "content", **options)


def appends(fake: FakeStreams) -> list[list[Any]]:
    """Of each request that appended."""
    return [body["appends"] for method, _, body in fake.requests if method == "PATCH"]


async def test_what_is_written_arrives_in_order_and_the_stream_is_done(fake: FakeStreams) -> None:
    async with make(fake) as out:
        for n in range(200):
            await out.write(f"{n} 🙂 ")
        assert out.state == "open"
    whole = "".join(f"{n} 🙂 " for n in range(200))
    assert (fake.only.text, fake.only.state, fake.only.row) == (whole, "done", None)
    assert (out.text, out.offset, out.state) == (whole, len(whole), "done")
    assert fake.prefixes == sorted(fake.prefixes, key=len)


async def test_the_first_word_is_sent_before_there_is_another(fake: FakeStreams) -> None:
    async with make(fake) as out:
        await out.write("a")
        await fake.until(lambda: fake.only.text == "a")
        for letter in "bcdef":
            await out.write(letter)
    texts = [text for [[_, _, text]] in appends(fake)]
    assert (texts[0], "".join(texts)) == ("a", "abcdef")


async def test_the_streams_of_a_process_share_requests(fake: FakeStreams) -> None:
    streams, all_open = [make(fake, UUID(int=n)) for n in range(20)], asyncio.Barrier(20)

    async def answer(out: Stream) -> None:
        async with out:
            await all_open.wait()
            for _ in range(50):
                await out.write("word ")

    await asyncio.gather(*map(answer, streams))
    assert {each.text for each in fake.streams.kept.values()} == {"word " * 50}
    assert max(map(len, appends(fake))) > 10


async def test_finish_may_write_the_row_and_be_repeated(fake: FakeStreams) -> None:
    async with make(fake) as out:
        await out.write("all of it")
        await out.finish(write=True)
        await out.finish(write=True)
        assert (fake.only.row, out.state) == ("all of it", "done")
        with pytest.raises(Ended):
            await out.write("more")
    assert fake.only.text == "all of it"


async def test_an_empty_answer_is_done_too(fake: FakeStreams) -> None:
    async with make(fake):
        pass
    assert (fake.only.text, fake.only.state) == ("", "done")


async def test_a_repeated_job_continues_what_it_finds(fake: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "FAIL_WITHIN", 0.1)
    with pytest.raises(asyncio.CancelledError):  # its process was killed, which says nothing to the server
        async with make(fake) as out:
            await out.write("It was ")
            await fake.until(lambda: fake.only.text)
            fake.faults.extend(["before"] * 1000)
            raise asyncio.CancelledError
    fake.faults.clear()
    async with make(fake) as again:
        assert (again.text, again.offset, again.stream) == ("It was ", 7, out.stream)
        await again.write("a bright cold day")
    assert fake.only.text == "It was a bright cold day"


async def test_a_restart_begins_a_new_stream(fake: FakeStreams) -> None:
    async with make(fake) as first:
        await first.write("old")
    async with make(fake, restart=True) as second:
        assert (second.text, second.stream != first.stream) == ("", True)
        await second.write("new")
    assert [each.text for each in fake.streams.kept.values()] == ["", "new"]


@pytest.mark.parametrize(("state", "kind"), [("done", Ended), ("failed", Ended), ("stopped", Stopped)])
async def test_a_stream_that_has_ended_is_not_opened(fake: FakeStreams, state: str, kind: type[Ended]) -> None:
    async with make(fake) as out:
        await out.write("x")
    fake.only.state = state
    with pytest.raises(kind) as ended:
        async with make(fake):
            pytest.fail("it was opened")
    assert ended.value.state == state


@pytest.mark.parametrize(
    ("fault", "at"), [*product(["before", "after", "busy"], range(4)), ("garbage", 1), ("garbage", 2)]
)
async def test_a_request_that_fails_is_repeated(fake: FakeStreams, fault: Fault, at: int) -> None:
    """The opening, two appends, the end."""
    fake.faults.extend([*[None] * at, fault, fault])
    async with make(fake) as out:
        await out.write("one ")
        await fake.until(lambda: fake.streams.kept and fake.only.text == "one ")
        await out.write("two ")
    assert (fake.only.text, fake.only.state) == ("one two ", "done")


async def test_a_server_that_is_killed_in_the_middle_loses_nothing(fake: FakeStreams) -> None:
    async with make(fake) as out:
        for n in range(100):
            await out.write(f"{n} ")
            if n in (20, 50):
                await fake.until(lambda: fake.only.text)
                await fake.stop()
            if n in (40, 70):
                await fake.restart()
    assert (fake.only.text, fake.only.state) == ("".join(f"{n} " for n in range(100)), "done")
    assert all(b.startswith(a) for a, b in zip(fake.prefixes, fake.prefixes[1:], strict=False))


async def test_a_disk_that_lost_the_end_gets_it_again_also_at_the_very_end(fake: FakeStreams) -> None:
    async with make(fake) as out:
        await out.write("one two three")
        await fake.until(lambda: fake.only.text == "one two three")
        fake.only.text = "one"
        await out.write(" four")
        await fake.until(lambda: fake.only.text == "one two three four")
        fake.only.text = "one two"
    assert fake.only.text == "one two three four"
    assert len([path for _, path, _ in fake.requests if path.endswith("/done")]) == 2


async def test_a_server_that_does_not_come_back_is_given_up(fake: FakeStreams) -> None:
    with pytest.raises(StreamError, match="no answer for 0") as given_up:
        async with make(fake, patience=0.3) as out:
            await fake.stop()
            while True:
                await out.write("a secret ")
    assert given_up.value.status is None


async def test_a_server_that_is_not_there_is_given_up_at_the_opening() -> None:
    with pytest.raises(StreamError, match="no answer"):
        async with Stream("http://127.0.0.1:9", TOKEN, USER, "message", ROW, "content", patience=0.2):
            pytest.fail("it was opened")


async def test_a_writer_that_is_far_ahead_waits(fake: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "AHEAD", 100)
    async with make(fake) as out:
        fake.faults.append("hang")
        await out.write("x" * 90)
        ahead = asyncio.create_task(out.write("x" * 20))
        done, _ = await asyncio.wait([ahead], timeout=0.05)
        assert not done
        assert out.offset == 0
        await fake.stop()
        await fake.restart()
        await soon(ahead)
    assert len(fake.only.text) == 110


async def test_a_stop_is_raised_by_write_and_the_text_is_what_was_stopped(fake: FakeStreams) -> None:
    words = 0
    with pytest.raises(Stopped):
        async with make(fake) as out:
            while True:
                await out.write("word ")
                words += 1
                if words == 10:
                    await fake.until(lambda: fake.only.text)
                    fake.stop_stream(out.stream)
    assert (out.state, out.text) == ("stopped", fake.only.text)
    assert not [path for _, path, _ in fake.requests if path.endswith(("done", "failed"))]


async def test_a_stop_while_the_model_is_silent_is_known_at_once_and_by_a_sign_of_life(fake: FakeStreams) -> None:
    with pytest.raises(Stopped):
        async with make(fake) as out:
            waiting = asyncio.create_task(out.stopped())
            await fake.until(lambda: any("stop?" in path for _, path, _ in fake.requests))
            fake.stop_stream(out.stream)
            assert await soon(waiting)
            await out.write("more")
    assert out.state == "stopped"


async def test_a_sign_of_life_learns_of_a_stop(fake: FakeStreams) -> None:
    with pytest.raises(Stopped):
        async with make(fake) as out:
            fake.stop_stream(out.stream)
            await soon(out._over.wait())
            await out.finish()
    assert [text for [[_, _, text]] in appends(fake)] == [""]


async def test_stopped_returns_when_the_stream_ends_otherwise_and_survives_a_restart(fake: FakeStreams) -> None:
    async with make(fake) as out:
        waiting = asyncio.create_task(out.stopped())
        await fake.until(lambda: any("stop?" in path for _, path, _ in fake.requests))
        await fake.stop()
        await fake.restart()
        await out.write("x")
    assert await soon(waiting) is False


async def test_a_stop_before_the_end_was_confirmed_is_raised_when_the_block_is_left(fake: FakeStreams) -> None:
    with pytest.raises(Stopped):
        async with make(fake) as out:
            await out.write("x")
            fake.stop_stream(out.stream)


async def test_a_stop_that_the_app_handled_is_not_raised_again(fake: FakeStreams) -> None:
    async with make(fake) as out:
        fake.stop_stream(out.stream)
        with pytest.raises(Stopped):
            while True:
                await out.write("x")
    assert out.state == "stopped"


async def test_an_exception_ends_the_stream_as_failed_with_what_was_written(fake: FakeStreams) -> None:
    with pytest.raises(ZeroDivisionError):
        async with make(fake) as out:
            await out.write("half an ans")
            raise ZeroDivisionError
    assert (fake.only.text, fake.only.state) == ("half an ans", "failed")
    assert out.state == "failed"


async def test_a_cancelled_writer_is_failed_and_cancelled(fake: FakeStreams) -> None:
    async def answer() -> None:
        async with make(fake) as out:
            await out.write("half")
            await asyncio.Event().wait()

    task = asyncio.create_task(answer())
    await fake.until(lambda: fake.streams.kept and fake.only.text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (fake.only.text, fake.only.state) == ("half", "failed")


async def test_a_writer_that_is_cancelled_while_it_ends_is_failed_too(fake: FakeStreams) -> None:
    async def answer() -> None:
        async with make(fake) as out:
            await out.write("all")
            await fake.until(lambda: fake.only.text)
            fake.faults.append("hang")

    task = asyncio.create_task(answer())
    await eventually(lambda: fake.streams.kept and fake.only.text and not fake.faults)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (fake.only.text, fake.only.state) == ("all", "failed")


async def test_the_apps_exception_passes_also_when_the_server_is_away(
    fake: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "FAIL_WITHIN", 0.1)
    with pytest.raises(ZeroDivisionError):
        async with make(fake) as out:
            await out.write("half")
            await fake.stop()
            raise ZeroDivisionError


async def test_another_writer_is_noticed_and_its_stream_is_left_alone(fake: FakeStreams) -> None:
    with pytest.raises(StreamError, match="another writer"):
        async with make(fake) as out:
            fake.only.text = "somebody else's"
            while True:
                await out.write("x")
    assert (fake.only.text, fake.only.state) == ("somebody else's", "open")


async def test_a_text_that_is_too_long_is_refused(fake: FakeStreams) -> None:
    with pytest.raises(StreamError, match="longer") as refused:
        async with make(fake) as out:
            fake.only.longest = 10
            while True:
                await out.write("xxx")
    assert refused.value.status == 413
    assert len(fake.only.text) <= 10
    assert (fake.only.state, out.state) == ("failed", "failed"), "nobody waits for a writer that will not come back"
    assert out.text == fake.only.text


@pytest.mark.parametrize("how", ["at the end", "caught"])
async def test_a_text_that_is_refused_ends_its_stream_whenever_the_app_learns_it(fake: FakeStreams, how: str) -> None:
    async def answer(out: Stream) -> None:
        async with out:
            fake.only.longest = 10
            await out.write("x" * 9)
            await fake.until(lambda: fake.only.text)
            await out.write("yy")
            if how == "caught":
                with pytest.raises(StreamError):
                    await out.finish()

    out = make(fake)
    with contextlib.nullcontext() if how == "caught" else pytest.raises(StreamError, match="longer"):
        await answer(out)
    assert (fake.only.text, fake.only.state, out.state) == ("x" * 9, "failed", "failed")


async def test_the_refusal_passes_also_when_the_server_is_away(
    fake: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "FAIL_WITHIN", 0.1)
    with pytest.raises(StreamError, match="longer"):
        async with make(fake) as out:
            fake.only.longest = 0
            await out.write("x")
            with pytest.raises(StreamError, match="longer"):
                await out.finish()
            await fake.stop()
            await out.write("y")


async def test_a_refusal_says_what_the_server_says(fake: FakeStreams) -> None:
    with pytest.raises(StreamError, match="no such row") as refused:
        async with Stream(fake.url, TOKEN, UUID(int=5), "message", ROW, "content"):
            pytest.fail("it was opened")
    assert refused.value.status == 404
    fake.streams.most_open = 0
    with pytest.raises(StreamError, match="32 open streams"):
        async with make(fake):
            pytest.fail("it was opened")


async def test_an_address_without_streams_is_told_from_a_row_that_is_missing(fake: FakeStreams) -> None:
    with pytest.raises(StreamError, match="ATLAS_SERVICE_TOKEN must be set there") as refused:
        async with Stream(f"{fake.url}/sync", TOKEN, USER, "message", ROW, "content"):
            pytest.fail("it was opened")
    assert refused.value.status == 404


async def test_no_exception_and_no_log_has_the_token_or_text(
    fake: FakeStreams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    wrong = Stream(fake.url, "a wrong token", USER, "message", ROW, "content")
    with pytest.raises(StreamError) as refused:
        await wrong.__aenter__()
    told += [str(refused.value), repr(refused.value), repr(wrong)]
    with pytest.raises(StreamError) as gone:
        async with make(fake, patience=0.2) as out:
            await out.write("a secret")
            told.append(repr(out))
            await fake.until(lambda: fake.only.text)
            await fake.stop()
            while True:
                await out.write("a secret")
    told += [repr(gone.value), caplog.text]
    error: BaseException | None = gone.value
    while error is not None:
        told.append(repr(vars(error)))
        error = error.__cause__ or error.__context__
    assert not [each for each in told if "secret" in each or TOKEN in each or "wrong token" in each]


async def test_a_request_that_fails_in_an_unknown_way_does_not_hold_up_the_other_streams(
    fake: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_group, "AT_ONCE", 1)
    append = Http.append

    async def fail(http: Http, body: Any) -> Reply:
        monkeypatch.setattr(Http, "append", append)
        await asyncio.sleep(0.01)
        raise LookupError("a secret")

    async with make(fake, UUID(int=2)) as other:
        with pytest.raises(StreamError, match="LookupError"):
            async with make(fake, UUID(int=1)) as first:
                monkeypatch.setattr(Http, "append", fail)
                await first.write("a")
                await asyncio.sleep(0)  # it is under way
                await other.write("b")
                await first.finish()
        async with asyncio.timeout(5):
            await other.finish()


async def test_nothing_is_left_after_the_last_stream(fake: FakeStreams) -> None:
    async with make(fake, UUID(int=1)) as first:
        async with make(fake, UUID(int=2)) as second:
            assert first._sender is second._sender
            assert first._sender is not None
        assert len(stream_sender._senders[asyncio.get_running_loop()]) == 1
    assert not stream_sender._senders[asyncio.get_running_loop()]
    gc.collect()  # a socket that was left open would warn


async def test_a_stream_is_opened_once_and_not_used_before(fake: FakeStreams) -> None:
    out = make(fake)
    with pytest.raises(RuntimeError, match="async with"):
        await out.write("x")
    async with out:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await out.__aenter__()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ws://127.0.0.1/sync", "http://", "ftp://x"])
def test_an_address_that_is_none_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        Stream(url, TOKEN, USER, "message", ROW, "content")


@pytest.mark.parametrize(("key", "sent"), [(ROW, str(ROW)), (7, 7), ("a", "a"), ((ROW, 7), [str(ROW), 7])])
async def test_keys_are_sent_as_json_has_them(fake: FakeStreams, key: Any, sent: object) -> None:
    async with make(fake, key):
        pass
    assert fake.requests[0][2]["id"] == sent


async def test_without_httpx_a_sentence_says_what_to_install(
    fake: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "atlas_sync.stream_http", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(RuntimeError, match=r"pip install 'atlas-sync-client\[streams\]'"):
        await make(fake).__aenter__()


async def test_the_example_of_the_readme_writes_its_text_and_goes_on_where_it_was(fake: FakeStreams) -> None:
    source = re.search(r"<!-- example: stream -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert source is not None
    example: dict[str, Any] = {}
    exec(compile(source[1], "the example", "exec"), example)
    begun = example["ANSWER"][:10]
    async with make(fake) as out:
        await out.write(begun)
    fake.only.state = "open"
    text = await example["answer"](fake.url, TOKEN, USER, ROW)
    assert fake.only.text == text == f"{example['ANSWER']} "
    assert await example["answer"](fake.url, TOKEN, USER, ROW) is None
