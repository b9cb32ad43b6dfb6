"""Serves the demo's page: the files from the package's build, and the demo's users with their tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from server.edge.http import host

STATIC: Final = Path(__file__).parent / "static"
TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # The next start may serve another version of the files.
    "Cache-Control": "no-cache",
}
UNBUILT: Final = (
    "The demo's page is not built, because the npm registry could not be reached when this package was installed.\n"
    "Install it again (pip install -e .) where it can be. Everything else works: atlas-sync watch, atlas-sync chat.\n"
)
LOCAL: Final = frozenset({"127.0.0.1", "localhost"})


def routes(people: Sequence[dict[str, Any]]) -> list[Route]:
    """The page's routes. `people` are the users with their tokens.

    Only a page from this machine gets them: if another site's name resolves to this address, the Host header says so.
    """

    async def demo(request: Request) -> Response:
        if host(request) not in LOCAL:
            return PlainTextResponse("The demo is for this machine only.\n", status_code=403)
        return JSONResponse({"url": "/sync", "users": people}, headers={"Cache-Control": "no-store"})

    files = {path.name: _file(path) for path in sorted(STATIC.glob("*")) if path.suffix in TYPES}
    return [
        Route("/demo.json", demo),
        Route("/", files.get("index.html", _unbuilt)),
        *(Route(f"/{name}", answer) for name, answer in files.items()),
    ]


def _file(path: Path) -> Callable[[Request], Any]:
    content = path.read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=TYPES[path.suffix], headers=HEADERS)

    return answer


async def _unbuilt(request: Request) -> Response:
    return PlainTextResponse(UNBUILT, status_code=503)
