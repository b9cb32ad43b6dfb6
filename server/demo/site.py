"""Serves the demo's page: the files from the package's build, and the demo's users with their tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from server.demo import assets
from server.edge.http import host

STATIC: Final = Path(__file__).parent / "static"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
NEVER_STORED: Final = {"Cache-Control": assets.NEVER_STORED}
UNBUILT: Final = (
    "The demo's page is not built, because the npm registry could not be reached when this package was installed.\n"
    "Install it again (pip install -e .) where it can be. Everything else works: atlas-sync watch, atlas-sync chat.\n"
)
ABSENT: Final = "There is no such file. If a page names it, that page is of another version: load it again.\n"
LOCAL: Final = frozenset({"127.0.0.1", "localhost"})


def routes(people: Sequence[dict[str, Any]], static: Path = STATIC, *, ask: bool = True) -> list[Route]:
    """The page's routes. `people` are the users with their tokens, `static` is the folder of the page's build; `ask`:
    whether there is an assistant.

    Only a page from this machine gets the users: if another site's name resolves to this address, the Host header
    says so.
    """

    async def demo(request: Request) -> Response:
        if host(request) not in LOCAL:
            return PlainTextResponse("The demo is for this machine only.\n", status_code=403, headers=NEVER_STORED)
        return JSONResponse({"url": "/sync", "users": people, "ask": ask}, headers=NEVER_STORED)

    # Found by their names in this dictionary: no path of a request reaches the disk.
    files = assets.read(static)

    async def file(request: Request) -> Response:
        path = request.path_params["path"]
        if (asset := files.get(path or "index.html")) is None:
            if path == "" and not files:
                return PlainTextResponse(UNBUILT, status_code=503, headers=NEVER_STORED)
            # Not stored by a cache before the server: the file may come with the next deployment.
            return PlainTextResponse(ABSENT, status_code=404, headers=NEVER_STORED)
        found = assets.answer(asset, _header(request, "accept-encoding"), _header(request, "if-none-match"))
        return Response(found.content, found.status, {**HEADERS, **found.headers})

    return [Route("/demo.json", demo), Route("/{path:path}", file)]


def _header(request: Request, name: str) -> str | None:
    """All lines of a header as one (RFC 9110, 5.3)."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None
