"""Results are kept and found again, and all of them are drawn; how it looks, a person must see."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.main import get_command

from benchmarks import results
from benchmarks.__main__ import cli
from benchmarks.charts import PLOTS
from benchmarks.live import SHARES, percentile
from benchmarks.machine import BenchmarkError
from benchmarks.report import write
from benchmarks.results import Figures, Result, Span, read, say, summary

DAY = "2026-11-20T10:00:00+00:00"
MACHINE = {
    "cores": 2,
    "cpu": "a <cpu> & more",
    "memory_gib": 24.0,
    "kernel": "Linux 6.18.1",
    "python": "3.11.7",
    "postgres": "18.6",
    "flush_ms": 0.2,
    "date": DAY,
}
MEASURED: dict[str, list[Figures]] = {
    "live": [
        {
            "changes": rate,
            "changes_per_second": rate,
            **{percentile(share): share * rate / 1e4 for share in SHARES},
            "lost": 0,
        }
        for rate in (200.0, 1_000.0)
    ],
    "idle": [{"sockets": sockets, "kib_per_connection": 6.4} for sockets in (1_000, 10_000)],
    "fanout": [{"sockets": n, "cpu_ratio_to_c": 1.5, "cpu_ratio_to_c_burst": 0.5} for n in (1, 10, 100)],
    "catchup": [
        {
            "messages": messages,
            "rows": 50_000,
            **{
                f"rows_{n}_{key}": n / 1e3 + 1 for n in (5, 1_000, 50_000) for key in ("ms", "server_ms", "postgres_ms")
            },
            **{
                f"{what}_{age}_ms": 2.0
                for what in ("away", "away_for_nothing")
                for age in ("a_minute", "a_day", "80_days")
            },
        }
        for messages in (100_000, 1_000_000)
    ],
    "baseline": [
        {
            "changes_per_second": 20.0,
            "interval_seconds": 30.0,
            "atlas_idle_statements_per_second": 0.2,
            "atlas_busy_server_cores_at_100k": 0.7,
            **{
                f"{kind}_{key}": 4.0
                for kind in ("full", "delta", "atlas")
                for key in ("busy_statements_per_second", "staleness_p50_ms", "busy_postgres_cores_at_100k")
            },
        }
    ],
    "doorbell": [{f"{kind}_{n}_per_second": 1e3 * n for kind in ("none", "trigger", "notify") for n in (1, 8, 64)}],
    "push": [{"most_acked_per_second": 6_930.0, "one_by_one_acked_per_second": 1_430.0}],
}
"""What each plot finds; that the benchmarks give it is shown by their smoke runs."""


def result(benchmark: str, figures: Figures, *, date: str = DAY, runs: int = 3) -> Result:
    several = [{key: value * (1 + run / 10) for key, value in figures.items()} for run in range(runs)]
    return summary(benchmark, {"sockets": 10, "users": None}, MACHINE | {"date": date}, several)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a result for every plot."""
    for benchmark, found in MEASURED.items():
        for number, figures in enumerate(found):
            made = summary(benchmark, {"number": number}, MACHINE, [figures, figures])
            made.save(tmp_path, ["number"])
    return tmp_path


def drawings(page: str) -> Iterator[ElementTree.Element]:
    for drawing in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        yield ElementTree.fromstring(drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_all_plots_are_drawn(folder: Path) -> None:
    page, *pictures = write(folder, folder / "page" / "report.html", folder / "pictures")
    assert [path.stem for path in pictures] == [plot.name for plot in PLOTS]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    text = page.read_text()
    assert [*re.findall(r'<section id="(.*?)">', text)] == [plot.name for plot in PLOTS]
    for drawing, plot in zip(drawings(text), PLOTS, strict=True):
        labels = str(drawing.get("aria-labelledby")).split()
        named = {each.get("id"): each.text for each in drawing.iter() if each.get("id") in labels}
        assert len(named) == 2
        assert plot.about in named.values()
    assert "Not measured yet" not in text
    assert "a &lt;cpu&gt; &amp; more" in text
    ids = re.findall(r'\bid="(.*?)"', text)
    assert len(ids) == len(set(ids))
    # One page that needs nothing else.
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "@import" not in text
    # Every colour follows the page's, light or dark.
    assert not [
        each for drawing in re.findall(r"<svg .*?</svg>", text, re.DOTALL) for each in re.findall(r": #\w+", drawing)
    ]


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    result("push", MEASURED["push"][0]).save(tmp_path, [])
    (page,) = write(tmp_path, tmp_path / "report.html")
    text = page.read_text()
    assert re.findall(r'<section id="(.*?)">', text) == ["push"]
    assert "python -m benchmarks live --save" in text


def test_without_results_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="benchmarks live --save"):
        write(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"benchmark": "idle"}', '{"benchmark":"idle","arguments":{},"machine":{},"figures":{},"runs":[]}'],
)
def test_a_broken_result_is_named(folder: Path, content: str) -> None:
    (folder / "2026-11-20-idle-broken.json").write_text(content)
    with pytest.raises(BenchmarkError, match=r"^2026-11-20-idle-broken\.json is not a result .*mend or remove it\.$"):
        write(folder, folder / "report.html")


def test_a_figure_that_is_missing_is_named(tmp_path: Path) -> None:
    result("idle", {"sockets": 1_000}).save(tmp_path, [])
    with pytest.raises(BenchmarkError, match=r"idle of 2026-11-20.* lacks kib_per_connection"):
        write(tmp_path, tmp_path / "report.html")


def test_the_newest_counts_and_another_day_is_kept(tmp_path: Path) -> None:
    days = ("2026-11-21T09:00:00+00:00", "2026-11-20T09:00:00+00:00", "2026-11-21T08:00:00+00:00")
    for number, day in enumerate(days):
        result("idle", {"sockets": number}, date=day, runs=1).save(tmp_path, ["sockets"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "2026-11-20-idle-sockets-10.json",
        "2026-11-21-idle-sockets-10.json",
    ]
    result("idle", {"sockets": 7}, date=days[0], runs=1).save(tmp_path, [])
    (found,) = read(tmp_path)
    assert found.date == days[0]


def test_smoke_runs_are_not_drawn(tmp_path: Path) -> None:
    summary("idle", {"smoke": True}, MACHINE, [{"sockets": 50}]).save(tmp_path, ["smoke"])
    assert read(tmp_path) == []


def test_figures_are_medians_but_no_loss_is_lost() -> None:
    runs = [{"ms": 1.0, "lost": 0}, {"ms": 9.12345678, "lost": -2}, {"ms": 2.0, "lost": 0}]
    made = summary("live", {"changes": 200.0, "users": None, "devices": 0}, MACHINE, runs)
    assert made.figures == {"ms": 2.0, "lost": -2}
    assert made.lost == 2
    assert made.span("ms") == Span(1.0, 2.0, 9.12346)
    assert made.command() == "python -m benchmarks live --changes 200 --devices 0 --runs 3"


def test_a_result_is_a_line_for_each_run(tmp_path: Path) -> None:
    made = result("idle", {"sockets": 1_000})
    path = made.save(tmp_path, ["users"])
    assert path.name == "2026-11-20-idle-users-none.json"
    assert json.loads(path.read_text()).keys() == {"benchmark", "arguments", "machine", "figures", "runs"}
    assert len([line for line in path.read_text().splitlines() if "sockets" in line]) == 1 + 1 + 3
    assert read(tmp_path) == [made]
    assert results.FOLDER.parent.name == "benchmarks"


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (0.5612, "0.561"), (6.40, "6.4"), (99.96, "100"), (166_650.4, "166,650"), (-0.25, "−0.25")],
)
def test_figures_are_said_in_three_digits(value: float, said: str) -> None:
    assert say(value) == said


@pytest.mark.parametrize("command", sorted({command for plot in PLOTS for command in plot.commands}))
def test_what_the_page_says_to_repeat_is_a_command(command: str) -> None:
    name, *arguments = command.split()
    get_command(cli).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]  # a group has them
