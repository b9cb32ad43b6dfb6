"""`atlas-sync top`: the calculation, the rules, the screen at any size, and the command."""

import asyncio
import contextlib
import fcntl
import math
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.metrics import CATALOGUE, Question, expose
from server.monitoring.rules import LASTING, RULES, Figure, Health, judge
from server.monitoring.scrapes import Interval, NotMetricsError, between, parse, quantile
from server.monitoring.words import SHORT, duration, number, size
from server.terminal.top import NAME, draw, plain
from tests.support.cluster import Database
from tests.support.commands import run_command
from tests.support.maintenance import maintained
from tests.support.peer import peer
from tests.support.people import add_user
from tests.support.serving import ServerProcess
from tests.support.waiting import LIMIT, eventually

TOKEN = "a token for the figures"
COUNTER = "atlas_rows_sent_total"
FINE = """
atlas_connections{tier="core"} 1000
atlas_behind{lane="live"} 0
atlas_stalled 0
atlas_snapshots_waiting 0
atlas_processes 2
atlas_workers_died_total 0
atlas_listening 2
atlas_listen_seconds 0.001
atlas_postgres_up 1
atlas_blind 0
atlas_redis_up 1
atlas_replicas{state="used"} 1
atlas_replicas{state="left"} 0
atlas_history_changes_total 0
atlas_history_split 0
atlas_clock_ahead_seconds -0.001
atlas_pool_waiting 0
atlas_notification_queue_ratio 0
atlas_oldest_xmin_transactions 10
atlas_oldest_transaction_seconds 0.1
atlas_default_rows{table="log"} 0
atlas_default_rows{table="messages"} 9999
atlas_maintained_seconds_ago 60
atlas_partitions_ahead_days{table="messages"} 80
atlas_partitions_ahead_days{table="log"} 80
atlas_rows_sent_total{kind="message"} 0
atlas_hellos_total{outcome="resumed"} 0
atlas_hellos_total{outcome="epoch"} 0
atlas_doorbells_total{fate="woke"} 0
atlas_doorbells_missed_total 0
atlas_pushes_total{answer="acked"} 0
atlas_pushes_total{answer="unavailable"} 0
atlas_mutations_total{result="applied"} 0
atlas_mutations_total{result="rejected"} 0
atlas_usage_events_total{source="server",fate="dropped"} 0
atlas_usage_events_total{source="backend",fate="put_off"} 0
atlas_cost_unusual{of="users"} 0
atlas_cost_unusual{of="tiers"} 0
atlas_opened_total 0
atlas_closed_total{code="1000"} 0
atlas_closed_total{code="4001"} 0
atlas_closed_total{code="4300"} 0
atlas_cut_off_total 0
"""


def page(**changed: float) -> str:
    """A healthy server's metrics with changes: `name__label=value` changes the first series with that label value."""
    lines = dict(line.rsplit(" ", 1) for line in FINE.strip().splitlines())
    for name, value in changed.items():
        name, _, label = name.partition("__")
        series = next(key for key in lines if key.startswith(name) and (not label or f'"{label}"' in key))
        lines[series] = str(value)
    return "".join(f"{series} {value}\n" for series, value in lines.items())


def histogram(name: str, buckets: Sequence[tuple[float, float]], labels: str = "") -> str:
    separator = "," if labels else ""
    return "".join(
        f'{name}_bucket{{{labels}{separator}le="{"+Inf" if math.isinf(bound) else bound}"}} {count}\n'
        for bound, count in buckets
    )


def intervals(*pages: str) -> list[Interval]:
    """The intervals of scrapes that are one second apart."""
    scrapes = [parse(text, float(at)) for at, text in enumerate(pages)]
    return [between(before, after) for before, after in zip([None, *scrapes], scrapes, strict=False)]


def figure(name: str, figures: Sequence[Figure]) -> Figure:
    return next(each for each in figures if each.name == name)


def bad(*pages: str) -> set[str]:
    return {each.name for each in judge(intervals(*pages)) if each.health is Health.BAD}


# --- The calculation


def test_counters_are_shown_as_rates_of_the_last_interval() -> None:
    before, after = parse(page(atlas_rows_sent_total=100), 10), parse(page(atlas_rows_sent_total=150), 12)
    interval = between(before, after)
    assert interval.rate(COUNTER) == 25
    assert figure(COUNTER, judge([interval])).says == "25/s"


@given(st.floats(0, 1e15), st.floats(0, 1e15), st.floats(0.001, 1e6))
@example(1e6, 3, 2)
def test_a_rate_is_never_negative_even_after_a_restart(before: float, after: float, seconds: float) -> None:
    interval = between(parse(page(atlas_rows_sent_total=before), 0), parse(page(atlas_rows_sent_total=after), seconds))
    rate = interval.rate(COUNTER)
    assert rate is not None
    assert 0 <= rate <= after / seconds
    if after < before:
        assert rate == after / seconds


def test_a_new_series_started_at_zero() -> None:
    (_, interval) = intervals(page(), page() + 'atlas_rows_sent_total{kind="profile"} 5\n')
    assert interval.rates[COUNTER] == {"message": 0, "profile": 5}


def test_quantiles_are_those_of_the_interval_as_promql_estimates_them() -> None:
    name = "atlas_ack_seconds"
    first = histogram(name, [(0.5, 1000), (1, 1000), (2, 1000), (math.inf, 1000)])
    later = histogram(name, [(0.5, 1000), (1, 1050), (2, 1100), (math.inf, 1100)])
    (_, interval) = intervals(page() + first, page() + later)
    assert interval.overall[name].count == 100
    assert interval.overall[name].p50 == 1
    assert interval.overall[name].p99 == pytest.approx(1.98)
    assert figure(name, judge([interval])).says == "p50 1 p99 1.98 s"


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile(0.99, {0.5: 0, 1: 1, math.inf: 100}) == 1


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_of_its_rank(counts: list[int], q: float) -> None:
    total, buckets = 0, {}
    for i, count in enumerate(counts):
        total += count
        buckets[float(i + 1) if i < len(counts) - 1 else math.inf] = float(total)
    if total:
        value = quantile(q, buckets)
        assert 0 <= value <= len(counts) - 1
        assert all(count >= q * total - 1e-9 for bound, count in buckets.items() if bound >= value + 1)


def test_a_histogram_starts_at_zero_after_a_restart() -> None:
    name = "atlas_ack_seconds"
    first = histogram(name, [(1, 5), (2, 1000), (math.inf, 1000)])
    later = histogram(name, [(1, 10), (2, 10), (math.inf, 10)])
    (_, interval) = intervals(page() + first, page() + later)
    assert interval.overall[name].count == 10
    assert interval.overall[name].p99 <= 1


def test_an_interval_without_observations_has_no_quantiles() -> None:
    name = "atlas_ack_seconds"
    same = histogram(name, [(1, 5), (math.inf, 5)])
    assert figure(name, judge(intervals(page() + same, page() + same))).health is Health.UNKNOWN


@pytest.mark.parametrize("text", ["atlas_something 1\n", re.sub(r" \S+$", " NaN", FINE.strip(), flags=re.M) + "\n"])
def test_a_missing_or_nan_value_is_unknown_and_not_bad(text: str) -> None:
    for figures in (judge(intervals(text)), judge(intervals(text, text))):
        gauges = [each for each in figures if not each.name.endswith("_total")]
        assert gauges
        assert all(each.health is Health.UNKNOWN for each in gauges)
        assert not any(each.health is Health.BAD for each in figures)


def test_top_understands_all_metrics_of_this_version() -> None:
    figures = judge(intervals(expose().decode(), expose().decode()))
    assert [each.name for each in figures] == [each.name for each in CATALOGUE]


@given(st.text() | st.text().map(lambda text: f"atlas_x {text}"))
@example("")
@example("<html>")
@example("up 1\n")
@example('atlas_x{a="')
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(NotMetricsError):
        judge([between(None, parse(text, 0.0))])


# --- What is bad


def test_a_healthy_server_has_no_bad_metric() -> None:
    assert not bad(*[page()] * 10)


def test_every_rule_and_every_short_name_belongs_to_a_metric() -> None:
    names = {each.name for each in CATALOGUE}
    assert set(RULES) <= names
    assert set(SHORT) <= names


SUDDEN = {
    "atlas_listening": page(atlas_listening=1),
    "atlas_processes": page(atlas_processes=1, atlas_listening=1),
    "atlas_connections": page(atlas_connections=400),
    "atlas_stalled": page(atlas_stalled=60),
    "atlas_listen_seconds": page(atlas_listen_seconds=1.5),
    "atlas_postgres_up": page(atlas_postgres_up=0),
    "atlas_blind": page(atlas_blind=1),
    "atlas_redis_up": page(atlas_redis_up=0),
    "atlas_replicas": page(atlas_replicas__left=1),
    "atlas_history_changes_total": page(atlas_history_changes_total=1),
    "atlas_history_split": page(atlas_history_split=1),
    "atlas_clock_ahead_seconds": page(atlas_clock_ahead_seconds=2.5),
    "atlas_notification_queue_ratio": page(atlas_notification_queue_ratio=0.2),
    "atlas_oldest_xmin_transactions": page(atlas_oldest_xmin_transactions=2e6),
    "atlas_oldest_transaction_seconds": page(atlas_oldest_transaction_seconds=600),
    "atlas_default_rows": page(atlas_default_rows__log=1),
    "atlas_partitions_ahead_days": page(atlas_partitions_ahead_days__log=13),
    "atlas_maintained_seconds_ago": page(atlas_maintained_seconds_ago=math.inf),
    "atlas_hellos_total": page(atlas_hellos_total__epoch=50),
    "atlas_pushes_total": page(atlas_pushes_total__unavailable=1),
    "atlas_mutations_total": page(atlas_mutations_total__rejected=50),
    "atlas_usage_events_total": page(atlas_usage_events_total__put_off=1),
    "atlas_cost_unusual": page(atlas_cost_unusual__tiers=1),
    "atlas_workers_died_total": page(atlas_workers_died_total=1),
    "atlas_opened_total": page(atlas_opened_total=50),
    "atlas_closed_total": page(atlas_closed_total__4001=1),
    "atlas_cut_off_total": page(atlas_cut_off_total=1),
}


@pytest.mark.parametrize("name", SUDDEN)
def test_a_metric_beyond_its_limit_is_bad_at_once_and_until_it_returns(name: str) -> None:
    assert bad(page(), SUDDEN[name]) == {name}
    assert not bad(page(), SUDDEN[name], page())


def test_a_clock_that_is_behind_is_as_bad_as_one_that_is_ahead() -> None:
    assert bad(page(), page(atlas_clock_ahead_seconds=-2.5)) == {"atlas_clock_ahead_seconds"}
    assert not bad(page(), page(atlas_clock_ahead_seconds=-1.5))


def test_many_messages_in_the_default_partition_are_bad() -> None:
    assert bad(page(), page(atlas_default_rows__messages=10_000)) == {"atlas_default_rows"}


@pytest.mark.parametrize("name", ["atlas_delivery_seconds", "atlas_ack_seconds", "atlas_statement_seconds"])
def test_a_slow_percentile_is_bad(name: str) -> None:
    labels = 'name="push"' if name == "atlas_statement_seconds" else ""
    before = page() + histogram(name, [(2, 0), (4, 0), (math.inf, 0)], labels)
    after = page() + histogram(name, [(2, 0), (4, 9), (math.inf, 9)], labels)
    assert bad(before, after) == {name}
    assert not bad(before, after, after)


@pytest.mark.parametrize(
    ("name", "many"), [("atlas_behind", 257), ("atlas_pool_waiting", 1), ("atlas_snapshots_waiting", 101)]
)
def test_a_queue_that_is_long_for_a_moment_is_bad_only_when_that_lasts(name: str, many: int) -> None:
    waits = page(**{name: many})
    assert not bad(page(), waits)
    assert bad(*[waits] * LASTING) == {name}
    assert not bad(*[waits] * LASTING, page())


@pytest.mark.parametrize("name", ["atlas_behind", "atlas_snapshots_waiting"])
def test_a_long_queue_that_gets_shorter_is_not_bad(name: str) -> None:
    assert not bad(*[page(**{name: 1000 - 10 * times}) for times in range(LASTING)])


def test_a_share_of_few_events_is_not_bad() -> None:
    one_of_each = {
        "atlas_hellos_total__epoch": 1.0,
        "atlas_mutations_total__rejected": 1.0,
        "atlas_closed_total__4300": 1.0,
    }
    for name, times in one_of_each.items():
        assert not bad(page(), page(**{name: times})), name
        assert bad(page(), page(**{name: 2 * times})), name


def test_one_stalled_connection_in_twenty_is_bad_and_a_smaller_share_is_not() -> None:
    assert bad(page(atlas_stalled=51)) == {"atlas_stalled"}
    assert not bad(page(atlas_stalled=50))
    assert not bad(page(atlas_stalled=51, atlas_connections=2000))


def test_doorbells_that_are_missed_again_and_again_are_bad() -> None:
    pages = [page(atlas_doorbells_missed_total=times) for times in range(4)]
    assert not bad(*pages[:3])
    assert bad(*pages) == {"atlas_doorbells_missed_total"}


def test_missing_doorbells_while_users_write_are_bad() -> None:
    pages = [page(atlas_mutations_total__applied=10.0 * times) for times in range(LASTING + 1)]
    assert bad(*pages) == {"atlas_doorbells_total"}


# --- How it is said


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (number(0), "0"),
        (number(1234567), "1,234,567"),
        (number(99.97), "100"),
        (number(0.001), "<0.01"),
        (duration(0.00078), "0.78 ms"),
        (duration(0.99999), "1 s"),
        (duration(90), "90 s"),
        (duration(-90), "-90 s"),
        (duration(600), "10 min"),
        (duration(7 * 86_400), "7 days"),
        (duration(math.inf), "∞"),
        (size(999), "999 B"),
        (size(1_500_000), "1.5 MB"),
        (size(7e12), "7,000 GB"),
    ],
)
def test_numbers_have_the_unit_that_reads_best(said: str, expected: str) -> None:
    assert said == expected


def test_short_names_are_unique_and_fit() -> None:
    names = [each.short for each in judge(intervals(page()))]
    assert len(set(names)) == len(names)
    assert [name for name in names if len(name) >= NAME] == []


every_figure = st.lists(st.sampled_from(Health), min_size=len(CATALOGUE), max_size=len(CATALOGUE)).map(
    lambda healths: [
        Figure(each.name, each.name[6:22], each.question, "12.3 ms", ("label 4", "möre 3"), health, True, each.when_bad)
        for each, health in zip(CATALOGUE, healths, strict=True)
    ]
)


@given(every_figure, st.integers(1, 250), st.integers(1, 90), st.sampled_from([None, "It does not answer."]))
def test_the_screen_is_never_wider_or_higher_than_the_terminal(
    figures: list[Figure], width: int, height: int, trouble: str | None
) -> None:
    lines = draw("Atlas Sync · a title", trouble, figures, width, height)
    assert 1 <= len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    assert not any("\n" in line.plain for line in lines)


def test_on_80_by_24_every_question_and_every_known_metric_is_shown() -> None:
    figures = judge(intervals(page(), page()))
    shown = "\n".join(line.plain for line in draw("title", None, figures, 80, 24))
    assert all(question.value in shown for question in Question)
    assert all(each.short in shown for each in figures if each.health is Health.FINE)


@pytest.mark.parametrize("name", SUDDEN)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 15), (200, 50)])
def test_a_bad_metric_is_red_and_has_its_advice(name: str, width: int, height: int) -> None:
    figures = judge(intervals(page(), SUDDEN[name]))
    shown = draw("title", None, figures, width, height)
    culprit = figure(name, figures)
    (row,) = [line for line in shown if f"!{culprit.short} " in line.plain]
    assert any("red" in str(span.style) for span in row.spans)
    text = " ".join(line.plain for line in shown)
    assert f"! {culprit.short}: {culprit.when_bad[:40]}" in text
    assert any(line.endswith(culprit.when_bad) for line in plain(figures))


def test_labels_of_another_server_cannot_write_escape_sequences() -> None:
    (interval,) = intervals('atlas_users{tier="\x1b[31mred"} 3\natlas_users{tier="b"} 2\n')
    figures = judge([interval])
    assert not any("\x1b" in line.plain for line in draw("title", None, figures, 200, 50))
    assert not any("\x1b" in line for line in plain(figures))


# --- The command


def figures_of(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}/metrics"


@pytest.mark.parametrize("options", [["--once"], []])
async def test_into_a_pipe_top_prints_one_interval_as_plain_text_and_ends(
    database: Database, sql: object, options: list[str]
) -> None:
    user = await add_user(sql)
    async with ServerProcess(database.server_url, ATLAS_METRICS_TOKEN=TOKEN) as server, peer(server.url) as device:
        await device.greet(user)
        status, out, err = await run_command(
            "top", *options, "--every", "0.2", ATLAS_METRICS_URL=figures_of(server), ATLAS_METRICS_TOKEN=TOKEN
        )
    assert (status, err) == (0, "")
    assert re.search(r"^  atlas_connections +1  \(.*\bcore 1\b.*\)$", out, re.M)
    assert re.search(r"^  atlas_opened_total +0/s$", out, re.M)
    assert re.search(r"^  atlas_postgres_up +1$", out, re.M)
    assert "\x1b" not in out
    assert TOKEN not in out


async def test_the_error_for_an_address_without_metrics_is_one_sentence_with_advice(database: Database) -> None:
    async with ServerProcess(database.server_url, ATLAS_METRICS_TOKEN=TOKEN) as server:
        url = figures_of(server)
        answers = {
            "--token": await run_command("top", "--url", url, "--token", "another one"),
            "Set its ATLAS_METRICS_TOKEN here": await run_command("top", "--url", url),
            "Name its /metrics": await run_command(
                "top", "--url", url.replace("/metrics", "/healthz"), "--token", TOKEN
            ),
            "Set ATLAS_METRICS_TOKEN for the server": await run_command(
                "top", "--url", f"{url}/else", "--token", TOKEN
            ),
            "Name one like": await run_command("top", "--url", "figures", "--token", TOKEN),
        }
        await server.stop()
        answers["Start the server"] = await run_command("top", "--url", url, "--token", TOKEN)
    async with ServerProcess(database.server_url) as server:
        answers["or set ATLAS_METRICS_PORT"] = await run_command("top", "--url", figures_of(server))
    for advice, (status, out, err) in answers.items():
        assert (status, out) == (2, "")
        assert err.startswith("atlas-sync: ")
        assert advice in err
        assert err.count("\n") == 1
        assert TOKEN not in err


class Terminal:
    """A pseudo-terminal in which `atlas-sync top` runs."""

    def __init__(self, columns: int, rows: int) -> None:
        self.master, self._slave = pty.openpty()
        self.resize(columns, rows)
        self.written = b""
        self.before = termios.tcgetattr(self._slave)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        # These would be believed instead of the terminal.
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "top", *arguments),
            env={**environment, "TERM": "xterm-256color", "NO_COLOR": "1"},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )

    def read(self) -> None:
        self.written += os.read(self.master, 65_536)

    def shows(self, text: str) -> bool:
        """Whether the text was written since the last `forget`."""
        return text in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.written).decode(errors="replace")

    def forget(self) -> None:
        self.written = b""

    @property
    def restored(self) -> bool:
        """Whether the keyboard mode, the cursor and the former screen are back."""
        as_before = termios.tcgetattr(self._slave) == self.before
        return (
            as_before
            and self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h")
            and (self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l"))
        )

    def close(self) -> None:
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    made = Terminal(80, 24)
    loop = asyncio.get_running_loop()
    loop.add_reader(made.master, made.read)
    yield made
    loop.remove_reader(made.master)
    made.close()


@pytest.fixture
async def processes() -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Processes that still run at the end of the test are killed."""
    started: list[asyncio.subprocess.Process] = []
    yield started
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_stopped_server_is_reported_until_it_is_back(
    database: Database, terminal: Terminal, processes: list[asyncio.subprocess.Process]
) -> None:
    await maintained(database)
    async with ServerProcess(database.server_url, ATLAS_METRICS_TOKEN=TOKEN) as server:
        process = await terminal.start("--url", figures_of(server), "--token", TOKEN, "--every", "0.1")
        processes.append(process)
        await eventually(lambda: terminal.shows("Nothing here needs you"))
        assert all(terminal.shows(question.value) for question in Question)
        await server.kill()
        terminal.forget()
        await eventually(lambda: terminal.shows("does not answer"))
        await server.start()
        terminal.forget()
        await eventually(lambda: terminal.shows("Nothing here needs you"))
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 0
        await eventually(lambda: terminal.restored)
        assert not terminal.shows("Traceback")
        assert not terminal.shows(TOKEN)


async def test_a_silent_server_is_reported_until_it_answers(
    database: Database, terminal: Terminal, processes: list[asyncio.subprocess.Process]
) -> None:
    await maintained(database)
    async with ServerProcess(database.server_url, ATLAS_METRICS_TOKEN=TOKEN) as server:
        processes.append(await terminal.start("--url", figures_of(server), "--token", TOKEN, "--every", "0.1"))
        await eventually(lambda: terminal.shows("Nothing here needs you"))
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            terminal.forget()
            await eventually(lambda: terminal.shows("does not answer"))
        finally:
            server.process.send_signal(signal.SIGCONT)
        terminal.forget()
        await eventually(lambda: terminal.shows("Nothing here needs you"))


async def test_the_screen_is_drawn_again_when_the_terminal_changes_its_size(
    database: Database, terminal: Terminal, processes: list[asyncio.subprocess.Process]
) -> None:
    await maintained(database)
    async with ServerProcess(database.server_url, ATLAS_METRICS_TOKEN=TOKEN) as server:
        process = await terminal.start("--url", figures_of(server), "--token", TOKEN, "--every", "3600")
        processes.append(process)
        await eventually(lambda: terminal.shows("Nothing here needs you"))
        terminal.forget()
        terminal.resize(40, 10)
        process.send_signal(signal.SIGWINCH)
        await eventually(lambda: terminal.shows("Nothing here needs you"))
        assert not terminal.shows("pool in use"), "there is no room for it"
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 0
        await eventually(lambda: terminal.restored)
