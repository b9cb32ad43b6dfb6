"""`atlas-sync costs` shows what usage cost, to people and to programs."""

import csv
import io
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import orjson
import pytest
from rich.console import Console

from server.postgres import costs as counting
from server.terminal import costs as terminal
from server.usage.costs import Costs, Range, Sum, Unusual
from tests.support.cluster import Database

DAY: Final = date(2026, 7, 14)
EVIL: Final = "=HYPERLINK(1)\x1b[2J[red]"
USER: Final = "6a7de0ac-7d3f-4dd2-8a2e-2f4d4e6a3f10"
COSTS: Final = Costs(
    since=date(2026, 7, 13),
    until=DAY,
    sums={
        "tier": [Sum("core", 2, 1_234, 5_000_000, 40, Decimal("1234.56789"))],
        "day": [Sum("2026-07-13", 1, 1, 2, 3, Decimal(0)), Sum("2026-07-14", 1, 1, 2, 3, Decimal("0.00002"))],
        "model": [Sum(EVIL, 1, 1, 2, 3, Decimal(1))],
        "user": [Sum(USER, 1, 1, 2, 3, Decimal(1))],
    },
    unusual_users=[Unusual("a-user", DAY, 120.0, Range(0.0, 15.0))],
    unusual_tiers=[Unusual("core", DAY, 3.0, Range(5.0, 15.0))],
    without_price=["new"],
)


def shown(costs: Costs, width: int = 120) -> str:
    text = io.StringIO()
    terminal.show(costs, Console(file=text, width=width, force_terminal=False))
    return text.getvalue()


def test_people_see_tables_and_what_to_look_at() -> None:
    text = shown(COSTS)
    assert "1,234.5679" in text
    assert "5,000,000" in text
    assert "! Tier core cost 3 on 2026-07-14, usually 5 to 15." in text
    assert "! User a-user cost 120 on 2026-07-14, usually up to 15." in text
    assert "no price, and count as free: new. Add them to sync.model_prices." in text


def test_ids_are_shown_whole_on_a_narrow_terminal() -> None:
    lines = [line.split("│")[1].strip() for line in shown(COSTS, 80).splitlines() if line.startswith("│")]
    assert USER in "".join(lines)


def test_no_name_of_a_model_reaches_the_terminal_or_a_spreadsheet_as_a_command() -> None:
    assert "\x1b" not in shown(COSTS)
    assert "[red]" in shown(COSTS)
    (_, row) = csv.reader(io.StringIO(terminal.as_csv(COSTS, "model")))
    assert row[0] == "'=HYPERLINK(1) [2J[red]"


def test_programs_get_all_of_it() -> None:
    said = orjson.loads(terminal.as_json(COSTS))
    assert said["by_tier"] == [
        {
            "tier": "core",
            "users": 2,
            "requests": 1_234,
            "input_tokens": 5_000_000,
            "output_tokens": 40,
            "cost": 1234.56789,
        }
    ]
    assert said["unusual_users"] == [{"user": "a-user", "date": "2026-07-14", "cost": 120.0, "low": 0.0, "high": 15.0}]
    assert said["models_without_price"] == ["new"]
    assert list(csv.reader(io.StringIO(terminal.as_csv(COSTS, "day")))) == [
        ["day", "users", "requests", "input_tokens", "output_tokens", "cost"],
        ["2026-07-13", "1", "1", "2", "3", "0"],
        ["2026-07-14", "1", "1", "2", "3", "0.00002"],
    ]


def command(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", "costs", *arguments],
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_command_needs_the_owner_and_shows_what_was_counted(database: Database, sql: Any) -> None:
    user = uuid4()
    await sql.execute("INSERT INTO sync.model_prices VALUES ('m', 1, 1)")
    await sql.execute(
        'INSERT INTO sync.usage_logs (user_id, event, data, "timestamp") VALUES ($1, $2, $3, $4)',
        user, "x", '{"model": "m", "input_tokens": 2000000}', datetime.now(UTC),
    )  # fmt: skip
    await counting.count(sql)
    said = orjson.loads(command(database.url, "--json").stdout)
    assert [(row["user"], row["cost"]) for row in said["by_user"]] == [(str(user), 2.0)]
    refused = command(database.server_url)
    assert refused.returncode == 2
    assert "ATLAS_ADMIN_URL" in refused.stderr


@pytest.mark.parametrize("arguments", [["--by", "mood"], ["--days", "0"]])
def test_a_wrong_option_is_explained(arguments: list[str]) -> None:
    done = command("postgresql://localhost/nowhere", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
