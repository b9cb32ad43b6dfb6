"""Errors, by what the caller can do about them."""

from dataclasses import dataclass
from typing import Final

CHAIN: Final = 20
"""The most exceptions reported of one failure, causes and groups included."""


class AtlasError(Exception):
    """Base of the errors that this project raises. Its message is a sentence that says what to do."""


class ConfigError(AtlasError):
    """A setting is missing or wrong."""


class UnavailableError(AtlasError):
    """Postgres cannot be reached or is not ready. Retrying helps."""


class CacheError(AtlasError):
    """Redis cannot be reached, or refuses a command. The caller goes on without it."""


class UnfitError(AtlasError):
    """This database cannot serve in its present state. Retrying does not help."""


@dataclass(frozen=True, slots=True)
class Link:
    """One exception of a chain."""

    error: BaseException
    number: int
    parent: int | None
    """The number of the exception that refers to it; None for the first."""
    how: str
    """How the parent refers to it."""


def chain(error: BaseException) -> list[Link]:
    """The exception, followed by its group members, causes and contexts, each once."""
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
