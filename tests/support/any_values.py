"""Frames and values of SPEC.md 2.4 as plain values: both encodings, without a line of the product."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgpack

Id = Any
"""A row's key: UUID, str or int; a tuple of two where the key has two columns."""


@dataclass(frozen=True)
class Kind:
    """What the `schema` frame says of one kind."""

    name: str
    tag: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    parent: str | None = None
    newest: str | None = None
    window: int | None = None
    devices: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, str]:
        """By column, with `?` where it may be nil."""
        return dict(self.columns)

    @property
    def order(self) -> int | None:
        """Where the column is that orders lists."""
        return None if self.newest is None else [name for name, _ in self.columns].index(self.newest)


def kinds(frame: dict[str, Any]) -> dict[str, Kind]:
    """By name, each after its parent, as the frame has them."""
    return {
        each["name"]: Kind(
            each["name"],
            each["tag"],
            tuple(each["key"]),
            tuple((name, of) for name, of in each["columns"]),
            **{name: each[name] for name in ("parent", "newest", "window", "devices", "limits") if each.get(name)},
        )
        for each in frame["kinds"]
    }


class Wire:
    """One of the two encodings."""

    def __init__(self, subprotocol: str, *, text: bool) -> None:
        self.subprotocol = subprotocol
        self.text = text

    def encode(self, frame: dict[str, Any]) -> str | bytes:
        if self.text:
            return json.dumps(frame, ensure_ascii=False)
        return bytes(msgpack.packb(frame))

    def decode(self, data: str | bytes) -> dict[str, Any]:
        """Raises AssertionError for a message of the wrong kind."""
        assert isinstance(data, str) == self.text
        found = json.loads(data) if self.text else msgpack.unpackb(data, strict_map_key=False)
        assert isinstance(found, dict)
        return found

    def value(self, of: str, value: Any) -> Any:
        """A value of a row, as it is held: json and arrays are read, integers are int, uuids are UUID."""
        base = of.removesuffix("?")
        if value is None:
            assert of.endswith("?"), f"{of} is nil"
            return None
        match base:
            case "uuid":
                return UUID(value) if self.text else UUID(bytes=value)
            case "bytes":
                return base64.b64decode(value, validate=True) if self.text else value
            case "bigint" if isinstance(value, str):
                assert not -(1 << 53) < int(value) < 1 << 53, "it would be exact as a number"
                return int(value)
            case "json" | "array":
                return json.loads(value)
        expected = {"bool": bool, "int": int, "bigint": int, "instant": int, "float": (int, float, str)}.get(base, str)
        assert isinstance(value, expected), (of, value)  # type: ignore[arg-type]  # classes, or a tuple of them
        return value

    def sent(self, of: str, value: Any) -> Any:
        """A value that a device sends. One of another type than the column's is sent as it is."""
        match of.removesuffix("?"):
            case "bigint" if isinstance(value, int) and not -(1 << 53) < value < 1 << 53:
                return str(value)
        if isinstance(value, UUID):
            return str(value) if self.text else value.bytes
        if isinstance(value, bytes) and self.text:
            return base64.b64encode(value).decode()
        return value

    def key(self, kind: Kind, value: Any) -> Id:
        """The id of a row that was received."""
        if len(kind.key) == 1:
            return self.value(kind.key[0], value)
        assert len(value) == len(kind.key)
        return tuple(self.value(of, half) for of, half in zip(kind.key, value, strict=True))

    def sent_key(self, kind: Kind, key: Id) -> Any:
        if len(kind.key) == 1:
            return self.sent(kind.key[0], key)
        return [self.sent(of, half) for of, half in zip(kind.key, key, strict=True)]

    def opaque(self, value: Any) -> bytes:
        """A cursor."""
        return base64.b64decode(value, validate=True) if self.text else bytes(value)

    def sent_opaque(self, value: bytes | None) -> Any:
        return None if value is None else base64.b64encode(value).decode() if self.text else value


MSGPACK: Final = Wire("atlas-sync.v1.msgpack", text=False)
JSON: Final = Wire("atlas-sync.v1.json", text=True)
