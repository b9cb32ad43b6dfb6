"""A projection as text and as JSON: what costs what, what is needed for it, and on which lines that rests."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from server.projection.assumptions import Sheet, Source
from server.projection.model import SIZES, Client, Costs, costs, needs

TITLES: Final = {
    Source.MEASURED: "measured here, by",
    Source.ASSUMED: "assumed, because",
    Source.PRICE: "price, of",
}


@dataclass(frozen=True, slots=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int]
    """The columns that are aligned to the right."""
    group: int = 0
    """After so many rows there is a line; 0: nowhere."""


def sizes(users: int | None) -> list[int]:
    """The numbers of users in the table, least first."""
    return sorted({*SIZES, *([] if users is None else [users])})


def overview(sheet: Sheet, many: Iterable[int]) -> Table:
    """USD a month, each rounded to a whole dollar. A total is the sum of what is shown beside it."""
    columns = [each.name for each in dataclasses.fields(Costs)]
    rows = []
    for users in many:
        for client in Client:
            cost = costs(needs(users, client, sheet.values), sheet.values)
            shown = [round(getattr(cost, column)) for column in columns]
            rows.append((f"{users:,}", client.value, *(f"{dollars:,}" for dollars in (*shown, sum(shown)))))
    head = ("users", "client", *("CDN" if column == "cdn" else column for column in columns), "total")
    return Table(head, tuple(rows), frozenset({0, *range(2, len(head))}), group=len(Client))


def breakdown(sheet: Sheet, users: int) -> Table:
    """What so many users need, client by client."""
    each = [needs(users, client, sheet.values) for client in Client]

    def row(what: str, values: Sequence[float | str]) -> tuple[str, ...]:
        return (what, *(value if isinstance(value, str) else _number(value) for value in values))

    def of(name: str) -> list[float]:
        return [getattr(need, name) for need in each]

    return Table(
        (f"{users:,} users need", *(client.value for client in Client)),
        (
            row("devices at once, at the peak", of("online")),
            row("changes a second, at the peak", of("changes")),
            row("statements a second, at the peak", of("statements")),
            row("server: cores used at the peak", of("server_load")),
            row("server: cores bought, a process on each", of("server_cores")),
            row("server: connections a process, at the peak", of("connections")),
            row("database: cores used at the peak", of("database_load")),
            row("database: cores bought, of each copy", of("database_cores")),
            row("database: copies, replicas included", of("copies")),
            row("database: how many, by commits a second", of("databases")),
            row("GiB stored, in each copy", of("stored")),
            row("GiB of cache", of("cache")),
            row("GB sent to devices, a month", of("sent")),
            row("GB from the CDN, a month", of("assets")),
        ),
        frozenset(range(1, 1 + len(Client))),
    )


def lines(sheet: Sheet, source: Source) -> Table:
    found = [line for line in sheet.lines if line.source is source]
    return Table(
        ("name", "value", "unit", TITLES[source]),
        tuple((line.name, f"{line.value:,.10g}", line.unit, line.said) for line in found),
        frozenset({1}),
    )


def summary(sheet: Sheet) -> str:
    many = [sum(line.source is source for line in sheet.lines) for source in Source]
    return (
        f"{many[0]} of its {sum(many)} lines were measured here, {many[1]} are assumed, {many[2]} are prices. "
        "Cores, databases and GiB of cache are whole, and rounded up. Every "
        f"{sheet.values.poll_seconds:g} s the one client polls for everything, the other for what is newer."
    )


def as_json(sheet: Sheet, many: Iterable[int]) -> str:
    """One object, unrounded: `projections`, and the `lines` that they rest on."""
    each = [needs(users, client, sheet.values) for users in many for client in Client]
    found: dict[str, Any] = {
        "projections": [
            {
                "users": need.users,
                "client": need.client.name.lower(),
                "usd_a_month": {**dataclasses.asdict(cost := costs(need, sheet.values)), "total": cost.total},
                "needs": {
                    key: value for key, value in dataclasses.asdict(need).items() if key not in ("users", "client")
                },
            }
            for need in each
        ],
        "lines": [dataclasses.asdict(line) for line in sheet.lines],
    }
    return json.dumps(found, allow_nan=False)  # whole numbers of any length, which orjson refuses


def markdown(table: Table) -> list[str]:
    aligned = ("---:" if column in table.numbers else "---" for column in range(len(table.head)))
    return [_row(table.head), "|" + "|".join(aligned) + "|", *map(_row, table.rows)]


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
