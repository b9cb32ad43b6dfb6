"""All saved results as one Markdown file, and the pictures of the documentation."""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.charts import PICTURES
from benchmarks.machine import BenchmarkError
from benchmarks.results import Result, Span, read, say


def write(results: Path, output: Path, pictures: Path | None = None) -> list[Path]:
    """Write the results of the folder `results` to `output`, and the pictures to the folder `pictures`, if given.

    Returns the files written. A picture whose benchmark has no result is left out. Raises BenchmarkError if there are
    no results or one cannot be read, or if matplotlib is needed and missing.
    """
    found = read(results)
    if not found:
        raise BenchmarkError(f"There are no results in {results}: `python -m benchmarks live --save` makes the first.")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("# Measured\n\n" + "\n".join(map(_section, sorted(found, key=_order))))
    return [output] if pictures is None else [output, *_draw(found, pictures)]


def _draw(found: Sequence[Result], pictures: Path) -> list[Path]:
    try:
        from benchmarks import drawing  # matplotlib takes a second to import
    except ImportError as error:
        raise BenchmarkError("matplotlib draws the pictures: pip install -e '.[benchmarks]'.") from error
    pictures.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (benchmark, chart) in PICTURES.items():
        if shown := [result for result in found if result.benchmark == benchmark]:
            paths.append(pictures / f"{name}.png")
            drawing.png(chart(shown), paths[-1])
    return paths


def _order(result: Result) -> str:
    """Sorts 1,000 before 10,000."""
    return re.sub(r"\d+", lambda number: number[0].zfill(12), result.command())


def _section(result: Result) -> str:
    count = len(result.runs)
    rows = "".join(f"| {key} | {_cells(result.span(key))} |\n" for key in result.figures)
    machine = result.machine
    return (
        f"## `{result.command()}`\n\n"
        f"{result.date[:10]}: {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"{machine['kernel']}, Python {machine['python']}, PostgreSQL {machine['postgres']}, disk flush "
        f"{machine['flush_ms']} ms\n\n"
        f"| figure | {f'median of {count} runs' if count > 1 else 'one run'} | range |\n|---|--:|--:|\n{rows}"
    )


def _cells(span: Span) -> str:
    between = "–" if span.low >= 0 else " to "
    spread = f"{say(span.low)}{between}{say(span.high)}" if span.low != span.high else ""
    return f"{say(span.median)} | {spread}"
