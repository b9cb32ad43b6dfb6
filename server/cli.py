"""The commands of atlas-sync. Each prints what it did, or one sentence that says what to do."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from uuid import UUID

import structlog
import typer

from server import app, logs, metrics, private, sentry, supervisor
from server.config import (
    CostSettings,
    DatabaseSettings,
    MaintainSettings,
    OwnerSettings,
    ProcessSettings,
    ServeSettings,
    Settings,
    TokenSettings,
    load,
)
from server.edge.auth import mint, subject
from server.exceptions import AtlasError, ConfigError
from server.operations.maintenance_plan import Policy
from server.terminal.device import console, printable, run
from server.terminal.output import Mark, marked, say

cli = typer.Typer(
    name="atlas-sync",
    help="Keeps every device of a chat app's user in step with Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Token = Annotated[
    str,
    typer.Option(
        help="The user's token. Set it in the environment: every account on this machine can see arguments.",
        envvar="ATLAS_TOKEN",
        show_default=False,
    ),
]
NO_TOKEN = "ATLAS_TOKEN is not a token. Set it to one that `atlas-sync demo` prints, or `atlas-sync token`."


@cli.command()
def serve(
    share_port: Annotated[bool, typer.Option("--share-port", hidden=True, help="One of several on this port.")] = False,
    replaces: Annotated[bool, typer.Option("--replaces", hidden=True, help="One that died.")] = False,
) -> None:
    """Run the server. Its settings are environment variables; server/README.md has their table."""
    settings = load(ServeSettings)
    status = 0
    if replaces:
        metrics.WORKERS_DIED.inc()
        metrics.flush()  # this process may die too before it flushes by itself
    with _reporting(settings, once=not share_port):
        if settings.processes > 1 and not share_port:
            status = supervisor.run(settings)
        else:
            app.run(settings, shared=share_port)
    raise typer.Exit(status)


@contextlib.contextmanager
def _reporting(settings: ProcessSettings, *, once: bool = True) -> Iterator[None]:
    """Configure logs and Sentry for a command that runs for long. An exception that ends the block is logged without
    the values it quotes, and ends the process with status 1. `once`: warn about settings without effect."""
    try:
        with sentry.reporting(settings.sentry_dsn) as report:
            logs.configure(settings.log_level, settings.log_format, report=report)
            for why in settings.without_effect() if once else ():
                structlog.get_logger().warning("a setting has no effect", why=why)
            yield
    except AtlasError:
        raise
    except Exception as error:
        structlog.get_logger().critical("the process ends", exc_info=error)
        raise typer.Exit(1) from None


@cli.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="Folder for the database.", show_default=".atlas")] = None,
    users: Annotated[int, typer.Option(help="How many people to load.", min=2, max=1_000)] = 12,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65_535)] = 8000,
    speed: Annotated[float, typer.Option(help="Replay and answer so many times as fast.", min=0.01)] = 1.0,
    replay: Annotated[bool, typer.Option(help="Keep writing conversations.")] = True,
    ask: Annotated[bool, typer.Option(help="Let a scripted assistant answer what is asked on the page.")] = True,
    beside: Annotated[
        str,
        typer.Option(
            "--with",
            help="Show these, too: redis, replica, usage, responses; separated by commas.",
            show_default="none",
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON when ready, for scripts.")] = False,
) -> None:
    """Start everything on this machine, with real conversations: a PostgreSQL server, the sync server, and writers."""
    from server.demo import run

    logs.configure("warning", "console")
    extras = run.extras(beside)
    run.run(
        run.Options(data=data, users=users, port=port, speed=speed, replay=replay, ask=ask, json=json, extras=extras)
    )


@cli.command()
def conform(
    command: Annotated[
        list[str] | None, typer.Argument(help="The adapter of the client, with its arguments, after --.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this scenario; may be given several times.", show_default="all")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the scenarios, and play none.")] = False,
    jobs: Annotated[int, typer.Option(help="Scenarios at a time.", min=1, max=64)] = 4,
) -> None:
    """Test a client of the protocol: play a server to it, with duplicates, gaps, cuts and restarts. It needs neither a
    database nor settings; protocol/CLIENT.md says how to write the adapter."""
    from server.terminal import conformance as terminal

    raise typer.Exit(terminal.conform(command or (), only or (), only_list=list_, jobs=jobs))


@cli.command()
def init(
    table: Annotated[
        list[str] | None,
        typer.Option(help="Only this table, and those above it; may be given several times.", show_default="all"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="standard output")] = None,
) -> None:
    """Draft the declaration of what is synced, from the tables of the database in DATABASE_URL. Writes nothing to the
    database."""
    from server.terminal import declaration as terminal

    url = _set(OwnerSettings).owner_url
    terminal.save(asyncio.run(terminal.drafted(url, table or ())), out)


@cli.command()
def schema(
    typescript: Annotated[
        bool, typer.Option("--typescript", help="Print schema.ts, from which the types of an app derive.")
    ] = False,
) -> None:
    """Print what devices know of the declaration of the database in DATABASE_URL, as JSON."""
    from server.terminal import declaration as terminal

    found = asyncio.run(terminal.known(_set(DatabaseSettings).database_url))
    typer.echo(terminal.as_typescript(found) if typescript else terminal.as_json(found), nl=False)


@cli.command()
def migrate(
    declaration: Annotated[
        Path | None,
        typer.Option(
            help="The file that declares what is synced.", show_default="what is declared already; else the chat schema"
        ),
    ] = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that it would run; run nothing.")] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print all steps, their locks, what stands in the way, and who notices; do nothing."
        ),
    ] = False,
    doorbells: Annotated[
        str | None,
        typer.Option(
            help="Where servers learn of changes: listen, or wal, which needs a publication.",
            show_default="what was chosen before; at first listen",
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Remove Atlas Sync, and keep the app's data.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Undo without asking.")] = False,
) -> None:
    """Make the database in DATABASE_URL follow the declaration, and bring it up to date. The app's tables, however
    large and busy, stay as they are, unless the declaration asks for partitions. Safe to repeat and to interrupt."""
    from server.postgres import migrate as migration
    from server.terminal import migration as terminal

    given = terminal.read(declaration)
    choice = terminal.chosen(doorbells)
    if sql and declaration is None and not os.environ.get("DATABASE_URL"):
        sys.stdout.write(migration.as_sql())
        return
    url = _set(OwnerSettings).owner_url
    if undo:
        raise typer.Exit(terminal.undo(url, only_plan=plan, asks=not yes))
    if sql:
        sys.stdout.write(terminal.script(url, given))
    elif plan:
        raise typer.Exit(terminal.plan(url, given, choice))
    else:
        raise typer.Exit(terminal.migrate(url, given, choice))


@cli.command()
def maintain(
    once: Annotated[bool, typer.Option("--once", help="Run one round, and exit.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the steps, and do nothing.")] = False,
) -> None:
    """Make partitions ahead, archive and drop old ones, beside a busy server. Runs every five minutes until stopped."""
    from server.postgres import maintain as maintenance

    settings = load(MaintainSettings)
    policy = Policy.of(settings)
    with _reporting(settings):
        if plan:
            steps, left = asyncio.run(maintenance.steps(settings.owner_url, policy))
            say("\n".join(map(str, steps)) or "There is nothing to do.")
            if left is not None:
                say(str(left))
        elif once:
            if not asyncio.run(maintenance.maintain_once(settings.owner_url, policy, lambda report: say(str(report)))):
                typer.echo("Another process is maintaining this database.")
        else:
            run(lambda: maintenance.maintain(settings.owner_url, policy))


@cli.command()
def token(
    user: Annotated[UUID, typer.Argument(help="The user's id: a UUID.")],
    hours: Annotated[float, typer.Option(help="How long it is valid.", min=0.001, max=24 * 365)] = 24.0,
) -> None:
    """Mint a development token for USER, signed with ATLAS_JWT_SECRET."""
    settings = load(TokenSettings)
    if settings.jwt_secret is None:
        raise ConfigError(
            "ATLAS_JWT_SECRET is not set. Only the holder of a key set's private keys can mint its tokens."
        )
    issuer = settings.jwt_issuer or "atlas-sync"
    lifetime = int(hours * 3600)
    typer.echo(
        mint(
            user,
            settings.jwt_secret,
            audience=settings.jwt_audience,
            issuer=issuer,
            lifetime=lifetime,
            now=time.time(),
        )
    )


@cli.command()
def doctor() -> None:
    """Check whether the database in DATABASE_URL is fit to serve. Exits with status 1 if something must be done."""
    from server.postgres.doctor import examine

    database = _set(DatabaseSettings)
    backend: bool | None = None
    with contextlib.suppress(ConfigError):  # the environment of a command alone: that is not said of servers
        backend = bool(load(ServeSettings).service_tokens)

    async def ask() -> bool:
        fit = True
        urls = database.database_url, database.listen_url, database.replica_urls or ()
        async for finding in examine(*urls, backend=backend):
            mark = Mark.GOOD if finding.good else Mark.BAD if finding.grave else Mark.NOTE
            marked(mark, finding.says, finding.what)
            fit = fit and (finding.good or not finding.grave)
        if database.redis_url is not None:
            async with app.redis_link(database.redis_url) as link:
                good, says = await link.examine()
            marked(Mark.GOOD if good else Mark.NOTE, says, "redis")
        return fit

    raise typer.Exit(0 if asyncio.run(ask()) else 1)


@cli.command()
def trace(
    key: Annotated[
        str, typer.Argument(help="The row's key; both halves of one are separated by a comma.", show_default=False)
    ],
    kind: Annotated[str | None, typer.Option(help="The row's kind.", show_default="message")] = None,
    user: Annotated[UUID | None, typer.Option(help="The owner's id. Without it the whole log may be searched.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the facts and the verdict as JSON.")] = False,
) -> None:
    """Find out where a row is: what DATABASE_URL knows of it, and which devices have it. Exits with status 1 if
    there is an obstacle. Shows no content, writes nothing."""
    from server.operations import trace as telling
    from server.postgres import trace_queries

    facts = asyncio.run(trace_queries.ask(_set(DatabaseSettings).database_url, key, user, kind))
    lines = telling.tell(facts)
    if json:
        typer.echo(telling.as_json(facts, lines))
    else:
        marks = {telling.Verdict.GOOD: Mark.GOOD, telling.Verdict.WAITING: Mark.NOTE, telling.Verdict.BAD: Mark.BAD}
        for line in lines:
            marked(marks[line.verdict], line.says, line.what)
    raise typer.Exit(telling.status(lines))


@cli.command()
def costs(
    days: Annotated[int, typer.Option(help="Days to sum, today included.", min=1, max=3_660)] = 30,
    top: Annotated[int, typer.Option(help="Tiers, models and users to show, by cost.", min=1, max=100_000)] = 20,
    by: Annotated[str, typer.Option(help="For --csv: tier, day, model or user.")] = "day",
    json: Annotated[bool, typer.Option("--json", help="Print all sums as JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the sums of --by as CSV.")] = False,
) -> None:
    """Show what usage cost: by tier, day and model, the top users, and what is unusual. Needs the rights of the tables'
    owner."""
    from server.postgres import costs as asking
    from server.terminal import costs as terminal

    if by not in asking.BY:
        raise ConfigError(f"--by must be one of {', '.join(asking.BY)}.")
    settings = _set(CostSettings)
    found = asyncio.run(asking.ask(settings.owner_url, days, top, settings.cost_floor))
    if json:
        typer.echo(terminal.as_json(found))
    elif csv:
        typer.echo(terminal.as_csv(found, by))
    else:
        terminal.show(found, console())


@cli.command()
def watch(
    url: Annotated[str, typer.Option(help="The server.", envvar="ATLAS_URL")] = "ws://127.0.0.1:8000/sync",
    token: Token = "",
    cursor_file: Annotated[
        Path | None, typer.Option(help="Where to keep the cursor.", show_default="one per user in .atlas")
    ] = None,
) -> None:
    """Show a user's changes as they arrive. After a restart it shows what it missed, and nothing twice."""
    from server.terminal import watch as terminal

    user = subject(token)
    if user is None:
        raise ConfigError(NO_TOKEN)
    path = cursor_file or private.folder(Path(".atlas")) / f"watch-{user}.json"
    terminal.watch(url, token, user, terminal.Memory.load(path), console())


@cli.command()
def chat(
    url: Annotated[str, typer.Option(help="The server.", envvar="ATLAS_URL")] = "ws://127.0.0.1:8000/sync",
    token: Token = "",
    conversation: Annotated[UUID | None, typer.Option(help="Where to write to.", show_default="the newest one")] = None,
    new: Annotated[str | None, typer.Option(help="The title of a new conversation to write to.")] = None,
    outbox_file: Annotated[
        Path | None,
        typer.Option(help="Where to keep unsent messages.", show_default="one per user in .atlas"),
    ] = None,
) -> None:
    """Write to a conversation. Each line becomes a message, sent exactly once, when the server can be reached."""
    from server.terminal import chat as terminal

    user = subject(token)
    if user is None:
        raise ConfigError(NO_TOKEN)
    path = outbox_file or private.folder(Path(".atlas")) / f"chat-{user}.db"
    terminal.chat(url, token, user, path, conversation, new, console())


@cli.command()
def top(
    url: Annotated[
        str, typer.Option(help="The server's metrics.", envvar="ATLAS_METRICS_URL")
    ] = "http://127.0.0.1:8000/metrics",
    token: Annotated[
        str,
        typer.Option(
            help="The token for them. Set it in the environment.",
            envvar="ATLAS_METRICS_TOKEN",
            show_default=False,
        ),
    ] = "",
    every: Annotated[float, typer.Option(help="Seconds between two readings.", min=0.1, max=3_600)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one reading as plain text, and exit.")] = False,
) -> None:
    """Show the server's figures live, from /metrics, and what to do about those that are bad."""
    from server.terminal import top as terminal

    terminal.top(url, token, every, console(), once=once)


@cli.command()
def project(
    users: Annotated[
        int | None, typer.Option(help="Show this many too, with all that it rests on.", min=1, max=1_000_000_000)
    ] = None,
    assumptions: Annotated[
        Path | None, typer.Option(help="A file of your own assumptions and prices.", show_default="the one it prints")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one object of JSON, unrounded.")] = False,
    print_assumptions: Annotated[
        bool, typer.Option("--print-assumptions", help="Print the file of assumptions, to be edited.")
    ] = False,
) -> None:
    """Show what so many users cost a month, beside a client that polls: from what was measured, assumed, and priced."""
    from server.terminal import project as terminal

    terminal.project(users, assumptions, console(), json=json, file=print_assumptions)


def _set(kind: type[Settings]) -> Settings:
    """Load the settings of a command that writes no log. Settings without effect are printed."""
    settings = load(kind)
    for why in settings.without_effect():
        marked(Mark.NOTE, why, err=True)
    return settings


def main() -> None:
    try:
        cli()
    except AtlasError as error:
        typer.secho(printable(f"atlas-sync: {error}", keep="\n"), err=True, fg=typer.colors.RED)
        sys.exit(2)
