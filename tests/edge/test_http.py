"""What HTTP answers to those who watch: whether this process should get new connections, and why not."""

import httpx
import pytest

from server.edge.http import Metrics, application
from server.feed.readers import Readiness


async def nothing() -> bytes:
    return b""


@pytest.mark.parametrize(
    ("readiness", "status"),
    [
        (Readiness(True, "ready"), 200),
        (Readiness(True, "Another host answers, too. Stop it."), 200),
        (Readiness(False, "This Postgres holds an earlier history."), 503),
    ],
)
async def test_readyz_answers_with_the_reason(readiness: Readiness, status: int) -> None:
    transport = httpx.ASGITransport(application(lambda: readiness, Metrics(nothing, None, None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (status, f"{readiness.reason}\n")
        assert (await client.get("/healthz")).status_code == 200
