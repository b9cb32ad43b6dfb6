"""Requests of a writer to the server (SPEC.md, section 13): the only module of the client that knows httpx."""

import asyncio
import json
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx

from atlas_sync.stream_text import StreamError

# Seconds.
CONNECT_WITHIN = 5.0
ANSWER_WITHIN = 10.0
AT_ONCE = 8
"""Openings and ends under way. A pool of httpx looks at all of its connections for each request: 200 streams that were
opened at once took 8 ms of CPU each."""
SENTENCE = 300
"""Characters of a refusal that are repeated in an exception: a sentence of the server, no page of a proxy."""


class Away(Exception):  # noqa: N818 (passes)
    """There was no answer. Has neither the request nor its cause, which would tell the token to whoever logs them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `fields` are those of its JSON, empty if it has none. `retry_after` is in seconds."""

    status: int
    fields: dict[str, Any]
    retry_after: float
    sentence: str

    @property
    def is_no_endpoint(self) -> bool:
        """Whether this is what a web server says of a path that it does not have."""
        return self.status in (404, 405) and self.sentence in ("", "Not Found", "Method Not Allowed")

    def refusal(self) -> StreamError:
        return StreamError(self.sentence or f"the server answered {self.status}", self.status)


@cache
def _certificates() -> ssl.SSLContext:
    """Reading them takes 18 ms of CPU, and a process may open one stream after the other."""
    return httpx.create_ssl_context()


class Http:
    """Connections to one server."""

    def __init__(self, url: str, token: str) -> None:
        self._token = token
        self._turns = asyncio.Semaphore(AT_ONCE)

        def client(connections: int | None) -> httpx.AsyncClient:
            limits = httpx.Limits(max_connections=connections)
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.AsyncClient(base_url=url, headers=headers, limits=limits, verify=_certificates())

        self._client, self._waiting = client(100), client(None)

    async def append(self, body: Any) -> Reply:
        """Send a grouped request. Raises Away."""
        return await self._ask(self._client, "PATCH", "/v1/streams", body)

    async def post(self, path: str, body: Any) -> Reply:
        """Open or end a stream. Raises Away."""
        async with self._turns:
            return await self._ask(self._client, "POST", path, body)

    async def wait(self, path: str, seconds: float) -> Reply:
        """Ask for what may take so long, on a connection of its own. Raises Away."""
        return await self._ask(self._waiting, "GET", f"{path}?wait={seconds:.0f}", None, seconds)

    async def close(self) -> None:
        await self._client.aclose()
        await self._waiting.aclose()

    async def _ask(self, client: httpx.AsyncClient, method: str, path: str, body: Any, seconds: float = 0.0) -> Reply:
        content = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = None if body is None else {"Content-Type": "application/json"}
        timeout = httpx.Timeout(ANSWER_WITHIN + seconds, connect=CONNECT_WITHIN)
        try:
            answer = await client.request(method, path, content=content, headers=headers, timeout=timeout)
        except httpx.RequestError as error:
            raise Away(type(error).__name__) from None
        return self._reply(answer)

    def _reply(self, answer: httpx.Response) -> Reply:
        media = answer.headers.get("content-type", "").partition(";")[0]
        fields: Any = None
        if media == "application/json":
            try:
                fields = answer.json()
            except ValueError:
                fields = None
        sentence = answer.text.strip() if media == "text/plain" else ""
        if len(sentence) > SENTENCE or self._token in sentence:
            sentence = ""
        wish = answer.headers.get("retry-after", "")
        retry_after = min(float(wish), 30.0) if wish.isdecimal() else 0.0
        return Reply(answer.status_code, fields if isinstance(fields, dict) else {}, retry_after, sentence)
