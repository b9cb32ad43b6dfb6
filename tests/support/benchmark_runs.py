"""The benchmarks' commands, run as a person runs them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.charts import PICTURES

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
