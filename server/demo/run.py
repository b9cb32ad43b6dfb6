"""Starts the demo's parts in order, prints what to do next, and ends the parts in reverse order."""

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson
import structlog
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server import app, private
from server.config import MaintainSettings, ServeSettings, load
from server.declaration.chat import CHAT_TOML
from server.demo import conversations, guide, seed, site
from server.demo.assistant.process import AssistantProcess
from server.demo.embedded import EmbeddedPostgres, EmbeddedPostgresError
from server.demo.embedded_redis import MEMORY, WITHOUT_CLIENT, EmbeddedRedis, find_program
from server.demo.seed import Conversation, Person
from server.edge.auth import mint
from server.edge.listen import bind
from server.exceptions import ConfigError, UnavailableError
from server.operations.maintenance_plan import Policy
from server.postgres import migrate
from server.postgres.maintain import maintain

log = structlog.get_logger()

DATABASE: Final = "atlas"
TOKEN_SECONDS: Final = 7 * 86_400
LONGEST_PAUSE: Final = 60.0
"""Seconds: a longer pause between two messages is shortened to this, before `speed` is applied."""
USED: Final = (files("server.demo") / "usage.toml").read_text()
ASKED: Final = (files("server.demo") / "ask.toml").read_text()
DECLARATION: Final = CHAT_TOML + USED + ASKED
"""The chat schema, what each person used, and what they ask the assistant."""
ANSWER: Final = {"model": "small", "input_tokens": 800, "output_tokens": 2400}
"""An event of usage that the demo suggests."""
COUNTED_EVERY: Final = 1.0
"""Seconds after which new usage is on the page."""
TALKING: Final = 5
"""How many conversations are replayed at the same time, the first two users' among them."""


class Extra(StrEnum):
    """Optional parts that the demo can show."""

    REDIS = "redis"
    REPLICA = "replica"
    USAGE = "usage"
    RESPONSES = "responses"


def extras(text: str) -> frozenset[Extra]:
    """Those that `text` names, separated by commas. Raises ConfigError for another word."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in set(Extra):
            raise ConfigError(f"--with takes {', '.join(Extra)}, separated by commas, and not {word!r}.")
    return frozenset(map(Extra, words))


@dataclass(slots=True)
class Beside:
    """What was started beside Postgres."""

    redis: EmbeddedRedis | None = None
    replica: EmbeddedPostgres | None = None
    says: list[str] = field(default_factory=list)
    """A sentence about each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    data: Path | None
    """Folder for the database. None: .atlas here, or a temporary folder if Postgres' account cannot enter .atlas."""
    users: int
    port: int
    speed: float
    """1: as fast as people typed; 10: ten times as fast."""
    replay: bool
    json: bool
    ask: bool = True
    """Whether the assistant answers."""
    extras: frozenset[Extra] = frozenset()


def run(options: Options) -> None:
    """Run the demo until SIGINT or SIGTERM. Raises ConfigError if the extra `demo` is not installed."""
    if importlib.util.find_spec("chitchat_dataset") is None:
        raise ConfigError("The demo's packages are not installed: pip install 'atlas-sync[demo]'")
    program = _redis_program() if Extra.REDIS in options.extras else ""
    console = Console(stderr=True, quiet=options.json)
    begun = time.monotonic()
    # On the main thread, before any event loop: the kernel ends Postgres with the thread that started it.
    with contextlib.ExitStack() as stack:
        postgres, data = _start_postgres(options.data, console)
        stack.callback(postgres.stop)
        beside = _start_beside(options.extras, postgres, data, program, stack)
        with asyncio.Runner(loop_factory=app.loop_factory()) as runner:
            runner.run(_serve(options, postgres, beside, data, console, begun))
    console.print("Stopped. Start again to go on where it was.")


def _start_postgres(chosen: Path | None, console: Console) -> tuple[EmbeddedPostgres, Path]:
    candidates = [chosen] if chosen is not None else [Path(".atlas").absolute(), _fallback()]
    for data in candidates:
        # If we are root, Postgres runs as another account, which must be able to enter the folder.
        private.folder(data, 0o711 if os.geteuid() == 0 else 0o700)
        postgres = EmbeddedPostgres(data / "postgres", port=0)
        try:
            postgres.start()
        except EmbeddedPostgresError as error:
            # If we are root, Postgres runs as another account, which usually cannot enter a home folder.
            if data is candidates[-1] or not _closed_to_others(data):
                raise
            console.print(f"{escape(str(error))}\nUsing {candidates[-1]} instead.", style="yellow")
        else:
            return postgres, data
    raise AssertionError("the last candidate returns or raises")


def _fallback() -> Path:
    here = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"atlas-sync-{os.getuid()}-{here}"


def _closed_to_others(path: Path) -> bool:
    return os.geteuid() == 0 and any(not parent.stat().st_mode & 0o001 for parent in path.parents if parent.exists())


def _redis_program() -> str:
    if importlib.util.find_spec("redis") is None:
        raise ConfigError(WITHOUT_CLIENT)
    return find_program()


def _start_beside(
    chosen: frozenset[Extra], postgres: EmbeddedPostgres, data: Path, program: str, stack: contextlib.ExitStack
) -> Beside:
    """Start what was chosen. It ends with `stack`, or with this process."""
    beside = Beside()
    if Extra.REDIS in chosen:
        beside.redis = redis = EmbeddedRedis(data / "redis", program)
        stack.callback(redis.stop)
        redis.start()
        beside.says.append(f"Redis (port {redis.port}) keeps answers to devices, in {MEMORY} of memory.")
    if Extra.REPLICA in chosen:
        beside.replica = replica = EmbeddedPostgres(data / "replica", port=0, durable=False, follows=postgres)
        stack.callback(replica.stop)
        replica.start()
        beside.says.append(
            f"A streaming replica (port {replica.port}) answers reads, until you `kill -9 {replica.pid}`."
        )
    return beside


async def _serve(
    options: Options, postgres: EmbeddedPostgres, beside: Beside, data: Path, console: Console, begun: float
) -> None:
    admin_url = await _prepare(options, postgres, console)
    password = await seed.server_login(admin_url)
    settings = load(
        ServeSettings,
        database_url=postgres.url(DATABASE, seed.SERVER_LOGIN, password),
        redis_url=beside.redis.url if beside.redis else None,
        replica_urls=[beside.replica.url(DATABASE, seed.SERVER_LOGIN, password)] if beside.replica else None,
        usage=Extra.USAGE in options.extras,
        responses=Extra.RESPONSES in options.extras,
        service_token=_secret(data / "service-token"),
        service_token_former=None,
        jwt_secret=_secret(data / "jwt-secret"),
        jwt_secret_former=None,
        jwks_url=None,
        jwt_audience="authenticated",
        jwt_issuer=None,
        listen_url=None,
        host="127.0.0.1",
        port=options.port,
        drain=2.0,
        metrics_token=_secret(data / "metrics-token"),
        metrics_port=None,
    )
    sock = bind(settings.host, settings.port, shared=False, write_deadline=settings.write_deadline, setting="--port")
    port = sock.getsockname()[1]
    if settings.usage:
        await seed.use(admin_url)
    people = await seed.people(admin_url)
    newest = await seed.newest_message(admin_url, people[0].id)
    tokens = {person.id: _token(person.id, settings) for person in people}
    server = app.App(settings, site.routes(_identities(people, tokens), ask=options.ask))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)

    def ready() -> None:
        if options.json:
            _print_json(settings, port, admin_url, people, tokens)
        else:
            _print_next(console, settings, port, people, tokens, time.monotonic() - begun, beside.says)
            _print_support(console, settings, people[0], newest)
            _print_service(console, settings, port, admin_url, people[0])
            console.print("Stop this with Ctrl-C.\n")

    async with asyncio.TaskGroup() as tasks:
        policy = Policy.of(load(MaintainSettings, database_url=admin_url))
        background = [tasks.create_task(maintain(admin_url, policy), name="maintenance")]
        if options.replay:
            background.append(tasks.create_task(_replay(admin_url, people, options), name="replay"))
        if settings.usage:
            background.append(tasks.create_task(_count(admin_url), name="count of usage"))
        if options.ask:
            login = postgres.url(DATABASE, seed.ASSISTANT_LOGIN, await seed.assistant_login(admin_url))
            assistant = _assistant(settings, port, login, options, console)
            background.append(tasks.create_task(assistant.run(), name="assistant"))
        await server.run(sock, ready)
        for task in background:
            task.cancel()


async def _prepare(options: Options, postgres: EmbeddedPostgres, console: Console) -> str:
    """Create, migrate and fill the database as far as it is not done yet. Returns the administrator's URL."""
    await migrate.create_database(postgres.url(), DATABASE)
    admin_url = postgres.url(DATABASE)
    if not await seed.can_ask(admin_url):
        await migrate.migrate(admin_url)  # makes the tables that questions refer to
        await seed.let_ask(admin_url)
    await migrate.migrate(admin_url, text=DECLARATION, name="the demo's declaration")
    if await seed.is_empty(admin_url):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            bar = progress.add_task("loading real conversations", total=None)
            now = datetime.now(UTC)
            cast = conversations.cast(conversations.read(), options.users, now)
            said = (*cast.said, *guide.conversations(cast.people, now))
            await seed.load(
                admin_url, cast.people, said, lambda done, total: progress.update(bar, completed=done, total=total)
            )
    return admin_url


async def _replay(admin_url: str, people: Sequence[Person], options: Options) -> None:
    """Write conversations as ordinary SQL clients, with the pauses that people made."""
    everything = await asyncio.to_thread(conversations.read)
    to_come = conversations.cast(everything, options.users, datetime.now(UTC)).to_come
    here = {person.id for person in people if person.tier != "free"}
    waiting: dict[UUID, list[Conversation]] = {user: [] for user in here}
    for conversation in to_come:
        if conversation.user in here:
            waiting[conversation.user].append(conversation)
    talkers = [user for user in (person.id for person in people) if waiting.get(user)][:TALKING]
    async with asyncio.TaskGroup() as tasks:
        for user in talkers:
            tasks.create_task(_talk(admin_url, waiting[user], options))


def _assistant(
    settings: ServeSettings, port: int, database_url: str, options: Options, console: Console
) -> AssistantProcess:
    assert settings.service_token is not None
    environment = {
        "DATABASE_URL": database_url,
        "ATLAS_URL": f"http://127.0.0.1:{port}",
        "ATLAS_SERVICE_TOKEN": settings.service_token,
        "ATLAS_SPEED": str(options.speed),
    }

    def started(pid: int) -> None:
        console.print(f"The assistant is process {pid}. `kill -9 {pid}` while it writes: the next one continues.\n")

    return AssistantProcess(environment, started)


async def _count(admin_url: str) -> None:
    while True:
        try:
            await seed.count_usage(admin_url)
        except UnavailableError as error:
            log.warning("usage cannot be counted, trying again", error=str(error))
        await asyncio.sleep(COUNTED_EVERY)


async def _talk(admin_url: str, to_come: Sequence[Conversation], options: Options) -> None:
    """Write one user's conversations, one after the other, again and again."""
    while True:
        try:
            author = await seed.Author.connect(admin_url, Extra.USAGE in options.extras)
            try:
                known = await author.known([conversation.id for conversation in to_come])
                new = [conversation for conversation in to_come if conversation.id not in known]
                conversation = new[0] if new else random.choice(to_come).again()
                await author.begin(conversation)
                for message, pause in conversations.pauses(conversation, LONGEST_PAUSE):
                    await asyncio.sleep(pause / options.speed)
                    await author.say(conversation, message)
            finally:
                await author.close()
        except UnavailableError as error:
            log.warning("the replay cannot write, trying again", error=str(error))
        await asyncio.sleep(random.uniform(1, 5) / options.speed)


def _secret(path: Path) -> str:
    """A secret of the demo. It is kept in a file, so that printed tokens remain valid after a restart."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    secret = secrets.token_urlsafe(48)
    with open(path, "x", opener=private.opener) as file:
        file.write(secret)
    return secret


def _token(user: UUID, settings: ServeSettings) -> str:
    assert settings.jwt_secret is not None
    return mint(
        user,
        settings.jwt_secret,
        audience=settings.jwt_audience,
        issuer="atlas-sync-demo",
        lifetime=TOKEN_SECONDS,
        now=time.time(),
    )


def _identities(people: Sequence[Person], tokens: dict[UUID, str]) -> list[dict[str, str]]:
    return [
        {"id": str(person.id), "name": f"Person {number}", "tier": person.tier, "token": tokens[person.id]}
        for number, person in enumerate(people, 1)
    ]


def _print_json(
    settings: ServeSettings, port: int, admin_url: str, people: Sequence[Person], tokens: dict[UUID, str]
) -> None:
    line: dict[str, object] = {
        "url": f"ws://127.0.0.1:{port}/sync",
        "http": f"http://127.0.0.1:{port}",
        "database_url": admin_url,
        "metrics_token": settings.metrics_token,
        "users": _identities(people, tokens),
    }
    if settings.redis_url is not None:
        line["redis_url"] = settings.redis_url
    if settings.replica_urls is not None:
        line["replica_urls"] = settings.replica_urls
    if settings.service_token is not None:
        line["service_token"] = settings.service_token
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()


def _print_next(
    console: Console,
    settings: ServeSettings,
    port: int,
    people: Sequence[Person],
    tokens: dict[UUID, str],
    seconds: float,
    beside: Sequence[str] = (),
) -> None:
    url = f"ws://127.0.0.1:{port}/sync"
    first = people[0]
    page = f"http://127.0.0.1:{port}/"
    console.print(
        f"\n[bold]Atlas Sync is ready[/] after {seconds:.1f} s. Open [bold]{page}[/]: two devices of one person.\n"
    )
    for person in people[:5]:
        console.print(f"  {person.id}  {person.tier}")
    if len(people) > 5:
        console.print(f"  … and {len(people) - 5} more")
    console.print("\nOr watch the first one's conversations arrive in another terminal:\n")
    # print, because rich would wrap the line, which is to be copied. The token is not an argument, because every
    # account of this machine can read the arguments of a process.
    token = f"ATLAS_TOKEN={tokens[first.id]}"
    print(f"{token} {_program()} watch --url {url}\n", file=sys.stderr)  # noqa: T201
    console.print("Stop that with Ctrl-C, start it again: it shows what it missed, and nothing twice.")
    console.print("And write to them, in a third one; what is typed while this is stopped is sent later:\n")
    print(f"{token} {_program()} chat --url {url}\n", file=sys.stderr)  # noqa: T201
    console.print("What the server tells about itself meanwhile, live:\n")
    token = f"ATLAS_METRICS_TOKEN={settings.metrics_token}"
    print(f"{token} {_program()} top --url {page}metrics\n", file=sys.stderr)  # noqa: T201
    for sentence in beside:
        console.print(f"{sentence} See «Do caches and replicas help?» in `top`.\n", soft_wrap=True)


def _print_support(console: Console, settings: ServeSettings, first: Person, newest: UUID | None) -> None:
    database = f"DATABASE_URL={settings.database_url}"
    console.print("Whether the database is fit to serve:\n")
    print(f"{database} {_program()} doctor\n", file=sys.stderr)  # noqa: T201
    if newest is not None:
        console.print("Where a message is, and which devices have it; this is the first one's newest:\n")
        print(f"{database} {_program()} trace {newest} --user {first.id}\n", file=sys.stderr)  # noqa: T201


def _print_service(console: Console, settings: ServeSettings, port: int, admin_url: str, first: Person) -> None:
    if settings.usage:
        console.print("What the people of this demo used and cost, as if models had answered them:\n")
        print(f"DATABASE_URL={admin_url} {_program()} costs\n", file=sys.stderr)  # noqa: T201
        console.print("The page shows what the first one used today. Report more, and watch it on both devices:\n")
        event = {"user_id": str(first.id), "event": "answered", "data": ANSWER}
        # The quotes let the shell make another key each time: a repeat is not counted.
        events = {"idempotency_key": "'$(date +%s)'", "events": [event]}
        header = f"Authorization: Bearer {settings.service_token}"
        data = f"-H 'Content-Type: application/json' -d '{orjson.dumps(events).decode()}'"
        print(f"curl -i -H '{header}' {data} 'http://127.0.0.1:{port}/v1/usage'\n", file=sys.stderr)  # noqa: T201
    if settings.responses:
        console.print("Ask the response cache:\n")
        question = "question=What+is+a+feed%3F&model=model-1&tier=core&scope=everybody"
        header = f"Authorization: Bearer {settings.service_token}"
        print(f"curl -i -H '{header}' 'http://127.0.0.1:{port}/v1/responses?{question}'\n", file=sys.stderr)  # noqa: T201


def _program() -> str:
    """The path by which this program was called, so that the printed commands can be pasted as they are."""
    path = Path(sys.argv[0]).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
