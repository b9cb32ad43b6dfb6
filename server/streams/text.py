"""A text that grows. Pure. Offsets count characters, which are code points."""

from typing import Final

PARTS: Final = 32
"""Parts that are kept apart: to join them at each append would be quadratic in the text."""


class Text:
    """A text in parts. `end`: its length; `size`: its bytes in UTF-8."""

    __slots__ = ("_parts", "end", "size")

    def __init__(self, text: str = "") -> None:
        self._parts = [text] if text else []
        self.end = len(text)
        self.size = len(text.encode())

    def append(self, text: str) -> None:
        self._parts.append(text)
        self.end += len(text)
        self.size += len(text.encode())
        if len(self._parts) > PARTS:
            self.whole()

    def whole(self) -> str:
        if len(self._parts) != 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    def after(self, offset: int) -> str:
        """What follows this offset."""
        if offset >= self.end:
            return ""
        if self.end - offset == len(self._parts[-1]):
            return self._parts[-1]
        return self.whole()[offset:]

    def news(self, offset: int, text: str) -> str | None:
        """What `text`, written at this offset, adds to the end. None: it does not fit, because it begins behind the end
        or differs from what is there."""
        if offset == self.end:
            return text
        if offset > self.end:
            return None
        there = self.whole()[offset : offset + len(text)]
        return text[len(there) :] if text.startswith(there) else None

    def common(self, other: str) -> int:
        """How many characters it has in common with another text, from the first on."""
        mine = self.whole()
        if other.startswith(mine):
            return len(mine)
        least, most = 0, min(len(mine), len(other))
        while least < most:
            middle = (least + most + 1) // 2
            if mine[:middle] == other[:middle]:
                least = middle
            else:
                most = middle - 1
        return least
