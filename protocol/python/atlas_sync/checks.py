"""Checks of decoded values, and what they raise.

Each check takes a decoded value and returns it typed, or raises ProtocolError. Errors are logged, so they never contain
the value, which may be a person's text.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

SEQ_END = 2**53  # a larger number is not exact in JavaScript


class ProtocolError(Exception):
    """The server broke the protocol. The device closes the connection, and connects again."""


def integer(value: Any) -> int:
    if type(value) is not int:  # not isinstance: in Python True is an int, in the protocol it is not
        raise ProtocolError("not an integer")
    return value


def natural(value: Any) -> int:
    if integer(value) < 0:
        raise ProtocolError("negative")
    return int(value)


def seq(value: Any) -> int:
    if natural(value) >= SEQ_END:
        raise ProtocolError("a seq of 2^53 or more")
    return int(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError("not a boolean")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ProtocolError("not a text")
    return value


def array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ProtocolError("not an array")
    return value


class Fields:
    """A decoded map. Fields are checked when they are read; an error names the field."""

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise ProtocolError("not a map")
        self._fields: dict[Any, Any] = fields

    def read(self, name: str, check: Callable[[Any], T]) -> T:
        if name not in self._fields:
            raise ProtocolError(f"{name}: missing")
        return named(name, check, self._fields[name])

    def maybe(self, name: str, check: Callable[[Any], T]) -> T | None:
        """Read an optional field: None if it is absent or nil."""
        return None if self._fields.get(name) is None else self.read(name, check)

    def whole(self, check: Callable[[Any], T]) -> T:
        """Read the map as one value."""
        return check(self._fields)


def named(name: str, check: Callable[[Any], T], value: Any) -> T:
    """Check a value. An error begins with the name."""
    try:
        return check(value)
    except ProtocolError as error:
        raise ProtocolError(f"{name}: {error}") from error
