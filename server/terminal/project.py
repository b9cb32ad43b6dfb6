"""`atlas-sync project`: what so many users cost a month, from a file of assumptions."""

from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.table import Table as Drawn

from server.exceptions import ConfigError
from server.projection import table
from server.projection.assumptions import BYTES, Source, parse
from server.projection.table import Table
from server.terminal.device import printable
from server.terminal.output import say

SHIPPED: Final = Path(table.__file__).with_name("assumptions.toml")


def project(users: int | None, path: Path | None, console: Console, *, json: bool, file: bool) -> None:
    """Print the table, and with `users` what it rests on; as JSON; or the `file` itself.

    Into a pipe the tables are Markdown. Raises ConfigError for a file that cannot be read or is not right.
    """
    text = _read(path or SHIPPED)
    sheet = parse(text, printable(str(path or SHIPPED.name)))
    if file:
        typer.echo(printable(text, keep="\n"), nl=False)
        return
    sizes = table.sizes(users)
    if json:
        typer.echo(table.as_json(sheet, sizes))
        return
    _print(table.overview(sheet, sizes), console)
    say(f"\nFrom {path or SHIPPED.name}: {table.summary(sheet)}")
    if users is None:
        say("`--users` shows one size in detail, and each line. `--print-assumptions` prints the file, to be edited.")
        return
    _print(table.breakdown(sheet, users), console)
    for source in Source:
        _print(table.lines(sheet, source), console)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(BYTES + 1)
        if len(content) > BYTES:
            raise ConfigError(f"{path} has more than {BYTES:,} bytes. Name a file of assumptions.")
        return content.decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Name a file of assumptions.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8. Name a file of assumptions.") from None


def _print(shown: Table, console: Console) -> None:
    """A table for people in a terminal, and Markdown in a pipe."""
    console.print()
    if not console.is_terminal:
        say("\n".join(table.markdown(shown)))
        return
    drawn = Drawn()
    for number, title in enumerate(shown.head):
        drawn.add_column(title, justify="right" if number in shown.numbers else "left")
    for number, row in enumerate(shown.rows, 1):
        drawn.add_row(*map(printable, row), end_section=bool(shown.group) and number % shown.group == 0)
    console.print(drawn)
