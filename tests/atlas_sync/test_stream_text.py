"""One stream as its writer knows it: whatever is lost, late or repeated, the server has each character once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atlas_sync.stream_text import PART, Append, Ended, Next, Stopped, StreamError, StreamText
from tests.support.fake_streams import ROW, USER, Streams

OPENING = {"user": str(USER), "kind": "message", "id": str(ROW), "column": "content", "restart": False}
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


class WriterMachine(RuleBasedStateMachine):
    """A writer and a server, between which appends and answers are lost, late and repeated."""

    @initialize(before=CHARACTERS)
    def begin(self, before: str) -> None:
        self.server = Streams()
        _, opened = self.server.open(OPENING)
        self.stream = opened["stream"]
        self.server.kept[self.stream].text = before
        self.writer = StreamText(before)
        self.sent: list[Append] = []
        self.written = before
        self.is_lost = False

    @rule(text=CHARACTERS)
    def write(self, text: str) -> None:
        if self.writer.fault is None:
            self.writer.write(text)
            self.written += text

    @precondition(lambda self: self.writer.may_send)
    @rule(arrives=st.booleans(), answered=st.booleans(), busy=st.booleans())
    def send(self, arrives: bool, answered: bool, busy: bool) -> None:
        append = self.writer.next_append()
        self.sent.append(append)
        if busy:
            assert self.writer.answered(503) is Next.LATER
            return
        answer = self.server.append(self.stream, append.offset, append.text) if arrives else None
        if answer is None or not answered:
            self.writer.lost()
        else:
            self.writer.answered(*answer)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_old_append_arrives_late(self, data: st.DataObject) -> None:
        append = data.draw(st.sampled_from(self.sent))
        self.server.append(self.stream, append.offset, append.text)

    @rule(data=st.data())
    def the_disk_loses_the_last_characters(self, data: st.DataObject) -> None:
        kept = self.server.kept[self.stream]
        if kept.state == "open":
            self.is_lost = True
            kept.text = kept.text[: data.draw(st.integers(0, len(kept.text)))]

    @rule()
    def stop(self) -> None:
        self.server.kept[self.stream].state = "stopped"

    @invariant()
    def the_server_has_a_beginning_of_what_was_written(self) -> None:
        assert self.written.startswith(self.server.kept[self.stream].text)

    @invariant()
    def nothing_but_a_stop_ends_it(self) -> None:
        assert self.writer.fault is None or isinstance(self.writer.fault, Stopped)

    def teardown(self) -> None:
        for _ in range(len(self.written) // PART + 3):
            if self.writer.may_send:
                append = self.writer.next_append()
                self.writer.answered(*self.server.append(self.stream, append.offset, append.text))
        kept = self.server.kept[self.stream]
        assert self.writer.state == kept.state
        if kept.state == "open":
            assert self.writer.text == kept.text == self.written
        elif self.is_lost:  # and stopped before the writer could send it again
            assert self.written.startswith(self.writer.text)
            assert self.writer.text.startswith(kept.text)
        else:
            assert self.writer.text == kept.text


TestWriterMachine = WriterMachine.TestCase
TestWriterMachine.settings = settings(max_examples=150, stateful_step_count=30)


@given(st.lists(CHARACTERS, max_size=20), st.integers(0, 240), st.integers(1, 50))
def test_what_follows_an_offset_is_found_from_the_end(parts: list[str], offset: int, at_most: int) -> None:
    text = StreamText()
    for part in parts:
        text.write(part)
    whole = "".join(parts)
    offset = min(offset, len(whole))
    assert text._from(offset, at_most) == whole[offset : offset + at_most]


def test_a_long_text_is_sent_in_parts() -> None:
    text = StreamText()
    text.write("x" * (PART + 1))
    assert len(text.next_append().text) == PART
    assert text.answered(200, "open", PART) is Next.GO_ON
    assert text.next_append() == Append(PART, "x")


def test_an_append_may_not_be_sent_while_another_is_under_way() -> None:
    text = StreamText()
    text.write("a")
    text.next_append()
    assert not text.may_send
    text.lost()
    assert text.may_send


def test_offsets_are_code_points() -> None:
    text = StreamText("🙂é")
    text.write("世")
    assert text.next_append() == Append(2, "世")


@pytest.mark.parametrize("offset", [3, 9])
def test_text_of_another_writer_is_not_mixed_with_ours(offset: int) -> None:
    text = StreamText("ab")
    text.write("cd")
    text.next_append()
    assert text.answered(409, "open", offset) is Next.END
    with pytest.raises(StreamError, match="another writer"):
        text.write("e")


def test_a_writer_that_is_shorter_than_the_server_is_not_alone() -> None:
    text = StreamText("ab")
    text.next_append()
    assert text.answered(200, "open", 5) is Next.END


def test_text_that_another_writer_wrote_meanwhile_is_not_taken_for_ours() -> None:
    text = StreamText("ab")
    text.next_append()
    text.write("cdef")
    assert text.answered(200, "open", 4) is Next.GO_ON
    assert text.next_append() == Append(2, "cdef")
    assert text.answered(409, "open", 4) is Next.END
    assert isinstance(text.fault, StreamError)


@pytest.mark.parametrize(("state", "kind"), [("stopped", Stopped), ("done", Ended), ("failed", Ended), ("new", Ended)])
def test_after_the_end_the_text_is_what_the_server_has(state: str, kind: type[Ended]) -> None:
    text = StreamText("ab")
    text.write("cdef")
    text.next_append()
    assert text.answered(409, state, 3) is Next.END
    assert (text.text, text.length, text.confirmed, text.state) == ("abc", 3, 3, state)
    with pytest.raises(kind):
        text.write("g")


def test_the_text_of_a_stream_whose_row_has_it_stays_as_far_as_it_was_confirmed() -> None:
    text = StreamText("ab")
    text.write("cd")
    text.next_append()
    assert text.answered(200, "open", 4) is Next.GO_ON
    text.write("ef")
    text.next_append()
    assert text.answered(409, "failed", 0) is Next.END
    assert (text.text, text.state) == ("abcd", "failed")


@pytest.mark.parametrize("status", [400, 401, 404, 413, 418])
def test_a_refusal_ends_it_and_names_no_text(status: int) -> None:
    text = StreamText()
    text.write("a secret")
    text.next_append()
    assert text.answered(status) is Next.END
    with pytest.raises(StreamError) as refused:
        text.write("more")
    assert refused.value.status == status
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("bad", ["a\0b", "\ud83d"])
def test_text_that_postgres_cannot_hold_is_refused_and_not_quoted(bad: str) -> None:
    text = StreamText()
    with pytest.raises(ValueError) as refused:
        text.write(bad)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    assert text.length == 0


def test_many_small_parts_do_not_stay_apart() -> None:
    text = StreamText()
    for _ in range(5000):
        text.write("ab")
    assert len(text._parts) < 600
    assert text.text == "ab" * 5000
