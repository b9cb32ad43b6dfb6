"""Which part of a history a device holds without a hole (SPEC.md, 7.10): from a floor up to now. Pure.

A history is the list of a kind, or of one parent. The feed brings every new row, and pages move the floor down.
"""

from collections.abc import Collection
from typing import Any, Final, Literal

from atlas_sync.rows import Key, Row
from atlas_sync.schema import Devices, Kind

Place = tuple[Any, Key]
"""Where a row is in its history: `Kind.place`."""
START: Final = "start"
Floor = Place | Literal["start"] | None
"""No row is missing from this place on; START: none is missing at all; None: nothing is known."""


def covers(kind: Kind, floor: Floor, place: Place) -> bool:
    """Whether no row is missing from this place up to now."""
    return floor == START or (isinstance(floor, tuple) and kind.order(floor) <= kind.order(place))


def after_snapshot(kind: Kind, arrived: Collection[Row], window: int | None) -> Floor:
    """The floor of a history of which a snapshot brought these rows, `window` of them if there are as many."""
    if window is None or len(arrived) < window:
        return START
    return min((kind.place(row) for row in arrived), key=kind.order, default=None)


def after_page(kind: Kind, floor: Floor, before: Place | None, last: Row | None, *, more: bool) -> Floor:
    """The floor after a page that was asked for with `before`, and ends with the row `last` (None: it has none)."""
    if before is not None and not covers(kind, floor, before):
        return floor
    if not more:
        return START
    if last is None or floor == START:
        return floor
    end = kind.place(last)
    # Of rows at the bounds of instants only the server knows the order (SPEC.md, 2.4).
    is_next = before is not None and before == floor
    return end if floor is None or is_next or not covers(kind, floor, end) else floor


def is_new(kind: Kind, floor: Floor, row: Row) -> bool:
    """Whether a row of the feed that was not held was made after the floor; the rows below it then are new, too.

    A row that existed before would be above the floor, and be held.
    """
    if not isinstance(floor, tuple):
        return floor == START
    devices = kind.devices or Devices()
    if devices.created is None or kind.newest not in (devices.created, devices.updated):
        return False
    return floor[0] is not None and bool(row.values[devices.created] > floor[0])
