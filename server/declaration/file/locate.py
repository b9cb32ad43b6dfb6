"""Where each key of a TOML text stands. `tomllib` does not tell. Pure."""

import re
import tomllib
from bisect import bisect_right
from typing import Final, NamedTuple

Path = tuple[str | int, ...]
"""Keys, and indexes of lists, from the outermost table inwards."""

BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
BLANK: Final = re.compile(r"[ \t]*")
BLANKS: Final = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
OTHER: Final = re.compile(r"[^,\]}\n#]*")
"""A value that is no text, list or table."""
QUOTES: Final = ('"""', "'''", '"', "'")


class Place(NamedTuple):
    """From 1, in characters."""

    line: int
    column: int


def places(text: str) -> dict[Path, Place]:
    """Where each key begins, and each value of a list. `text` must be valid TOML. A table that is named several times
    stands where it is named first."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._found: dict[Path, int] = {}
        self._lists: dict[Path, int] = {}
        """How many tables each list of tables has so far."""

    def scan(self) -> dict[Path, Place]:
        table: Path = ()
        while self._skip(BLANKS) < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        lines = {path: bisect_right(starts, offset) for path, offset in self._found.items()}
        return {path: Place(line, self._found[path] - starts[line - 1] + 1) for path, line in lines.items()}

    def _header(self) -> Path:
        doubled = self._text.startswith("[[", self._at)
        self._at += 1 + doubled
        parts = self._key()
        self._at += 1 + doubled
        path: Path = ()
        for number, (part, offset) in enumerate(parts, 1):
            path = (*path, part)
            self._found.setdefault(path, offset)
            if number == len(parts) and doubled:
                self._lists[path] = self._lists.get(path, 0) + 1
            if path in self._lists:
                path = (*path, self._lists[path] - 1)
                self._found.setdefault(path, offset)
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for part, offset in self._key():
            path = (*path, part)
            self._found.setdefault(path, offset)
        self._at += 1  # =
        self._skip(BLANK)
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key, and where each begins. Leaves the position behind the key and its blanks."""
        parts = []
        while True:
            start = self._skip(BLANK)
            if self._text[start] in "\"'":
                self._string()
                part = tomllib.loads(f"key = {self._text[start : self._at]}")["key"]
            else:
                self._skip(BARE)
                part = self._text[start : self._at]
            parts.append((part, start))
            self._skip(BLANK)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        match self._text[self._at]:
            case '"' | "'":
                self._string()
            case "[":
                self._at += 1
                number = 0
                while self._text[self._skip(BLANKS)] != "]":
                    self._found[(*path, number)] = self._at
                    self._value((*path, number))
                    number += 1
                    if self._text[self._skip(BLANKS)] == ",":
                        self._at += 1
                self._at += 1
            case "{":
                self._at += 1
                while self._text[self._skip(BLANKS)] != "}":
                    self._pair(path)
                    if self._text[self._skip(BLANKS)] == ",":
                        self._at += 1
                self._at += 1
            case _:
                self._skip(OTHER)

    def _string(self) -> None:
        quote = next(each for each in QUOTES if self._text.startswith(each, self._at))
        self._at += len(quote)
        while not self._text.startswith(quote, self._at):
            self._at += 2 if quote[0] == '"' and self._text[self._at] == "\\" else 1
        self._at += len(quote)
        # A text of several lines may end with up to two quotation marks of its own.
        while len(quote) == 3 and self._text.startswith(quote[0], self._at):
            self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        self._at = self._at if match is None else match.end()
        return self._at
