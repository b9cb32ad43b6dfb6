"""What a cached response costs: in the process, over Redis, over Postgres, over HTTP; and stampedes.

`process`, `redis` and `postgres` are the library in this process, each time with the key made from the question's text.
`http` is the server's endpoint: keep-alive connections of another process ask for one response, and the figure is how
many answers a second of the server's CPU time gives. A stampede is equal questions asked at one moment: by tasks of
this process, and over HTTP from two servers; the model takes `--model` seconds. `lost` are computations beyond the
first, and hits that were not counted at the end.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import orjson

from benchmarks import machine
from benchmarks.actors import Server
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, folder, redis_server, spawn
from benchmarks.results import Figures
from benchmarks.stage import LOGIN, database
from server.library import open_cache
from server.responses.cache import Computed, Layer
from server.responses.question import EVERYBODY, QUESTION_BYTES, Key, key

TOKEN: Final = "a token of the benchmarks, longer than 32 characters"
QUESTION: Final = "Which of the two approaches that you named would you choose for a small team, and why? "
TEXT: Final = "A response of a language model has some hundred words, so this text is repeated. " * 25
"""2 KB."""
CONNECTIONS: Final = 16
HITS: Final = "SELECT coalesce(sum(hit_count), 0)::bigint FROM sync.response_cache"


def named(number: int) -> Key:
    return key(f"{QUESTION}{number}", model="model-1", tier="core", scope=EVERYBODY)


async def responses(seconds: float, looks: int, askers: int, model: float) -> tuple[dict[str, Any], Figures]:
    """Return the machine and the figures."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(folder())
        postgres, sql = await database(stack, place)
        about = machine.describe(await sql.fetchval("SHOW server_version"))
        redis = await stack.enter_async_context(redis_server(place))
        url = postgres.url(user=LOGIN)
        figures: Figures = {}
        hits = await _layers(url, redis, looks, figures)
        hits += await _stampede_of_tasks(url, askers, model, figures)
        async with _serving(url, redis) as servers:
            hits += await _http(servers[0], seconds, figures)
            hits += await _stampede_over_http(servers, askers, model, figures)
        figures["lost_hits"] = hits - await sql.fetchval(HITS)
        figures["hits"] = hits
        return about, figures


async def _layers(url: str, redis: str, looks: int, figures: Figures) -> int:
    """One look at each of `looks` responses over each layer. Returns the number of hits."""
    async with open_cache(url) as plain, open_cache(url, redis) as shared, open_cache(url, redis) as reader:
        for number in range(looks):
            await shared.put(named(number), TEXT, ttl=3600, tokens=500, cost=Decimal("0.01"))
        for cache, layer in ((plain, Layer.POSTGRES), (reader, Layer.REDIS), (reader, Layer.PROCESS)):
            waits = []
            for number in range(looks):
                began = time.perf_counter()
                hit = await cache.get(named(number))
                took = time.perf_counter() - began
                if hit is None:
                    raise BenchmarkError("A response was not found.")
                # On a busy machine Redis may take 50 ms, and then counts as away for a moment.
                if hit.layer is layer:
                    waits.append(took)
            if len(waits) < 0.9 * looks:
                raise BenchmarkError(f"Only {len(waits)} of {looks} responses were found in {layer}.")
            waits.sort()
            scale, unit = (1e6, "us") if layer is Layer.PROCESS else (1e3, "ms")
            figures[f"{layer}_p50_{unit}"] = scale * waits[len(waits) // 2]
            figures[f"{layer}_p99_{unit}"] = scale * waits[len(waits) * 99 // 100]
        long = ("Größe " * QUESTION_BYTES).encode()[: QUESTION_BYTES - 1].decode(errors="ignore")
        began = time.perf_counter()
        for _ in range(20):
            key(long, model="model-1", tier="core", scope=EVERYBODY)
        figures["key_of_the_longest_question_us"] = (time.perf_counter() - began) / 20 * 1e6
    return 3 * looks


async def _stampede_of_tasks(url: str, askers: int, model: float, figures: Figures) -> int:
    computed = 0

    async def compute() -> Computed:
        nonlocal computed
        computed += 1
        await asyncio.sleep(model)
        return Computed(TEXT, 500, Decimal("0.01"))

    async with open_cache(url) as cache:
        began = time.perf_counter()
        tasks = [cache.get_or_compute(named(-2), compute, ttl=3600) for _ in range(askers)]
        if set(await asyncio.gather(*tasks)) != {TEXT}:
            raise BenchmarkError("A caller got another response.")
        figures["stampede_ms_beyond_the_model"] = 1000 * (time.perf_counter() - began - model)
    figures["stampede_askers"] = askers
    figures["stampede_computed"] = computed
    figures["lost_in_stampede"] = computed - 1
    return askers - 1


@asynccontextmanager
async def _serving(url: str, redis: str) -> AsyncIterator[list[Server]]:
    """Two servers, which are asked to end at the end."""
    servers = [Server(url, 20) for _ in range(2)]
    settings = {"ATLAS_RESPONSES": "true", "ATLAS_SERVICE_TOKEN": TOKEN, "REDIS_URL": redis}
    try:
        await asyncio.gather(*(server.start(**settings) for server in servers))
        yield servers
        await asyncio.gather(*(server.stop() for server in servers))
    finally:
        for server in servers:
            await server.kill()


def _asked(**more: object) -> dict[str, Any]:
    return {"question": f"{QUESTION}-3", "model": "model-1", "tier": "core", "scope": EVERYBODY, **more}


def _client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        limits=httpx.Limits(max_connections=None),
        timeout=LIMIT,
        trust_env=False,
    )


async def _http(server: Server, seconds: float, figures: Figures) -> int:
    async with _client(server) as client:
        put = await client.put("/v1/responses", json=_asked(response=TEXT, ttl=3600, tokens=500, cost="0.01"))
        put.raise_for_status()
    request = (
        f"GET /v1/responses?{urlencode(_asked())} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "User-Agent: python-httpx/0.28.1\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n"
    )
    pipe = asyncio.subprocess.PIPE
    process = await spawn("benchmarks.asker", stdin=pipe, stdout=pipe)
    try:
        cpu = server.cpu_seconds()
        given = {"port": server.port, "request": request, "connections": CONNECTIONS, "seconds": seconds}
        out, _ = await process.communicate(orjson.dumps(given))
        cpu = server.cpu_seconds() - cpu
    finally:
        await end(process)
    if process.returncode:
        raise BenchmarkError("The connections that ask failed: see above.")
    said = orjson.loads(out)
    waits = said["waits"]
    figures["http_hits_per_second"] = len(waits) / seconds
    figures["http_hits_per_core_second"] = len(waits) / cpu
    figures["http_server_us"] = cpu / len(waits) * 1e6
    figures["http_p50_ms"] = waits[len(waits) // 2]
    figures["http_p99_ms"] = waits[len(waits) * 99 // 100]
    figures["http_asker_cpu_percent"] = 100 * said["cpu"] / seconds
    return len(waits)


async def _stampede_over_http(servers: list[Server], askers: int, model: float, figures: Figures) -> int:
    """Half of them ask each server."""
    wanted = _asked(question=f"{QUESTION}-4")
    computed = 0

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal computed
        answer = await client.get("/v1/responses", params={**wanted, "wait": 30})
        if answer.status_code == 404:
            computed += 1
            await asyncio.sleep(model)
            body = {**wanted, "response": TEXT, "ttl": 3600, "lease": answer.json()["lease"]}
            (await client.put("/v1/responses", json=body)).raise_for_status()
        elif answer.status_code != 200 or answer.json()["response"] != TEXT:
            raise BenchmarkError(f"A caller was answered with {answer.status_code}.")

    async with _client(servers[0]) as one, _client(servers[1]) as other:
        await asyncio.gather(*(ask(client) for _ in range(askers // 2) for client in (one, other)))
    figures["http_stampede_computed"] = computed
    figures["lost_in_http_stampede"] = computed - 1
    return askers // 2 * 2 - computed
