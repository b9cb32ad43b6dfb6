"""The benchmarks' commands, run as a person runs them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.charts import PICTURES

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    done = _done(arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_fails(*arguments: str) -> str:
    """Returns what it wrote to standard error."""
    done = _done(arguments)
    assert done.returncode == 1
    return done.stderr


def _done(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


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
