"""A browser tells no page why a WebSocket did not open: the library finds out, also at another site."""

import socket
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from playwright.async_api import BrowserContext
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from tests.support.cluster import Database
from tests.support.npm import install, run
from tests.support.serving import serving, token

USER = uuid4()
PAGE = """
<!doctype html>
<title>…</title>
<script type="module">
  import { createChatSync, MemoryStore } from './%s';
  const asked = new URLSearchParams(location.search);
  const getToken = () => asked.get('token');
  const sync = createChatSync({ url: asked.get('url'), user: asked.get('user'), getToken, store: new MemoryStore() });
  const show = () => {
    const { state, reason } = sync.status.value;
    document.title = reason === null ? state : `${reason.code} ${reason.message}`;
  };
  sync.status.subscribe(show);
</script>
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    install()
    folder = tmp_path_factory.mktemp("site")
    run("run", "bundle", "--", str(folder))
    module = orjson.loads((folder / "manifest.json").read_bytes())["atlas-sync.js"]["file"]
    (folder / "index.html").write_text(PAGE % module)
    return folder


async def test_a_page_of_another_site_learns_why_no_websocket_opens(
    person: BrowserContext, site: Path, database: Database
) -> None:
    page = await person.new_page()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with (
            serving(database, routes=[Mount("/", StaticFiles(directory=site, html=True))]) as pages,
            serving(database) as server,
            serving(database, allowed_origins="https://app.example.com") as closed,
        ):
            for url, says in (
                (server.url.replace("/sync", "/wrong"), "http_404 the server at {} answered 404: check the path"),
                (closed.url, "http_403 the server at {} answered 403: add this page's origin"),
                (
                    f"ws://127.0.0.1:{held.getsockname()[1]}/sync",
                    "unreachable nothing answers at {}: check the address",
                ),
            ):
                await page.goto(f"{pages.http}/?user={USER}&token={token(USER)}&url={url}")
                expected = says.format(url)
                await page.wait_for_function("start => document.title.startsWith(start)", arg=expected)
            # The server accepts the token, but does not know this user.
            await page.goto(f"{pages.http}/?user={USER}&token={token(USER)}&url={server.url}")
            await page.wait_for_function("document.title.startsWith('local_only ')")
