"""What `atlas-sync project` calls measured is a figure of a saved result."""

import pytest
from typer.main import get_command

from benchmarks.__main__ import cli
from benchmarks.results import FOLDER, read
from server.projection.assumptions import Line, Source, parse
from server.terminal.project import SHIPPED

BENCHMARKS = get_command(cli).commands  # type: ignore[attr-defined]  # a group has them
RESULTS = read(FOLDER)
MEASURED = [line for line in parse(SHIPPED.read_text(), "it").lines if line.source is Source.MEASURED]


@pytest.mark.parametrize("line", MEASURED, ids=lambda line: line.name)
def test_a_measured_line_has_three_digits_of_the_newest_result_of_its_command(line: Line) -> None:
    command, _, figure = line.said.removeprefix("python -m benchmarks ").partition(": ")
    name, *options = command.split()
    arguments = BENCHMARKS[name].make_context(name, options).params
    results = [
        result
        for result in RESULTS
        if result.benchmark == name and all(arguments[key] == value for key, value in result.arguments.items())
    ]
    assert results, f"no result of {command} is saved"
    assert line.value == float(f"{results[-1].figure(figure):.3g}")
