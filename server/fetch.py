"""GET from a server that is not trusted, limited in time and size."""

import asyncio
import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from server.exceptions import AtlasError


class AnswerError(AtlasError):
    """The response is unusable. The message quotes nothing of it."""


def client() -> httpx.AsyncClient:
    """Return a client for `get`. It has no timeout (httpx limits each read, but `get` limits the whole). It follows
    no redirect. It keeps no cookies: they would accumulate."""
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(timeout=None, follow_redirects=False, cookies=cookies)


async def get(
    client: httpx.AsyncClient, url: str, *, seconds: float, limit: int, headers: Mapping[str, str] = {}
) -> tuple[int, bytes]:
    """Return the status and the body.

    Raises TimeoutError after `seconds`, AnswerError if the body is larger than `limit` bytes (compressed or not) or
    cannot be uncompressed, and httpx's errors.
    """
    asks = {**headers, "Accept-Encoding": "gzip"}
    async with asyncio.timeout(seconds), client.stream("GET", url, headers=asks) as answer:
        body = bytearray()
        async for part in answer.aiter_raw():
            body += part
            if len(body) > limit:
                raise AnswerError(f"The answer is larger than {limit} bytes.")
            # Parts that have already arrived come without a pause: a million of one byte would block the event loop.
            await asyncio.sleep(0)
    match answer.headers.get("Content-Encoding", "identity").lower():
        case "identity":
            return answer.status_code, bytes(body)
        case "gzip":
            return answer.status_code, _unzip(body, limit)
    raise AnswerError("The answer is compressed in a way that was not asked for.")


def _unzip(body: bytes | bytearray, limit: int) -> bytes:
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        whole = unzip.decompress(body, limit + 1)
    except zlib.error:
        raise AnswerError("The answer is not what gzip makes.") from None
    if len(whole) > limit:
        raise AnswerError(f"The answer is larger than {limit} bytes.")
    if not unzip.eof:
        raise AnswerError("The answer is cut short.")
    return whole
