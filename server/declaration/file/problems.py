"""What is wrong with a declaration, and where in its file. Pure."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final, NamedTuple

from server.declaration.file.locate import Place
from server.exceptions import ConfigError

MOST: Final = 50
"""Problems that are printed. A foreign file may have thousands."""


class Problem(NamedTuple):
    place: Place
    says: str
    """One sentence that says what to do."""


class DeclarationError(ConfigError):
    """All that is wrong with a file, a line each: `FILE:LINE:COLUMN: sentence`."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.problems = sorted(set(problems))
        lines = [f"{file}:{place.line}:{place.column}: {says}" for place, says in self.problems[:MOST]]
        if len(self.problems) > MOST:
            lines.append(f"and {len(self.problems) - MOST} more.")
        count = "an error" if len(self.problems) == 1 else f"{len(self.problems)} errors"
        super().__init__(f"The declaration has {count}.\n" + "\n".join(lines))


def meant(name: str, known: Iterable[str]) -> str:
    """` Did you mean …?`, if one of the known names is near."""
    names = list(known)
    folded = {each.casefold(): each for each in reversed(names)}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" Did you mean `{folded[near[0]]}`?" if near else ""


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: the first of them."""
    some = ", ".join(f"`{name}`" for name in names[:8])
    return some if len(names) <= 8 else f"{some} and {len(names) - 8} more"
