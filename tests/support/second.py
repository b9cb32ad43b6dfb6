"""A second declaration, tests/declaration/second.toml: what the chat schema lacks."""

from pathlib import Path
from typing import Final

import msgspec

from server.declaration.model import Declaration

SECOND: Final = msgspec.json.decode(
    (Path(__file__).parents[1] / "declaration" / "golden" / "second.json").read_bytes(), type=Declaration
)
