"""The examples of protocol/js/README.md, as an app has them."""

import re
from pathlib import Path
from typing import Final

from tests.support.npm import CLIENT

README: Final = CLIENT / "README.md"
FENCE: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME: Final = re.compile(r"(?://|#|<!--) ([\w./-]+)(?: -->)?\n")


def examples() -> dict[str, str]:
    """By the name in its first line, the text after that line. A file that two examples claim is an error."""
    found: dict[str, str] = {}
    for language, text in FENCE.findall(README.read_text()):
        if language in {"sh", "nginx"}:
            continue
        name = NAME.match(text)
        assert name is not None, f"the first line of an example must be its name:\n{text}"
        assert name[1] not in found, f"two examples are {name[1]}"
        found[name[1]] = text[name.end() :]
    return found


def commands() -> list[str]:
    """Each line of the shell examples, in order, but what starts the demo. A line begins where checkout and app lie."""
    blocks = [text for language, text in FENCE.findall(README.read_text()) if language == "sh"]
    return [line for block in blocks for line in block.splitlines() if "atlas-sync demo" not in line]


def write(folder: Path) -> None:
    """Write each example into `folder`, but those of a page without a bundler, which is beside the app."""
    for name, text in examples().items():
        path = folder.parent / name if name.startswith("www/") else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
