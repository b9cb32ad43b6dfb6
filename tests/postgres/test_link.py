"""A connection is as its URL asks for. An error that a retry cannot avoid ends the start, with one sentence."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import AsyncMock, patch
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.frames import Live
from server.exceptions import UnavailableError, UnfitError
from server.postgres import trace_queries
from server.postgres.connection import connect
from server.postgres.doctor import examine
from server.postgres.link import link
from server.postgres.migrate import migrate
from server.url import NO_EFFECT
from tests.support.cluster import SERVER_LOGIN, Cluster, Database, administrator
from tests.support.peer import peer
from tests.support.serving import serving


@pytest.fixture
def database(shared_database: Database) -> Database:
    """Every test leaves it as it was."""
    return shared_database


async def said(url: str) -> str:
    """With what sentence no connection is made, and none ever will be."""
    with pytest.raises(UnfitError) as refused:
        await connect(url)
    return str(refused.value)


# ---- What Postgres is asked ----------------------------------------------------------------------------------------


async def test_parameters_of_other_programs_do_not_prevent_a_connection(database: Database) -> None:
    names = [*sorted(NO_EFFECT), "application_name", "pgbouncer"]
    others = "&".join(f"{name}={'false' if name == 'pgbouncer' else 'chat'}" for name in names)
    connection = await connect(f"{database.server_url}&{others}&options=-c%20lock_timeout%3D7s&statement_timeout=3000")
    try:
        for setting, value in (("application_name", "chat"), ("lock_timeout", "7s"), ("statement_timeout", "3s")):
            assert await connection.fetchval(f"SHOW {setting}") == value
    finally:
        connection.terminate()


async def test_one_host_that_answers_suffices_of_several(database: Database) -> None:
    url = database.server_url.replace("?host=", "?host=/nowhere,").replace("@/", "@localhost:5432/")
    connection = await connect(f"{url}&connection_limit=1")
    connection.terminate()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("pgbuncer=true", '"pgbuncer"'),
        ("statement_timeout=x-secret", '"statement_timeout"'),
        ("options=-c%20nothing%3D1", '"nothing"'),
        ("options=endpoint%3Dx-secret", "command-line argument"),
        ("shared_buffers=1MB", '"shared_buffers"'),
        ("session_replication_role=replica", '"session_replication_role"'),
    ],
)
async def test_a_parameter_that_postgres_refuses_ends_the_start(every_postgres: Cluster, asked: str, says: str) -> None:
    url = every_postgres.postgres.url("template_atlas", SERVER_LOGIN)
    sentence = await said(f"{url}&{asked}")
    assert says in sentence
    assert "take" in sentence
    assert "x-secret" not in sentence


async def test_a_server_with_such_a_url_does_not_try_again(database: Database) -> None:
    with pytest.raises(UnfitError, match='"pgbuncer"'):
        async with serving(f"{database.server_url}&pgbuncer=true"):
            pass


async def test_a_login_that_may_not_connect_ends_the_start(database: Database) -> None:
    async with administrator(database) as sql:
        await sql.execute(f"REVOKE CONNECT ON DATABASE {database.name} FROM PUBLIC")
        try:
            assert "permission denied for database" in await said(database.server_url)
        finally:
            await sql.execute(f"GRANT CONNECT ON DATABASE {database.name} TO PUBLIC")


async def test_the_url_may_set_the_time_to_connect() -> None:
    with patch.object(asyncpg, "connect", AsyncMock()) as asked:
        await link("postgres://db/app?connect_timeout=3", timeout=10, command_timeout=1)
        asked.assert_awaited_with("postgres://db/app", timeout=3, command_timeout=1)
        await link("postgres://db/app?connect_timeout=0&sslmode=verify-full&sslrootcert=system", timeout=10)
        asked.assert_awaited_with("postgres://db/app?sslmode=verify-full", timeout=10, ssl=True)


# ---- A pooler in transaction mode, by the URL's own words ----------------------------------------------------------


async def test_a_server_does_not_listen_through_a_pooler(database: Database) -> None:
    pooled = f"{database.server_url}&pgbouncer=true"
    for listen_url in (None, pooled, f"{pooled}&connection_limit=1"):
        with pytest.raises(UnfitError, match="ATLAS_LISTEN_URL"):
            async with serving(pooled, listen_url=listen_url):
                pass


async def test_a_server_that_listens_elsewhere_serves_through_a_pooler(database: Database, user: UUID) -> None:
    async with (
        serving(f"{database.server_url}&pgbouncer=true", listen_url=database.server_url) as server,
        peer(server.url) as device,
    ):
        await device.greet(user)
        await device.hear_a(Live)


async def test_statements_that_need_no_session_go_through_a_pooler(database: Database) -> None:
    pooled = f"{database.server_url}&pgbouncer=true"
    found = {finding.what: finding async for finding in examine(pooled, None)}
    assert not found["listen"].good
    assert "ATLAS_LISTEN_URL" in found["listen"].says
    assert found["migrations"].good
    assert (await trace_queries.ask(pooled, str(uuid4()), None)).row is None


async def test_migrations_do_not_go_through_a_pooler(database: Database) -> None:
    with pytest.raises(UnfitError, match="ATLAS_ADMIN_URL"):
        await migrate(f"{database.url}&pgbouncer=true")


# ---- What stands in Postgres' place --------------------------------------------------------------------------------

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def standing_in(talk: Talk) -> AsyncIterator[str]:
    """A URL of whoever answers so, without parameters."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"postgres://me:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}/app"


async def packet(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)


def answering(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        writer.write(answer)
        await writer.drain()

    return talk


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


def error(code: str, text: str) -> bytes:
    fields = (b"SFATAL", b"VFATAL", f"C{code}".encode(), f"M{text}".encode())
    return message(b"E", b"".join(field + b"\0" for field in fields) + b"\0")


@pytest.mark.parametrize(
    ("answer", "asked", "says"),
    [
        (error("08P01", "unsupported startup parameter: lock_timeout"), "disable", "lock_timeout"),
        (message(b"R", (10).to_bytes(4) + b"OAUTHBEARER\0\0"), "disable", "OAUTHBEARER"),
        (message(b"R", (2).to_bytes(4)), "disable", "sign in"),
        (b"N", "require", "has no TLS"),
    ],
    ids=["a pooler that refuses a setting", "OAuth", "Kerberos 5", "no TLS"],
)
async def test_an_error_that_a_retry_cannot_avoid_ends_the_start(answer: bytes, asked: str, says: str) -> None:
    async with standing_in(answering(answer)) as url:
        assert says in await said(f"{url}?sslmode={asked}")


@pytest.mark.parametrize(
    "answer",
    [error("08P01", "server login has been failing"), error("53300", "too many clients"), b""],
    ids=["a pooler without a server", "full", "nothing"],
)
async def test_an_error_that_a_retry_may_avoid_is_retried(answer: bytes) -> None:
    async with standing_in(answering(answer)) as url:
        with pytest.raises(UnavailableError):
            await connect(f"{url}?sslmode=disable")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an authority that nobody knows, for another host, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db.example.com")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.mark.parametrize("asked", ["sslmode=verify-full&sslrootcert=system", "sslmode=verify-full&sslrootcert={ours}"])
async def test_a_certificate_that_is_not_trusted_ends_the_start(certificate: Path, asked: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        writer.write(b"S")
        await writer.drain()
        await writer.start_tls(context)

    async with standing_in(talk) as url:
        assert "certificate cannot be trusted" in await said(f"{url}?{asked.format(ours=quote(str(certificate)))}")


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_a_missing_file_ends_the_start(name: str, tmp_path: Path) -> None:
    sentence = await said(f"postgres://127.0.0.1:1/app?sslmode=require&{name}={tmp_path}/absent")
    assert name in sentence
    assert "No such file" in sentence


async def test_a_file_that_holds_no_certificate_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    sentence = await said(f"postgres://127.0.0.1:1/app?sslmode=verify-full&sslrootcert={tmp_path}/ca.crt")
    assert "the files that the URL names" in sentence


def test_one_module_opens_connections() -> None:
    server = Path(__file__).parents[2] / "server"
    makers = {path.name for path in server.rglob("*.py") if "asyncpg.connect(" in path.read_text()}
    assert makers == {"link.py"}
