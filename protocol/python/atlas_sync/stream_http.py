"""Requests of a writer to the server (SPEC.md, section 13): the only module of the client that knows httpx."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

from atlas_sync.stream_text import StreamError

# Seconds.
CONNECT_WITHIN = 5.0
ANSWER_WITHIN = 10.0
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

    def refusal(self) -> StreamError:
        return StreamError(self.sentence or f"the server answered {self.status}", self.status)


class Http:
    """Connections to one server."""

    def __init__(self, url: str, token: str) -> None:
        self._token = token
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(ANSWER_WITHIN, connect=CONNECT_WITHIN),
            limits=httpx.Limits(max_connections=None),  # each `stopped` waits on one of its own
        )

    async def ask(self, method: str, path: str, body: Any = None, *, wait: float = 0.0) -> Reply:
        """Raises Away. `wait`: the server may take so many seconds more."""
        content = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = None if body is None else {"Content-Type": "application/json"}
        timeout = httpx.Timeout(ANSWER_WITHIN + wait, connect=CONNECT_WITHIN)
        try:
            answer = await self._client.request(method, path, content=content, headers=headers, timeout=timeout)
        except httpx.RequestError as error:
            raise Away(type(error).__name__) from None
        return self._reply(answer)

    async def close(self) -> None:
        await self._client.aclose()

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
