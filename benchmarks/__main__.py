"""The commands: each says what can be asked of one benchmark, and how little of it is enough for a smoke run."""

import asyncio
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.adopt import adopt
from benchmarks.attack import attack
from benchmarks.baseline import baseline
from benchmarks.catchup import cases, catchup
from benchmarks.doorbell import doorbell
from benchmarks.fanout import fanout
from benchmarks.idle import idle
from benchmarks.live import live
from benchmarks.metrics import metrics
from benchmarks.page import page
from benchmarks.push import push
from benchmarks.report import write
from benchmarks.results import FOLDER
from benchmarks.running import Benchmark, command, on_stage
from benchmarks.storm import storm
from server.errors import AtlasError

cli = typer.Typer(
    name="python -m benchmarks",
    help="What the server costs, and how quick it is.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
benchmark = partial(command, cli)
Seconds = Annotated[float, typer.Option(min=0.1)]


@cli.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@benchmark("adopt", messages=2_000, changes=50.0, calm=0.3)
def adopt_command(
    messages: Annotated[int, typer.Option(min=1, help="In the app's own tables.")] = 1_000_000,
    changes: Annotated[float, typer.Option(min=1, help="Messages written a second.")] = 200.0,
    calm: Annotated[float, typer.Option(min=0.1, help="Seconds of writing before and after each part.")] = 5.0,
) -> Benchmark:
    """A database in use becomes ours, and the app's again: how long its users wait for a write."""
    return lambda: adopt(messages, changes, calm)


@benchmark("attack", users=3, seconds=1.0)
def attack_command(
    kind: Annotated[str, typer.Option(help="pings, pongs, or fragments of a message that never ends.")] = "pings",
    paid: Annotated[bool, typer.Option("--paid", help="The flood is a paying user's, not a stranger's.")] = False,
    megabits: Annotated[float, typer.Option(min=0.1, help="A second that the flood has.")] = 200.0,
    users: Annotated[int, typer.Option(min=2, help="One is the attacker; the others' devices ping.")] = 21,
    seconds: Seconds = 10.0,
) -> Benchmark:
    """One socket floods the server: how long honest devices wait for an answer meanwhile."""
    return on_stage(lambda stage: attack(stage, kind, paid, megabits, seconds), users)


@benchmark("baseline", users=30, changes=200.0, seconds=2.0)
def baseline_command(
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    changes: Annotated[float, typer.Option(min=1, help="Changes a second, of 1,000 users.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each way, idle and busy.")] = 60.0,
) -> Benchmark:
    """What is replaced: asking for everything every 30 seconds, or for what is newer; and this server beside it."""
    return on_stage(lambda stage: baseline(stage, seconds, changes), users)


@benchmark("catchup", messages=3_000, changes=500, times=2)
def catchup_command(
    messages: Annotated[int, typer.Option(min=1, help="Of other people, in the tables.")] = 100_000,
    changes: Annotated[int, typer.Option(min=1, help="The most that a device missed.")] = 50_000,
    times: Annotated[int, typer.Option(min=1, help="How often each comes back at most.")] = 50,
) -> Benchmark:
    """A device that was away comes back: by how much it missed, for how long it was away, and beside how much else."""
    return on_stage(lambda stage: catchup(stage, messages, changes, times), len(cases(changes)))


@benchmark("doorbell", seconds=1.0, writers=2)
def doorbell_command(
    writers: Annotated[int, typer.Option(min=1, help="At most; half as many, and so on down to one.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="Of each turn.")] = 5.0,
) -> Benchmark:
    """Commits a second by 1 to 64 writers: without the trigger, with it, and with NOTIFY as it is."""
    counts = [writers >> halvings for halvings in reversed(range(writers.bit_length()))]
    return lambda: doorbell(seconds, counts)


@benchmark("fanout", sockets=20, seconds=0.4)
def fanout_command(sockets: Annotated[int, typer.Option(min=1)] = 1_000, seconds: Seconds = 10.0) -> Benchmark:
    """One change to many sockets, beside a C program that only sends: 20 a second, and 160 at once."""
    return on_stage(lambda stage: fanout(stage, seconds), 1, sockets)


@benchmark("idle", sockets=50, users=None, seconds=1.0)
def idle_command(
    sockets: Annotated[int, typer.Option(min=1)] = 10_000,
    users: Annotated[int | None, typer.Option(min=1, help="Whose they are; each its own user's if not given.")] = None,
    seconds: Seconds = 30.0,
) -> Benchmark:
    """Connections on which nothing happens: memory, CPU, statements."""
    per_user = max(1, sockets // (users or sockets))
    return on_stage(lambda stage: idle(stage, seconds), users or sockets, per_user)


@benchmark("live", changes=50.0, users=20, seconds=1.0)
def live_command(
    changes: Annotated[float, typer.Option(min=1, help="Changes a second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    devices: Annotated[int, typer.Option(min=1, help="Devices of each user.")] = 1,
    seconds: Seconds = 10.0,
) -> Benchmark:
    """From a commit to the devices: delay, CPU per change."""
    return on_stage(lambda stage: live(stage, changes, seconds), users, devices)


@benchmark("metrics", changes=50.0, users=20, seconds=0.5, rounds=2)
def metrics_command(
    changes: Annotated[float, typer.Option(min=1, help="Changes a second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each round.")] = 15.0,
    rounds: Annotated[int, typer.Option(min=1)] = 8,
) -> Benchmark:
    """What it costs to keep figures: two servers side by side, with them and without."""
    return on_stage(lambda stage: metrics(stage, changes, seconds, rounds), users)


@benchmark("page", messages=5, backlog=200)
def page_command(
    messages: Annotated[int, typer.Option(min=1, help="Shown one by one.")] = 100,
    backlog: Annotated[int, typer.Option(min=1, help="What a device missed.")] = 5_000,
) -> Benchmark:
    """The demo's page in Chromium: from a commit to the screen, and rows applied a second."""
    return lambda: page(messages, backlog)


@benchmark("push", sockets=20, changes=200.0, seconds=0.5)
def push_command(
    sockets: Annotated[int, typer.Option(min=1, help="Devices, each its own user's.")] = 500,
    changes: Annotated[float, typer.Option(min=1, help="Mutations a second, all devices together.")] = 6_000.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each of the four runs.")] = 10.0,
) -> Benchmark:
    """Devices write: durable, acknowledged mutations a second; and the same with a commit for each."""
    return on_stage(lambda stage: push(stage, changes, seconds), sockets)


@benchmark("storm", sockets=20)
def storm_command(
    sockets: Annotated[int, typer.Option(min=1, help="Devices, each its own user's.")] = 1_000,
    changes: Annotated[int, typer.Option(min=0, help="What each of them missed.")] = 5,
) -> Benchmark:
    """Everybody comes back at once: to a server that stayed up, and to one that was killed."""
    return on_stage(lambda stage: storm(stage, changes), sockets)


@cli.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder with the results.")] = FOLDER,
    output: Annotated[Path, typer.Option(help="The Markdown file to write.")] = FOLDER / "report.md",
    pictures: Annotated[Path | None, typer.Option(help="Also draw the documentation's pictures, here.")] = None,
) -> None:
    """Write all saved results to one Markdown file, and draw the pictures of the documentation."""
    for path in write(results, output, pictures):
        typer.echo(path)


if __name__ == "__main__":
    try:
        cli()
    except AtlasError as error:
        sys.exit(f"benchmarks: {error}")
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
