"""`atlas-sync project`, as a person or a script starts it, and as the documentation quotes it."""

import json
import sys
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from server.cli import main
from server.exceptions import ConfigError
from server.projection.model import SIZES, Client
from server.terminal.project import SHIPPED, project

ROOT: Final = Path(__file__).parents[2]
SIZE: Final = 100_000


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `atlas-sync project` in this process. Return its exit status."""
    monkeypatch.setattr(sys, "argv", ["atlas-sync", "project", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def printed(
    capsys: pytest.CaptureFixture[str], users: int | None = None, path: Path | None = None, **flags: bool
) -> str:
    project(users, path, Console(), **{"json": False, "file": False, **flags})
    return capsys.readouterr().out


def first_table(text: str) -> list[str]:
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("| users | client |"))
    return lines[begin : begin + 2 + len(SIZES) * len(Client)]


def test_into_a_pipe_the_command_prints_the_tables_as_markdown_with_all_that_they_rest_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, "--users", str(SIZE)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "| 100,000 users need | Atlas Sync |" in out
    for title in ("measured here, by", "assumed, because", "price, of"):
        assert f"| {title} |" in out
    assert "python -m benchmarks volume: change_bytes_without_text" in out


def test_the_readme_shows_the_table_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert first_table((ROOT / "README.md").read_text()) == first_table(printed(capsys, SIZE))


def test_the_chapter_for_operators_shows_what_a_size_needs(capsys: pytest.CaptureFixture[str]) -> None:
    needs = [line for line in printed(capsys, SIZE).partition("| 100,000 users need ")[2].splitlines() if "|" in line]
    chapter = (ROOT / "server" / "README.md").read_text().partition("## What it costs")[2]
    shown = chapter.partition("| 100,000 users need ")[2].splitlines()
    assert len(shown) > 16
    assert shown[:16] == needs[:16]


def test_the_file_that_is_printed_can_be_edited_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(printed(capsys, file=True))
    assert mine.read_text() == SHIPPED.read_text()
    before = json.loads(printed(capsys, SIZE, mine, json=True))["projections"]
    mine.write_text(mine.read_text().replace("egress_price = { value = 0.09", "egress_price = { value = 0.9"))
    after = json.loads(printed(capsys, SIZE, mine, json=True))["projections"]
    assert all(x["usd_a_month"]["network"] < y["usd_a_month"]["network"] for x, y in zip(before, after, strict=True))


def test_a_terminal_gets_tables_with_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    project(None, None, Console(force_terminal=True, width=120, color_system=None), json=False, file=False)
    drawn = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in drawn.splitlines() if line.startswith("│")]
    plain = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first_table(printed(capsys))[2:]]
    assert cells == plain


def test_a_wrong_file_ends_the_command_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("devices = 3")
    assert start(monkeypatch, "--assumptions", str(mine)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"atlas-sync: {mine} lacks ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), (b"\xff", "is not UTF-8"), (b"#" * (1 << 21), "has more than 1,048,576 bytes")],
    ids=["absent", "not text", "too long"],
)
def test_a_file_that_cannot_be_read_is_named(
    content: bytes | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    if content is not None:
        mine.write_bytes(content)
    with pytest.raises(ConfigError, match=f"mine.toml {why}"):
        printed(capsys, path=mine)


def test_a_file_cannot_write_escape_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(SHIPPED.read_text().replace('"the app\'s backend answers each"', '"\\u001b[31mred"'))
    out = printed(capsys, 100, mine)
    assert "[31mred" in out
    assert "\x1b" not in out
