"""What can go wrong, by what the caller can do about it."""

from dataclasses import dataclass
from typing import Final

CHAIN: Final = 20
"""Exceptions told of one failure, with their causes and groups."""


class AtlasError(Exception):
    """Base of every error this project raises; its message is a sentence that says what to do."""


class ConfigError(AtlasError):
    """A setting is missing or wrong."""


class UnavailableError(AtlasError):
    """Postgres cannot be reached or is not ready. Trying again helps."""


class UnfitError(AtlasError):
    """This database cannot serve as it is. Trying again does not help."""


@dataclass(frozen=True, slots=True)
class Link:
    """An exception, and how it belongs to the one it was found at."""

    error: BaseException
    number: int
    parent: int | None
    """The number of that one."""
    how: str


def chain(error: BaseException) -> list[Link]:
    """The exception, then what it has within and what it came from, each once."""
    links: list[Link] = []
    seen: set[int] = set()
    to_come: list[tuple[BaseException, int | None, str]] = [(error, None, "raised")]
    while to_come and len(links) < CHAIN:
        current, parent, how = to_come.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        number = len(links)
        links.append(Link(current, number, parent, how))
        if isinstance(current, BaseExceptionGroup):
            to_come += [(one, number, f"exceptions[{i}]") for i, one in enumerate(current.exceptions)]
        if current.__cause__ is not None:
            to_come.append((current.__cause__, number, "__cause__"))
        elif current.__context__ is not None and not current.__suppress_context__:
            to_come.append((current.__context__, number, "__context__"))
    return links
