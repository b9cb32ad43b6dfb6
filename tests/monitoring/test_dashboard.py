"""The dashboard shows every metric, queries only existing ones, and says what to do."""

import itertools
import json
import re
from typing import Any, Final
from uuid import uuid4

from server.metrics import CATALOGUE, Question
from tests.support.cluster import Database
from tests.support.device import live_device, now
from tests.support.people import add_conversation, add_user
from tests.support.prometheus import (
    ALERTS,
    DASHBOARD,
    asks_for_what_exists,
    figures,
    needs_prometheus,
    of_one_postgres,
    prometheus,
)
from tests.support.rows import CreateConversation, CreateMessage
from tests.support.serving import ServerProcess
from tests.support.waiting import eventually

MOST_BYTES: Final = 68 * 1024
"""A larger file cannot be reviewed."""
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
TOKEN: Final = "a token of the tests"


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric() -> None:
    shown = {figure.name for panel in panels() for query in queries(panel) for figure in figures(query)}
    assert shown == {figure.name for figure in CATALOGUE}


def test_every_query_uses_existing_metrics_and_labels() -> None:
    for panel in panels():
        for query in queries(panel):
            assert figures(query), panel["title"]
            asks_for_what_exists(query)
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= {
                label for kept in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in kept.split(", ")
            }


def test_the_rows_are_the_questions_with_their_metrics() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == [question.value for question in Question]
    row = ""
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        assert {figure.question.value for query in queries(panel) for figure in figures(query)} == {row}, panel["title"]


def test_a_panels_description_is_the_advice_of_its_metrics() -> None:
    for panel in panels():
        shown = {figure.name: figure for query in queries(panel) for figure in figures(query)}
        expected = "\n\n".join(figure.when_bad for figure in shown.values())
        assert panel["description"] == expected, f"{panel['title']}: {json.dumps(expected, ensure_ascii=False)}"


def test_metrics_of_the_shared_postgres_are_never_summed() -> None:
    told = [query for panel in panels() for query in queries(panel)]
    told += re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n +(?:for|labels):", ALERTS.read_text())
    assert any(of_one_postgres(figure) for query in told for figure in figures(query))
    for query in told:
        for figure in figures(query):
            if of_one_postgres(figure):
                how = set(re.findall(rf"(\w+)(?: by \([^)]*\))? ?\({figure.name}\b", query))
                assert how in ({"max"}, {"min"}), query


def test_percentiles_are_of_all_servers_together() -> None:
    for query in itertools.chain.from_iterable(map(queries, panels())):
        if "_bucket" in query:
            assert re.match(r"histogram_quantile\(0\.\d+, sum by \(le(, name)?\) \(rate\(", query), query


def test_the_dashboard_can_be_imported_with_any_prometheus() -> None:
    made = dashboard()
    assert len(DASHBOARD.read_bytes()) < MOST_BYTES
    assert made["schemaVersion"] >= 30
    assert "id" not in made
    variables = {variable["name"]: variable for variable in made["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for variable in variables.values():
        assert variable["type"] == "datasource" or variable["datasource"] == SOURCE
    used = set(re.findall(r"\$\{?(\w+)", " ".join(query for panel in panels() for query in queries(panel))))
    assert used == {*variables, "__rate_interval"} - {"datasource"}
    ids = [panel["id"] for panel in made["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert panel["datasource"] == SOURCE
        assert all(target["datasource"] == SOURCE for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"]
    places = [
        (x, y)
        for panel in made["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places)), "panels lie over each other"
    assert max(x for x, _ in places) < 24


@needs_prometheus
async def test_every_panel_shows_data_of_a_real_server(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    await add_conversation(sql, user)
    async with (
        ServerProcess(database.server_url, ATLAS_METRICS_TOKEN=TOKEN) as server,
        prometheus("groups: []", server.port, token=TOKEN) as watching,
        live_device(server.url, user) as device,
    ):
        conversation = uuid4()
        await device.apply(CreateConversation(conversation, "a title", now()))

        async def empty() -> list[str]:
            """Queries without data, while the device continues to write."""
            await device.apply(CreateMessage(uuid4(), conversation, "user", "hello", now()))
            asked = [query for panel in panels() for query in queries(panel)]
            return [query for query in asked if not await watching.query(shown(query))]

        async def full() -> bool:
            return not await empty()

        await eventually(full)


def shown(query: str) -> str:
    """The query as Grafana sends it, with all jobs and instances selected."""
    return re.sub(r"\$(job|instance)\b", ".*", query).replace("$__rate_interval", "5m")
