"""`atlas-sync conform`: what passed and what failed, a line each."""

import asyncio
from collections.abc import Sequence

from server.conformance.runner import play_all
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
    failed = asyncio.run(play_all(chosen, command, jobs, _tell))
    say(f"{len(chosen) - failed} of {len(chosen)} scenarios passed.")
    return 1 if failed else 0


def _tell(scenario: Scenario, why: str | None) -> None:
    text = f"{scenario.name:<{WIDTH}} {scenario.sentence}"
    marked(Mark.GOOD if why is None else Mark.BAD, text)
    if why is not None:
        say(f"  {why}")
