"""`atlas-sync conform`: what passed and what failed, a line each."""

import asyncio
from collections.abc import Sequence

from server.conformance.runner import Outcome, play_all
from server.conformance.scenarios import SCENARIOS
from server.conformance.steps import Scenario
from server.exceptions import ConfigError
from server.terminal.output import Mark, marked, say

WIDTH = 20


def conform(command: Sequence[str], only: Sequence[str], *, only_list: bool, jobs: int) -> int:
    """Return the exit status. Raises ConfigError for an unknown scenario, or without a command."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(f"There is no scenario {unknown[0]}: `atlas-sync conform --list` prints them.")
    chosen = [known[name] for name in only] or list(SCENARIOS)
    if only_list:
        for scenario in chosen:
            say(f"{scenario.name:<{WIDTH}} {scenario.sentence}")
        return 0
    if not command:
        raise ConfigError("Name the adapter of the client: `atlas-sync conform -- node my_adapter.js`.")
    outcomes = asyncio.run(play_all(chosen, command, jobs, _tell))
    failed = sum(outcome.why is not None for outcome in outcomes)
    played = sum(not outcome.left_out for outcome in outcomes)
    say(f"{played - failed} of {played} scenarios passed.")
    return 1 if failed else 0


def _tell(scenario: Scenario, outcome: Outcome) -> None:
    text = f"{scenario.name:<{WIDTH}} {scenario.sentence}"
    if outcome.left_out:
        marked(Mark.NOTE, text)
        say(f"  left out: the client does not ask for {scenario.extra}")
        return
    marked(Mark.GOOD if outcome.why is None else Mark.BAD, text)
    if outcome.why is not None:
        say(f"  {outcome.why}")
