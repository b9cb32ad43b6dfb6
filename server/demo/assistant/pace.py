"""How fast an answer is typed: in pieces of words, as models write. Pure."""

import re
from collections.abc import Iterator
from random import Random
from typing import Final

PIECE: Final = re.compile(r"\s?\w{1,6}|\s+|[^\w\s]")
"""Matches each character of a text once."""
TYPICAL: Final = 0.022
"""Seconds from one piece to the next, on average: some 170 characters a second, as of a model of middle size."""
SENTENCE: Final = 0.12
PARAGRAPH: Final = 0.3
"""Seconds more after the end of a sentence, and of a paragraph."""
THOUGHT: Final = 0.7
"""Seconds before the first piece."""


def typed(text: str, seed: str) -> Iterator[tuple[float, str]]:
    """The pieces of a text, each with the seconds before it. Together they are the text. A seed gives the same."""
    random = Random(seed)
    pause = THOUGHT
    for piece in PIECE.findall(text):
        yield pause, piece
        pause = random.expovariate(1 / TYPICAL)
        if "\n\n" in piece:
            pause += PARAGRAPH
        elif piece[-1] in ".?!:":
            pause += SENTENCE
