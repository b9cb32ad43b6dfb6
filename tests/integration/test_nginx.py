"""The nginx example of server/README.md: devices write through it while two servers restart one after the other."""

import asyncio
import contextlib
import datetime
import os
import random
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protocol.frames import Live
from tests.support.audit import keep_audit
from tests.support.cluster import Database, temporary_folder
from tests.support.peer import peer
from tests.support.people import add_user
from tests.support.prometheus import free_port
from tests.support.serving import ServerProcess
from tests.support.story import Delivery, Story
from tests.support.waiting import LIMIT, eventually

NGINX = Path("/usr/sbin/nginx")
README = Path(__file__).parents[2] / "server" / "README.md"
UNLIMITED = {"ATLAS_PUSH_RATE": "1e9", "ATLAS_PUSH_BURST": "1000000", "ATLAS_HELLOS_PER_MINUTE": "1000000"}

pytestmark = pytest.mark.skipif(not NGINX.exists(), reason=f"there is no {NGINX}")


def example() -> str:
    """The example, as an operator copies it."""
    (found,) = re.findall(r"```nginx\n(.*?)```", README.read_text(), re.DOTALL)
    assert isinstance(found, str)
    return found


def put_certificate(folder: Path) -> None:
    """A certificate for localhost that its own key signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def configuration(folder: Path, site: str) -> str:
    """What surrounds a site in nginx.conf, with every path in `folder`. The log has the status of each request."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
        daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{ worker_connections 1024; }}
        http {{
            log_format statuses $status;
            access_log {folder}/access.log statuses;
            {" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)}
            {site}
        }}
    """


class Nginx:
    """A running nginx that leads to these servers."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._folder = folder

    @property
    def certificate(self) -> Path:
        return self._folder / "certificate.pem"

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}/sync"

    def statuses(self) -> set[str]:
        """Of all requests that ended."""
        return set((self._folder / "access.log").read_text().split())


@contextlib.asynccontextmanager
async def nginx(*servers: ServerProcess) -> AsyncIterator[Nginx]:
    with temporary_folder() as folder:
        put_certificate(folder)
        port = free_port()
        changes = {f"10.0.0.{11 + i}:8000": f"127.0.0.1:{server.port}" for i, server in enumerate(servers)}
        changes |= {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",  # no machine of the tests need have IPv6
            "/etc/nginx/sync.example.com.pem": f"{folder}/certificate.pem",
            "/etc/nginx/sync.example.com.key": f"{folder}/key.pem",
        }
        site = example()
        for old, new in changes.items():
            assert old in site, f"the example lacks {old}"
            site = site.replace(old, new)
        (folder / "nginx.conf").write_text(configuration(folder, site))
        process = await asyncio.create_subprocess_exec(
            NGINX, "-p", folder, "-c", folder / "nginx.conf", stderr=asyncio.subprocess.DEVNULL
        )

        async def started() -> bool:
            return process.returncode is not None or await answers(port)

        try:
            await eventually(started)
            assert process.returncode is None, (folder / "error.log").read_text()
            yield Nginx(port, folder)
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(LIMIT):
                await process.wait()


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture
async def servers(database: Database) -> AsyncIterator[list[ServerProcess]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ServerProcess(database.server_url, **UNLIMITED)) for _ in range(2)]


@pytest.fixture
async def proxy(servers: list[ServerProcess], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nginx]:
    async with nginx(*servers) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
        yield running


async def test_only_websockets_pass(proxy: Nginx, user: UUID) -> None:
    async with peer(proxy.url) as device:
        await device.greet(user)
        await device.hear_a(Live)
    context = ssl.create_default_context(cafile=proxy.certificate)
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        for path in ("/", "/metrics", "/readyz", "/healthz", "/sync/more"):
            answer = await client.get(f"https://localhost:{proxy.port}{path}")
            assert answer.status_code == 404, path


async def test_no_write_is_lost_and_no_device_is_turned_away_in_a_rolling_restart(
    servers: list[ServerProcess], proxy: Nginx, sql: Any
) -> None:
    await keep_audit(sql)
    rng = random.Random(7)
    restarted = asyncio.Event()
    delivered: list[Delivery] = []

    async def write(user: UUID) -> None:
        """One device after the other, each with a story of its own, until both servers are back."""
        while not restarted.is_set():
            delivery = Delivery(user, Story(rng, 20), rng)
            await delivery.deliver(proxy.url)
            delivered.append(delivery)

    async def go_on() -> None:
        """Wait until devices write again."""
        count = len(delivered)
        await eventually(lambda: len(delivered) >= count + 8)

    async with asyncio.TaskGroup() as writing:
        for _ in range(4):
            writing.create_task(write(await add_user(sql)))
        await go_on()
        for server in servers:
            assert await server.stop() == 0
            await go_on()  # on the other server
            await server.start()
            await go_on()
        restarted.set()
    for delivery in delivered:
        await delivery.check(sql)
    assert sum(delivery.connections for delivery in delivered) > len(delivered), (
        "nobody was connected to a server that ended"
    )
    assert proxy.statuses() == {"101"}
