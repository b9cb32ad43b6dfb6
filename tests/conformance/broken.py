"""The Python client's adapter with one rule broken, which is the first argument: each scenario must notice its own."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import conform
from atlas_sync import clock, codec, connection, device, streams, websocket
from atlas_sync.checks import ProtocolError
from atlas_sync.clock import ServerClock
from atlas_sync.codec import CODECS
from atlas_sync.comeback import Instruction
from atlas_sync.connection import Connection
from atlas_sync.mutation import Applied
from atlas_sync.outbox import EntryState, Outbox
from atlas_sync.replica import Older, Replica
from atlas_sync.rows import Row
from atlas_sync.session import ErrorAnswer, Session
from atlas_sync.stop_sender import StopSender
from atlas_sync.storage import SqliteStorage
from atlas_sync.streams import HeldStream, StreamGrew, Streams
from atlas_sync.wire import Wire

RULES: dict[str, Callable[[], object]] = {}


def rule(scenario: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Break the rule that the scenario of this name is about."""

    def add(patch: Callable[[], object]) -> Callable[[], object]:
        RULES[scenario] = patch
        return patch

    return add


def around(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what `make` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))


@rule("snapshot")
def the_first_row_of_an_id_stays() -> None:
    def make(apply: Any) -> Any:
        def first(self: Replica, rows: Any) -> None:
            for row in rows:
                if not isinstance(row, Row) or row.id not in self.rows[row.kind]:
                    apply(self, [row])

        return first

    around(Replica, "apply", make)


@rule("cut-snapshot")
@rule("position-lost")
@rule("cut-close")
def a_snapshot_does_not_replace() -> None:
    Replica._clear = lambda self: None  # type: ignore[method-assign]


@rule("duplicates")
def the_last_row_of_an_id_stays() -> None:
    def make(apply: Any) -> Any:
        def last(self: Replica, rows: Any) -> None:
            apply(self, [replace(row, seq=10**9) if isinstance(row, Row) else row for row in rows])

        return last

    around(Replica, "apply", make)


@rule("deletions")
def a_deletion_leaves_what_is_below() -> None:
    Replica._after_deletion = lambda self, row: None  # type: ignore[method-assign]


@rule("late-page")
def deletions_are_not_remembered() -> None:
    around(Replica, "apply", lambda apply: lambda self, rows: (apply(self, rows), self._deletions.clear()))


@rule("floor")
def pages_are_asked_for_from_the_oldest_row() -> None:
    @contextmanager
    def older(self: Replica, kind: str, parent: Any = None) -> Iterator[Older]:
        held = self.newest_first(kind, parent)
        yield Older(self._kinds[kind].place(held[-1]), lambda page: self.apply(page.rows))

    Replica.older = older  # type: ignore[method-assign, assignment]


@rule("broken-chain")
@rule("wrong-live")
def the_chain_is_not_checked() -> None:
    def make(field: str) -> Callable[[Any], Any]:
        def wrap(read: Any) -> Any:
            def trusting(self: Session, frame: Any) -> Any:
                self.cursor = frame.read(field, self._codec.cursor)
                return read(self, frame)

            return trusting

        return wrap

    around(Session, "_changes", make("from"))
    around(Session, "_live", make("cursor"))


@rule("partial")
def parts_of_transactions_are_left_out() -> None:
    around(conform.App, "store", lambda store: lambda self, batch: None if batch.partial else store(self, batch))


@rule("unknown")
def unknown_frames_break_the_protocol() -> None:
    def make(receive: Any) -> Any:
        def strict(self: Session, data: Any) -> Any:
            if (event := receive(self, data)) is None:
                raise ProtocolError("an unknown frame")
            return event

        return strict

    around(Session, "receive", make)


@rule("resume")
def the_cursor_is_not_stored() -> None:
    around(conform.App, "keep", lambda keep: lambda self, sql, cursor: keep(self, sql, None))


@rule("ahead")
def rows_that_a_snapshot_lacks_stay() -> None:
    around(conform.App, "store", lambda store: lambda self, batch: store(self, replace(batch, replaces=False)))


@rule("error-without-close")
def every_error_ends_the_connection() -> None:
    def fail(self: Session, frame: Any) -> Any:
        raise ProtocolError("an error")

    Session._error = fail  # type: ignore[method-assign]


@rule("stays-away")
def every_close_is_followed_by_another_connection() -> None:
    def make(step: Any) -> Any:
        return lambda *args: replace(step(*args), instruction=Instruction.COME_BACK, delay_seconds=0.1)

    around(device, "next_step", make)


@rule("refresh")
def no_token_is_refreshed() -> None:
    vars(connection)["refresh_after"] = lambda left: 10.0**6


@rule("refresh-refused")
def a_refused_refresh_ends_the_connection() -> None:
    every_error_ends_the_connection()


@rule("another-user")
def the_token_is_anybodys() -> None:
    device._subject = lambda token: str(UUID(int=0xABC))


@rule("slow-welcome")
def pushes_are_sent_before_welcome() -> None:
    def make(hello: Any) -> Any:
        def eager(self: Session) -> Any:
            assert self.schema is not None
            self.wire, self.limits = Wire(CODECS["msgpack"], self.schema), replace(self.limits, mutations=9)
            return hello(self)

        return eager

    around(Session, "hello", make)


@rule("slow-frames")
def messages_are_limited_to_100_bytes() -> None:
    _limit(1000)


@rule("large-row")
def messages_are_limited_to_a_mebibyte() -> None:
    _limit(1 << 20)


def _limit(size: int) -> None:
    around(websocket, "connect", lambda connect: lambda url, **options: connect(url, **{**options, "max_size": size}))


@rule("silence")
def silence_is_no_reason() -> None:
    around(Session, "_welcome", lambda read: lambda self, frame: replace(read(self, frame), keepalive_ms=10**6))


@rule("write")
def mutations_never_leave() -> None:
    Outbox.advance = lambda self, seq: None  # type: ignore[method-assign]


@rule("one-push")
def pushes_do_not_wait_for_answers() -> None:
    Outbox.due = lambda self, now: 0.0 if self._waiting() else None  # type: ignore[method-assign]
    Session.may_push = property(lambda self: self.wire is not None)  # type: ignore[method-assign, assignment]


@rule("lost-answer")
def what_was_pushed_counts_as_done() -> None:
    def make(end: Any) -> Any:
        def forget(self: Outbox) -> None:
            if self.unanswered is not None:
                self._commit(self._head, [], [entry.key for entry in self.entries])
            end(self)

        return forget

    around(Outbox, "end", make)


@rule("killed-writer")
def writes_are_kept_in_memory() -> None:
    SqliteStorage.commit = lambda self, head, put, drop: None  # type: ignore[method-assign]


@rule("doubt")
def acknowledgements_are_trusted() -> None:
    Outbox.distrust_acks = lambda self: None  # type: ignore[method-assign]


@rule("gap-below")
@rule("gap-above")
def numbers_stay_after_a_gap() -> None:
    Outbox._renumber = lambda self, expected, *, above: None  # type: ignore[method-assign]


@rule("rejected")
def rejected_mutations_are_dropped() -> None:
    def make(acknowledge: Any) -> Any:
        def drop(self: Outbox, results: Any) -> None:
            acknowledge(self, results)
            for entry in self.entries:
                if entry.state is EntryState.REJECTED:
                    self.discard(entry.key)

        return drop

    around(Outbox, "acknowledge", make)


@rule("unavailable-push")
def pushes_do_not_wait_after_an_error() -> None:
    def make(failed: Any) -> Any:
        def hurry(self: Outbox, *args: Any) -> None:
            failed(self, *args)
            self._not_before = 0

        return hurry

    around(Outbox, "push_failed", make)


@rule("outgrown")
def nothing_takes_the_place_of_what_fits_in_no_frame() -> None:
    Wire.size = lambda self, mutation: 1  # type: ignore[method-assign]


@rule("unknown-result")
def unknown_results_count_as_applied() -> None:
    around(codec, "_result", lambda read: lambda value: Applied(value[1], value[2]) if value else read(value))


@rule("clock-behind")
def the_device_s_own_clock_dates_writes() -> None:
    ServerClock.now = lambda self: clock.now()  # type: ignore[method-assign]


@rule("clock-offline")
def what_waits_keeps_its_instants() -> None:
    Outbox._redated = lambda self, shift, now: []  # type: ignore[method-assign]


@rule("stream")
def offsets_are_bytes() -> None:
    def grow(self: Streams, part: StreamGrew, row: Any) -> None:
        held = self._held.get(part.stream, HeldStream(part.stream, part.kind, part.id, part.column, part.since))
        text = held.text.encode()[: part.offset].decode(errors="replace") + part.text
        self._held[part.stream] = replace(held, text=text, state=part.state)

    Streams.grow = grow  # type: ignore[method-assign]


@rule("stream-settled")
def every_newer_row_is_shown() -> None:
    def shows(self: HeldStream, row: Row | None) -> str:
        return "nothing" if row is None else "row" if row.seq > self.since else "stream"

    HeldStream.shows = shows  # type: ignore[method-assign, assignment]


@rule("stream-overwritten")
@rule("stream-deleted")
def a_stream_is_never_over() -> None:
    streams._over = lambda held: held


@rule("stream-unnamed")
def streams_that_are_not_named_are_dropped_at_once() -> None:
    around(Streams, "name", lambda name: lambda self, named: (name(self, named), self.drop_unnamed()))


@rule("stream-resumed")
def a_new_connection_adds_to_the_old_text() -> None:
    def grow(self: Streams, part: StreamGrew, row: Any) -> None:
        held = self._held.get(part.stream, HeldStream(part.stream, part.kind, part.id, part.column, part.since))
        self._held[part.stream] = replace(held, text=held.text + part.text, state=part.state)

    Streams.grow = grow  # type: ignore[method-assign]


@rule("stream-hole")
def holes_in_texts_are_filled_with_nothing() -> None:
    def make(read: Any) -> Any:
        def trusting(self: Session, frame: Any) -> Any:
            self._lengths[frame.read("stream", self._codec.types["uuid"])] = 10**9
            return read(self, frame)

        return trusting

    around(Session, "_stream", make)


@rule("stop")
def stops_end_with_their_connection() -> None:
    around(Connection, "end", lambda end: lambda self: (end(self), self._stops._stops.waiting.clear()))


@rule("stop-unavailable")
def an_error_answers_a_stop() -> None:
    def make(receive: Any) -> Any:
        def give_up(self: StopSender, event: Any) -> None:
            if isinstance(event, ErrorAnswer) and event.answers == "stop" and event.id is not None:
                self._stops.answered(event.id, False)
            receive(self, event)

        return give_up

    around(StopSender, "receive", make)


def streams_are_not_asked_for() -> None:
    around(conform, "Device", lambda make: lambda *args, **fields: make(*args, **{**fields, "on_stream": None}))


if __name__ == "__main__":
    {**RULES, "no streams": streams_are_not_asked_for}[sys.argv[1]]()
    asyncio.run(conform.main())
