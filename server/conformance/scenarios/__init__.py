"""What a client is tested with: scenarios as values, over the chat schema, and a module for each subject."""

from typing import Final

from server.conformance.scenarios import changes, clocks, endings, frames, joining, pages, pushes, streams, tokens

SCENARIOS: Final = (
    *joining.SCENARIOS,
    *changes.SCENARIOS,
    *frames.SCENARIOS,
    *pages.SCENARIOS,
    *endings.SCENARIOS,
    *tokens.SCENARIOS,
    *pushes.SCENARIOS,
    *clocks.SCENARIOS,
    *streams.SCENARIOS,
)
