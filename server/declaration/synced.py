"""The declaration in force in this process, with what follows from it."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

from protocol.schema import Schema
from server.declaration.model import Declaration, Kind
from server.declaration.sql import reading
from server.declaration.sql.pieces import table
from server.declaration.values import Rows

EMPTY: Final = Declaration(())


class Synced:
    """What is synced. `use` replaces it as a whole, when the database has another declaration."""

    def __init__(self, declaration: Declaration = EMPTY) -> None:
        self.on_use: list[Callable[[], object]] = []
        """Called when another declaration is in force."""
        self.on_mismatch: Callable[[], object] = lambda: None
        """Called when a statement found another declaration in the database."""
        self._set(declaration)

    def use(self, declaration: Declaration) -> None:
        """From now on this declaration is in force."""
        if declaration.digest != self.declaration.digest:
            self._set(declaration)
            for notify in self.on_use:
                notify()

    def _set(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.schema: Schema = declaration.schema
        self.rows: dict[str, Rows] = {kind.tag: Rows(kind) for kind in declaration.kinds}
        """By tag."""
        gate = declaration.gate
        self.gate_table = None if gate is None else table(declaration.kind[gate.kind].table)
        """In SQL; None without a gate."""
        places = reading.places(declaration, len(reading.COLUMNS))
        self.columns = {tag: _getter(some) for tag, some in places.items()}
        """By tag: gets the columns of a row from a record of read_feed."""
        live = reading.places(declaration, len(reading.LIVE_COLUMNS))
        self.live_columns = {
            kind.tag: [(place, slot[0]) for place, slot in zip(live[kind.tag], reading.slots(kind), strict=True)]
            for kind in declaration.kinds
        }
        """By tag: where in a record of read_live each column of a row is, and the letter of its type."""
        self.statements = reading.statements(declaration)
        """By name."""

    def kind(self, name: str) -> Kind | None:
        return self.declaration.kind.get(name)

    def admits(self, tier: str | None) -> bool:
        """Whether a user with this value of the gate's column syncs. None: the user has no such row."""
        gate = self.declaration.gate
        return gate is None or (tier is not None and gate.admits(tier))


def _getter(places: Sequence[int]) -> Callable[[Any], Sequence[Any]]:
    """Gets the values in these places, however few they are: itemgetter makes no tuple of one."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda record: tuple(record[place] for place in places)
