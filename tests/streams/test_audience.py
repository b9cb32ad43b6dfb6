"""Whatever happens to a stream and to sockets, a device that follows SPEC.md 13.3 holds its text. A full one gets
nothing."""

from typing import Any
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from protocol.frames import Key, Streams, StreamText
from server.streams.audience import Audience, Device
from server.streams.ports import Place, State
from server.streams.stream import Known, Stream
from server.streams.text import Text
from tests.support.sink import FakeSink
from tests.support.stream_store import place


def key(of: Place) -> Key | None:
    return UUID(of.key[0])


class Watcher:
    """A device, by the rules."""

    def __init__(self) -> None:
        self.sink = FakeSink()
        self.device: Device
        self.texts: dict[UUID, tuple[str, str]] = {}
        self.open: set[UUID] | None = None
        self._read = 0

    def join(self, audience: Audience, user: str = "a") -> None:
        self.device = audience.add(user, self.sink)
        self.welcome(audience)

    def welcome(self, audience: Audience) -> None:
        if wire := audience.welcome(self.device):
            self.sink.send(wire)

    def read(self) -> None:
        for wire in self.sink.sent[self._read :]:
            frame: Any = self.sink.frame(wire)
            if isinstance(frame, Streams):
                self.open = set(frame.open)
            else:
                assert isinstance(frame, StreamText)
                text, _ = self.texts.get(frame.stream, ("", ""))
                assert frame.offset <= len(text), "a gap"
                self.texts[frame.stream] = text[: frame.offset] + frame.text, frame.state
        self._read = len(self.sink.sent)


def audience(*streams: Stream, certain: bool = True) -> tuple[Audience, Known]:
    known = Known()
    for stream in streams:
        known.add(stream)
    made = Audience(known, key)
    made.certain = certain
    return made, known


def stream(text: str | None = "", user: str = "a", number: int = 1) -> Stream:
    made = Stream(uuid4(), user, place(number), 5)
    made.text = None if text is None else Text(text)
    return made


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.text("aä🙂", max_size=4)),
            st.tuples(st.just("cut"), st.integers(0, 12)),
            st.tuples(st.just("full"), st.integers(0, 1)),
            st.tuples(st.just("resume"), st.integers(0, 1)),
            st.tuples(st.just("again"), st.integers(0, 1)),
            st.tuples(st.just("unknown"), st.none()),
            st.tuples(st.just("list"), st.none()),
        ),
        max_size=30,
    ),
    st.sampled_from(list(State)),
)
def test_devices_hold_the_text_whatever_happens(changes: list[tuple[str, Any]], end: State) -> None:
    one = stream()
    made, _ = audience(one)
    watchers = [Watcher(), Watcher()]
    for watcher in watchers:
        watcher.join(made)
    for change, value in changes:
        text = one.text.whole() if one.text is not None else ""
        match change:
            case "append" if one.text is not None:
                one.text.append(value)
                made.publish(one)
            case "cut" if one.text is not None:  # a part that was sent was not written
                one.doubt()
                assert one.former is not None
                one.text = Text(text[:value] + "!")
                made.cut(one, one.text.common(one.former.whole()))
                one.former = None
                made.publish(one)
            case "unknown":
                one.text, before = None, one.text
                made.publish(one)
                one.text = before
            case "full":
                watchers[value].sink.full = True
            case "resume":
                watchers[value].sink.full = False
                made.resume(watchers[value].device)
            case "again":
                made.remove(watchers[value].device)
                watchers[value] = Watcher()
                watchers[value].join(made)
            case "list":
                made.list_to_all()
        for watcher in watchers:
            if watcher.sink.full:
                watcher.sink.send, before = refuse, watcher.sink.send  # type: ignore[method-assign]
                made.publish(one)
                watcher.sink.send = before  # type: ignore[method-assign]
    one.state = end
    made.publish(one)
    for watcher in watchers:
        if watcher.sink.full:
            watcher.sink.full = False
            made.resume(watcher.device)
        watcher.read()
        assert one.text is not None
        assert watcher.texts == {one.id: (one.text.whole(), end.value)}
        assert watcher.open == {one.id}
        sent = len(watcher.sink.sent)
        made.publish(one)
        made.resume(watcher.device)
        assert len(watcher.sink.sent) == sent, "it was sent again"


def refuse(wire: bytes) -> None:
    raise AssertionError("a full socket was sent something")


def test_nobody_but_the_user_is_sent_anything() -> None:
    mine, theirs = stream("mine", "a"), stream("theirs", "b", 2)
    made, _ = audience(mine, theirs)
    watcher = Watcher()
    watcher.join(made)
    assert theirs.text is not None
    theirs.text.append("!")
    made.publish(theirs)
    made.cut(theirs, 0)
    made.forget(theirs)
    watcher.read()
    assert (watcher.texts, watcher.open) == ({mine.id: ("mine", "open")}, {mine.id})


def test_nothing_is_sent_before_all_streams_are_known() -> None:
    one = stream("text")
    made, _ = audience(one, certain=False)
    watcher = Watcher()
    watcher.join(made)
    made.publish(one)
    made.forget(stream("other"))
    made.resume(watcher.device)
    assert watcher.sink.sent == []
    made.list_to_all()
    made.publish(one)
    watcher.read()
    assert (watcher.texts, watcher.open) == ({one.id: ("text", "open")}, {one.id})


def test_a_stream_whose_text_is_not_known_is_named_and_comes_later() -> None:
    one = stream(None)
    made, _ = audience(one)
    watcher = Watcher()
    watcher.join(made)
    watcher.read()
    assert (watcher.texts, watcher.open) == ({}, {one.id})


def test_a_settled_stream_is_named_no_more_also_to_a_socket_that_was_full() -> None:
    one, two = stream("one"), stream("two", number=2)
    made, known = audience(one, two)
    watcher = Watcher()
    watcher.join(made)
    watcher.sink.full = True
    known.remove(one.id)
    made.forget(one)
    assert one.id not in watcher.device.sent
    watcher.sink.full = False
    made.resume(watcher.device)
    watcher.read()
    assert watcher.open == {two.id}


def test_whoever_is_told_that_a_stream_is_settled_is_proved_to_have_its_row_behind_that() -> None:
    one, two = stream("one"), stream("two", number=2)
    made, known = audience(one, two)
    watchers = [Watcher(), Watcher(), Watcher()]
    here, full, coming = watchers
    here.join(made)
    full.join(made)
    coming.device = made.add("a", coming.sink)
    full.sink.full = True
    assert not any(watcher.sink.proofs for watcher in watchers), "they have all that they were told of"
    known.remove(one.id)
    made.forget(one)
    here.read()
    assert here.open == {two.id}
    assert here.sink.proofs == [len(here.sink.sent)]
    assert not full.sink.proofs + coming.sink.proofs
    full.sink.full = False
    made.resume(full.device)
    coming.welcome(made)
    for watcher in watchers:
        watcher.read()
        assert watcher.open == {two.id}
        assert len(watcher.sink.proofs) == 1
        made.resume(watcher.device)
        assert len(watcher.sink.proofs) == 1, "once"


def test_while_not_all_streams_are_known_nobody_is_told_and_then_all_are_proved_to_have_the_rows() -> None:
    one, two = stream("one"), stream("two", number=2)
    made, known = audience(one, two)
    watchers = [Watcher(), Watcher()]
    watchers[0].join(made)
    made.certain = False
    watchers[1].join(made)
    known.remove(one.id)
    made.forget(one)
    assert not any(watcher.sink.proofs for watcher in watchers)
    made.list_to_all()
    for watcher in watchers:
        watcher.read()
        assert watcher.open == {two.id}
        assert watcher.sink.proofs == [len(watcher.sink.sent)]


def test_a_device_that_comes_is_told_which_streams_there_are_once_those_that_were_heard_of_are_read() -> None:
    one, two = stream("one"), stream("two", number=2)
    made, known = audience(one)
    made.unread = {uuid4(): None, two.id: None}
    watchers = [Watcher() for _ in range(3)]
    for watcher in watchers:
        watcher.join(made)
    coming, full, gone = watchers
    full.sink.full = True
    made.remove(gone.device)
    made.unread[uuid4()] = None  # nobody waits for what is heard later
    made.publish(one)
    made.read(list(made.unread)[:1])
    assert not any(watcher.sink.sent for watcher in watchers), "it may hold the other one"
    known.add(two)
    made.read([two.id])
    assert (full.sink.sent, gone.sink.sent) == ([], [])
    full.sink.full = False
    made.resume(full.device)
    for watcher in coming, full:
        watcher.read()
        assert watcher.open == {one.id, two.id}
        assert watcher.texts == {one.id: ("one", "open"), two.id: ("two", "open")}
        assert len(watcher.sink.proofs) == 1, "its rows came before"


def test_a_device_is_sent_nothing_before_it_is_welcomed() -> None:
    one = stream("x")
    made, _ = audience(one)
    watcher = Watcher()
    watcher.device = made.add("a", watcher.sink)
    made.publish(one)
    made.forget(stream("y"))
    made.list_to_all()
    made.resume(watcher.device)
    assert watcher.sink.sent == []
    watcher.welcome(made)
    watcher.read()
    assert (watcher.texts, watcher.open) == ({one.id: ("x", "open")}, {one.id})


def test_a_socket_that_fills_up_again_gets_the_rest_when_it_takes_data_again() -> None:
    streams = [stream("x", number=number) for number in range(3)]
    made, _ = audience(*streams)
    watcher = Watcher()
    watcher.sink.full = False
    watcher.join(made)
    for each in streams:
        assert each.text is not None
        each.text.append("y")
    send = watcher.sink.send

    def fills(wire: bytes) -> None:
        send(wire)
        watcher.sink.full = True

    watcher.sink.send = fills  # type: ignore[method-assign]
    for count in (1, 2, 3):
        watcher.sink.full = False
        made.resume(watcher.device)
        watcher.read()
        assert sum(text == "xy" for text, _ in watcher.texts.values()) == count


def test_a_device_that_left_is_forgotten() -> None:
    made, _ = audience(one := stream("x"))
    watcher = Watcher()
    watcher.join(made)
    sent = len(watcher.sink.sent)
    made.remove(watcher.device)
    made.remove(watcher.device)
    assert not made.has("a")
    assert one.text is not None
    one.text.append("y")
    made.publish(one)
    assert len(watcher.sink.sent) == sent


def test_a_row_that_devices_do_not_know_is_not_sent() -> None:
    one = stream("x")
    known = Known()
    known.add(one)
    made = Audience(known, lambda _: None)
    made.certain = True
    watcher = Watcher()
    watcher.join(made)
    made.publish(one)
    watcher.read()
    assert watcher.texts == {}
