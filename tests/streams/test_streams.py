"""The door to streams: whatever the store and other processes do, an answer is true, and it comes."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.frames import Streams as StreamsFrame
from protocol.frames import StreamText
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.streams import streams as module
from server.streams.ports import Place, State
from server.streams.streams import APPENDS_PER_SECOND, Answer, Outcome, Streams
from tests.support.sink import FakeSink
from tests.support.stream_store import OTHER, USER, FakeNotices, FakeStore, Process, place, process
from tests.support.waiting import eventually


async def append(here: Process, id_: UUID, offset: int, text: str) -> tuple[int, State | None, int | None]:
    async with asyncio.timeout(10):
        (answer,) = await here.streams.append([(id_, offset, text)])
    return parts(answer)


def parts(answer: Answer) -> tuple[int, State | None, int | None]:
    return answer.outcome.value, answer.state, answer.offset


async def opened(here: Process, number: int = 1) -> UUID:
    return (await here.streams.open(USER, place(number), restart=False)).id


class Watcher:
    def __init__(self, here: Process, user: UUID = USER) -> None:
        self.sink = FakeSink()
        self.texts: dict[UUID, tuple[str, str]] = {}
        self.open: list[UUID] | None = None
        self._read = 0
        self.device = here.streams.join(str(user), self.sink)
        self.sink.send(here.streams.welcome(self.device))

    def holds(self, id_: UUID, text: str, state: str = "open") -> bool:
        for wire in self.sink.sent[self._read :]:
            frame: Any = self.sink.frame(wire)
            if isinstance(frame, StreamsFrame):
                self.open = frame.open
            else:
                assert isinstance(frame, StreamText)
                held, _ = self.texts.get(frame.stream, ("", ""))
                assert frame.offset <= len(held)
                self.texts[frame.stream] = held[: frame.offset] + frame.text, frame.state
        self._read = len(self.sink.sent)
        return self.texts.get(id_) == (text, state)


@pytest.mark.parametrize("key", [("7",), ("7", "1")], ids=["of another type", "of two columns"])
async def test_a_stream_whose_key_is_that_of_another_declaration_is_named_and_not_shown(key: tuple[str, ...]) -> None:
    """This process, or the migration, is not there yet."""
    store = FakeStore()
    id_, other = store.add("text"), store.add("other", number=2)
    store.kept[id_].place = Place("m", key, "content")
    async with process(store) as here:
        watcher = Watcher(here)
        await eventually(lambda: watcher.holds(other, "other"))
        here.elsewhere(id_, " and more")
        here.elsewhere(other, " and more")
        await eventually(lambda: watcher.holds(other, "other and more"))
        assert set(watcher.open or ()) == {id_, other}
        assert set(watcher.texts) == {other}


@pytest.mark.parametrize("watched", [False, True])
async def test_an_append_is_answered_by_what_the_database_has(watched: bool) -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = store.add("abc")
        here.notices.ring([id_])
        if watched:
            Watcher(here)
        assert await append(here, id_, 3, "de") == (200, State.OPEN, 5)
        store.kept[id_].append("fg")  # by another process, whose notice has not arrived yet
        assert await append(here, id_, 5, "fgh") == (200, State.OPEN, 8)
        for offset, text in ((9, "x"), (7, "x"), (0, "x")):
            assert await append(here, id_, offset, text) == (409, State.OPEN, 8)
        assert await append(here, id_, 2, "cd") == (200, State.OPEN, 8)
        assert await append(here, id_, 8, "") == (200, State.OPEN, 8)
        here.elsewhere(id_, "i", State.STOPPED)
        assert await append(here, id_, 8, "ij") == (409, State.STOPPED, 9)
        assert await append(here, uuid4(), 0, "x") == (404, None, None)
    assert store.kept[id_].text == "abcdefghi"


async def test_a_device_sees_an_append_before_it_is_written_and_it_is_taken_back_if_it_is_not() -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        await append(here, id_, 0, "abc")
        watcher = Watcher(here)
        await eventually(lambda: watcher.holds(id_, "abc"))
        store.going.clear()
        appending = asyncio.create_task(append(here, id_, 3, "def"))
        await eventually(lambda: watcher.holds(id_, "abcdef"))
        store.kept[id_].append("dX")  # another process was quicker
        store.going.set()
        assert await appending == (409, State.OPEN, 5)
        await eventually(lambda: watcher.holds(id_, "abcdX"))


async def test_what_postgres_did_not_take_is_taken_back_from_devices_at_once() -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        await append(here, id_, 0, "abc")
        watcher = Watcher(here)
        store.failing = 1
        with pytest.raises(UnavailableError):
            await append(here, id_, 3, "def")
        await eventually(lambda: watcher.holds(id_, "abc"))
        assert await append(here, id_, 3, "def") == (200, State.OPEN, 6)
        await eventually(lambda: watcher.holds(id_, "abcdef"))


async def test_a_repeat_of_what_is_not_written_yet_waits_for_it() -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        store.going.clear()
        both = [asyncio.create_task(append(here, id_, 0, text)) for text in ("abc", "ab")]
        await eventually(lambda: store.appends)
        await asyncio.sleep(0)
        assert not any(task.done() for task in both)
        store.going.set()
        assert [await task for task in both] == [(200, State.OPEN, 3)] * 2


async def test_the_answer_never_names_an_offset_that_is_older_than_the_request() -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        await append(here, id_, 0, "a")
        watcher = Watcher(here)
        await eventually(lambda: watcher.holds(id_, "a"))
        read = store.read

        async def overtaken(wants: Any) -> Any:
            found = await read(wants)
            store.read = read  # type: ignore[method-assign]
            here.elsewhere(id_, "x")
            await eventually(lambda: watcher.holds(id_, "ax"))
            store.kept[id_].append("y")
            return found

        store.read = overtaken  # type: ignore[method-assign]
        assert await append(here, id_, 0, "zz") == (409, State.OPEN, 3)


async def test_a_text_has_a_bound_in_bytes_and_a_stream_in_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_BYTES", 8)
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        assert await append(here, id_, 0, "🙂") == (200, State.OPEN, 1)
        assert await append(here, id_, 1, "🙂x") == (413, State.OPEN, 1)
        assert await append(here, id_, 1, "🙂") == (200, State.OPEN, 2)
        many = [await append(here, id_, 2, "") for _ in range(2 * APPENDS_PER_SECOND)]
        assert {answer[0] for answer in many} == {200, 429}
        other = await opened(here, 2)
        assert await append(here, other, 0, "x") == (200, State.OPEN, 1)


async def test_an_end_has_to_be_where_the_writer_says() -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        watcher = Watcher(here)
        await append(here, id_, 0, "abc")
        for expected in (2, 4, 1 << 62):
            found = await here.streams.end(id_, State.DONE, expected, write=False)
            assert parts(found) == (409, State.OPEN, 3)
        for _ in range(2):
            assert parts(await here.streams.end(id_, State.DONE, 3, write=False)) == (200, State.DONE, 3)
        assert parts(await here.streams.end(id_, State.DONE, 5, write=False)) == (409, State.DONE, 3)
        assert parts(await here.streams.end(id_, State.FAILED, None, write=False)) == (409, State.DONE, 3)
        assert (await here.streams.end(uuid4(), State.DONE, None, write=False)).outcome is Outcome.UNKNOWN
        await eventually(lambda: watcher.holds(id_, "abc", "done"))


async def test_an_end_comes_after_the_appends_that_are_under_way() -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        store.going.clear()
        appending = asyncio.create_task(append(here, id_, 0, "abc"))
        await eventually(lambda: store.appends)
        ending = asyncio.create_task(here.streams.end(id_, State.DONE, 3, write=False))
        await asyncio.sleep(0)
        store.going.set()
        assert await appending == (200, State.OPEN, 3)
        assert parts(await ending) == (200, State.DONE, 3)


async def test_a_stop_is_carried_out_by_the_process_that_holds_the_stream() -> None:
    store = FakeStore()
    async with process(store) as here:
        id_ = await opened(here)
        watcher = Watcher(here)
        await append(here, id_, 0, "abc")
        await eventually(lambda: watcher.holds(id_, "abc"))
        assert not await here.streams.stop(str(OTHER), "m", place().key, None)
        assert not await here.streams.stop(str(USER), "m", place().key, "title")
        assert not await here.streams.stop(str(USER), "m", place(2).key, None)
        assert await here.streams.stop(str(USER), "m", place().key, "content")
        await eventually(lambda: store.kept[id_].state is State.STOPPED)
        assert await append(here, id_, 3, "d") == (409, State.STOPPED, 3)
        assert not await here.streams.stop(str(USER), "m", place().key, None)


async def test_a_stop_of_a_stream_that_no_process_holds_is_carried_out_too() -> None:
    store = FakeStore()
    id_ = store.add("abc")
    async with process(store) as here:
        watcher = Watcher(here)
        await eventually(lambda: watcher.holds(id_, "abc"))
        assert await here.streams.stop(str(USER), "m", place().key, None)
        await eventually(lambda: watcher.holds(id_, "abc", "stopped"))


async def test_a_stop_is_refused_while_it_is_not_known_which_streams_there_are() -> None:
    store = FakeStore()
    store.away = True
    async with process(store) as here:
        with pytest.raises(UnavailableError):
            await here.streams.stop(str(USER), "m", place().key, None)


@pytest.mark.parametrize("how", ["here", "elsewhere", "settled", "gone", "before"])
async def test_who_waits_for_an_end_learns_it(how: str) -> None:
    store = FakeStore()
    id_ = store.add("abc")
    async with process(store) as here:
        if how == "before":
            store.kept[id_].state = State.STOPPED
        waiting = asyncio.create_task(here.streams.wait_for_end(id_, 30))
        await eventually(lambda: any((id_, 0) in reads for reads in store.reads))
        match how:
            case "here":
                await here.streams.end(id_, State.STOPPED, None, write=False)
            case "elsewhere":
                here.elsewhere(id_, "", State.STOPPED)
            case "settled":
                store.kept[id_].settled = True
                here.elsewhere(id_, "", State.STOPPED)
            case "gone":
                del store.kept[id_]
                here.notices.ring([id_])
        async with asyncio.timeout(10):
            answer = await waiting
        assert answer is not None
        assert answer.outcome is Outcome.UNKNOWN if how == "gone" else answer.state is State.STOPPED


async def test_who_waits_is_told_at_the_end_of_the_wait_even_if_no_notice_came() -> None:
    store = FakeStore()
    id_ = store.add("abc")
    async with process(store) as here:
        assert await here.streams.wait_for_end(id_, 0.01) is None
        waiting = asyncio.create_task(here.streams.wait_for_end(id_, 0.05))
        await asyncio.sleep(0.01)
        store.kept[id_].state = State.DONE
        answer = await waiting
        assert answer is not None
        assert answer.state is State.DONE


async def test_a_process_that_goes_lets_nobody_wait() -> None:
    store = FakeStore()
    id_ = store.add()
    async with process(store) as here:
        waiting = asyncio.create_task(here.streams.wait_for_end(id_, 60))
        await eventually(lambda: store.reads)
        await asyncio.sleep(0)
        here.streams.close()
        async with asyncio.timeout(10):
            assert await waiting is None
            assert await here.streams.wait_for_end(id_, 60) is None


async def test_a_device_that_comes_back_gets_the_text_as_it_is_now() -> None:
    store = FakeStore()
    id_ = store.add("abc")
    async with process(store) as here:
        watcher = Watcher(here)
        await eventually(lambda: watcher.holds(id_, "abc"))
        here.streams.leave(watcher.device)
        here.elsewhere(id_, "def", State.DONE)
        again = Watcher(here)
        await eventually(lambda: again.holds(id_, "abcdef", "done"))
        assert set(again.texts) == {id_}


async def test_a_device_that_brings_a_stream_along_keeps_it_although_its_new_process_has_only_heard_of_it() -> None:
    store = FakeStore()
    async with process(store) as here:
        await eventually(lambda: Watcher(here).sink.sent)
        for _ in range(2):
            id_ = store.add("abc")
            here.notices.ring([id_])
            watcher = Watcher(here)
            await eventually(lambda: watcher.sink.sent)  # noqa: B023
            watcher.holds(id_, "abc")
            assert id_ in (watcher.open or [])
        flood = [uuid4() for _ in range(20_000)]
        here.notices.ring(flood)
        late = Watcher(here)
        await eventually(lambda: late.sink.sent)
        late.holds(id_, "abc")
        assert late.open is not None
        assert len(late.open) == 2


async def test_a_stream_that_began_anew_is_another_one() -> None:
    store = FakeStore()
    async with process(store) as here:
        watcher = Watcher(here)
        id_ = await opened(here)
        await append(here, id_, 0, "abc")
        anew = (await here.streams.open(USER, place(), restart=True)).id
        here.notices.ring([id_])
        await append(here, anew, 0, "x")
        await eventually(lambda: watcher.holds(anew, "x") and watcher.open == [anew])
        assert await append(here, id_, 3, "d") == (404, None, None)


async def test_nothing_is_kept_of_what_is_over() -> None:
    store = FakeStore()
    async with process(store) as here:
        watcher = Watcher(here)
        for number in range(20):
            id_ = await opened(here, number)
            await append(here, id_, 0, "abc")
            assert await here.streams.wait_for_end(id_, 0) is None
            await here.streams.end(id_, State.DONE, None, write=False)
            store.kept[id_].settled = True
            here.notices.ring([id_])
        await eventually(lambda: not watcher.device.sent)
        held = vars(here.streams)
        assert not held["_waiting"]
        assert not held["_tasks"]
        assert len(held["_known"]) == 0


async def test_an_append_to_what_is_declared_no_more_is_answered() -> None:
    store = FakeStore()
    id_ = store.add("a")
    streams = Streams(store, FakeNotices(), Synced())
    running = asyncio.create_task(streams.run())
    (answer,) = await streams.append([(id_, 1, "b")])
    assert parts(answer) == (200, State.OPEN, 2)
    running.cancel()
    await asyncio.wait([running])


async def test_where_nothing_is_streamed_a_device_is_told_so_and_no_stop_waits() -> None:
    sink, streams = FakeSink(), Streams(FakeStore(), FakeNotices(), Synced())
    wire = streams.welcome(streams.join(str(USER), sink))
    sink.send(wire)
    assert [sink.frame(each) for each in sink.sent] == [StreamsFrame(open=[])]
    assert not await streams.stop(str(USER), "m", ["1"], None)
