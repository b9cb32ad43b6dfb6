"""The nginx examples for assets: a cache before the demo's page and its next version; files without a server."""

import base64
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from playwright.async_api import Browser, async_playwright

from benchmarks.page import CHROMIUM, FLAGS
from server.demo import site
from server.demo.assets import CODINGS, IMMUTABLE, read
from tests.support.cluster import Database, temporary_folder
from tests.support.nginx import APPS, NGINX, Nginx, nginx
from tests.support.page import build_page
from tests.support.prometheus import free_port
from tests.support.serving import serving
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.skipif(not NGINX.exists(), reason=f"there is no {NGINX}"),
    pytest.mark.shared_database,
]

TRANSFERRED = """
    () => Object.fromEntries(
        [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
            .map(({ name, transferSize }) => [new URL(name).pathname, transferSize]))
"""
"""The bytes that the browser received for each path, as it says itself."""
NOTED = "() => performance.getEntriesByName(`${location.origin}/demo.json`).length > 0"
"""It notes a request a moment after the page has the answer."""


CACHED = """
    () => caches.open('atlas-sync-demo').then((cache) => cache.keys())
        .then((all) => all.map(({ url }) => new URL(url).pathname))
"""
TITLE = "The next version"
PEOPLE = [{"id": str(uuid4()), "name": "Person 1", "tier": "pro", "token": "a token"}]


class Origin:
    """The demo's page on one port, in one version after the other."""

    def __init__(self, database: Database) -> None:
        self.port = free_port()
        self._database = database
        self._serving = AsyncExitStack()

    async def deploy(self, static: Path) -> None:
        await self.stop()
        await self._serving.enter_async_context(serving(self._database, self.port, site.routes(PEOPLE, static)))

    async def stop(self) -> None:
        await self._serving.aclose()


@pytest.fixture(scope="module")
def next_version() -> Iterator[Path]:
    """The page's next version. Its script differs, its style sheet does not."""
    with temporary_folder() as folder:
        yield build_page(folder, f"document.title = '{TITLE}';")


@pytest.fixture
async def origin(database: Database) -> AsyncIterator[Origin]:
    made = Origin(database)
    await made.deploy(site.STATIC)
    yield made
    await made.stop()


@pytest.fixture
async def cdn(origin: Origin) -> AsyncIterator[Nginx]:
    changes = {"127.0.0.1:8000": f"127.0.0.1:{origin.port}"}
    async with nginx("Assets behind a CDN", "app.example.com", changes) as running:
        yield running


def visitor(proxy: Nginx) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=proxy.certificate)
    made = httpx.AsyncClient(base_url=f"https://localhost:{proxy.port}", verify=context, trust_env=False)
    del made.headers["accept-encoding"]
    return made


@pytest.fixture
async def client(cdn: Nginx) -> AsyncIterator[httpx.AsyncClient]:
    async with visitor(cdn) as made:
        yield made


def assets(static: Path) -> dict[str, str]:
    """The paths of a version's assets, by their endings."""
    return {
        path.suffix: f"/assets/{path.name}"
        for path in (static / "assets").glob("page-*")
        if path.suffix in (".js", ".css")
    }


async def raw(client: httpx.AsyncClient, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """The response, and its content as it was sent."""
    async with client.stream("GET", path, headers=headers) as answer:
        return answer, b"".join([part async for part in answer.aiter_raw()])


async def kept(cdn: Nginx, *expected: str) -> None:
    """What nginx found in its cache, request by request. It writes a line after the answer."""
    await eventually(lambda: [request.cache for request in cdn.log()] == [*expected])


@pytest.fixture
async def chromium(cdn: Nginx) -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        reason = f"there is no Chromium at {CHROMIUM}: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    key = load_pem_x509_certificate(cdn.certificate.read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    # What comes over a connection whose certificate is ignored is not cached; with this one it counts as valid.
    trust = f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, trust])
        yield browser
        await browser.close()


async def test_a_second_load_transfers_nothing_but_the_document_and_a_new_version_is_seen_at_once(
    origin: Origin, cdn: Nginx, chromium: Browser, next_version: Path
) -> None:
    # The browser's own cache is all that it has.
    person = await chromium.new_context(service_workers="block")

    async def load() -> tuple[str, dict[str, int], set[tuple[str, int]]]:
        """The title in a new tab; the bytes that the browser received for each path; what nginx answered."""
        before = len(cdn.log())
        page = await person.new_page()
        await page.goto(f"https://localhost:{cdn.port}/")
        await page.get_by_test_id("device-1").wait_for()
        await page.wait_for_function(NOTED)
        received = await page.evaluate(TRANSFERRED)
        await eventually(lambda: len(cdn.log()) - before >= sum(size > 0 for size in received.values()))
        del received["/demo.json"]  # no file of the page, but tokens
        asked = {(request.path, request.status) for request in cdn.log()[before:]}
        return await page.title(), received, asked - {("/demo.json", 200)}

    earlier, later = assets(site.STATIC), assets(next_version)
    assert earlier[".js"] != later[".js"]
    assert earlier[".css"] == later[".css"]

    _, received, asked = await load()
    assert asked == {("/", 200), (earlier[".js"], 200), (earlier[".css"], 200)}
    assert 0 not in received.values()

    _, received, asked = await load()
    assert asked == {("/", 304)}
    assert received.keys() == {"/", *earlier.values()}
    assert all(received[path] == 0 for path in earlier.values())

    await origin.deploy(next_version)
    title, received, asked = await load()
    assert title == TITLE
    assert asked == {("/", 200), (later[".js"], 200)}
    assert received[later[".css"]] == 0 < received[later[".js"]]


async def test_the_service_worker_keeps_the_files_of_the_version_that_was_seen_last(
    origin: Origin, cdn: Nginx, chromium: Browser, next_version: Path
) -> None:
    async def keeps(static: Path) -> bool:
        return set(await page.evaluate(CACHED)) == {"/", "/demo.json", *assets(static).values()}

    page = await chromium.new_page()
    await page.goto(f"https://localhost:{cdn.port}/")
    await eventually(lambda: keeps(site.STATIC))
    await page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    await origin.deploy(next_version)
    await page.reload()
    assert await page.title() == TITLE
    # The next worker is installed at once if there is none; otherwise Chromium waits for some seconds.
    await page.evaluate("navigator.serviceWorker.ready.then((known) => known.unregister()).then(() => null)")
    await page.reload()
    await eventually(lambda: keeps(next_version))
    await origin.stop()
    await page.reload()
    assert await page.title() == TITLE


async def test_an_old_page_gets_its_files_after_a_deployment_and_while_the_app_is_away(
    origin: Origin, cdn: Nginx, client: httpx.AsyncClient, next_version: Path
) -> None:
    script = assets(site.STATIC)[".js"]
    _, content = await raw(client, script)
    await origin.deploy(next_version)
    for _ in range(2):
        answer, again = await raw(client, script)
        assert (answer.status_code, again == content) == (200, True)
        await origin.stop()
    await kept(cdn, "MISS", "HIT", "HIT")


async def test_a_file_that_is_not_there_yet_is_seen_as_soon_as_it_is(
    origin: Origin, cdn: Nginx, client: httpx.AsyncClient, next_version: Path
) -> None:
    script = assets(next_version)[".js"]
    answer = await client.get(script)
    assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")
    await origin.deploy(next_version)
    assert (await client.get(script)).status_code == 200


@pytest.mark.parametrize("coding", CODINGS)
async def test_each_coding_is_kept_apart(cdn: Nginx, client: httpx.AsyncClient, coding: str) -> None:
    script = assets(site.STATIC)[".js"]
    built = read(site.STATIC)[script[1:]].contents
    await raw(client, script, **{"accept-encoding": next(other for other in CODINGS if other != coding)})
    for _ in range(2):
        answer, content = await raw(client, script, **{"accept-encoding": coding})
        assert content == built[coding]
        assert answer.headers.get("content-encoding", "identity") == coding
    unchanged, _ = await raw(client, script, **{"accept-encoding": coding, "if-none-match": answer.headers["etag"]})
    assert unchanged.status_code == 304
    await kept(cdn, "MISS", "MISS", "HIT", "HIT")


async def test_nobody_elsewhere_gets_the_tokens(client: httpx.AsyncClient) -> None:
    assert (await client.get("/demo.json")).status_code == 200
    assert (await client.get("/demo.json", headers={"host": "app.example.com"})).status_code == 403


async def test_nginx_alone_serves_the_files_by_the_same_rules() -> None:
    script = assets(site.STATIC)[".js"]
    built = read(site.STATIC)
    changes = {"/var/www/app": str(site.STATIC)}
    async with nginx("Without a bundler", "app.example.com", changes, APPS) as running, visitor(running) as client:
        tags = set()
        for coding in ("gzip", "identity"):
            answer, content = await raw(client, script, **{"accept-encoding": coding})
            assert content == built[script[1:]].contents[coding]
            again, _ = await raw(client, script, **{"accept-encoding": coding, "if-none-match": answer.headers["etag"]})
            assert (answer.status_code, again.status_code) == (200, 304)
            for each in (answer, again):
                assert each.headers["cache-control"] == IMMUTABLE
            assert answer.headers["vary"] == "Accept-Encoding"
            tags.add(answer.headers["etag"])
        assert len(tags) == 2
        for path, status, control in (
            ("/", 200, "no-cache"),
            ("/sw.js", 200, "no-cache"),
            ("/assets/gone.js", 404, "no-store"),
        ):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["cache-control"]) == (status, control)
