"""Usage and costs as tables, JSON or CSV."""

import csv
import io
from collections.abc import Iterator
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.monitoring.words import number
from server.terminal.device import printable
from server.usage.costs import Costs, Sum, Unusual

TITLES: Final = {"tier": "By tier", "day": "By day (UTC)", "model": "By model", "user": "Top users"}
FIELDS: Final = Sum._fields[1:]


def tables(costs: Costs) -> Iterator[Table]:
    """One for each way to sum."""
    for by, sums in costs.sums.items():
        fields = [field for field in FIELDS if field != "users" or by != "user"]
        table = Table(by, *(field.replace("_", " ") for field in fields), title=TITLES[by], title_justify="left")
        table.columns[0].overflow = "fold"  # an id is of no use without its end
        for column in table.columns[1:]:
            column.justify = "right"
        for each in sums:
            counts = [f"{getattr(each, field):,}" for field in fields if field != "cost"]
            table.add_row(Text(printable(each.key)), *counts, f"{each.cost:,.4f}")
        yield table


def notes(costs: Costs) -> list[str]:
    """What somebody should look at, in sentences."""
    found = [
        f"{kind} {each.whose} cost {number(each.cost)} on {each.date}, usually {_between(each)}."
        for kind, some in (("Tier", costs.unusual_tiers), ("User", costs.unusual_users))
        for each in some
    ]
    if costs.without_price:
        names = ", ".join(costs.without_price)
        found.append(f"These models have no price, and count as free: {names}. Add them to sync.model_prices.")
    return found


def show(costs: Costs, console: Console) -> None:
    if not any(costs.sums.values()):
        console.print(f"No usage was counted since {costs.since}.")
    else:
        for table in tables(costs):
            console.print(table)
    for note in notes(costs):
        console.print(f"! {printable(note)}", markup=False, highlight=False)


def as_json(costs: Costs) -> str:
    """One object, with costs as numbers."""
    return orjson.dumps(
        {
            "since": costs.since,
            "until": costs.until,
            **{f"by_{by}": [_object(by, each) for each in sums] for by, sums in costs.sums.items()},
            "unusual_tiers": [_unusual("tier", each) for each in costs.unusual_tiers],
            "unusual_users": [_unusual("user", each) for each in costs.unusual_users],
            "models_without_price": costs.without_price,
        },
        option=orjson.OPT_INDENT_2,
    ).decode()


def as_csv(costs: Costs, by: str) -> str:
    """The sums of one kind, with a line of names first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([by, *FIELDS])
    writer.writerows((_cell(each.key), *each[1:5], f"{each.cost:f}") for each in costs.sums[by])
    return text.getvalue().removesuffix("\n")


def _cell(text: str) -> str:
    """A model's name comes from elsewhere; a spreadsheet would run it as a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _between(day: Unusual) -> str:
    return (
        f"{number(day.range.low)} to {number(day.range.high)}" if day.range.low else f"up to {number(day.range.high)}"
    )


def _object(by: str, each: Sum) -> dict[str, Any]:
    return {by: each.key, **dict(zip(FIELDS, each[1:5], strict=False)), "cost": float(each.cost)}


def _unusual(kind: str, day: Unusual) -> dict[str, Any]:
    return {kind: day.whose, "date": day.date, "cost": day.cost, "low": day.range.low, "high": day.range.high}
