"""The TypeScript client as a package: it is installed into a new app, and each example of its README is run there."""

import asyncio
import json
import os
import re
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.support.cluster import Database
from tests.support.examples import examples
from tests.support.new_app import NewApp, shared
from tests.support.npm import CLIENT, install, run_node
from tests.support.serving import SECRET, Running, serving, token

LARGE: Final = "@op-engineering/op-sqlite@18.2.5"
"""115 MB, because it has binaries for all phones; so it is in every version."""
TYPES_ONLY: Final = ["expo-sqlite@57.0.3", "react-native@0.86.3", LARGE]
"""Their types are checked against. They cannot run here, and what they depend on is not needed for that."""


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewApp]:
    base = tmp_path_factory.getbasetemp()
    with shared((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "new-app") as made:
        yield made


@pytest.fixture
async def server(database: Database, user: UUID, tmp_path: Path, app: NewApp) -> AsyncIterator[Running]:
    """Serves the app that `built` builds, the page without a bundler, and sign-in as Supabase has it."""

    async def sign_in(request: Request) -> JSONResponse:
        session = {"access_token": token(user), "refresh_token": "next", "token_type": "bearer", "expires_in": 3600}
        return JSONResponse({**session, "user": {"id": str(user), "aud": "authenticated"}})

    routes = [
        Route("/auth/v1/token", sign_in, methods=["POST"]),
        Mount("/www", StaticFiles(directory=app.page, html=True)),
        Mount("/", StaticFiles(directory=tmp_path, html=True)),
    ]
    async with serving(database, routes=routes) as running:
        yield running


def environment(server: Running, user: UUID) -> dict[str, str]:
    """What the examples read from it."""
    return {
        "VITE_SYNC_URL": server.url,
        "VITE_SYNC_USER": str(user),
        "VITE_SYNC_TOKEN": token(user),
        "VITE_SUPABASE_URL": server.http,
        "VITE_SUPABASE_KEY": "public",
        "BOT_USER": str(user),
        "SYNC_URL": server.url,
        "SYNC_TOKEN": token(user),
        "ATLAS_JWT_SECRET": SECRET,
    }


def test_each_example_is_one_that_these_tests_run() -> None:
    pages = {"src/App.tsx", "src/main.tsx", "src/plain.ts", "src/Chat.vue", "src/vue.ts", "www/index.html"}
    used = {".env.local", "src/sync.ts", "src/user.ts", "src/useQuery.ts", "src/schema.ts", "token.mjs"}
    others = {"src/tasks.ts", "src/supabase.ts", "src/signOut.ts", "src/support.ts", "src/adopt.ts", "src/Answers.tsx"}
    programs = {"bot.mjs", "bot20.mjs", "native/expo.ts", "native/op.ts", "native/sync.ts"}
    assert examples().keys() == pages | used | others | programs


def test_the_types_of_each_example_fit_together(app: NewApp) -> None:
    for check in ("node_modules/vue-tsc/bin/vue-tsc.js -p .", "node_modules/typescript/bin/tsc -p tsconfig.node.json"):
        run_node(*check.split(), folder=app.folder)


def test_the_types_of_each_example_fit_together_in_the_newest_typescript(app: NewApp) -> None:
    install()
    # Supabase's own declarations do not fit there; .vue files are read by the other one only.
    left_out = ["src/supabase.ts", "src/others.ts", "src/vue.ts"]
    (app.folder / "tsconfig.newest.json").write_text(json.dumps({"extends": "./tsconfig.json", "exclude": left_out}))
    run_node(str(CLIENT / "node_modules/typescript/bin/tsc"), "-p", "tsconfig.newest.json", folder=app.folder)


async def test_a_message_arrives_on_a_second_device_whatever_the_framework(
    app: NewApp, server: Running, user: UUID, chromium: Browser, person: BrowserContext, tmp_path: Path
) -> None:
    # In React's development build StrictMode mounts each component twice, and faults in the use of React are reported.
    await built(app, server, user, tmp_path, NODE_ENV="development")
    said: list[str] = []
    person.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    phone = await chromium.new_context()
    react, plain, vue = [
        await opened(context, f"{server.http}/{name}.html")
        for context, name in ((person, "index"), (phone, "plain"), (phone, "vue"))
    ]
    await expect(react.get_by_role("status")).to_contain_text("All saved")
    await react.get_by_role("button", name="New conversation").click()
    for page, text in ((react, "from React"), (plain, "from plain TypeScript"), (vue, "from Vue")):
        await page.locator("input").fill(text)
        await page.locator("input").press("Enter")
        for reader in (react, plain, vue):
            # The class is the row's state.
            await expect(reader.locator("li, [role=listitem]").filter(has_text=text)).to_have_class("synced")
    await expect(react.get_by_role("status")).to_contain_text("All saved")
    assert any("React DevTools" in each for each in said)
    # There is no icon.
    assert not [
        each for each in said if each.startswith(("error", "warning")) and "favicon" not in each and "404" not in each
    ]


async def test_the_other_examples_do_what_they_say(
    app: NewApp, server: Running, user: UUID, person: BrowserContext, tmp_path: Path
) -> None:
    await built(app, server, user, tmp_path)
    page = await person.new_page()
    async with page.expect_download() as saved:
        await page.goto(f"{server.http}/others.html")
    unsent = json.loads((await (await saved.value).path()).read_bytes())
    assert (unsent["user"], unsent["state"], unsent["unsent"]) == (str(user), "live", [])
    await page.wait_for_function("window.did")
    assert await page.evaluate("window.did") == [['Buy oat milk ["home"]'], ["gone: true"], ["Hello."]]


async def test_a_page_without_a_bundler_keeps_what_was_written(server: Running, person: BrowserContext) -> None:
    page = await opened(person, f"{server.http}/www/")
    await page.locator("input").fill("Buy milk")
    await page.locator("input").press("Enter")
    await expect(page.locator("li")).to_have_text("Buy milk")
    await page.reload()
    await expect(page.locator("li")).to_have_text("Buy milk")


async def test_programs_of_node_send_and_receive_with_and_without_a_websocket_of_their_own(
    app: NewApp, server: Running, user: UUID
) -> None:
    given = environment(server, user)
    await ran(app.folder, "bot.mjs", **given)
    assert await ran(app.folder, "--no-experimental-websocket", "bot20.mjs", **given) == "From a bot\n"


def test_nothing_needs_a_window_when_it_is_imported_or_rendered_on_a_server(app: NewApp) -> None:
    run_node("server.mjs", folder=app.folder)


async def test_the_adapters_for_react_native_fit_the_drivers_types_and_keep_rows(
    app: NewApp, server: Running, user: UUID, tmp_path: Path
) -> None:
    await asyncio.to_thread(fetch_types, app, tmp_path)
    native = app.folder / "native"
    await ran(app.folder, "node_modules/typescript/bin/tsc", "-p", "native")
    await ran(native, "run.mjs", **environment(server, user))


def test_the_package_has_types_and_source_maps_and_no_side_effects(app: NewApp) -> None:
    package = app.folder / "node_modules" / "atlas-sync"
    manifest = json.loads((package / "package.json").read_text())
    for name, target in manifest["exports"].items():
        if isinstance(target, dict):
            assert list(target) == ["types", "default"], name
            assert all((package / path).exists() for path in target.values()), name
    for module in package.glob("dist/**/*.js"):
        if module == package / "dist" / "browser" / "atlas-sync.js":
            continue
        (named,) = re.findall(r"^//# sourceMappingURL=(.*)$", module.read_text(), re.MULTILINE)
        found = json.loads((module.parent / named).read_text())
        assert len(found["sources"]) == len(found["sourcesContent"]) > 0, module
        assert all(found["sourcesContent"]), module
        assert not any(source.startswith("/") for source in found["sources"]), module
    bundle = (
        "import { build } from 'esbuild'; const { outputFiles } = await build({ stdin: { contents: process.argv[1], "
    )
    bundle += "resolveDir: process.argv[2] }, bundle: true, write: false, format: 'esm', logLevel: 'silent' }); "
    bundle += "console.log(outputFiles[0].text.replaceAll(/^\\/\\/.*\\n/gm, '').trim().length);"
    for imported in ("import 'atlas-sync'; import 'atlas-sync/sqlite';", "import { createSync } from 'atlas-sync';"):
        said = run_node("--input-type=module", "-e", bundle, imported, str(app.folder), folder=app.checkout)
        assert int(said) == 0, imported


def test_the_folder_of_a_checkout_can_be_installed(app: NewApp) -> None:
    for settings, linked in (("", True), ("install-links=true\n", False)):
        other = app.root / f"other-{linked}"
        other.mkdir()
        (other / "package.json").write_text('{ "type": "module" }')
        (other / ".npmrc").write_text(f"omit-lockfile-registry-resolved=true\n{settings}")
        app.shell("rm -rf dist", app.checkout)
        app.shell("npm install ../atlas-sync/protocol/js", other)
        assert (other / "node_modules" / "atlas-sync").is_symlink() == linked
        for command in ("true", "npm ci"):
            app.shell(command, other)
            run_node("-e", "import('atlas-sync').then(({ createSync }) => createSync.length)", folder=other)


async def built(app: NewApp, server: Running, user: UUID, folder: Path, **given: str) -> None:
    vite = ("node_modules/vite/bin/vite.js", "build", "--outDir", str(folder), "--emptyOutDir", "--logLevel", "warn")
    await ran(app.folder, *vite, **environment(server, user), **given)


async def ran(folder: Path, *arguments: str, **environment: str) -> str:
    return await asyncio.to_thread(lambda: run_node("--no-warnings", *arguments, folder=folder, **environment))


async def opened(context: BrowserContext, address: str) -> Page:
    page = await context.new_page()
    await page.goto(address)
    return page


def fetch_types(app: NewApp, folder: Path) -> None:
    """Put the declarations of `TYPES_ONLY` where the examples find them."""
    # Who works on this machine need not wait for the large one, unless npm has it already.
    if not os.environ.get("CI"):
        try:
            app.shell(f"npm pack --offline --dry-run --silent {LARGE}", folder)
        except AssertionError:
            pytest.skip(f"npm has not fetched {LARGE}, which is 115 MB: npm cache add {LARGE}")
    said = app.shell(f"npm pack --json --silent {' '.join(TYPES_ONLY)}", folder)
    made: list[dict[str, str]] = json.loads(said[said.index("[") :])
    for each in made:
        with tarfile.open(folder / each["filename"]) as archive:
            for member in archive:
                if member.name.endswith(".d.ts") or member.name == "package/package.json":
                    member.name = str(Path(member.name).relative_to("package"))
                    archive.extract(member, app.folder / "native" / "node_modules" / each["name"], filter="data")
