"""atlas-sync: the commands. Each says what it did, or in one sentence what to do."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console

from server import app, logs, supervisor
from server.config import DatabaseSettings, ServeSettings, TokenSettings, load
from server.edge.auth import mint, subject
from server.errors import AtlasError, ConfigError

cli = typer.Typer(
    name="atlas-sync",
    help="Keeps every device of a chat app's user in step with Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.command()
def serve(
    share_port: Annotated[bool, typer.Option("--share-port", hidden=True, help="One of several on this port.")] = False,
) -> None:
    """Run the server. Its settings are environment variables; README.md has their table."""
    settings = load(ServeSettings)
    logs.configure(settings.log_level, settings.log_format)
    if settings.processes > 1 and not share_port:
        raise typer.Exit(supervisor.run(settings))
    app.run(settings, shared=share_port)


@cli.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="Folder for the database.", show_default=".atlas")] = None,
    users: Annotated[int, typer.Option(help="How many people to load.", min=2, max=1_000)] = 12,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65_535)] = 8000,
    speed: Annotated[float, typer.Option(help="Replay so many times as fast as people typed.", min=0.01)] = 1.0,
    replay: Annotated[bool, typer.Option(help="Go on writing conversations.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON when ready, for scripts.")] = False,
) -> None:
    """Start everything on this machine, with real conversations: a PostgreSQL of its own, the server, and writers."""
    from server.demo import run

    logs.configure("warning", "console")
    run.run(run.Options(data=data, users=users, port=port, speed=speed, replay=replay, json=json))


@cli.command()
def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False,
) -> None:
    """Bring the database in DATABASE_URL up to date. Safe to repeat."""
    from server.postgres import migrate as migration

    if sql:
        sys.stdout.write(migration.as_sql())
        return
    asyncio.run(migration.migrate(load(DatabaseSettings).database_url))
    typer.echo("The database is up to date.")


@cli.command()
def token(
    user: Annotated[UUID, typer.Argument(help="The user's id: a UUID.")],
    hours: Annotated[float, typer.Option(help="How long it is valid.", min=0.001, max=24 * 365)] = 24.0,
) -> None:
    """Mint a development token for USER, signed with ATLAS_JWT_SECRET."""
    settings = load(TokenSettings)
    if settings.jwt_secret is None:
        raise ConfigError("ATLAS_JWT_SECRET is not set. Tokens of a key set are minted by whoever holds the keys.")
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
    """Is the database in DATABASE_URL fit? One line a question; status 1 if something must be done."""
    from server.postgres.doctor import examine

    database = load(DatabaseSettings)

    async def ask() -> bool:
        fit = True
        async for finding in examine(database.database_url, database.listen_url):
            mark, color = ("✗", typer.colors.RED) if finding.grave else ("!", typer.colors.YELLOW)
            if finding.good:
                mark, color = "✓", typer.colors.GREEN
            typer.echo(f"{typer.style(mark, fg=color)} {finding.what:<12} {finding.says}")
            fit = fit and (finding.good or not finding.grave)
        return fit

    raise typer.Exit(0 if asyncio.run(ask()) else 1)


@cli.command()
def watch(
    url: Annotated[str, typer.Option(help="The server.", envvar="ATLAS_URL")] = "ws://127.0.0.1:8000/sync",
    token: Annotated[str, typer.Option(help="Whose changes to show.", envvar="ATLAS_TOKEN", show_default=False)] = "",
    cursor_file: Annotated[
        Path | None, typer.Option(help="Where to remember what was seen.", show_default="one per user in .atlas")
    ] = None,
) -> None:
    """Show a user's changes as they arrive. Stopped and started again, it shows what it missed, and nothing twice."""
    from server import watch as terminal

    user = subject(token)
    if user is None:
        raise ConfigError("--token is not a token. Take the one that `atlas-sync demo` prints, or `atlas-sync token`.")
    path = cursor_file or Path(".atlas") / f"watch-{user}.json"
    terminal.watch(url, token, terminal.Memory.load(path), Console(highlight=False))


@cli.command()
def chat(
    url: Annotated[str, typer.Option(help="The server.", envvar="ATLAS_URL")] = "ws://127.0.0.1:8000/sync",
    token: Annotated[str, typer.Option(help="Who writes.", envvar="ATLAS_TOKEN", show_default=False)] = "",
    conversation: Annotated[UUID | None, typer.Option(help="Where to.", show_default="the newest one")] = None,
    new: Annotated[str | None, typer.Option(help="The title of a new conversation to write to.")] = None,
    outbox_file: Annotated[
        Path | None, typer.Option(help="Where to keep what is not sent yet.", show_default="one per user in .atlas")
    ] = None,
) -> None:
    """Type into a conversation: each line becomes a message, sent when the server can be reached, exactly once."""
    from server import chat as terminal

    user = subject(token)
    if user is None:
        raise ConfigError("--token is not a token. Take the one that `atlas-sync demo` prints, or `atlas-sync token`.")
    path = outbox_file or Path(".atlas") / f"chat-{user}.db"
    terminal.chat(url, token, user, path, conversation, new, Console(highlight=False))


def main() -> None:
    try:
        cli()
    except AtlasError as error:
        typer.secho(f"atlas-sync: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2)
