"""A device that reads a database, as a state machine: what may happen to it is the same with any schema."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from atlas_sync.replica import Replica
from atlas_sync.rows import Deleted, Row

Rows = list[Row | Deleted]


class Database(Protocol):
    """One user's rows and their feed."""

    feed: list[Rows]
    """What each transaction sends."""

    def transact(self, operations: Any, /) -> None: ...

    def read(self) -> list[Row]:
        """The rows that a snapshot or a page reads now: every row's seq is the position of the reading."""


OPERATIONS: st.SearchStrategy[Any] = st.runner().flatmap(lambda device: device.operations)
"""Those of a transaction."""


class ReadingDevice(RuleBasedStateMachine):
    """Changes arrive, in time or late; pages are read, and arrive late or never."""

    operations: ClassVar[st.SearchStrategy[Any]]
    kinds_of_a_page: ClassVar[Sequence[tuple[str, ...]]]
    database: Database

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.replica = replica
        self.position = 0
        self.pages: list[tuple[list[Row], ExitStack, Callable[[Iterable[Row | Deleted]], None]]] = []

    def apply(self, rows: Rows) -> None:
        self.replica.apply(rows)

    def at_once(self, transactions: list[Rows]) -> Rows:
        """What a feed sends that is read after all these."""
        raise NotImplementedError

    @rule(operations=OPERATIONS)
    def a_transaction_commits(self, operations: Any) -> None:
        self.database.transact(operations)

    @rule(count=st.integers(1, 4))
    def changes_arrive(self, count: int) -> None:
        for rows in self.database.feed[self.position : self.position + count]:
            self.apply(rows)
            self.position += 1

    @rule(count=st.integers(2, 6))
    def the_device_catches_up_in_one_batch(self, count: int) -> None:
        batch = self.database.feed[self.position : self.position + count]
        self.apply(self.at_once(batch))
        self.position += len(batch)

    @precondition(lambda self: len(self.pages) < 4)
    @rule(kinds=st.runner().flatmap(lambda device: st.sampled_from(device.kinds_of_a_page)))
    def a_page_is_read(self, kinds: tuple[str, ...]) -> None:
        expected = ExitStack()
        apply = expected.enter_context(self.replica.expecting_page())
        self.pages.append(([row for row in self.database.read() if row.kind in kinds], expected, apply))

    @precondition(lambda self: self.pages)
    @rule(pick=st.integers(0, 3), lost=st.sampled_from([False, False, False, True]))
    def a_page_arrives_late_or_never(self, pick: int, lost: bool) -> None:
        rows, expected, apply = self.pages.pop(pick % len(self.pages))
        with expected:
            apply([] if lost else rows)

    @rule(first=OPERATIONS, second=OPERATIONS, heard=st.integers(0, 2))
    def a_page_is_overtaken(self, first: Any, second: Any, heard: int) -> None:
        """The difficult case for pages. Chance alone would seldom produce it."""
        self.changes_arrive(len(self.database.feed))
        self.database.transact(first)
        with self.replica.expecting_page() as apply:
            rows = self.database.read()
            self.database.transact(second)
            self.changes_arrive(heard)
            apply(rows)
