"""Results are kept and found again, and written into the report. How pictures look, a person must judge."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.charts import PICTURES
from benchmarks.live import SHARES, percentile
from benchmarks.machine import BenchmarkError
from benchmarks.report import write
from benchmarks.results import Figures, Result, Span, read, say, summary

DAY = "2026-11-20T10:00:00+00:00"
MACHINE = {
    "cores": 2,
    "cpu": "a CPU",
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
    "baseline": [
        {"interval_seconds": 30.0, **{f"{way}_staleness_p50_ms": 4.0 for way in ("full", "delta", "atlas")}},
    ],
    "doorbell": [
        {
            f"{way}_{writers}_per_second": 100.0 * writers
            for way in ("none", "trigger", "notify", "wal")
            for writers in (1, 8)
        }
    ],
    "peers": [
        {
            f"{peer}_{figure}": 4.0
            for peer in ("listen", "wal", "nchan")
            for figure in ("p50_ms", "ramp_32_delivered_per_second")
        }
    ],
    "push": [{"most_acked_per_second": 6_930.0, "one_by_one_acked_per_second": 1_430.0}],
}
"""What the pictures need, and one benchmark without a picture. The smoke runs show that benchmarks measure it."""


def result(benchmark: str, figures: Figures, *, date: str = DAY, runs: int = 3) -> Result:
    several = [{key: value * (1 + run / 10) for key, value in figures.items()} for run in range(runs)]
    return summary(benchmark, {"sockets": 10, "users": None}, MACHINE | {"date": date}, several)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With results for every picture."""
    for benchmark, found in MEASURED.items():
        for number, figures in enumerate(found):
            made = summary(benchmark, {"number": number}, MACHINE, [figures, figures])
            made.save(tmp_path, ["number"])
    return tmp_path


def test_every_result_is_in_the_report_and_every_picture_is_drawn(folder: Path) -> None:
    page, *pictures = write(folder, folder / "page" / "report.md", folder / "pictures")
    assert [path.stem for path in pictures] == [*PICTURES]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    text = page.read_text()
    assert sorted(re.findall(r"^## `python -m benchmarks (\w+)", text, re.MULTILINE)) == sorted(
        benchmark for benchmark, found in MEASURED.items() for _ in found
    )
    assert "| one_by_one_acked_per_second | 1,430 |  |" in text
    assert "a CPU" in text


def test_a_range_of_several_runs_is_in_the_report(tmp_path: Path) -> None:
    result("push", MEASURED["push"][0]).save(tmp_path, [])
    (page,) = write(tmp_path, tmp_path / "report.md")
    assert "| one_by_one_acked_per_second | 1,573 | 1,430–1,716 |" in page.read_text()
    assert "median of 3 runs" in page.read_text()


def test_a_picture_without_results_is_left_out(tmp_path: Path) -> None:
    result("idle", MEASURED["idle"][0]).save(tmp_path, [])
    _, *pictures = write(tmp_path, tmp_path / "report.md", tmp_path)
    assert [path.stem for path in pictures] == ["connections"]


def test_without_results_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="benchmarks live --save"):
        write(tmp_path, tmp_path / "report.md")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"benchmark": "idle"}', '{"benchmark":"idle","arguments":{},"machine":{},"figures":{},"runs":[]}'],
)
def test_an_unreadable_result_is_named(folder: Path, content: str) -> None:
    (folder / "2026-11-20-idle-broken.json").write_text(content)
    with pytest.raises(BenchmarkError, match=r"^2026-11-20-idle-broken\.json is not a result .*mend or remove it\.$"):
        write(folder, folder / "report.md")


def test_a_missing_figure_is_named(tmp_path: Path) -> None:
    result("idle", {"sockets": 1_000}).save(tmp_path, [])
    with pytest.raises(BenchmarkError, match=r"idle of 2026-11-20.* lacks kib_per_connection"):
        write(tmp_path, tmp_path / "report.md", tmp_path)


def test_the_newest_result_counts_and_those_of_other_days_are_kept(tmp_path: Path) -> None:
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


def test_smoke_runs_are_not_reported(tmp_path: Path) -> None:
    summary("idle", {"smoke": True}, MACHINE, [{"sockets": 50}]).save(tmp_path, ["smoke"])
    assert read(tmp_path) == []


def test_figures_are_medians_but_a_loss_in_one_run_counts() -> None:
    runs = [{"ms": 1.0, "lost": 0}, {"ms": 9.12345678, "lost": -2}, {"ms": 2.0, "lost": 0}]
    made = summary("live", {"changes": 200.0, "users": None, "devices": 0}, MACHINE, runs)
    assert made.figures == {"ms": 2.0, "lost": -2}
    assert made.lost == 2
    assert made.span("ms") == Span(1.0, 2.0, 9.12346)
    assert made.command() == "python -m benchmarks live --changes 200 --devices 0 --runs 3"


def test_a_saved_result_has_one_line_for_each_run(tmp_path: Path) -> None:
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
def test_figures_have_three_digits(value: float, said: str) -> None:
    assert say(value) == said
