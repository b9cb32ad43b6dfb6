"""nginx with an example of the documentation."""

import asyncio
import contextlib
import datetime
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.cluster import temporary_folder
from tests.support.prometheus import free_port
from tests.support.waiting import LIMIT, eventually

NGINX = Path("/usr/sbin/nginx")
ROOT = Path(__file__).parents[2]
OPERATORS = ROOT / "server" / "README.md"
APPS = ROOT / "protocol" / "js" / "README.md"


class Logged(NamedTuple):
    status: int
    path: str
    body_bytes: int
    cache: str
    """HIT, MISS …; «-» where no cache was asked."""


class Nginx:
    """A running nginx."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._folder = folder

    @property
    def certificate(self) -> Path:
        return self._folder / "certificate.pem"

    def log(self) -> list[Logged]:
        """Of all requests that ended."""
        lines = [line.split() for line in (self._folder / "access.log").read_text().splitlines()]
        return [Logged(int(status), path, int(size), cache) for status, path, size, cache in lines]


@contextlib.asynccontextmanager
async def nginx(section: str, name: str, changes: Mapping[str, str], chapter: Path = OPERATORS) -> AsyncIterator[Nginx]:
    """Run the example of this section of a chapter, as an operator copies it, for a server of this name.

    `changes` are texts and what replaces them. It listens on 127.0.0.1 alone, with a certificate for localhost.
    """
    with temporary_folder() as folder:
        _put_certificate(folder)
        port = free_port()
        site = _example(chapter, section)
        changes = {
            **changes,
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",  # no machine of the tests need have IPv6
            f"/etc/nginx/{name}.pem": f"{folder}/certificate.pem",
            f"/etc/nginx/{name}.key": f"{folder}/key.pem",
        }
        for old, new in changes.items():
            assert old in site, f"the example lacks {old}"
            site = site.replace(old, new)
        site = site.replace("/var/cache/nginx/", f"{folder}/")
        (folder / "nginx.conf").write_text(_configuration(folder, site))
        process = await asyncio.create_subprocess_exec(
            NGINX, "-p", folder, "-c", folder / "nginx.conf", stderr=asyncio.subprocess.DEVNULL
        )

        async def started() -> bool:
            return process.returncode is not None or await _answers(port)

        try:
            await eventually(started)
            assert process.returncode is None, (folder / "error.log").read_text()
            yield Nginx(port, folder)
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(LIMIT):
                await process.wait()


def _example(chapter: Path, section: str) -> str:
    _, _, text = chapter.read_text().partition(f"\n## {section}\n")
    (found,) = re.findall(r"```nginx\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    assert isinstance(found, str)
    return found


def _put_certificate(folder: Path) -> None:
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


def _configuration(folder: Path, site: str) -> str:
    """What surrounds a site in nginx.conf, with every path in `folder`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
        daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{ worker_connections 1024; }}
        http {{
            log_format lines '$status $request_uri $body_bytes_sent $upstream_cache_status';
            access_log {folder}/access.log lines;
            {" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)}
            {site}
        }}
    """


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
