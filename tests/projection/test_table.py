"""What is printed adds up, and is Markdown whatever a file says."""

import json
from dataclasses import replace
from typing import Final

import pytest

from server.projection.assumptions import Source, parse
from server.projection.model import SIZES, Client
from server.projection.table import as_json, breakdown, lines, markdown, overview, sizes
from server.terminal.project import SHIPPED

SHEET: Final = parse(SHIPPED.read_text(), "it")


@pytest.mark.parametrize(("users", "shown"), [(None, 5), (1_000, 5), (7, 6), (10**9, 6)])
def test_the_users_that_are_asked_for_are_a_row_among_the_others(users: int | None, shown: int) -> None:
    found = sizes(users)
    assert len(found) == shown
    assert found == sorted({*SIZES, *([users] if users else [])})


def test_the_dollars_shown_in_a_row_add_up_to_its_total() -> None:
    found = overview(SHEET, [*SIZES, 123_456])
    assert len(found.rows) == 6 * len(Client)
    for _, _, *dollars in found.rows:
        *parts, total = (int(each.replace(",", "")) for each in dollars)
        assert sum(parts) == total


def test_every_line_is_listed_once_under_its_source() -> None:
    found = [row[0] for source in Source for row in lines(SHEET, source).rows]
    assert sorted(found) == sorted(line.name for line in SHEET.lines)


def test_a_line_cannot_end_its_cell() -> None:
    broken = replace(SHEET.lines[0], said="a | b")
    sheet = replace(SHEET, lines=(broken,))
    assert markdown(lines(sheet, broken.source))[-1].endswith("| a \\| b |")


def test_a_breakdown_has_a_number_for_each_client() -> None:
    for row in breakdown(SHEET, 100_000).rows:
        assert [float(each.replace(",", "")) >= 0 for each in row[1:]] == [True] * len(Client)


def test_json_has_what_the_table_has_and_every_line_also_for_numbers_of_any_length() -> None:
    large = replace(SHEET, values=replace(SHEET.values, questions=1e12, answers=1e12, changes_an_answer=1e12))
    for sheet in (SHEET, large):
        found = json.loads(as_json(sheet, SIZES))
        assert [(each["users"], each["client"]) for each in found["projections"]] == [
            (users, client.name.lower()) for users in SIZES for client in Client
        ]
        for each in found["projections"]:
            cost = each["usd_a_month"]
            assert cost.pop("total") == pytest.approx(sum(cost.values()))
        assert [line["name"] for line in found["lines"]] == [line.name for line in SHEET.lines]
