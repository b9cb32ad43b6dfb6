"""The house rules that a machine can check: imports point down, types are strict, the style is one style."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["lint-imports", "--no-cache"], id="imports point down"),
        pytest.param([sys.executable, "-m", "mypy"], id="types are strict"),
        pytest.param([sys.executable, "-m", "ruff", "check", "--no-cache"], id="lint is clean"),
        pytest.param([sys.executable, "-m", "ruff", "format", "--check", "--no-cache"], id="format is clean"),
    ],
)
def test_the_house_is_in_order(command: list[str]) -> None:
    if command[0] == "lint-imports":
        command = [str(Path(sys.executable).with_name("lint-imports")), *command[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_promise_names_tests_that_exist() -> None:
    spec = (ROOT / "protocol" / "SPEC.md").read_text()
    promises = [line for line in spec.splitlines() if line.startswith("| P")]
    assert len(promises) >= 9
    for promise in promises:
        named = [word.strip("`,") for word in promise.split() if "tests/" in word]
        assert named, promise
        for name in named:
            assert (ROOT / name).exists(), name
