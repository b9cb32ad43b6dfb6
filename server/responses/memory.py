"""The responses that a process keeps: the ones used last, within a number of bytes. Sans-I/O."""

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from server.responses.ports import Response
from server.responses.question import Key

ENTRY_BYTES: Final = 720
"""Memory of an entry beside its text, its key included: measured with tracemalloc."""


@dataclass(slots=True)
class _Entry:
    response: Response | None
    """None: it was deleted."""
    version: int
    until: float
    size: int


class Memory:
    """Times are seconds of one clock, which the caller reads."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes."""
        self._limit = limit
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self.size = 0
        """Bytes that are in use."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Response | None:
        entry = self._entries.get(key)
        if entry is None or entry.response is None or now >= entry.until:
            return None
        self._entries.move_to_end(key)
        return entry.response

    def keep(self, key: Key, response: Response, until: float, now: float) -> None:
        """Keep a response until that time, unless a later one, or its deletion, is known."""
        self._replace(key, _Entry(response, response.version, until, ENTRY_BYTES + sys.getsizeof(response.text)), now)

    def drop(self, key: Key, version: int, until: float, now: float) -> None:
        """Until that time, keep no response that is earlier than `version`."""
        self._replace(key, _Entry(None, version, until, ENTRY_BYTES), now)

    def _replace(self, key: Key, entry: _Entry, now: float) -> None:
        former = self._entries.get(key)
        if former is not None:
            if former.version > entry.version and now < former.until:
                return
            self.size -= former.size
            del self._entries[key]
        if entry.size > self._limit:
            return
        self._entries[key] = entry
        self.size += entry.size
        while self.size > self._limit:
            self.size -= self._entries.popitem(last=False)[1].size
