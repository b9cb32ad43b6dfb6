"""`atlas-sync migrate` in a terminal."""

import asyncio
from pathlib import Path
from typing import NamedTuple

import typer

from server.exceptions import ConfigError
from server.postgres import migrate as migrating
from server.postgres import plan as planning
from server.postgres import script as scripts
from server.postgres import undo as undoing
from server.postgres.publication import Doorbells
from server.terminal.device import console
from server.terminal.output import Mark, marked, say
from server.terminal.progress import Shown, described


class Given(NamedTuple):
    """A declaration's file. Without one, the declaration that the database has."""

    text: str | None
    name: str


def read(path: Path | None) -> Given:
    """Raises ConfigError."""
    if path is None:
        return Given(None, "the declaration")
    try:
        return Given(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "It is not UTF-8"
        raise ConfigError(f"{path} cannot be read: {why}.") from None


def chosen(doorbells: str | None) -> Doorbells | None:
    """Raises ConfigError."""
    if doorbells is None:
        return None
    try:
        return Doorbells(doorbells)
    except ValueError:
        raise ConfigError(f"--doorbells must be one of {', '.join(Doorbells)}.") from None


def _require(url: str, given: Given) -> None:
    if given.text is None:
        asyncio.run(migrating.require_declaration(url))


def script(url: str, given: Given) -> str:
    _require(url, given)
    return asyncio.run(scripts.script(url, text=given.text, name=given.name))


def plan(url: str, given: Given, doorbells: Doorbells | None) -> int:
    """Print what `migrate` would do; returns the exit status."""
    _require(url, given)
    found = asyncio.run(planning.plan(url, text=given.text, name=given.name, doorbells=doorbells))
    for step in found.steps:
        say(described(step))
    if not found.steps and not found.obstacles:
        typer.echo("There is nothing to do.")
    if found.triggers:
        say(f"Triggers change of {', '.join(found.triggers)}.")
    for sentence in (*found.rights, *found.devices) if found.steps else ():
        say(sentence)
    for caution in found.cautions:
        marked(Mark.NOTE, caution)
    for obstacle in found.obstacles:
        for line in obstacle.splitlines():
            marked(Mark.BAD, line)
    return 1 if found.obstacles else 0


def migrate(url: str, given: Given, doorbells: Doorbells | None) -> int:
    """Migrate, and print what is left; returns the exit status."""
    _require(url, given)
    with Shown(console(stderr=True)) as shown:
        left = asyncio.run(migrating.migrate(url, shown, text=given.text, name=given.name, doorbells=doorbells))
    if (says := asyncio.run(planning.gate(url))) is not None:
        say(says)
    if not left:
        typer.echo("The database is up to date.")
        return 0
    for wrong in left:
        marked(Mark.BAD, str(wrong))
    typer.echo("All migrations are applied. Fix the above by hand; `atlas-sync doctor` checks again.")
    return 1 if any(wrong.serving for wrong in left) else 0


def undo(url: str, *, only_plan: bool, asks: bool) -> int:
    """Print the steps of an undo, and carry them out unless it is only a plan; returns the exit status."""
    steps = asyncio.run(undoing.steps(url))
    for step in steps:
        say(described(step))
    if not steps:
        typer.echo("There is nothing to do." if only_plan else "Nothing of Atlas Sync is in this database.")
        return 0
    if only_plan:
        return 0
    if asks:
        typer.confirm(
            "Devices will no longer sync, and usage, costs and cached responses are lost. Continue?", abort=True
        )
    with Shown(console(stderr=True)) as shown:
        asyncio.run(undoing.undo(url, shown))
    typer.echo("The database is as it was before.")
    return 0
