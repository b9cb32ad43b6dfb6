"""The servers that `peers` compares: ours in two ways, and what people use instead. How each is installed, started, fed
by Postgres, and spoken to."""

import asyncio
import json
import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
import msgpack

from benchmarks.actors import SECRET, Server
from benchmarks.installing import Installation
from benchmarks.load import BINARY, TEXT, Part, Reply, Step
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, eventually, launch
from benchmarks.stage import silent
from server.edge.auth import mint
from server.postgres.migrate import migrate
from server.postgres.publication import Doorbells

PROGRAMS: Final = Path(__file__).with_name("programs")
ROW: Final = (
    "json_build_object('id', NEW.id, 'conversation_id', NEW.conversation_id, 'role', NEW.role, 'content', NEW.content, "
    "'created_at', NEW.created_at, 'updated_at', NEW.updated_at)"
)
TRIGGER: Final = """
    CREATE FUNCTION tell_peer() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        owner uuid;
    BEGIN
        SELECT user_id INTO owner FROM conversations WHERE id = NEW.conversation_id;
        PERFORM pg_notify({channel}, {payload});
        RETURN NULL;
    END $$;
    ALTER TABLE messages DISABLE TRIGGER USER;
    CREATE TRIGGER tell_peer AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION tell_peer()
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs."""

    folder: Path
    url: str
    """Of the database, as the superuser."""
    login_url: str
    """As the login of our server."""


@dataclass(frozen=True, slots=True)
class Running:
    port: int
    """Where its devices connect."""
    pid: int
    relay: int | None = None
    """Process id of the program that tells it of changes, if it does not listen itself."""


class Peer(ABC):
    name: str
    label: str
    channel = "'changes'"
    payload: str
    """What the trigger notifies: SQL."""
    replies: Sequence[Reply] = ()

    async def install(self, installation: Installation) -> None:
        """Raises NotInstalledError."""
        return

    async def prepare(self, url: str) -> None:
        """Have its database, which is ours at first, tell this peer of each message instead."""
        admin = await asyncpg.connect(url)
        try:
            await admin.execute(TRIGGER.format(channel=self.channel, payload=self.payload))
        finally:
            await admin.close()

    @abstractmethod
    async def start(self, stack: AsyncExitStack, place: Place) -> Running:
        """Start it; it ends with `stack`."""

    @abstractmethod
    def part(self, number: int, user: UUID) -> Part:
        """What the user's device does, which has this number."""


class Atlas(Peer):
    def __init__(self, doorbells: Doorbells) -> None:
        self.name = doorbells.value
        self.label = "Atlas Sync" if doorbells is Doorbells.LISTEN else "Atlas Sync, WAL"
        self._doorbells: Doorbells = doorbells

    async def prepare(self, url: str) -> None:
        await migrate(url, doorbells=self._doorbells)

    async def start(self, stack: AsyncExitStack, place: Place) -> Running:
        server = Server(place.login_url, 20, doorbells=self._doorbells)
        stack.push_async_callback(server.kill)
        await server.start()
        if self._doorbells is Doorbells.WAL:
            admin = await asyncpg.connect(place.url)
            try:
                await silent(admin)
            finally:
                await admin.close()
        return Running(server.port, server.pid)

    def part(self, number: int, user: UUID) -> Part:
        token = mint(user, SECRET, audience="authenticated", issuer="benchmarks", lifetime=86_400, now=time.time())
        hello = {"t": "hello", "token": token, "client_id": UUID(int=number + 1).bytes, "cursor": None}
        live = msgpack.packb("t") + msgpack.packb("live")
        return Part(
            "/sync",
            "Sec-WebSocket-Protocol: atlas-sync.v1.msgpack\r\n",
            [Step(BINARY, msgpack.packb(hello), live)],
        )


class Broadcaster(Peer):
    """A channel of NOTIFY for each user, with the row."""

    name, label = "broadcaster", "broadcaster + starlette"
    channel, payload = "'u_' || owner", f"{ROW}::text"
    _python: Path

    async def install(self, installation: Installation) -> None:
        packages = ("broadcaster[postgres]", "starlette", "uvicorn", "uvloop", "httptools", "websockets")
        self._python = await installation.python("broadcaster", *packages)

    async def start(self, stack: AsyncExitStack, place: Place) -> Running:
        port = free_port()
        program = PROGRAMS / "broadcast.py"
        return Running(port, await started(stack, place, self.name, port, self._python, program, str(port), place.url))

    def part(self, number: int, user: UUID) -> Part:
        return Part(f"/{user}", steps=[Step(0, b"", b"subscribed")])


class SocketIo(Peer):
    """One channel of NOTIFY, with the user and the row; a room for each user."""

    name, label = "socketio", "socket.io"
    payload = f"json_build_object('user', owner, 'row', {ROW})::text"
    replies = (Reply(b"2", TEXT, b"3"),)  # engine.io's heartbeat
    _modules: Path

    async def install(self, installation: Installation) -> None:
        self._modules = await installation.node_modules("socketio", "socket.io", "pg")

    async def start(self, stack: AsyncExitStack, place: Place) -> Running:
        port = free_port()
        url = urlsplit(place.url)
        database = {f"PG{name.upper()}": value for name, (value,) in parse_qs(url.query).items()}  # host and port
        database |= {"PGUSER": "postgres", "PGDATABASE": url.path[1:]}
        environment = {**os.environ, **database, "MODULES": str(self._modules)}
        command = ("node", PROGRAMS / "socketio.mjs", str(port))
        return Running(port, await started(stack, place, self.name, port, *command, env=environment))

    def part(self, number: int, user: UUID) -> Part:
        auth = json.dumps({"user": str(user)}).encode()
        return Part(
            "/socket.io/?EIO=4&transport=websocket", steps=[Step(0, b"", b"0{"), Step(TEXT, b"40" + auth, b"40{")]
        )


class Relayed(Peer):
    """A server that only has a publish API. A program of ours listens and publishes: the cheapest way, which loses what
    is written while it is away."""

    payload = f"owner || ' ' || {ROW}"
    _relay: Path

    async def install(self, installation: Installation) -> None:
        self._relay = await installation.python("relay", "asyncpg", "uvloop", "nats-py")

    async def relayed(self, stack: AsyncExitStack, place: Place, port: int) -> int:
        """Start the program that publishes at this port. Return its process id."""
        command = (self._relay, PROGRAMS / "relay.py", self.name, str(port), place.url)
        process = await launch(*command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        stack.push_async_callback(end, process)
        assert process.stdout is not None
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                line = await process.stdout.readline()
        if line != b"ready\n":
            raise BenchmarkError(f"The relay to {self.label} did not come to listen; what it wrote above may say why.")
        return process.pid


NGINX: Final = """
load_module {modules}/ngx_nchan_module.so;
daemon off; worker_processes 1; worker_rlimit_nofile {files}; pid {folder}/pid; error_log {folder}/error.log error;
events {{ worker_connections {connections}; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600; nchan_shared_memory_size 256M;
    client_body_temp_path {folder}/temporary; proxy_temp_path {folder}/temporary; fastcgi_temp_path {folder}/temporary;
    uwsgi_temp_path {folder}/temporary; scgi_temp_path {folder}/temporary;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location ~ ^/publish/([\\w-]+)$ {{
            nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 100; nchan_message_timeout 10m;
        }}
        location ~ ^/subscribe/([\\w-]+)$ {{
            nchan_subscriber websocket; nchan_channel_id $1; nchan_subscriber_first_message newest;
        }}
    }}
}}
"""
OWN_VAR_LIB: Final = 'mount -t tmpfs none /var/lib && mkdir /var/lib/nginx && exec "$0" "$@"'
"""nchan insists on /var/lib/nginx, whatever the configuration says."""


class Nchan(Relayed):
    """nginx with nchan, which keeps 100 messages of each channel in memory."""

    name, label = "nchan", "nchan (nginx)"
    _folder: Path

    async def install(self, installation: Installation) -> None:
        await super().install(installation)
        self._folder = await installation.debian("nchan", "nginx", "libnginx-mod-nchan")

    async def start(self, stack: AsyncExitStack, place: Place) -> Running:
        port, folder, files = free_port(), place.folder / "nginx", 20_000
        (folder / "temporary").mkdir(parents=True, exist_ok=True)
        modules = self._folder / "usr" / "lib" / "nginx" / "modules"
        given = {"modules": modules, "files": files, "connections": files - 100, "folder": folder, "port": port}
        (folder / "nginx.conf").write_text(NGINX.format(**given))
        root = os.geteuid() == 0
        own = ("unshare", *([] if root else ["--map-root-user"]), "--mount", "sh", "-c", OWN_VAR_LIB)
        nginx: tuple[str | Path, ...] = (
            self._folder / "usr" / "sbin" / "nginx",
            "-p",
            folder,
            "-c",
            folder / "nginx.conf",
        )
        options: tuple[str | Path, ...] = ("-e", folder / "error.log", *(["-g", "user root;"] if root else []))
        pid = await started(stack, place, self.name, port, *own, *nginx, *options)
        return Running(port, pid, await self.relayed(stack, place, port))

    def part(self, number: int, user: UUID) -> Part:
        return Part(f"/subscribe/{user}", "Sec-WebSocket-Protocol: ws+meta.nchan\r\n")


class Nats(Relayed):
    """NATS with JetStream, which keeps the messages in files, and a consumer for each device."""

    name, label = "nats", "NATS JetStream"
    replies = (Reply(b"PING\r\n", BINARY, b"PONG\r\n"),)
    _program: Path

    async def install(self, installation: Installation) -> None:
        await super().install(installation)
        folder = await installation.debian("nats", "nats-server")
        self._program = next(folder.glob("usr/*bin/nats-server"))

    async def start(self, stack: AsyncExitStack, place: Place) -> Running:
        port, inner, folder = free_port(), free_port(), place.folder / "nats"
        folder.mkdir()
        (folder / "nats.conf").write_text(
            f'listen: 127.0.0.1:{inner}\njetstream {{ store_dir: "{folder}", max_mem: 256M, max_file: 2G }}\n'
            f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true, compression: false }}\n'
        )
        pid = await started(stack, place, self.name, port, self._program, "-c", folder / "nats.conf")
        return Running(port, pid, await self.relayed(stack, place, inner))

    def part(self, number: int, user: UUID) -> Part:
        inbox = f"_I.{number}"
        consumer = {
            "deliver_subject": f"{inbox}.d", "filter_subject": f"c.{user}", "ack_policy": "none",
            "replay_policy": "instant", "max_deliver": 1, "mem_storage": True, "num_replicas": 1,
            "deliver_policy": "new",
        }  # fmt: skip
        body = json.dumps({"stream_name": "S", "config": consumer})
        hello = {"verbose": False, "pedantic": False, "lang": "c", "version": "1", "protocol": 1, "headers": True}
        said = (
            f"CONNECT {json.dumps(hello)}\r\nSUB {inbox}.r 1\r\nSUB {inbox}.d 2\r\n"
            f"PUB $JS.API.CONSUMER.CREATE.S {inbox}.r {len(body)}\r\n{body}\r\n"
        )
        return Part("/", steps=[Step(0, b"", b"INFO "), Step(BINARY, said.encode(), b'"num_pending"')])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def started(
    stack: AsyncExitStack, place: Place, name: str, port: int, *command: str | Path, env: dict[str, str] | None = None
) -> int:
    """Start a server, which ends with `stack`, and return its process id once it listens at the port. Raises
    BenchmarkError with what it wrote last if it does not."""
    log = place.folder / f"{name}.log"
    with log.open("wb") as out:
        process = await launch(*command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    stack.push_async_callback(end, process)

    async def listens() -> bool:
        if process.returncode is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise BenchmarkError(f"{name} ended while it started; the last it said: {lines[-1]}")
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    await eventually(f"{name} listens", listens)
    return process.pid


PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (Atlas(Doorbells.LISTEN), Atlas(Doorbells.WAL), Broadcaster(), SocketIo(), Nchan(), Nats())
}
