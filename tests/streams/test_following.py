"""What other processes did is read for those who wait, from where their text ends; a text that cannot be right is read
anew."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest

from protocol.frames import Key
from server import retry
from server.exceptions import UnavailableError
from server.streams import following as module
from server.streams.audience import Audience
from server.streams.following import Following
from server.streams.ports import ANYWHERE, Found, Place, State
from server.streams.stream import Group, Known, Stream
from server.streams.text import Text
from tests.support.stream_store import USER, FakeStore
from tests.support.waiting import eventually


def key(of: Place) -> Key | None:
    return UUID(of.key[0])


class Here:
    """This process. `wanted`: what somebody here waits for."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.known = Known()
        self.audience = Audience(self.known, key)
        self.wanted: set[UUID] = set()
        self.gone: list[UUID] = []
        self.changed: list[tuple[UUID, bool]] = []
        self.following = Following(
            self.store,
            self.known,
            self.audience,
            wanted=lambda stream: stream.id in self.wanted,
            changed=lambda stream, stopping: self.changed.append((stream.id, stopping)),
            gone=self._gone,
        )

    def _gone(self, id_: UUID) -> None:
        self.gone.append(id_)
        self.known.remove(id_)

    def stream(self, id_: UUID) -> Stream:
        stream = self.known.get(id_)
        assert stream is not None
        return stream

    def text(self, id_: UUID) -> str | None:
        text = self.stream(id_).text
        return None if text is None else text.whole()

    async def reads(self, id_: UUID, text: str | None, state: State = State.OPEN) -> None:
        await eventually(lambda: self.known.get(id_) and (self.text(id_), self.stream(id_).state) == (text, state))


@pytest.fixture
async def here(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Here]:
    monkeypatch.setattr(retry, "FIRST", 0.001, raising=False)
    made = Here()
    running = asyncio.create_task(made.following.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


async def test_at_first_all_streams_are_read_and_the_texts_of_those_that_are_wanted(here: Here) -> None:
    wanted, other = here.store.add("wanted"), here.store.add("other", number=2)
    here.store.kept[other].state = State.DONE
    settled = here.store.add("settled", number=3)
    here.store.kept[settled].settled = True
    here.wanted.add(wanted)
    here.following.up()
    await eventually(lambda: here.audience.certain)
    assert {stream.id for stream in here.known} == {wanted, other}
    assert (here.text(wanted), here.text(other)) == ("wanted", None)
    assert here.stream(other).state is State.DONE


async def test_a_wanted_stream_is_read_from_where_its_text_ends(here: Here) -> None:
    id_ = here.store.add("abc")
    here.wanted.add(id_)
    here.following.heard(1.0, [id_])
    await here.reads(id_, "abc")
    here.store.kept[id_].append("de")
    here.following.heard(1.0, [id_])
    await here.reads(id_, "abcde")
    assert here.store.reads == [[(id_, 0)], [(id_, 3)]]
    here.store.kept[id_].state = State.STOPPED
    here.following.heard(1.0, [id_])
    await here.reads(id_, "abcde", State.STOPPED)
    assert here.changed == [(id_, False)]


async def test_a_stream_that_nobody_waits_for_is_read_once_to_know_it(here: Here) -> None:
    id_ = here.store.add("abc")
    here.following.heard(1.0, [id_])
    await here.reads(id_, None)
    here.store.kept[id_].append("de")
    here.following.heard(1.0, [id_])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert here.store.reads == [[(id_, 0)]]


async def test_a_part_that_begins_elsewhere_has_the_whole_text_read_and_devices_cut(here: Here) -> None:
    id_ = here.store.add("abcdef")
    here.wanted.add(id_)
    here.following.heard(1.0, [id_])
    await here.reads(id_, "abcdef")
    kept = here.store.kept[id_]
    kept.parts = [(0, "abc"), (3, "DEFG"), (7, "H")]  # Postgres had lost "def"
    here.following.heard(1.0, [id_])
    await here.reads(id_, "abcDEFGH")


async def test_a_text_that_ends_earlier_in_postgres_is_read_anew_after_an_interruption(here: Here) -> None:
    id_ = here.store.add("abcdef")
    here.wanted.add(id_)
    here.following.up()
    await here.reads(id_, "abcdef")
    here.following.down()
    assert not here.audience.certain
    assert here.text(id_) is None
    here.store.kept[id_].parts = [(0, "abc")]
    here.following.up()
    await here.reads(id_, "abc")
    await eventually(lambda: here.audience.certain)


async def test_the_text_of_a_stream_to_which_this_process_appends_is_not_read(here: Here) -> None:
    id_ = here.store.add("abc")
    here.wanted.add(id_)
    here.following.heard(1.0, [id_])
    await here.reads(id_, "abc")
    stream = here.stream(id_)
    stream.group = Group()
    assert stream.text is not None
    stream.text.append("d")
    here.following.down()
    assert here.text(id_) == "abcd"
    here.store.kept[id_].append("X")
    here.store.kept[id_].stopping = True
    here.following.heard(1.0, [id_])
    await eventually(lambda: here.changed)
    assert here.store.reads[-1] == [(id_, ANYWHERE)]
    assert (here.text(id_), here.changed) == ("abcd", [(id_, True)])


async def test_what_is_settled_or_unknown_is_gone(here: Here) -> None:
    id_, unknown = here.store.add("abc"), uuid4()
    here.following.heard(1.0, [id_])
    await here.reads(id_, None)
    here.wanted.add(id_)
    here.store.kept[id_].settled = True
    here.following.heard(1.0, [id_, unknown])
    await eventually(lambda: set(here.gone) == {id_, unknown})
    assert len(here.known) == 0


async def test_a_notice_that_was_lost_is_made_up_for_when_notices_arrive_again(here: Here) -> None:
    ids = [here.store.add(number=number) for number in range(3)]
    here.following.up()
    await eventually(lambda: len(here.known) == 3)
    here.following.down()
    del here.store.kept[ids[0]]
    here.store.kept[ids[1]].settled = True
    new = here.store.add(number=4)
    here.following.up()
    await eventually(lambda: here.audience.certain)
    assert {stream.id for stream in here.known} == {ids[2], new}


async def test_those_that_nobody_waits_for_are_looked_at_now_and_then(here: Here) -> None:
    gone, ended, wanted = (here.store.add("x", number=number) for number in range(3))
    here.following.up()
    await eventually(lambda: here.audience.certain)
    here.wanted.add(wanted)
    del here.store.kept[gone]
    here.store.kept[ended].state = State.DONE
    here.store.kept[wanted].state = State.DONE
    await here.following.look()
    assert here.gone == [gone]
    assert (here.stream(ended).state, here.stream(wanted).state) == (State.DONE, State.OPEN)


async def test_a_reading_that_another_one_has_overtaken_says_so(here: Here) -> None:
    id_ = here.store.add("abc")
    here.wanted.add(id_)
    here.following.heard(1.0, [id_])
    await here.reads(id_, "abc")
    stream = here.stream(id_)
    here.store.kept[id_].append("d")
    reading = asyncio.create_task(here.following.read(stream))
    await asyncio.sleep(0)
    stream.text = Text("abcd")
    assert not await reading
    assert await here.following.read(stream)


async def test_while_postgres_is_away_nothing_that_was_heard_is_forgotten(here: Here) -> None:
    ids = [here.store.add("abc", number=number) for number in range(3)]
    here.wanted.update(ids)
    here.following.up()
    await eventually(lambda: here.audience.certain)
    here.store.away = True
    for id_ in ids:
        here.store.kept[id_].append("d")
    count = len(here.store.reads)
    here.following.heard(1.0, ids)
    await eventually(lambda: len(here.store.reads) > count)
    here.store.away = False
    for id_ in ids:
        await here.reads(id_, "abcd")


async def test_a_flood_of_notices_is_answered_by_one_reading(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    id_ = here.store.add("abc")
    here.wanted.add(id_)
    here.store.kept[id_].user = USER
    here.following.heard(1.0, [*(uuid4() for _ in range(50)), id_])
    await here.reads(id_, "abc")
    assert sum(len(reads) for reads in here.store.reads) <= 10


async def test_all_streams_are_known_again_although_a_text_could_not_be_read_at_first(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = here.store.add("abc")
    here.wanted.add(id_)
    read = here.store.read

    async def fail(wants: Sequence[tuple[UUID, int]]) -> list[Found]:
        monkeypatch.setattr(here.store, "read", read)
        raise UnavailableError("Postgres is away.")

    monkeypatch.setattr(here.store, "read", fail)
    here.following.up()
    await eventually(lambda: here.audience.certain)
    assert here.text(id_) == "abc"


async def test_all_streams_are_known_although_others_never_stop_writing(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, quiet = here.store.add("abc"), here.store.add("def", number=2)
    here.wanted.update((busy, quiet))
    read = here.store.read

    async def meanwhile(wants: Sequence[tuple[UUID, int]]) -> list[Found]:
        here.following.heard(1.0, [busy])
        return await read(wants)

    monkeypatch.setattr(here.store, "read", meanwhile)
    here.following.heard(1.0, [busy])
    await here.reads(busy, "abc")
    here.following.up()
    await eventually(lambda: here.audience.certain)
    assert here.text(quiet) == "def"
