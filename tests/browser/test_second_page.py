"""A page on a schema of its own: tables that are no chat's, typed by what the server prints."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from server.postgres.migrate import migrate
from server.terminal.declaration import as_typescript, known
from tests.support.cluster import Cluster, Database, administrator
from tests.support.npm import CLIENT, PAGE, install, run_node
from tests.support.proxy import Proxy
from tests.support.serving import serving, token
from tests.support.waiting import eventually

SOURCE: Final = Path(__file__).parent / "second_page"
CHECK: Final = """
    {{
        "extends": "{page}/tsconfig.json",
        "compilerOptions": {{
            "paths": {{
                "atlas-sync": ["{client}/src/index.ts"],
                "atlas-sync/indexeddb": ["{client}/src/store/indexeddb.ts"],
                "@msgpack/msgpack": ["{client}/node_modules/@msgpack/msgpack"]
            }}
        }},
        "include": ["page.ts"]
    }}
"""
BUILD: Final = """
    import { build } from 'esbuild';
    const [folder, client] = process.argv.slice(1);
    await build({
        entryPoints: [`${folder}/page.ts`],
        outdir: folder,
        bundle: true,
        format: 'esm',
        nodePaths: ['node_modules'],
        alias: { 'atlas-sync': `${client}/src/index.ts`, 'atlas-sync/indexeddb': `${client}/src/store/indexeddb.ts` },
        logLevel: 'warning',
    });
"""


@pytest.fixture
async def folders(postgres_18: Cluster) -> AsyncIterator[Database]:
    """A database with the page's tables, which are synced."""
    made = await postgres_18.create("template0")
    async with administrator(made) as sql:
        await sql.execute((SOURCE / "ddl.sql").read_text())
    assert await migrate(made.url, text=(SOURCE / "sync.toml").read_text()) == []
    yield made
    await made.drop()


@pytest.fixture
async def static(folders: Database, tmp_path: Path) -> Path:
    """The page, checked and built with what `atlas-sync schema --typescript` prints."""
    install()
    folder = tmp_path / "page"
    shutil.copytree(SOURCE, folder)
    (folder / "schema.ts").write_text(as_typescript(await known(folders.url)))
    (folder / "tsconfig.json").write_text(CHECK.format(page=PAGE, client=CLIENT))
    run_node(str(CLIENT / "node_modules/typescript/bin/tsc"), "-p", ".", folder=folder)
    run_node("--input-type=module", "-e", BUILD, str(folder), str(CLIENT), folder=PAGE)
    return folder


class Tab:
    """The page in a tab, as a person sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def type(self, into: str, text: str) -> None:
        await self.page.locator(f"input[name={into}]").fill(text)
        await self.page.locator(f"input[name={into}]").press("Enter")

    def item(self, text: str) -> Locator:
        return self.page.locator("li").filter(has_text=text)

    async def act(self, text: str, button: str) -> None:
        await self.item(text).get_by_role("button", name=button).click()

    async def has(self, *texts: str, state: str = "synced") -> None:
        for text in texts:
            await expect(self.item(text)).to_have_attribute("data-state", state)

    async def is_voted(self, text: str, vote: str) -> None:
        await expect(self.item(text)).to_have_attribute("data-vote", vote)

    async def status(self, state: str) -> None:
        await expect(self.page.locator("#status")).to_have_text(state)


class Device(NamedTuple):
    """A browser profile with a network of its own."""

    context: BrowserContext
    network: Proxy
    address: str

    async def open(self) -> Tab:
        page = await self.context.new_page()
        await page.goto(self.address)
        return Tab(page)

    def cut(self) -> None:
        self.network.refusing = True
        self.network.cut()

    async def restore(self) -> None:
        self.network.refusing = False
        for page in self.context.pages:
            await page.evaluate("dispatchEvent(new Event('online'))")


async def test_folders_chats_messages_and_votes_offline_and_on_again(
    folders: Database, static: Path, chromium: Browser
) -> None:
    user = uuid4()
    routes = [Mount("/", StaticFiles(directory=static, html=True))]
    async with (
        serving(folders, routes=routes) as server,
        administrator(folders) as sql,
        Proxy(("127.0.0.1", server.port)) as first,
        Proxy(("127.0.0.1", server.port)) as second,
    ):
        laptop, phone = [await device(chromium, network, user) for network in (first, second)]
        here, beside, there = await laptop.open(), await laptop.open(), await phone.open()

        # One writes, all see it.
        await here.type("folder", "Travel")
        await here.act("Travel", "open")
        await here.type("chat", "Rome")
        await here.act("Rome", "open")
        await here.type("message", "Where to stay? https://example.org/rome")
        await here.act("Where to stay?", "up")
        for tab in (beside, there):
            await tab.act("Travel", "open")
            await tab.act("Rome", "open")
            await tab.has("Where to stay? <https://example.org/rome>")
            await tab.is_voted("Where to stay?", "up")

        # The laptop is offline. Its tabs agree, and the phone goes on.
        laptop.cut()
        for tab in (here, beside):
            await tab.status("offline")
        await here.type("message", "from the train")
        await beside.type("message", "from the hotel")
        await beside.act("Where to stay?", "down")
        await here.type("chat", "Naples")
        for tab in (here, beside):
            await tab.has("from the train", "from the hotel", "Naples", state="pending")
            await tab.is_voted("Where to stay?", "down")
        await there.type("folder", "Work")
        await there.type("message", "from the phone")
        await there.has("Work", "from the phone")
        await there.is_voted("Where to stay?", "up")

        # It is online again, and its connection breaks once more when its writes are applied.
        await laptop.restore()
        await eventually(lambda: sql.fetchval("SELECT count(*) = 4 FROM writes WHERE what ~ 'train|hotel|phone|false'"))
        laptop.cut()
        await here.status("offline")
        await laptop.restore()
        for tab in (here, beside, there):
            await tab.has("Work", "Naples", "from the train", "from the hotel", "from the phone")
            await tab.is_voted("Where to stay?", "down")
        assert await sql.fetchval("SELECT max(count) FROM writes") == 1
        assert await sql.fetchval("SELECT count(*) FROM writes") == 10

        # What a folder holds goes with it, on every device.
        await there.act("Travel", "delete")
        for tab in (here, beside, there):
            for text in ("Travel", "Rome", "Naples", "from the phone"):
                await expect(tab.item(text)).to_have_count(0)
            await tab.has("Work")
        assert await sql.fetchval("SELECT count(*) FROM votes") == 0


async def device(chromium: Browser, network: Proxy, user: UUID) -> Device:
    address = f"http://127.0.0.1:{network.port}/#{urlencode({'user': user, 'token': token(user)})}"
    return Device(await chromium.new_context(), network, address)
