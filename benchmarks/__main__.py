"""The commands: the parameters of each benchmark, and their values in a smoke run."""

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
from benchmarks.failover import failover
from benchmarks.fanout import fanout
from benchmarks.idle import idle
from benchmarks.live import live
from benchmarks.metrics import metrics
from benchmarks.page import page
from benchmarks.peer import PEERS
from benchmarks.peers import peers as run_peers
from benchmarks.peers import table as peers_table
from benchmarks.push import push
from benchmarks.report import write
from benchmarks.responses import responses
from benchmarks.results import FOLDER
from benchmarks.running import Benchmark, command, on_stage
from benchmarks.store import store
from benchmarks.storm import storm
from benchmarks.streams import WAYS
from benchmarks.streams import streams as run_streams
from benchmarks.streams import table as streams_table
from benchmarks.usage import usage
from benchmarks.visits import visits
from benchmarks.volume import volume
from server.exceptions import AtlasError
from server.postgres.publication import Doorbells

cli = typer.Typer(
    name="python -m benchmarks",
    help="Measure what the server costs and how quick it is.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
benchmark = partial(command, cli)
Seconds = Annotated[float, typer.Option(min=0.1)]
Sqlite = Annotated[
    bool, typer.Option("--sqlite", help="Chromium keeps IndexedDB in SQLite, which it tries out, and not in LevelDB.")
]
FlushMs = Annotated[
    float, typer.Option(min=0, help="Milliseconds that a flush of the WAL takes at least: a slow disk, emulated.")
]


@cli.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@benchmark("adopt", messages=2_000, changes=50.0, calm=0.3)
def adopt_command(
    messages: Annotated[int, typer.Option(min=1, help="Messages in the app's tables.")] = 1_000_000,
    changes: Annotated[float, typer.Option(min=1, help="Messages written per second.")] = 200.0,
    calm: Annotated[float, typer.Option(min=0.1, help="Seconds of writing before and after each part.")] = 5.0,
) -> Benchmark:
    """Adopt a database in use and undo it: how long its users wait for a write."""
    return lambda: adopt(messages, changes, calm)


@benchmark("attack", users=3, seconds=1.0)
def attack_command(
    kind: Annotated[
        str, typer.Option(help="What it sends: pings, pongs, or fragments of an endless message.")
    ] = "pings",
    paid: Annotated[
        bool, typer.Option("--paid", help="The flood comes from a paying user instead of a stranger.")
    ] = False,
    megabits: Annotated[float, typer.Option(min=0.1, help="Rate of the flood, per second.")] = 200.0,
    users: Annotated[int, typer.Option(min=2, help="One is the attacker; the devices of the others ping.")] = 21,
    seconds: Seconds = 10.0,
) -> Benchmark:
    """One socket floods the server: how long honest devices wait for an answer."""
    return on_stage(lambda stage: attack(stage, kind, paid, megabits, seconds), users)


@benchmark("baseline", users=30, changes=200.0, seconds=2.0)
def baseline_command(
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    changes: Annotated[float, typer.Option(min=1, help="Changes per second by 1,000 users.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each way, idle and busy.")] = 60.0,
) -> Benchmark:
    """Compare with polling every 30 seconds for everything, or for what is newer."""
    return on_stage(lambda stage: baseline(stage, seconds, changes), users)


@benchmark("catchup", messages=3_000, changes=500, times=2)
def catchup_command(
    messages: Annotated[int, typer.Option(min=1, help="Messages of other users in the tables.")] = 100_000,
    changes: Annotated[int, typer.Option(min=1, help="Most changes that a device missed.")] = 50_000,
    times: Annotated[int, typer.Option(min=1, help="Most reconnects of each device.")] = 50,
) -> Benchmark:
    """A device comes back: by what it missed, how long it was away, and the size of the tables."""
    return on_stage(lambda stage: catchup(stage, messages, changes, times), len(cases(changes)))


@benchmark("doorbell", seconds=1.0, writers=2)
def doorbell_command(
    writers: Annotated[int, typer.Option(min=1, help="Most writers; then half as many, and so on down to one.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each turn.")] = 5.0,
    flush_ms: FlushMs = 0.0,
) -> Benchmark:
    """Commits per second by 1 to 64 writers: without the triggers, with them, with NOTIFY, with the WAL streamed."""
    counts = [writers >> halvings for halvings in reversed(range(writers.bit_length()))]
    return lambda: doorbell(seconds, counts, flush_ms)


@benchmark("failover", sockets=20, away=0.1)
def failover_command(
    sockets: Annotated[int, typer.Option(min=1, help="Devices, each of another user.")] = 1_000,
    away: Annotated[float, typer.Option(min=0, help="Seconds from the end of the primary to the promotion.")] = 5.0,
    silent: Annotated[
        bool, typer.Option("--silent", help="The primary stops in its tracks and refuses nothing, instead of dying.")
    ] = False,
) -> Benchmark:
    """The replica is promoted: how long until all devices are live on it."""
    return on_stage(lambda stage: failover(stage, away, silent), sockets)


@benchmark("fanout", sockets=20, seconds=0.4)
def fanout_command(sockets: Annotated[int, typer.Option(min=1)] = 1_000, seconds: Seconds = 10.0) -> Benchmark:
    """Send one change to many sockets, compared with a C program: 20 per second, and 160 at once."""
    return on_stage(lambda stage: fanout(stage, seconds), 1, sockets)


@benchmark("idle", sockets=50, users=None, seconds=1.0)
def idle_command(
    sockets: Annotated[int, typer.Option(min=1)] = 10_000,
    users: Annotated[
        int | None, typer.Option(min=1, help="Users that the sockets belong to; by default one each.")
    ] = None,
    seconds: Seconds = 30.0,
) -> Benchmark:
    """Connections on which nothing happens: memory, CPU, statements."""
    per_user = max(1, sockets // (users or sockets))
    return on_stage(lambda stage: idle(stage, seconds), users or sockets, per_user)


@benchmark("live", changes=50.0, users=20, seconds=1.0)
def live_command(
    changes: Annotated[float, typer.Option(min=1, help="Changes per second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    devices: Annotated[int, typer.Option(min=1, help="Devices of each user.")] = 1,
    kinds: Annotated[int, typer.Option(min=3, max=60, help="Kinds of rows that are declared.")] = 3,
    doorbells: Annotated[Doorbells, typer.Option(help="How the server hears of changes.")] = Doorbells.LISTEN,
    seconds: Seconds = 10.0,
) -> Benchmark:
    """Changes from the commit to the devices: delay, CPU per change."""
    return on_stage(lambda stage: live(stage, changes, seconds), users, devices, kinds, doorbells)


@benchmark("metrics", changes=50.0, users=20, seconds=0.5, rounds=2)
def metrics_command(
    changes: Annotated[float, typer.Option(min=1, help="Changes per second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each round.")] = 15.0,
    rounds: Annotated[int, typer.Option(min=1)] = 8,
) -> Benchmark:
    """What metrics cost: two servers side by side, with them and without."""
    return on_stage(lambda stage: metrics(stage, changes, seconds, rounds), users)


@benchmark("page", messages=5, backlog=200)
def page_command(
    messages: Annotated[int, typer.Option(min=1, help="Messages shown one by one.")] = 100,
    backlog: Annotated[int, typer.Option(min=1, help="Messages that a device missed.")] = 5_000,
    sqlite: Sqlite = False,
) -> Benchmark:
    """The demo's page in Chromium: delay from a commit to the screen, and rows applied per second."""
    return lambda: page(messages, backlog, sqlite)


@benchmark("peers", peers_table, install=False, users=20, changes=50.0, seconds=1.0)
def peers_command(
    peers: Annotated[str, typer.Option(help=f"Which, with commas between them: {', '.join(PEERS)}.")] = "all",
    install: Annotated[
        bool, typer.Option("--install/--no-install", help="Install those that are missing, or leave them out.")
    ] = True,
    folder: Annotated[
        Path | None, typer.Option(help="Where they are installed, and stay. Default: a temporary folder.")
    ] = None,
    changes: Annotated[float, typer.Option(min=1, help="Changes per second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1, help="Each has one device.")] = 1_000,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each of the three parts of a peer.")] = 8.0,
    flush_ms: FlushMs = 0.0,
) -> Benchmark:
    """Beside broadcaster, socket.io, nchan and NATS: delay, CPU per change, and as fast as 8 and 32 writers can."""
    return run_peers(peers, install, folder, changes, users, seconds, flush_ms)


@benchmark("push", sockets=20, changes=200.0, seconds=0.5)
def push_command(
    sockets: Annotated[int, typer.Option(min=1, help="Devices, each of another user.")] = 500,
    changes: Annotated[float, typer.Option(min=1, help="Mutations per second of all devices together.")] = 6_000.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each of the four parts.")] = 10.0,
) -> Benchmark:
    """Devices write: durable, acknowledged mutations per second, in groups and with a commit for each."""
    return on_stage(lambda stage: push(stage, changes, seconds), sockets)


@benchmark("responses", seconds=0.2, looks=50, askers=50, model=0.1)
def responses_command(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of asking over HTTP.")] = 10.0,
    looks: Annotated[int, typer.Option(min=1, help="Responses looked up in each layer.")] = 2_000,
    askers: Annotated[int, typer.Option(min=2, help="Equal questions of a stampede.")] = 1_000,
    model: Annotated[float, typer.Option(min=0.01, help="Seconds that computing a response takes.")] = 1.0,
) -> Benchmark:
    """Cached responses: a hit in the process, over Redis, Postgres and HTTP; stampedes."""
    return lambda: responses(seconds, looks, askers, model)


@benchmark("store", backlog=200, held=2_000, pending=100)
def store_command(
    backlog: Annotated[int, typer.Option(min=1, help="Messages that a device missed.")] = 5_000,
    held: Annotated[int, typer.Option(min=1, help="Messages that it holds besides.")] = 100_000,
    pending: Annotated[int, typer.Option(min=1, help="Mutations that wait.")] = 5_000,
    sqlite: Sqlite = False,
) -> Benchmark:
    """The client and its store in Chromium: rows caught up per second, first messages, one among many, many waiting."""
    return lambda: store(backlog, held, pending, sqlite)


@benchmark("storm", sockets=20)
def storm_command(
    sockets: Annotated[int, typer.Option(min=1, help="Devices, each of another user.")] = 1_000,
    changes: Annotated[int, typer.Option(min=0, help="Changes that each of them missed.")] = 5,
    replica: Annotated[bool, typer.Option("--replica", help="A streaming replica reads for them, too.")] = False,
) -> Benchmark:
    """All devices come back at once: to a server that stayed up, and to one that was killed."""
    return on_stage(lambda stage: storm(stage, changes, replica), sockets)


@benchmark("streams", streams_table, streams=4, seconds=0.3, rounds=1, joins=20, stops=2)
def streams_command(
    streams: Annotated[int, typer.Option(min=1, help="Open streams, each seen by two devices.")] = 200,
    rate: Annotated[float, typer.Option(min=0.1, help="Appends per second of each stream.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each turn.")] = 6.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way in each shape.")] = 2,
    backends: Annotated[int, typer.Option(min=1, help="Backends that write in groups, and share the streams.")] = 4,
    ways: Annotated[str, typer.Option(help=f"Which, with commas between them: {', '.join(WAYS)}.")] = "all",
    joins: Annotated[int, typer.Option(min=0, help="Devices that join at once; 0 leaves this out.")] = 1_000,
    stops: Annotated[int, typer.Option(min=0, help="Streams that are stopped; 0 leaves this out.")] = 60,
) -> Benchmark:
    """Answers that stream, beside a Redis stream with Server-Sent Events: delay, CPU per append, joins, stops."""
    return lambda: run_streams(streams, rate, seconds, rounds, backends, ways, joins, stops)


@benchmark("usage", events=500.0, batch=50, changes=50.0, users=20, seconds=0.5, rounds=1)
def usage_command(
    events: Annotated[float, typer.Option(min=1, help="Events of usage per second.")] = 5_000.0,
    batch: Annotated[int, typer.Option(min=1, max=1_000, help="Events of one request.")] = 250,
    changes: Annotated[float, typer.Option(min=1, help="Changes per second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each round.")] = 8.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds with events, and as many without.")] = 8,
) -> Benchmark:
    """A backend reports usage beside live devices: their delay with it and without, events per second."""
    return on_stage(lambda stage: usage(stage, events, batch, changes, seconds, rounds), users)


@benchmark("visits", users=6, count=60, rounds=1)
def visits_command(
    users: Annotated[int, typer.Option(min=1, help="Each has 12 conversations with 80 messages.")] = 100,
    count: Annotated[int, typer.Option(min=1, help="Visits of a round.")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds with and without Redis.")] = 3,
) -> Benchmark:
    """Devices come new, scroll and come back, nine reads to one write: with Redis before Postgres, and without."""
    return on_stage(lambda stage: visits(stage, count, rounds), users)


@benchmark("volume", users=5, changes=100.0, seconds=0.2)
def volume_command(
    users: Annotated[int, typer.Option(min=1, help="Each has one device.")] = 1_000,
    changes: Annotated[float, typer.Option(min=1, help="Changes per second.")] = 1_000.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each part that writes.")] = 10.0,
) -> Benchmark:
    """Bytes, statements and CPU of a snapshot, a resume, a change, a push, for `atlas-sync project`."""
    return on_stage(lambda stage: volume(stage, changes, seconds), users)


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
