"""The commands: each sets the stage, runs one benchmark on it, and prints its figures."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import orjson
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.idle import idle
from benchmarks.live import live
from benchmarks.machine import BenchmarkError
from benchmarks.page import page
from benchmarks.push import push
from benchmarks.stage import Stage, stage
from benchmarks.storm import storm
from server.errors import AtlasError

cli = typer.Typer(
    name="python -m benchmarks",
    help="What the server costs, and how quick it is.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Tiny and quick: shows that it works, measures nothing.")]


@cli.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@cli.command("idle")
def idle_command(
    sockets: Annotated[int, typer.Option(min=1)] = 10_000,
    users: Annotated[int | None, typer.Option(min=1, help="Whose they are; each its own user's if not given.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1)] = 30.0,
    smoke: Smoke = False,
    json: Json = False,
) -> None:
    """Connections on which nothing happens: memory, CPU, statements."""
    if smoke:
        sockets, users, seconds = 50, None, 1.0
    per_user = max(1, sockets // (users or sockets))
    _run("idle", lambda stage: idle(stage, seconds), users or sockets, per_user, json=json)


@cli.command("live")
def live_command(
    changes: Annotated[float, typer.Option(min=1, help="Changes a second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    devices: Annotated[int, typer.Option(min=1, help="Devices of each user.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1)] = 10.0,
    smoke: Smoke = False,
    json: Json = False,
) -> None:
    """From a commit to the devices: delay, CPU per change."""
    if smoke:
        changes, users, seconds = 50.0, 20, 1.0
    _run("live", lambda stage: live(stage, changes, seconds), users, devices, json=json)


@cli.command("page")
def page_command(
    messages: Annotated[int, typer.Option(min=1, help="Shown one by one.")] = 100,
    backlog: Annotated[int, typer.Option(min=1, help="What a device missed.")] = 5_000,
    smoke: Smoke = False,
    json: Json = False,
) -> None:
    """The demo's page in Chromium: from a commit to the screen, and rows applied a second."""
    if smoke:
        messages, backlog = 5, 200
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        machine, figures = runner.run(page(messages, backlog))
    _tell("page", machine, figures, json=json)


@cli.command("push")
def push_command(
    sockets: Annotated[int, typer.Option(min=1, help="Devices, each its own user's.")] = 500,
    changes: Annotated[float, typer.Option(min=1, help="Mutations a second, all devices together.")] = 6_000.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each of the four runs.")] = 10.0,
    smoke: Smoke = False,
    json: Json = False,
) -> None:
    """Devices write: durable, acknowledged mutations a second; and the same with a commit for each."""
    if smoke:
        sockets, changes, seconds = 20, 200.0, 0.5
    _run("push", lambda stage: push(stage, changes, seconds), sockets, 1, json=json)


@cli.command("storm")
def storm_command(
    sockets: Annotated[int, typer.Option(min=1, help="Devices, each its own user's.")] = 1_000,
    changes: Annotated[int, typer.Option(min=1, help="What each of them missed.")] = 5,
    smoke: Smoke = False,
    json: Json = False,
) -> None:
    """Everybody comes back at once: to a server that stayed up, and to one that was killed."""
    if smoke:
        sockets = 20
    _run("storm", lambda stage: storm(stage, changes), sockets, 1, json=json)


Benchmark = Callable[[Stage], Awaitable[dict[str, float]]]


def _run(name: str, benchmark: Benchmark, users: int, per_user: int, *, json: bool) -> None:
    async def main() -> tuple[dict[str, Any], dict[str, float]]:
        this = asyncio.current_task()
        assert this is not None
        # Like Ctrl-C, so that whoever ends us ends with us what we started.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        async with stage(users, per_user) as made:
            return made.machine, await benchmark(made)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        machine, figures = runner.run(main())
    _tell(name, machine, figures, json=json)


def _tell(name: str, machine: dict[str, Any], figures: dict[str, float], *, json: bool) -> None:
    figures = {key: round(value, 3) for key, value in figures.items()}
    if json:
        sys.stdout.write(orjson.dumps({"benchmark": name, "machine": machine, "figures": figures}).decode() + "\n")
    else:
        _show(name, machine, figures)
    lost = sum(abs(value) for key, value in figures.items() if key.startswith("lost"))
    if lost:
        raise BenchmarkError(f"{lost:,.0f} changes did not arrive in time, or not once.")


def _show(name: str, machine: dict[str, Any], figures: dict[str, float]) -> None:
    table = Table(name, "")
    table.columns[1].justify = "right"
    for key, value in figures.items():
        table.add_row(key, f"{value:,}")
    console = Console()
    console.print(table, ", ".join(f"{key} {value}" for key, value in machine.items()))


if __name__ == "__main__":
    try:
        cli()
    except AtlasError as error:
        sys.exit(f"benchmarks: {error}")
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
