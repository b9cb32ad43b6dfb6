"""GET from a server that may answer anything: bounded in time and in size."""

import asyncio
import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from server.errors import AtlasError


class AnswerError(AtlasError):
    """What came is not what was asked for; the message contains nothing of it."""


def client() -> httpx.AsyncClient:
    """For `get`, which bounds the whole of what httpx would bound read by read. It follows no redirect, and keeps no
    cookie: those of every answer would add up."""
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(timeout=None, follow_redirects=False, cookies=cookies)


async def get(
    client: httpx.AsyncClient, url: str, *, seconds: float, limit: int, headers: Mapping[str, str] = {}
) -> tuple[int, bytes]:
    """The status, and a body of at most `limit` bytes.

    Raises TimeoutError when that took more than `seconds`, AnswerError for a body that is larger, also once it is
    uncompressed, or cannot be uncompressed, and what httpx raises.
    """
    asks = {**headers, "Accept-Encoding": "gzip"}
    async with asyncio.timeout(seconds), client.stream("GET", url, headers=asks) as answer:
        body = bytearray()
        async for part in answer.aiter_raw():
            body += part
            if len(body) > limit:
                raise AnswerError(f"The answer is larger than {limit} bytes.")
            # Parts that have arrived already come without a pause: a million of one byte would hold the loop.
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
