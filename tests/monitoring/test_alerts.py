"""Each alert fires with its cause and not without, and its limits are those of the list."""

import json
import re
import subprocess
from dataclasses import dataclass
from typing import Any, Final

import pytest

from protocol.errors import CloseCode
from server import clock
from server.feed import pump
from server.feed.resume import Why
from server.metrics import CATALOGUE, Question, limits
from tests.support.cluster import temporary_folder
from tests.support.prometheus import (
    ALERTS,
    JOB,
    PROMTOOL,
    ROOT,
    asks_for_what_exists,
    figures,
    needs_prometheus,
    prometheus,
)

LATER: Final = "90m"
"""When alerts are evaluated. Rules wait an hour at most, except the one that compares weeks."""


@dataclass(frozen=True, slots=True)
class Case:
    alert: str
    bad: dict[str, str]
    """Series and their values in promtool's notation."""
    well: dict[str, str]
    eval_time: str = LATER
    every: str = "1m"


def histogram(name: str, seconds: str, labels: str = "") -> dict[str, str]:
    """A histogram with 60 observations per minute, all in the bucket that ends at `seconds`."""
    bounds = ["0.5", "1.0", "2.0", "4.0", "+Inf"]
    return {
        f'{name}_bucket{{{labels}le="{bound}"}}': "0+60x120"
        if bounds.index(bound) >= bounds.index(seconds)
        else "0x120"
        for bound in bounds
    }


CASES: Final = [
    Case("AtlasNotScraped", {"up": "0x120"}, {"up": "1x120"}),
    Case("AtlasNobodyScraped", {"up": "0x120"}, {"atlas_processes": "1x120"}),
    Case("AtlasProcessesMissing", {"atlas_processes": "4x60 3x60"}, {"atlas_processes": "4x85 3 4x30"}),
    Case(
        "AtlasProcessesDie", {"atlas_workers_died_total": "0x70 1 2 3x40"}, {"atlas_workers_died_total": "0x50 1 2x60"}
    ),
    Case(
        "AtlasProcessesDie",
        {"atlas_opened_total": "0+9x70 0 5 0 5 0+9x40"},
        {"atlas_opened_total": "0+9x70 0+9x40"},
    ),
    Case(
        "AtlasListenCut",
        {"atlas_listening": "1x120", "atlas_processes": "2x120"},
        {"atlas_listening": "2x60 1 2x60", "atlas_processes": "2x120"},
    ),
    Case("AtlasListenSlow", {"atlas_listen_seconds": "2x120"}, {"atlas_listen_seconds": "0.01x88 2x30"}),
    Case(
        "AtlasDeliverySlow",
        histogram("atlas_delivery_seconds", "2.0"),
        histogram("atlas_delivery_seconds", "0.5"),
    ),
    Case("AtlasBehind", {'atlas_behind{lane="live"}': "0+50x120"}, {'atlas_behind{lane="live"}': "9000-50x120"}),
    Case(
        "AtlasBehind",
        {'atlas_behind{lane="live"}': "500x120"},
        {'atlas_behind{lane="catch_up"}': "0x88 9000 9000 0x30"},
    ),
    Case(
        "AtlasDoorbellsMissed",
        {'atlas_doorbells_total{fate="woke"}': "0x120", "atlas_doorbells_missed_total": "0+5x120"},
        {'atlas_doorbells_total{fate="woke"}': "0+6000x120", "atlas_doorbells_missed_total": "0+5x120"},
    ),
    Case(
        "AtlasSnapshotFlood",
        {'atlas_hellos_total{outcome="epoch"}': "0+60x120", 'atlas_hellos_total{outcome="resumed"}': "0+60x120"},
        {'atlas_hellos_total{outcome="too_old"}': "0+3x120", 'atlas_hellos_total{outcome="new"}': "0+600x120"},
    ),
    Case("AtlasSnapshotsWaiting", {"atlas_snapshots_waiting": "500x120"}, {"atlas_snapshots_waiting": "0x85 500 0x30"}),
    Case(
        "AtlasConnectionsFell",
        {'atlas_connections{tier="core"}': "1000x80 300x40"},
        {'atlas_connections{tier="core"}': "1000x80 800x40"},
    ),
    Case(
        "AtlasStalled",
        {'atlas_connections{tier="core"}': "1000x120", "atlas_stalled": "200x120"},
        {'atlas_connections{tier="core"}': "10000x120", "atlas_stalled": "200x120"},
    ),
    Case(
        "AtlasPushesUnavailable",
        {'atlas_pushes_total{answer="unavailable"}': "0+1x120", 'atlas_pushes_total{answer="acked"}': "0+9x120"},
        {'atlas_pushes_total{answer="unavailable"}': "0+1x120", 'atlas_pushes_total{answer="acked"}': "0+999x120"},
    ),
    Case(
        "AtlasMutationsRejected",
        {'atlas_mutations_total{result="rejected"}': "0+6x120", 'atlas_mutations_total{result="applied"}': "0+54x120"},
        {'atlas_mutations_total{result="rejected"}': "0+6x120", 'atlas_mutations_total{result="applied"}': "0+600x120"},
    ),
    Case(
        "AtlasStreamsNotWritten",
        {'atlas_streams_settled_total{by="refused"}': "0x80 0+1x40"},
        {'atlas_streams_settled_total{by="app"}': "0+10x120", 'atlas_streams_settled_total{by="refused"}': "3x120"},
    ),
    Case("AtlasAckSlow", histogram("atlas_ack_seconds", "4.0"), histogram("atlas_ack_seconds", "1.0")),
    Case("AtlasPostgresAway", {"atlas_postgres_up": "1x80 0x40"}, {"atlas_postgres_up": "1x80 0 1x40"}),
    Case(
        "AtlasResponsesNotStored",
        {
            'atlas_responses_total{outcome="computes"}': "0+6x120",
            'atlas_responses_stored_total{result="stored"}': "0+1x120",
        },
        {
            'atlas_responses_total{outcome="computes"}': "0+6x120",
            'atlas_responses_stored_total{result="stored"}': "0+5x120",
        },
    ),
    Case(
        "AtlasReplicaLeft",
        {'atlas_replicas{state="left"}': "0x80 1x40"},
        {'atlas_replicas{state="left"}': "0x85 1x3 0x30"},
    ),
    Case("AtlasRedisAway", {"atlas_redis_up": "1x80 0x40"}, {"atlas_redis_up": "1x80 0 1x40"}),
    Case("AtlasBlind", {"atlas_blind": "0x80 1x40"}, {"atlas_blind": "0x89 1x30"}),
    Case("AtlasHistorySplit", {"atlas_history_split": "0x80 1x40"}, {"atlas_history_split": "0x89 1x30"}),
    Case(
        "AtlasHistoryChanged",
        {"atlas_history_changes_total": "0x80 1x40"},
        {"atlas_history_changes_total": "0x60 1x60"},
    ),
    Case("AtlasClockOff", {"atlas_clock_ahead_seconds": "2.5x120"}, {"atlas_clock_ahead_seconds": "1.9x88 2.5x30"}),
    Case("AtlasClockOff", {"atlas_clock_ahead_seconds": "-2.5x120"}, {"atlas_clock_ahead_seconds": "-1.9x88 -2.5x30"}),
    Case(
        "AtlasStatementSlow",
        histogram("atlas_statement_seconds", "2.0", 'name="push",'),
        histogram("atlas_statement_seconds", "0.5", 'name="push",'),
    ),
    Case(
        "AtlasPoolWaiting",
        {"atlas_pool_waiting": "3x120"},
        {"atlas_pool_waiting": "3 0 3 0 3x80 0 3x40"},
        eval_time="86m",
    ),
    Case(
        "AtlasNotificationQueue",
        {"atlas_notification_queue_ratio": "0.2x120"},
        {"atlas_notification_queue_ratio": "0.01x120"},
    ),
    Case(
        "AtlasOldestTransaction",
        {"atlas_oldest_transaction_seconds": "0+60x120"},
        {"atlas_oldest_transaction_seconds": "300x120"},
    ),
    Case(
        "AtlasOldestSnapshot",
        {"atlas_oldest_xmin_transactions": "3000000x120"},
        {"atlas_oldest_xmin_transactions": "30000x120"},
    ),
    Case(
        "AtlasLogGrows",
        {"atlas_log_bytes": "10000000000+10000000x3600"},
        {"atlas_log_bytes": "30000000000+1000000x3600"},
        eval_time="10d",
        every="4m",
    ),
    Case(
        "AtlasDefaultRows",
        {'atlas_default_rows{table="log"}': "0x10 1x110"},
        {'atlas_default_rows{table="log"}': "0x40 1x20 0x60"},
    ),
    Case(
        "AtlasDefaultRows",
        {'atlas_default_rows{table="messages"}': "0x10 10000x110"},
        {'atlas_default_rows{table="messages"}': "9999x120"},
    ),
    Case(
        "AtlasPartitionsEnd",
        {'atlas_partitions_ahead_days{table="log"}': "13x120"},
        {'atlas_partitions_ahead_days{table="log"}': "30x120"},
    ),
    Case(
        "AtlasNotMaintained", {"atlas_maintained_seconds_ago": "0+60x120"}, {"atlas_maintained_seconds_ago": "30x120"}
    ),
    Case(
        "AtlasCostUnusual",
        {'atlas_cost_unusual{of="users"}': "0x80 2x40"},
        {'atlas_cost_unusual{of="users"}': "2x80 0x40"},
    ),
    Case(
        "AtlasModelWithoutPrice",
        {"atlas_cost_models_without_price": "0x60 1x60"},
        {"atlas_cost_models_without_price": "0x80 1x5 0x40"},
    ),
    Case(
        "AtlasUsageNotWritten",
        {'atlas_usage_events_total{source="backend", fate="put_off"}': "0x60 0+10x60"},
        {'atlas_usage_events_total{source="backend", fate="written"}': "0+10x120"},
    ),
    Case(
        "AtlasUsageNotCounted",
        {"atlas_usage_pending_seconds": "3700x120"},
        {"atlas_usage_pending_seconds": "300x80 3700x3 300x40"},
    ),
    Case("AtlasFaults", {'atlas_closed_total{code="4001"}': "0x80 1x40"}, {'atlas_closed_total{code="4001"}': "3x120"}),
    Case(
        "AtlasTokensRefused",
        {'atlas_closed_total{code="4101"}': "0+60x120", "atlas_opened_total": "0+120x120"},
        {'atlas_closed_total{code="4101"}': "0+6x120", "atlas_opened_total": "0+120x120"},
    ),
    Case(
        "AtlasBadFrames",
        {'atlas_closed_total{code="4300"}': "0+30x120"},
        {'atlas_closed_total{code="1006"}': "0+300x120", 'atlas_closed_total{code="4300"}': "0+1x120"},
    ),
    Case(
        "AtlasNoHellos",
        {"atlas_opened_total": "0+600x120", 'atlas_hellos_total{outcome="resumed"}': "0x120"},
        {"atlas_opened_total": "0+600x120", 'atlas_hellos_total{outcome="resumed"}': "0+500x120"},
    ),
    Case(
        "AtlasTooManySockets",
        {'atlas_closed_total{code="4003"}': "0+12x120"},
        {'atlas_closed_total{code="4003"}': "0+1x120"},
    ),
    Case("AtlasCutOff", {"atlas_cut_off_total": "0x80 1x40"}, {"atlas_cut_off_total": "7x120"}),
]


def names() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(), re.MULTILINE)


def expressions() -> dict[str, str]:
    """PromQL expression by alert."""
    text = ALERTS.read_text()
    return dict(re.findall(r"- alert: (\w+)\n +expr: (?:>-\n)?((?:.|\n)*?)\n +(?:for|labels):", text))


def compared_with(expression: str) -> list[float]:
    """The numbers other than 0 that a PromQL expression compares with, and its quantile."""
    found = re.findall(r"(?:[<>]=?|histogram_quantile\()\s*(-?\d[\d.e]*)", expression)
    return [float(number) for number in found if float(number)]


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


def test_every_alert_has_a_unique_name_and_a_case_in_this_file() -> None:
    assert len(names()) == len(set(names()))
    assert set(names()) == {case.alert for case in CASES}


def test_every_number_in_an_alert_is_in_the_list_of_limits() -> None:
    found = {alert: compared_with(expression) for alert, expression in expressions().items()}
    assert found.keys() == set(names())
    # An expression may use a limit more than once.
    assert {alert: sorted(set(numbers)) for alert, numbers in found.items() if numbers} == {
        alert: sorted(set(map(float, numbers))) for alert, numbers in limits.ALERTS.items()
    }


def test_limits_that_the_code_repeats_are_equal_to_the_list() -> None:
    assert limits.CLOCK_SECONDS * 1_000_000 == clock.TOLERATED
    assert limits.BEHIND == pump.GROUP
    assert set(limits.STARTED_OVER) == set(Why) - {Why.NEW}


def test_the_close_codes_in_alerts_exist() -> None:
    named = re.findall(r'code=~?"([\d|]+)"', ALERTS.read_text())
    ours = {int(code) for group in named for code in group.split("|") if int(code) >= 4000}
    assert ours
    assert ours <= set(map(int, CloseCode))


def test_every_log_line_named_in_alerts_and_advice_is_logged_somewhere() -> None:
    advice = [ALERTS.read_text(), *(figure.when_bad for figure in CATALOGUE)]
    lines = {line for text in advice for line in re.findall(r"`([a-z]+(?: [a-z]+)+)`", " ".join(text.split()))}
    assert len(lines) > 5
    source = "\n".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    assert {line for line in lines if f'"{line}' not in source} == set()


@needs_prometheus
def test_promtool_accepts_the_rules() -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
async def test_every_rule_queries_existing_metrics_and_says_what_to_do() -> None:
    async with prometheus(ALERTS.read_text()) as watching:
        groups = await watching.rules()
    assert groups.keys() == {question.value for question in Question}
    for question, rules in groups.items():
        for rule in rules:
            asks_for_what_exists(rule["query"])
            asked = figures(rule["query"])
            assert not asked or question in {figure.question.value for figure in asked}, rule["name"]
            assert rule["labels"].keys() == {"severity"}
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"].keys() == {"summary", "description"}
            assert rule["annotations"]["description"].endswith("."), rule["name"]
            assert not rule["annotations"]["summary"].endswith("."), rule["name"]
            assert "up{" not in rule["query"] or f'job="{JOB}"' in rule["query"]


@needs_prometheus
@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.alert}{i}") for i, case in enumerate(CASES)])
def test_an_alert_fires_with_its_cause_and_not_without(case: Case) -> None:
    with temporary_folder() as folder:
        paths = []
        for series, expected in ((case.bad, 1), (case.well, 0)):
            paths.append(folder / f"{expected}.json")
            paths[-1].write_text(json.dumps(unit_test(case, series, expected)))  # JSON is YAML
        tested = promtool("test", "rules", *paths)
        assert tested.returncode == 0, tested.stdout + tested.stderr


def unit_test(case: Case, series: dict[str, str], expected: int) -> dict[str, Any]:
    return {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": case.every if case.every == "1m" else "30m",
        "tests": [
            {
                "interval": case.every,
                "input_series": [{"series": of_a_target(name), "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}}) or vector(0)',
                        "eval_time": case.eval_time,
                        "exp_samples": [{"labels": "{}", "value": expected}],
                    }
                ],
            }
        ],
    }


def of_a_target(series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    return f'{name}{{job="{JOB}", instance="one"{", " if labels else ""}{labels}}}'
