"""Prometheus as a process, and the metrics in its queries."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client import Counter, Histogram

from server.metrics import CATALOGUE, Described
from tests.support.cluster import temporary_folder
from tests.support.serving import ServerProcess
from tests.support.waiting import eventually

ROOT: Final = Path(__file__).parents[2]
DASHBOARD: Final = ROOT / "server" / "monitoring" / "dashboard.json"
ALERTS: Final = ROOT / "server" / "monitoring" / "alerts.yml"
PROMETHEUS: Final = Path("/usr/bin/prometheus")
PROMTOOL: Final = Path("/usr/bin/promtool")
JOB: Final = "atlas-sync"
"""The scrape job's name, which server/README.md and the rules agree on."""
OF_THE_TARGET: Final = frozenset({"job", "instance"})

needs_prometheus: Final = pytest.mark.skipif(
    not (PROMETHEUS.exists() and PROMTOOL.exists()) and "CI" not in os.environ,
    reason=f"there is no Prometheus at {PROMETHEUS}",
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ---- What a query asks for ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selector:
    """A series in a query, with the labels of its matchers."""

    name: str
    labels: frozenset[str]


@cache
def series() -> dict[str, tuple[Described, frozenset[str]]]:
    """Every series name that a query may use, with its metric and its labels."""
    found = {}
    for figure in CATALOGUE:
        labels = frozenset(figure.labels) | OF_THE_TARGET
        if isinstance(figure.metric, Histogram):
            found[f"{figure.name}_bucket"] = figure, labels | {"le"}
            found[f"{figure.name}_sum"] = found[f"{figure.name}_count"] = figure, labels
        else:
            found[figure.name] = figure, labels
    return found


def selectors(query: str) -> Iterator[Selector]:
    for name, matchers in re.findall(r"\b(atlas_\w+)(?:\{([^}]*)\})?", query):
        yield Selector(name, frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers)))


def figures(query: str) -> list[Described]:
    """The metrics in a query, each once."""
    return list({figure.name: figure for figure in (series()[each.name][0] for each in selectors(query))}.values())


def asks_for_what_exists(query: str) -> None:
    known: set[str] = set()
    for selector in selectors(query):
        assert selector.name in series(), query
        figure, labels = series()[selector.name]
        assert selector.labels <= labels, query
        known |= labels
        if isinstance(figure.metric, Counter | Histogram):
            # A total by itself says nothing: it begins anew with every process.
            ranged = re.search(rf"(?:rate|increase|resets)\({selector.name}(?:\{{[^}}]*\}})?\[", query)
            assert ranged, query
    for kept in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in kept.split(",")} <= known or not known, query


def of_one_postgres(figure: Described) -> bool:
    """Whether every server reports this metric about the same database."""
    return figure.metric._kwargs.get("multiprocess_mode") == "livemostrecent"  # it offers no public way


# ---- Prometheus -----------------------------------------------------------------------------------------------------


def quick(rules: str) -> str:
    """The rules for a test that cannot wait minutes: without `for`, so that a cause counts at once."""
    return re.sub(r"^( +for:) \S+$", r"\1 0s", rules, flags=re.MULTILINE)


class Prometheus:
    """A Prometheus that scrapes and evaluates its rules twice per second."""

    def __init__(self, port: int) -> None:
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)

    async def ask(self, path: str, **parameters: str) -> Any:
        response = await self._http.get(f"/api/v1/{path}", params=parameters)
        answer = response.json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    async def query(self, query: str) -> list[Any]:
        """The series that the query finds."""
        data = await self.ask("query", query=query)
        assert data["resultType"] == "vector", query
        return list(data["result"])

    async def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await self._http.get("/-/ready")).status_code == 200
        return False

    async def firing(self) -> dict[str, list[Any]]:
        """The firing alerts, by name."""
        found: dict[str, list[Any]] = {}
        for alert in (await self.ask("alerts"))["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    async def fires(self, name: str) -> Any:
        """A firing alert of that name, or None."""
        return next(iter((await self.firing()).get(name, [])), None)

    async def rules(self) -> dict[str, list[Any]]:
        """The rules as Prometheus parsed them, by group."""
        return {group["name"]: group["rules"] for group in (await self.ask("rules"))["groups"]}

    async def has_looked(self) -> bool:
        """Whether it has scraped metrics, and evaluated every rule after that."""
        found = await self.query("max(timestamp(atlas_processes))")
        if not found:
            return False
        scraped = float(found[0]["value"][1])
        groups = (await self.ask("rules"))["groups"]
        return bool(groups) and all(
            datetime.fromisoformat(each["lastEvaluation"]).timestamp() > scraped for each in groups
        )

    async def is_content(self) -> bool:
        return await self.has_looked() and not await self.firing()

    async def close(self) -> None:
        await self._http.aclose()


@contextlib.asynccontextmanager
async def prometheus(
    rules: str, *targets: int, token: str | None = None, interval: str = "500ms"
) -> AsyncIterator[Prometheus]:
    """A Prometheus with these rules that scrapes these ports."""
    port = free_port()
    scrape: dict[str, Any] = {
        "job_name": JOB,
        "static_configs": [{"targets": [f"127.0.0.1:{target}" for target in targets]}],
    }
    if token is not None:
        scrape["authorization"] = {"credentials": token}
    configuration = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yml"],
        "scrape_configs": [scrape],
    }
    with temporary_folder() as folder:
        (folder / "rules.yml").write_text(rules)
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(configuration))
        log = folder / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                stdout=output,
                stderr=output,
            )
        client = Prometheus(port)
        try:
            await eventually(client.ready)
            yield client
        except AssertionError as error:
            error.add_note(log.read_text()[-2_000:])
            raise
        finally:
            await client.close()
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


@contextlib.asynccontextmanager
async def watched(url: str, prelude: str = "", **environment: str) -> AsyncIterator[tuple[ServerProcess, Prometheus]]:
    """A server, and a Prometheus that watches it with the alert rules, none of which fires yet."""
    port = free_port()
    async with (
        ServerProcess(url, prelude, ATLAS_METRICS_PORT=str(port), **environment) as server,
        prometheus(quick(ALERTS.read_text()), port) as watching,
    ):
        await eventually(watching.is_content)
        yield server, watching
