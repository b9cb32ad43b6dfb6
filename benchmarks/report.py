"""The report: one page that needs nothing else, with plots, their numbers, and what repeats them on which machine."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from benchmarks.charts import PLOTS, Bars, Chart, Plot
from benchmarks.machine import BenchmarkError
from benchmarks.results import Result, Span, read, say

try:
    from benchmarks import drawing
except ImportError as error:
    raise BenchmarkError("matplotlib draws the report: pip install -e '.[benchmarks]'.") from error

PAGE: Final = Template(Path(__file__).with_name("report.html").read_text())


def write(results: Path, output: Path, pictures: Path | None = None) -> list[Path]:
    """Draw the results of a folder. Returns the files that were written."""
    found = read(results)
    if not found:
        raise BenchmarkError(f"There are no results in {results}: `python -m benchmarks live --save` makes the first.")
    drawn: list[tuple[Plot, Chart, Sequence[Result]]] = []
    missing: list[Plot] = []
    for plot in PLOTS:
        its = [result for result in found if result.benchmark == plot.benchmark]
        if its:
            drawn.append((plot, plot.chart(its), its))
        else:
            missing.append(plot)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        PAGE.substitute(
            plots="\n".join(_section(*each) for each in drawn),
            missing=_missing(missing),
            everything="\n".join(map(_figures, sorted(found, key=_order))),
        )
    )
    if pictures is None:
        return [output]
    pictures.mkdir(parents=True, exist_ok=True)
    paths = [pictures / f"{plot.name}.png" for plot, _, _ in drawn]
    for path, (_, chart, _) in zip(paths, drawn, strict=True):
        drawing.png(chart, path)
    return [output, *paths]


def _order(result: Result) -> str:
    """1,000 before 10,000."""
    return re.sub(r"\d+", lambda number: number[0].zfill(12), result.command())


def _section(plot: Plot, chart: Chart, results: Sequence[Result]) -> str:
    return f"""
<section id="{plot.name}">
<h2>{escape(chart.title)}</h2>
<p class="about">{escape(plot.about)}</p>
<figure>{drawing.svg(chart, plot.name, plot.about)}</figure>
{_numbers(chart)}
{_commands(result.command() for result in sorted(results, key=_order))}
{_machines(results)}
</section>"""


def _numbers(chart: Chart) -> str:
    if isinstance(chart, Bars):
        return _table(["", chart.axis.label], [(name, [span]) for name, span in chart.bars.items()])
    places = sorted({x for points in chart.lines.values() for x in points})
    rows = [(chart.x.say(x), [points.get(x) for points in chart.lines.values()]) for x in places]
    return _table([chart.x.label, *chart.lines], rows)


def _missing(plots: Sequence[Plot]) -> str:
    if not plots:
        return ""
    once = dict.fromkeys(command for plot in plots for command in plot.commands)
    commands = _commands(f"python -m benchmarks {command} --save" for command in once)
    return (
        f"<section>\n<h2>Not measured yet</h2>\n<p class='about'>These would be drawn here.</p>\n{commands}\n</section>"
    )


def _figures(result: Result) -> str:
    rows = [(key, [result.span(key)]) for key in result.figures]
    count = len(result.runs)
    table = _table(["", f"median of {count} runs" if count > 1 else "one run"], rows)
    summary = f"<summary><code>{escape(result.command())}</code></summary>"
    return f"<details>\n{summary}\n{table}\n{_machines([result])}\n</details>"


def _table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Span | None]]]) -> str:
    names = "".join(f'<th scope="col" colspan="2">{escape(name)}</th>' for name in head[1:])
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cells, spans))}</tr>' for name, spans in rows
    )
    return (
        f'<div class="wide"><table>\n<thead><tr><th scope="col">{escape(head[0])}</th>{names}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cells(span: Span | None) -> str:
    """The median, and the range of the runs."""
    if span is None:
        return "<td>–</td><td></td>"
    between = "–" if span.low >= 0 else " to "
    spread = f"{say(span.low)}{between}{say(span.high)}" if span.low != span.high else ""
    return f"<td>{say(span.median)}</td><td>{spread}</td>"


def _commands(commands: Iterable[str]) -> str:
    return f"<pre><code>{escape(chr(10).join(commands))}</code></pre>"


def _machines(results: Sequence[Result]) -> str:
    """Each that they were measured on: when, and what it was."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(_machine(result), []).append(result)
    return "\n".join(
        f'<p class="machine">{_from_to([result.date[:10] for result in same])}: {escape(machine)}, flush to the disk '
        f"{_from_to([result.machine['flush_ms'] for result in same])}&nbsp;ms.</p>"
        for machine, same in found.items()
    )


def _machine(result: Result) -> str:
    about = result.machine
    return (
        f"{about['cores']} cores ({about['cpu']}), {about['memory_gib']} GiB, {about['kernel']}, "
        f"Python {about['python']}, PostgreSQL {about['postgres']}"
    )


def _from_to(values: Sequence[Any]) -> str:
    first, last = min(values), max(values)
    return f"{first}" if first == last else f"{first} to {last}"
