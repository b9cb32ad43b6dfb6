"""The metrics: their documentation, access, correctness, and several processes."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protocol.errors import CloseCode
from protocol.frames import Hello, Live
from server.feed.resume import Why
from server.metrics import CATALOGUE, FOLDER, Question
from tests.support.cluster import Database, temporary_folder
from tests.support.device import live_device, now, raw
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.prometheus import JOB, PROMTOOL, free_port, needs_prometheus
from tests.support.proxy import postgres_behind_proxy
from tests.support.rows import CreateConversation, CreateMessage, DeleteMessage, RenameConversation
from tests.support.serving import ServerProcess, serving, token
from tests.support.waiting import eventually

ROOT: Final = Path(__file__).parents[1]
TOKEN: Final = "a token of the tests"
HEADER: Final = "| figure | what it tells | when it is bad |"
UUID_LIKE: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}|[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Figures:
    """A response of /metrics."""

    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def __call__(self, name: str, /, **labels: str) -> float:
        """Return a sample, or 0 if it is absent, as with a label that was never used."""
        return self.samples.get((name, tuple(sorted(labels.items()))), 0.0)

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def labels(self) -> Iterator[tuple[str, str, str]]:
        """Yield each label of each sample: the sample's name, the label's, and its value."""
        for name, labels in self.samples:
            for label, value in labels:
                yield name, label, value


def parse(text: str) -> Figures:
    return Figures(
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


async def get(port: int, bearer: str | None = TOKEN) -> httpx.Response:
    """GET /metrics on a new connection, which may lead to another process."""
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.get(f"http://127.0.0.1:{port}/metrics", headers=headers)


async def figures(port: int) -> Figures:
    response = await get(port)
    assert response.status_code == 200, response.text
    return parse(response.text)


async def until(port: int, condition: Callable[[Figures], object]) -> Figures:
    """Return the metrics as soon as they fulfil `condition`."""

    async def fit() -> Figures | None:
        try:
            found = await figures(port)
        except httpx.TransportError:  # its process was killed
            return None
        return found if condition(found) else None

    found: Figures = await eventually(fit)
    return found


@pytest.fixture
async def process(database: Database) -> AsyncIterator[ServerProcess]:
    """A server in its own process, with its own metrics."""
    async with ServerProcess(database.server_url, ATLAS_METRICS_TOKEN=TOKEN) as server:
        yield server


# ---- The list -------------------------------------------------------------------------------------------------------


def table() -> str:
    """The table of server/README.md, as it must be."""
    lines = [HEADER, "|---|---|---|"]
    for question in Question:
        lines.append(f"| **{question.value}** | | |")
        for figure in CATALOGUE:
            if figure.question is question:
                labels = f"{{{', '.join(figure.labels)}}}" if figure.labels else ""
                cells = (f"`{figure.name}{labels}`", figure.tells, figure.when_bad)
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def test_the_table_of_figures_has_every_figure() -> None:
    readme = (ROOT / "server" / "README.md").read_text()
    found = re.search(rf"^{re.escape(HEADER)}\n(?:\|.*\n)*", readme, re.MULTILINE)
    assert found is not None, f"server/README.md should have this table:\n{table()}"
    # No plain comparison: pytest would print both, shortened.
    if found.group().strip() != table():
        pytest.fail(f"server/README.md should have this table:\n{table()}")


@needs_prometheus
def test_what_the_readme_says_to_prometheus_is_understood() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "server" / "README.md").read_text(), re.DOTALL)
    assert f"job_name: {JOB}" in block
    with temporary_folder() as folder:
        (folder / "prometheus.yml").write_text(block)
        (folder / "atlas-sync.token").write_text(TOKEN)
        (folder / "alerts.yml").write_bytes((ROOT / "server" / "monitoring" / "alerts.yml").read_bytes())
        done = subprocess.run(
            [PROMTOOL, "check", "config", folder / "prometheus.yml"], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_every_metric_has_a_description_and_advice() -> None:
    assert len({figure.name for figure in CATALOGUE}) == len(CATALOGUE)
    for figure in CATALOGUE:
        assert re.fullmatch(r"atlas_[a-z_]+", figure.name)
        assert not figure.tells.endswith("."), figure.name
        assert figure.when_bad.endswith("."), figure.name


async def test_the_served_metrics_are_those_of_the_catalogue(process: ServerProcess) -> None:
    known = {figure.name for figure in CATALOGUE}
    for name in (await figures(process.port)).names():
        family = re.sub(r"_(bucket|sum|count|created)$", "", name)
        # prometheus-client tells when each series began, which is no figure of ours.
        assert {name, family, f"{family}_total"} & known, name


async def test_series_of_possible_faults_start_at_zero(process: ServerProcess) -> None:
    """Prometheus sees no increase in a series that begins at 1."""
    fresh = await figures(process.port)
    outcomes = {value for name, label, value in fresh.labels() if (name, label) == ("atlas_hellos_total", "outcome")}
    codes = {value for name, label, value in fresh.labels() if (name, label) == ("atlas_closed_total", "code")}
    answers = {value for name, label, value in fresh.labels() if (name, label) == ("atlas_pushes_total", "answer")}
    assert outcomes == {"resumed", *Why}
    assert {"1006", *(str(code.value) for code in CloseCode)} <= codes
    assert {"acked", "unavailable", "slow_down", "gap", "replaced", "local_only"} == answers
    for name in ("atlas_connections", "atlas_users"):
        assert fresh(name, tier="core") == 0


# ---- Who may see them -----------------------------------------------------------------------------------------------


async def test_metrics_are_not_served_without_a_setting(database: Database) -> None:
    async with serving(database) as server:
        response = await get(server.port)
    assert response.status_code == 404
    assert "atlas_" not in response.text
    assert "ATLAS_METRICS_TOKEN" in response.text


@pytest.mark.parametrize("bearer", [None, "x", "another token of the tests", TOKEN[:-1], TOKEN + "s", "é"])
async def test_a_request_without_the_token_gets_no_metrics(database: Database, bearer: str | None) -> None:
    async with serving(database, metrics_token=TOKEN) as server:
        headers = [] if bearer is None else [(b"Authorization", f"Bearer {bearer}".encode())]
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"{server.http}/metrics", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "atlas_" not in response.text
    assert TOKEN not in response.text


async def test_a_request_with_the_token_gets_the_metrics(database: Database) -> None:
    async with serving(database, metrics_token=TOKEN) as server:
        response = await get(server.port)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert response.headers["cache-control"] == "no-store"
    assert parse(response.text)("atlas_processes") == 1


async def test_the_metrics_port_serves_metrics_without_a_token(database: Database) -> None:
    port = free_port()
    async with serving(database, metrics_port=port) as server:
        assert (await get(port, None)).status_code == 200
        assert (await get(server.port, None)).status_code == 404
    async with serving(database, metrics_port=port, metrics_token=TOKEN) as server:
        assert (await get(port, None)).status_code == 200
        assert (await get(server.port, None)).status_code == 401
        assert (await get(server.port)).status_code == 200


async def ask(port: int, host: bytes | None, bearer: str | None = None) -> tuple[int, str]:
    """GET /metrics with this Host header. Return status and text."""
    lines = [b"GET /metrics HTTP/1.1", b"Connection: close"]
    lines += [] if host is None else [b"Host: " + host]
    lines += [] if bearer is None else [b"Authorization: Bearer " + bearer.encode()]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\r\n".join([*lines, b"", b""]))
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


NAMES: Final = {
    "127.0.0.1:9100": 200,
    "10.1.2.3": 200,
    "[::1]:9100": 200,
    "localhost": 200,
    "LOCALHOST:9100": 200,
    socket.gethostname(): 200,
    f"{socket.gethostname()}:9100": 200,
    "rebound.example.com": 403,
    "localhost.example.com": 403,
    "127.0.0.1.example.com:9100": 403,
    "example.com@127.0.0.1": 403,
    "127.0.0.1@example.com": 403,
    "127.0.0.1/x": 403,
    "127.0.0.1:80:80": 403,
    "[127.0.0.1": 403,
    "1": 403,
    "": 403,
}


async def test_the_metrics_port_refuses_foreign_host_names(database: Database) -> None:
    port = free_port()
    async with serving(database, metrics_port=port) as server:
        for name, expected in NAMES.items():
            status, text = await ask(port, name.encode())
            assert status == expected, name
            assert ("atlas_" in text) == (expected == 200)
            assert ("ATLAS_METRICS_TOKEN" in text) == (expected == 403)
        assert (await ask(port, None))[0] in (400, 403)
        assert (await ask(port, b"127.0.0.1\r\nHost: rebound.example.com"))[0] in (400, 403)
        assert (await ask(server.port, b"127.0.0.1"))[0] == 404


async def test_the_metrics_port_accepts_every_host_name_with_the_token(database: Database) -> None:
    port = free_port()
    async with serving(database, metrics_port=port, metrics_token=TOKEN):
        assert (await ask(port, b"atlas.internal", TOKEN))[0] == 200
        assert (await ask(port, b"atlas.internal", "another token of the tests"))[0] == 403
        assert (await ask(port, b"atlas.internal"))[0] == 403
        assert (await ask(port, b"127.0.0.1"))[0] == 200


async def test_the_metrics_port_listens_on_the_loopback_address_by_default(database: Database) -> None:
    port = free_port()
    settings: list[tuple[dict[str, Any], str]] = [({}, "127.0.0.1"), ({"metrics_host": "0.0.0.0"}, "0.0.0.0")]
    for given, address in settings:
        async with serving(database, metrics_port=port, host="0.0.0.0", **given):
            found = psutil.Process().net_connections("tcp")
            listening = {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port}
            assert listening == {address}


async def test_every_response_forbids_content_sniffing(database: Database) -> None:
    async with serving(database, metrics_token=TOKEN) as server, httpx.AsyncClient(trust_env=False) as client:
        paths = ("/healthz", "/readyz", "/metrics", "/nowhere")
        answers = [await client.request(method, server.http + path) for path in paths for method in ("GET", "POST")]
        answers.append(await get(server.port))
    assert {answer.status_code for answer in answers} >= {200, 401, 404, 405}
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], answer.url


# ---- That they are right --------------------------------------------------------------------------------------------


async def test_connections_and_users_are_counted_by_tier_until_they_are_gone(process: ServerProcess, sql: Any) -> None:
    core, studio = await add_user(sql), await add_user(sql, "studio")
    async with contextlib.AsyncExitStack() as devices:
        for user in (core, core, studio):
            await devices.enter_async_context(live_device(process.url, user))
        found = await figures(process.port)
        assert found("atlas_connections", tier="core") == 2
        assert found("atlas_users", tier="core") == 1
        assert found("atlas_connections", tier="studio") == found("atlas_users", tier="studio") == 1
        # It counts under its first tier until it is gone, whatever becomes of it meanwhile.
        await sql.execute("UPDATE profiles SET subscription_tier = 'core' WHERE id = $1", studio)
        async with live_device(process.url, studio):
            found = await figures(process.port)
            assert found("atlas_connections", tier="studio") == 2
            assert found("atlas_users", tier="studio") == 1

    def all_gone(found: Figures) -> bool:
        gauges = ("atlas_connections", "atlas_users")
        return not any(value for (name, _), value in found.samples.items() if name in gauges)

    found = await until(process.port, all_gone)
    assert found("atlas_opened_total") == 4
    assert sum(value for (name, _), value in found.samples.items() if name == "atlas_closed_total") == 4


async def test_a_refused_hello_is_not_counted_as_a_connection(process: ServerProcess, sql: Any) -> None:
    free = await add_user(sql, "free")
    async with peer(process.url) as device:
        await device.say_hello(free)
        assert (await device.closed())[0] == CloseCode.LOCAL_ONLY
    found = await until(process.port, lambda found: found("atlas_closed_total", code="4301"))
    assert not any(value for (name, _), value in found.samples.items() if name in ("atlas_connections", "atlas_users"))
    assert not any(value for (name, _), value in found.samples.items() if name == "atlas_hellos_total")


async def test_hellos_are_counted_by_outcome(process: ServerProcess, sql: Any) -> None:
    user, other = await add_user(sql), await add_user(sql)
    async with peer(process.url) as device:
        await device.greet(user)
        await device.hear_a(Live)
        cursor = device.cursor
    for who, said in ((user, cursor), (user, cursor), (other, cursor), (user, b"nonsense")):
        async with peer(process.url) as device:
            await device.greet(who, said)
    found = await figures(process.port)
    told = {str(why): found("atlas_hellos_total", outcome=str(why)) for why in ("resumed", *Why)}
    assert {outcome: count for outcome, count in told.items() if count} == {
        "new": 1,
        "resumed": 2,
        "foreign": 1,
        "unreadable": 1,
    }


async def test_rows_are_counted_by_kind_once_for_each_device(process: ServerProcess, sql: Any) -> None:
    user = await add_user(sql)
    async with live_device(process.url, user) as one, live_device(process.url, user) as other:
        before = await figures(process.port)
        conversation, message = uuid4(), uuid4()
        at = now()
        await one.apply(CreateConversation(conversation, "a title", at))
        for content in range(3):
            await one.apply(CreateMessage(message if not content else uuid4(), conversation, "user", f"{content}", at))
        seq = await one.apply(DeleteMessage(message, at))
        await one.reach(seq)
        await other.reach(seq)
        after = await figures(process.port)

    def more(name: str, /, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    counted = {
        kind: more("atlas_rows_sent_total", kind=kind) for kind in ("message", "conversation", "deletion", "profile")
    }
    received = Counter(type(row).__name__ for row in (*one.rows, *other.rows))
    assert counted == {
        "message": received["Message"],
        "conversation": received["Conversation"],
        "deletion": received["MessageDeleted"],
        "profile": 0,
    }
    assert received["Message"] >= 4
    assert received["MessageDeleted"] == 2
    assert more("atlas_bytes_sent_total") > 0
    # One for each change and place where a device stands; changes that are read together count once.
    assert 1 <= more("atlas_delivery_seconds_count") <= 10


async def test_doorbells_that_wake_no_reader_are_counted_as_ignored(process: ServerProcess, sql: Any) -> None:
    here, elsewhere = await add_user(sql), await add_user(sql)
    conversation, away = await add_conversation(sql, here), await add_conversation(sql, elsewhere)
    async with live_device(process.url, here) as device:
        before = await figures(process.port)
        for _ in range(3):
            await add_message(sql, conversation)
        await add_message(sql, away)

        def rung(found: Figures) -> list[float]:
            fates = [{"fate": "woke"}, {"fate": "ignored"}]
            return [found("atlas_doorbells_total", **fate) - before("atlas_doorbells_total", **fate) for fate in fates]

        await until(process.port, lambda found: sum(rung(found)) == 4)
        while len({row.id for row in device.rows}) < 3:
            await device.hear()
        # A ring that comes while its change is already here wakes nobody.
        woke, ignored = rung(await figures(process.port))
        assert 1 <= woke <= 3
        assert ignored == 4 - woke


async def test_pushes_are_counted_by_answer_and_mutations_by_result(process: ServerProcess, sql: Any) -> None:
    user = await add_user(sql)
    async with live_device(process.url, user) as device:
        conversation = uuid4()
        created = CreateConversation(conversation, "a title", now())
        nobodys = RenameConversation(uuid4(), "nobody's", now())
        await device.push(created, nobodys)
        await device.push(created, nobodys, n=1)
        assert (await device.refused_push(created, n=99)).code == "gap"
        found = await figures(process.port)
    assert found("atlas_pushes_total", answer="acked") == 2
    assert found("atlas_pushes_total", answer="gap") == 1
    assert found("atlas_mutations_total", result="applied") == 1
    assert found("atlas_mutations_total", result="repeated") == 1
    assert found("atlas_mutations_total", result="rejected") == 2
    assert found("atlas_ack_seconds_count") == 2
    assert found("atlas_push_group_mutations_count") == 3
    assert found("atlas_push_group_mutations_sum") == 5
    assert found("atlas_statement_seconds_count", name="push") == 3


async def test_closed_connections_are_counted_by_close_code(process: ServerProcess, sql: Any) -> None:
    user = await add_user(sql)
    client = uuid4()
    async with peer(process.url) as refused:
        await refused.say(Hello(token=token(user, secret="s" * 40), client_id=uuid4()))
        assert (await refused.closed())[0] == CloseCode.TOKEN_REFUSED
    async with peer(process.url) as broken:
        await broken.say_raw(b"\xc1")
        assert (await broken.closed())[0] == CloseCode.BAD_FRAME
    async with live_device(process.url, user, client) as older, live_device(process.url, user, client):
        assert (await older.closed())[0] == CloseCode.REPLACED
    async with live_device(process.url, user) as cut:
        cut.socket.transport.abort()
    async with live_device(process.url, user) as odd:
        await odd.socket.close(4777)

    def ended(found: Figures) -> dict[str, float]:
        ends = {labels[0][1]: value for (name, labels), value in found.samples.items() if name == "atlas_closed_total"}
        return {code: count for code, count in ends.items() if count}

    expected = {"4101": 1, "4300": 1, "4302": 1, "1000": 1, "1006": 1, "other": 1}
    await until(process.port, lambda found: ended(found) == expected)


async def test_no_label_contains_an_id(process: ServerProcess, sql: Any) -> None:
    user = await add_user(sql)
    async with live_device(process.url, user) as device:
        conversation = uuid4()
        await device.apply(CreateConversation(conversation, "a title", now()))
        await device.rejection(raw({"t": str(uuid4())}))
        await device.say_raw(device.codec.encode(Hello(token=token(user), client_id=uuid4())))
        await device.closed()
    async with peer(process.url) as stranger:
        await stranger.say_hello(UUID(int=7))
        await stranger.closed()
    found = await figures(process.port)
    labels = {figure.name.removesuffix("_total"): set(figure.labels) for figure in CATALOGUE}
    for name, label, value in found.labels():
        family = re.sub(r"_(total|bucket|sum|count|created)$", "", name)
        assert label in labels[family] | {"le"}, name
        assert not UUID_LIKE.search(value), (name, label)
        assert re.fullmatch(r"[a-z0-9_.+Inf]+", value), (name, label)


@pytest.mark.parametrize("how", ["refusing", "silent"])
async def test_metrics_are_served_while_postgres_is_away(database: Database, how: str) -> None:
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        ServerProcess(url, ATLAS_METRICS_TOKEN=TOKEN) as server,
    ):
        assert (await figures(server.port))("atlas_postgres_up") == 1
        if how == "refusing":
            proxy.refusing = True
            proxy.cut()
        else:
            proxy.silent = True
        found = await until(server.port, lambda found: not found("atlas_postgres_up"))
        assert found("atlas_processes") == 1
        proxy.refusing = proxy.silent = False
        await until(server.port, lambda found: found("atlas_postgres_up") and found("atlas_listening"))


async def test_metrics_of_the_database_are_correct(process: ServerProcess, sql: Any, database: Database) -> None:
    conversation = await add_conversation(sql, await add_user(sql))
    found = await figures(process.port)
    assert found("atlas_log_bytes") > 0
    assert found("atlas_default_rows", table="messages") == found("atlas_default_rows", table="log") == 0
    assert found("atlas_partitions_ahead_days", table="messages") > 14
    assert found("atlas_partitions_ahead_days", table="log") > 14
    async with sql.transaction():
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', '', '2010-01-01')",
            conversation,
        )
        await until(process.port, lambda found: found("atlas_oldest_transaction_seconds") > 1)
    await until(process.port, lambda found: found("atlas_default_rows", table="messages") == 1)
    await until(process.port, lambda found: found("atlas_oldest_transaction_seconds") < 1)


# ---- Several processes ----------------------------------------------------------------------------------------------


def workers(server: ServerProcess) -> list[int]:
    """The pids of the processes that serve."""
    assert server.process is not None
    return sorted(child.pid for child in psutil.Process(server.process.pid).children())


def connections(pid: int, port: int) -> int:
    """The number of a worker's connections with devices."""
    held = psutil.Process(pid).net_connections(kind="tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in held)


async def test_each_process_answers_for_all_and_a_killed_one_loses_only_its_gauges(
    database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    server = ServerProcess(
        database.server_url, WEB_CONCURRENCY="2", ATLAS_METRICS_TOKEN=TOKEN, ATLAS_SOCKETS_PER_USER="100"
    )
    async with server, contextlib.AsyncExitStack() as devices:
        await until(server.port, lambda found: found("atlas_processes") == found("atlas_listening") == 2)
        first, second = workers(server)
        opened = 0
        # The kernel deals them out by chance.
        while not (connections(first, server.port) and connections(second, server.port)) or opened < 6:
            await devices.enter_async_context(live_device(server.url, user))
            opened += 1
            assert opened < 100
        await until(server.port, lambda found: found("atlas_hellos_total", outcome="new") == opened)
        for _ in range(10):
            found = await figures(server.port)
            assert found("atlas_connections", tier="core") == opened
            assert found("atlas_opened_total") == opened
            assert found("atlas_users", tier="core") == 2, "each process knows of its own"
            assert found("atlas_processes") == found("atlas_listening") == 2
            assert found("atlas_workers_died_total") == 0
            assert found("atlas_postgres_up") == 1
            assert not {label for _, label, _ in found.labels()} & {"pid"}
        # As a process leaves one that is killed at the very moment.
        folder = Path(psutil.Process(second).environ()[FOLDER])
        for kind in ("counter", "histogram", "gauge_livesum"):
            (folder / f"{kind}_0.db").touch()
        left = connections(second, server.port)
        os.kill(first, signal.SIGKILL)
        found = await until(server.port, lambda found: found("atlas_connections", tier="core") == left)
        assert found("atlas_users", tier="core") == 1
        found = await until(server.port, lambda found: found("atlas_processes") == found("atlas_listening") == 2)
        assert found("atlas_connections", tier="core") == left
        assert found("atlas_opened_total") == opened, "what was counted stays counted"
        assert found("atlas_workers_died_total") == 1
        assert found("atlas_hellos_total", outcome="new") == opened
        async with asyncio.timeout(20):
            await devices.aclose()
        await until(server.port, lambda found: not found("atlas_connections", tier="core"))
        await server.stop()
