"""Runs benchmarks as commands: shared options, several runs, their medians, output and saved results."""

import asyncio
import inspect
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.machine import BenchmarkError
from benchmarks.results import Figures, Result, say
from benchmarks.stage import Stage, stage
from server.postgres.publication import Doorbells

Benchmark = Callable[[], Awaitable[tuple[dict[str, Any], Figures]]]
"""One run. Returns the machine and the figures."""
Plan = Callable[..., Benchmark]
"""Takes the parameters of a command and returns the benchmark. Its docstring is the command's help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of every benchmark."""

    runs: Annotated[int, typer.Option(min=1, help="Runs, each on a new stage; figures are medians.")] = 1
    save: Annotated[bool, typer.Option("--save", help="Save the result.")] = False
    results: Annotated[Path, typer.Option(help="Folder for saved results.", show_default="benchmarks/results")] = (
        results.FOLDER
    )
    smoke: Annotated[bool, typer.Option("--smoke", help="Small and quick: shows that it works, measures nothing.")] = (
        False
    )
    json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")] = False


def command(
    cli: typer.Typer, name: str, table: Callable[[Result], Table] | None = None, **smoke: Any
) -> Callable[[Plan], Plan]:
    """Register a plan as a command of `cli`, with the shared options; `smoke` are its parameters in a smoke run. It
    prints `table` instead of one with a line for each figure."""

    def register(plan: Plan) -> Plan:
        own = inspect.signature(plan).parameters
        parameters = [*own.values(), *inspect.signature(Options).parameters.values()]

        def run(**given: Any) -> None:
            arguments = {key: given.pop(key) for key in own}
            options = Options(**given)
            if options.smoke:
                arguments |= smoke
            machine, runs = _run(plan(**arguments), options.runs)
            # Where files lie changes no figure, and is nobody else's business.
            arguments = {key: None if isinstance(value, Path) else value for key, value in arguments.items()}
            differing = [key for key, value in arguments.items() if value != own[key].default]
            if options.smoke:
                arguments, differing = {**arguments, "smoke": True}, ["smoke"]
            result = results.summary(name, arguments, machine, runs)
            _print(result, table or _table, json=options.json)
            if result.lost:
                raise BenchmarkError(f"{result.lost:,.0f} changes did not arrive in time, or not exactly once.")
            if options.save:
                typer.echo(f"Saved: {result.save(options.results, differing)}", err=True)

        # Typer reads the command's parameters from these.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # any function may have one
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        cli.command(name, help=plan.__doc__)(run)
        return plan

    return register


def on_stage(
    benchmark: Callable[[Stage], Awaitable[Figures]],
    users: int,
    per_user: int = 1,
    kinds: int = 0,
    doorbells: Doorbells = Doorbells.LISTEN,
) -> Benchmark:
    """Return a benchmark that runs on a stage with `users` users and `per_user` devices each, at least so many kinds of
    rows, and servers with that setting of `doorbells`."""

    async def run() -> tuple[dict[str, Any], Figures]:
        async with stage(users, per_user, kinds, doorbells) as made:
            return made.machine, await benchmark(made)

    return run


def _run(benchmark: Benchmark, times: int) -> tuple[dict[str, Any], list[Figures]]:
    async def main() -> list[tuple[dict[str, Any], Figures]]:
        this = asyncio.current_task()
        assert this is not None
        # SIGTERM acts like Ctrl-C: it ends our child processes, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        return [await benchmark() for _ in range(times)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        machines, runs = zip(*runner.run(main()), strict=True)
    return machines[0], list(runs)


def _print(result: Result, table: Callable[[Result], Table], *, json: bool) -> None:
    if json:
        line: dict[str, Any] = {"benchmark": result.benchmark, "machine": result.machine, "figures": result.figures}
        if len(result.runs) > 1:
            line["runs"] = result.runs
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        return
    Console().print(table(result), ", ".join(f"{key} {value}" for key, value in result.machine.items()))


def _table(result: Result) -> Table:
    several = len(result.runs) > 1
    table = Table(result.benchmark, f"median of {len(result.runs)}" if several else "", *(["range"] if several else []))
    for column in table.columns[1:]:
        column.justify = "right"
    for key in result.figures:
        low, middle, high = result.span(key)
        table.add_row(key, say(middle), *([f"{say(low)} – {say(high)}"] if several else []))
    return table
