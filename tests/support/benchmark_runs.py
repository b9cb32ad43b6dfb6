"""The benchmarks' commands, run in this process: they start many others."""

import json
from typing import Any

from typer.testing import CliRunner

from benchmarks import results
from benchmarks.__main__ import cli
from benchmarks.charts import PICTURES
from benchmarks.machine import BenchmarkError


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def run_fails(*arguments: str) -> str:
    """Returns what it wrote to standard error, and the error."""
    runner = CliRunner()
    done = runner.invoke(cli, arguments)
    assert isinstance(done.exception, BenchmarkError)
    return f"{done.stderr}benchmarks: {done.exception}"


def figures(benchmark: str, *options: str) -> dict[str, Any]:
    (line,) = run(benchmark, "--smoke", "--json", *options).splitlines()
    said = json.loads(line)
    assert said.keys() == {"benchmark", "machine", "figures"}
    assert said["benchmark"] == benchmark
    drawable(results.summary(benchmark, {}, said["machine"], [said["figures"]]))
    return dict(said["figures"])


def drawable(result: results.Result) -> None:
    """The pictures find in it every figure that they show."""
    for benchmark, chart in PICTURES.values():
        if benchmark == result.benchmark:
            chart([result])
