"""The TypeScript client's own checks and tests, under the one command that runs everything."""

import asyncio
import base64
from hashlib import sha384
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.declaration.chat import CHAT
from server.declaration.typescript import module
from server.demo.assets import CODINGS, IDENTITY, read
from server.demo.site import STATIC
from tests.support.cluster import Database, temporary_folder
from tests.support.demo import Demo
from tests.support.instants import INSTANTS, add_conversations_of_all_times, add_messages_of_all_times
from tests.support.npm import CLIENT, PAGE, install, run, run_node
from tests.support.people import add_conversation, add_user
from tests.support.serving import serving, token


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    install()


@pytest.mark.parametrize("script", ["check", "test", "size"])
def test_the_client_keeps_its_own_promises(script: str) -> None:
    run("run", script)


def test_the_chat_schema_of_the_client_is_what_the_server_prints() -> None:
    printed = module(CHAT.schema).replace("const schema =", "const CHAT =")
    assert (CLIENT / "src" / "schema.chat.ts").read_text() == printed


async def test_the_client_and_the_server_understand_each_other() -> None:
    with temporary_folder() as folder:
        demo = Demo(folder)
        await demo.start()
        try:
            given = {"ATLAS_URL": demo.line["url"], "ATLAS_TOKEN": demo.line["users"][0]["token"]}
            await asyncio.to_thread(run, "test", "--", "test/real.test.ts", **given)
        finally:
            await demo.end()


async def test_the_client_pages_up_over_rows_of_all_times(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await add_messages_of_all_times(sql, conversation)
    await add_conversations_of_all_times(sql, user)
    async with serving(database) as server:
        given = {
            "ATLAS_URL": server.url,
            "ATLAS_TOKEN": token(user),
            "ATLAS_HOME": str(conversation),
            "ATLAS_ORDER": "|".join(reversed(INSTANTS)),
        }
        await asyncio.to_thread(run, "test", "--", "test/instants.test.ts", **given)


def test_the_bundle_for_browsers_is_named_by_its_content_and_is_what_its_manifest_says(tmp_path: Path) -> None:
    run("run", "bundle", "--", str(tmp_path))
    (module,) = (tmp_path / "assets").glob("*.js")
    name = module.relative_to(tmp_path).as_posix()
    assert read(tmp_path).keys() == {name, "atlas-sync.js"}
    asset = read(tmp_path)[name]
    assert asset.immutable
    assert asset.contents.keys() == CODINGS.keys()
    digest = base64.b64encode(sha384(asset.contents[IDENTITY]).digest()).decode()
    manifest = orjson.loads((tmp_path / "manifest.json").read_bytes())
    assert manifest == {"atlas-sync.js": {"file": name, "integrity": f"sha384-{digest}"}}
    script = "import { createSync, IndexedDbStore as S } from './atlas-sync.js'; if (!createSync || !S) throw Error();"
    run_node("--input-type=module", "-e", script, folder=tmp_path)


def test_the_types_of_the_demos_page_fit_together() -> None:
    run_node(str(CLIENT / "node_modules/typescript/bin/tsc"), "--noEmit", folder=PAGE)


def test_the_demos_page_is_built_by_installing_the_package() -> None:
    assert read(STATIC).keys() > {"index.html", "sw.js"}


@pytest.mark.parametrize("folder", [CLIENT, PAGE], ids=["client", "page"])
def test_no_lock_file_names_an_address(folder: Path) -> None:
    text = (folder / "package-lock.json").read_text()
    assert "resolved" not in text
    assert "registry" not in text
