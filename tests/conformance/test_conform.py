"""Both clients pass every scenario of `atlas-sync conform`, and each scenario fails a client that ignores its rule."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from server.conformance.runner import Outcome, play, play_all
from server.conformance.scenarios import SCENARIOS
from server.conformance.steps import Scenario
from tests.conformance.broken import RULES
from tests.support.npm import CLIENT, NODE, install, run_node

ROOT = Path(__file__).parents[2]
PYTHON = [sys.executable, str(ROOT / "protocol" / "python" / "conform.py")]
AT_A_TIME = 4
MOST_WAIT = 12
"""Broken clients at a time: the runner waits for what most of them do not do."""


async def failures(command: list[str]) -> list[str]:
    found: list[str] = []

    def tell(scenario: Scenario, outcome: Outcome) -> None:
        if outcome.why is not None or outcome.left_out:
            found.append(f"{scenario.name}: {outcome.why or 'left out'}")

    outcomes = await play_all(SCENARIOS, command, AT_A_TIME, tell)
    assert len(outcomes) == len(SCENARIOS)
    return found


async def test_the_python_client_passes_every_scenario() -> None:
    assert await failures(PYTHON) == []


@pytest.mark.parametrize("encoding", ["--msgpack", "--json"])
async def test_the_typescript_client_passes_every_scenario(encoding: str) -> None:
    install()
    adapter = CLIENT / "node_modules" / ".conform" / "adapter.mjs"  # where it finds its packages
    await asyncio.to_thread(run_node, "conform/build.mjs", str(adapter), folder=CLIENT)
    assert await failures([NODE, str(adapter), encoding]) == []


async def test_every_scenario_fails_a_client_that_ignores_its_rule() -> None:
    free = asyncio.Semaphore(MOST_WAIT)

    async def broken(scenario: Scenario) -> tuple[str, str | None]:
        async with free:
            command = [sys.executable, "-m", "tests.conformance.broken", scenario.name]
            return scenario.name, (await play(scenario, command, patience=4)).why

    results = await asyncio.gather(*map(broken, SCENARIOS))
    assert [name for name, why in results if why is None] == []
    # It failed by what it did, and not by being no client at all.
    assert [(name, why) for name, why in results if why and "step 1," in why] == []


def test_every_scenario_has_a_rule_a_sentence_and_a_name_of_its_own() -> None:
    assert {scenario.name for scenario in SCENARIOS} == RULES.keys()
    assert len(RULES) == len(SCENARIOS)
    assert all(scenario.sentence.endswith(".") for scenario in SCENARIOS)


def conform(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "conform", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_lists_plays_one_and_says_by_its_status_what_failed() -> None:
    listed = conform("--list")
    assert listed.returncode == 0
    assert listed.stdout.count("\n") == len(SCENARIOS)
    one = conform("--only", "duplicates", "--", *PYTHON)
    assert (one.returncode, one.stdout.splitlines()[-1]) == (0, "1 of 1 scenarios passed.")
    broken = conform("--only", "stays-away", "--", sys.executable, "-m", "tests.conformance.broken", "stays-away")
    assert broken.returncode == 1
    assert "✗ stays-away" in broken.stdout


def test_scenarios_of_streams_are_left_out_for_a_client_that_does_not_ask_for_them() -> None:
    client = [sys.executable, "-m", "tests.conformance.broken", "no streams"]
    done = conform("--only", "stream", "--only", "stop", "--only", "duplicates", "--", *client)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 scenarios passed.")
    assert done.stdout.count("left out: the client does not ask for streams") == 2


@pytest.mark.parametrize("arguments", [["--only", "nothing"], []])
def test_a_call_without_a_client_or_with_an_unknown_scenario_says_what_to_do(arguments: list[str]) -> None:
    done = conform(*arguments)
    assert done.returncode == 2
    assert "atlas-sync conform" in done.stderr


def test_a_client_that_cannot_be_started_fails_every_scenario() -> None:
    done = conform("--only", "write", "--", "no-such-program")
    assert done.returncode == 1
    assert "cannot be started" in done.stdout
