"""What commands print: text, and lines that begin with a coloured mark. Names in it may come from a database."""

from enum import Enum

import typer

from server.terminal.device import printable


class Mark(Enum):
    GOOD = "✓", typer.colors.GREEN
    NOTE = "!", typer.colors.YELLOW
    BAD = "✗", typer.colors.RED


def say(text: str) -> None:
    """Print it without control characters: a role that may create a table chooses its name."""
    typer.echo(printable(text, keep="\n"))


def marked(mark: Mark, text: str, what: str = "", *, err: bool = False) -> None:
    """Print a line with a mark. `what` comes before the text, in a column of its own."""
    sign, color = mark.value
    column = f"{what:<12} " if what else ""
    typer.echo(f"{typer.style(sign, fg=color)} {column}{printable(text)}", err=err)
