"""benchmarks/README.md agrees with the code."""

import re
from pathlib import Path
from typing import Final

import pytest
from typer.main import get_command

from benchmarks.__main__ import cli
from benchmarks.charts import PICTURES

FOLDER: Final = Path(__file__).parents[2] / "benchmarks"
TEXT: Final = (FOLDER / "README.md").read_text()
BENCHMARKS: Final = get_command(cli).commands  # type: ignore[attr-defined]  # a group has them


def commands() -> list[str]:
    """The commands in the table and in the text."""
    rows = re.findall(r"^\| `(\w+(?: --[^`]*)?)`", TEXT.partition("## Repeating")[0], re.MULTILINE)
    texts = re.findall(r"python -m benchmarks (\w[^`#\n]*)", TEXT.partition("## Repeating")[2])
    return [command.strip() for command in (*rows, *texts) if not command.startswith("npm") and "--help" not in command]


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_readme_exists_with_its_options(command: str) -> None:
    name, *arguments = command.split()
    BENCHMARKS[name].make_context(name, arguments)


def test_every_benchmark_has_figures_in_the_readme() -> None:
    assert {command.split()[0] for command in commands()} == set(BENCHMARKS)


def test_every_module_is_in_the_table_of_files() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__")}
    table = TEXT.partition("## Files")[2]
    assert modules == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))


def test_every_picture_in_the_readme_is_one_that_the_report_draws() -> None:
    assert re.findall(r"\(pictures/([\w-]+)\.png\)", TEXT) == [*PICTURES]
    assert all((FOLDER / "pictures" / f"{name}.png").exists() for name in PICTURES)
