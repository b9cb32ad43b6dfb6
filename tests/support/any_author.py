"""Random mutations of any schema, good and bad, and what may come of each.

Every text is new, begins with the user and ends with a mark, by which the database's trail shows how often it was
written. Where a kind has no text, keys and counts serve.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from tests.support.any_device import AnyDevice
from tests.support.any_values import Id, Kind

OK: Final = frozenset({"applied"})
LIMIT: Final = 100_000
"""Bytes of a text without a limit of its own."""


class Stranger(NamedTuple):
    """A row of another user."""

    kind: str
    key: Id
    parent: Id


@dataclass(frozen=True)
class Made:
    """A mutation, and what is known of it."""

    op: str
    kind: Kind
    key: Id
    mark: str | None
    """In the text that it writes."""
    may: frozenset[str]
    """The results that it may have."""
    writes: bool = True
    """Whether it writes its mark if it is applied."""
    bad: str = ""
    parent: Id = None


class Author:
    """Writes on a device. `keys` makes the keys of new rows that are not just any new value: see `KEYS`.

    `strangers` are rows of others; `crossing`: they may become rows of this user at any moment.
    """

    def __init__(
        self,
        device: AnyDevice,
        rng: random.Random,
        schema: str,
        strangers: Sequence[Stranger],
        *,
        crossing: bool,
    ) -> None:
        self.device = device
        self.made: dict[int, Made] = {}
        self._rng = rng
        self._schema = schema
        self._strangers = strangers
        self._crossing = crossing
        self._at = 0

    def write(self) -> None:
        """Put one mutation into the device's outbox, if the device knows of a schema."""
        kinds = [kind for kind in self.device.rows.kinds.values() if kind.devices]
        if not kinds:
            return
        kind = self._rng.choice(kinds)
        attempts = [self._insert, self._insert, self._insert, self._update, self._update, self._delete, self._bad]
        self._rng.choice(attempts)(kind)

    # --- good ones

    def _insert(self, kind: Kind) -> None:
        if "insert" not in kind.devices:
            return
        parent = self._held(kind.parent) if kind.parent is not None else None
        key = self._new_key(kind, parent)
        if key is None or (kind.parent is not None and parent is None):
            return
        columns, mark = self._columns(kind, kind.devices["insert"])
        # A row of the key may exist if the key is made of others, or a unique key be taken.
        taken = len(kind.key) == 2 or (self._schema, kind.name) in KEYS
        may = {"applied", "unknown_parent", "refused", "bad_value", *(["bad_id"] if taken else [])}
        if self._rng.random() < 0.1 and columns:
            left = self._rng.choice([*columns])
            if mark is not None and mark in str(columns[left]):
                mark = None
            del columns[left]
            may |= {"bad_value"}
        self._put("+", kind, key, columns, mark, may, parent, writes=not taken)

    def _update(self, kind: Kind) -> None:
        key = self._held(kind.name)
        permitted = kind.devices.get("update", [])
        if key is None or not permitted:
            return
        some = [name for name in permitted if self._rng.random() < 0.7] or [self._rng.choice(permitted)]
        columns, mark = self._columns(kind, some)
        # Values of limits may only be written where one is already, and a row that it names may be gone.
        may = {"applied", "unknown_row", "refused", "bad_value"}
        self._put("~", kind, key, columns, mark, may)

    def _delete(self, kind: Kind) -> None:
        key = self._held(kind.name)
        # Not too often: a parent takes much with it.
        if key is not None and kind.devices.get("delete") and self._rng.random() < 0.3:
            self._put("-", kind, key, None, None, {"applied", "refused"})

    # --- bad ones

    def _bad(self, kind: Kind) -> None:
        self._rng.choice(
            [
                self._a_key_of_mine,
                self._a_key_of_theirs,
                self._a_parent_of_theirs,
                self._a_row_of_theirs,
                self._a_row_of_theirs,
                self._a_forbidden_column,
                self._a_bad_value,
                self._a_row_that_is_not,
                self._what_is_not_allowed,
            ]
        )(kind)

    def _a_key_of_mine(self, kind: Kind) -> None:
        key = self._held(kind.name)
        parent = self._held(kind.parent) if kind.parent is not None else None
        if "insert" in kind.devices and key is not None and (kind.parent is None or parent is not None):
            columns, mark = self._columns(kind, kind.devices["insert"])
            may = {"applied", "bad_id", "unknown_parent", "refused", "bad_value", "malformed"}
            self._put("+", kind, key, columns, mark, may, parent, writes=False, bad="own key")

    def _a_key_of_theirs(self, kind: Kind) -> None:
        theirs = self._stranger(kind.name)
        parent = self._held(kind.parent) if kind.parent is not None else None
        if "insert" in kind.devices and theirs is not None and (kind.parent is None or parent is not None):
            columns, mark = self._columns(kind, kind.devices["insert"])
            # It is gone, perhaps.
            may = {"applied", "bad_id", "unknown_parent", "refused", "bad_value", "malformed"}
            self._put("+", kind, theirs.key, columns, mark, may, parent, writes=False, bad="their key")

    def _a_parent_of_theirs(self, kind: Kind) -> None:
        theirs = self._stranger(kind.parent)
        if "insert" not in kind.devices or theirs is None:
            return
        key = self._new_key(kind, theirs.key)
        if key is not None:
            columns, mark = self._columns(kind, kind.devices["insert"])
            may = {"unknown_parent", "malformed", "bad_value"} | (
                {"applied", "bad_id", "refused", "bad_value"} if self._crossing else set()
            )
            self._put("+", kind, key, columns, mark, may, theirs.key, writes=False, bad="their parent")

    def _a_row_of_theirs(self, kind: Kind) -> None:
        theirs = self._stranger(kind.name)
        if theirs is None:
            return
        mine = {"applied", "refused", "bad_value"} if self._crossing else set()
        if kind.devices.get("update") and self._rng.random() < 0.5:
            columns, mark = self._columns(kind, kind.devices["update"])
            self._put("~", kind, theirs.key, columns, mark, {"unknown_row", *mine}, bad="their row")
        elif kind.devices.get("delete"):
            self._put("-", kind, theirs.key, None, None, {"applied", *mine}, bad="their row")

    def _a_forbidden_column(self, kind: Kind) -> None:
        verb = self._rng.choice(("insert", "update"))
        parent = self._held(kind.parent) if kind.parent is not None else None
        key = self._new_key(kind, parent) if verb == "insert" else self._held(kind.name)
        if not kind.devices.get(verb) or key is None:
            return
        columns, mark = self._columns(kind, kind.devices[verb])
        others = [name for name, _ in kind.columns[kind.parent is not None :] if name not in kind.devices[verb]]
        name = self._rng.choice([*others, "user_id", "userId", "id", "nothing"])
        if name in kind.types and name in kind.devices[verb]:
            return
        columns[name] = self._value(kind, name)[0] if name in kind.types else self.device.wire.sent("uuid", UUID(int=1))
        op = "+" if verb == "insert" else "~"
        self._put(op, kind, key, columns, mark, {"not_allowed"}, parent, bad="forbidden column")

    def _a_bad_value(self, kind: Kind) -> None:
        key, permitted = self._held(kind.name), kind.devices.get("update", [])
        if key is None or not permitted:
            return
        columns, mark = self._columns(kind, permitted)
        name = self._rng.choice(permitted)
        of, limit = kind.types[name].removesuffix("?"), kind.limits.get(name, LIMIT)
        if of == "text" and self._rng.random() < 0.7:
            columns[name], code = self._rng.choice(
                [("a\0b", "bad_text"), ("ä" * (limit // 2 + 1), "too_long")]
                if isinstance(limit, int)
                else [("a\0b", "bad_text"), ("nobody's", "bad_value")]
            )
        elif not kind.types[name].endswith("?") and self._rng.random() < 0.5:
            columns[name], code = None, "bad_value"
        else:
            wrong = 1 if of in ("text", "uuid", "bool", "numeric", "date", "json", "array", "bytes") else "nothing"
            columns[name], code = wrong, "bad_value"
        self._put("~", kind, key, columns, mark, {code}, bad="bad value")

    def _a_row_that_is_not(self, kind: Kind) -> None:
        if kind.key != ("uuid",) or not kind.devices.get("update"):
            return
        columns, mark = self._columns(kind, kind.devices["update"])
        self._put("~", kind, self._uuid(), columns, mark, {"unknown_row"}, bad="no row")

    def _what_is_not_allowed(self, _: Kind) -> None:
        kind = self._rng.choice(list(self.device.rows.kinds.values()))
        key = self._held(kind.name)
        if key is None:
            return
        if "insert" not in kind.devices:
            self._put("+", kind, key, {}, None, {"not_allowed"}, bad="insert")
        if not kind.devices.get("update"):
            self._put("~", kind, key, {}, None, {"not_allowed"}, bad="update")
        if not kind.devices.get("delete"):
            self._put("-", kind, key, None, None, {"not_allowed"}, bad="delete")

    # --- pieces

    def _put(
        self,
        op: str,
        kind: Kind,
        key: Id,
        columns: dict[str, Any] | None,
        mark: str | None,
        may: set[str],
        parent: Id = None,
        *,
        writes: bool = True,
        bad: str = "",
    ) -> None:
        wire = self.device.wire
        head = (op, kind.tag, wire.sent_key(kind, key))
        if columns is None:
            n = self.device.add(*head)
        else:
            if any(value is None and not kind.types.get(name, "?").endswith("?") for name, value in columns.items()):
                may = may | {"bad_value"}  # it needs a row to which it refers, and the device holds none
            if op == "+" and kind.parent is not None and parent is not None:
                columns = {kind.columns[0][0]: wire.sent_key(self.device.rows.kinds[kind.parent], parent), **columns}
            n = self.device.add(*head, columns, self._now())
        if op != "-":
            may = may | {"bad_value"}  # a row that it names by a foreign key may be gone, or another user's
        self.made[n] = Made(op, kind, key, mark, frozenset(may), writes, bad, parent)

    def _now(self) -> int:
        self._at = max(self._at + 1, time.time_ns() // 1000)
        return self._at

    def _uuid(self) -> UUID:
        return UUID(int=self._rng.getrandbits(128), version=4)

    def _held(self, kind: str | None) -> Id:
        held = self.device.rows.held.get(kind or "")
        return self._rng.choice(list(held)) if held else None

    def _stranger(self, kind: str | None) -> Stranger | None:
        theirs = [each for each in self._strangers if each.kind == kind]
        return self._rng.choice(theirs) if theirs else None

    def _new_key(self, kind: Kind, parent: Id) -> Id:
        """None: it cannot be made of what the device holds."""
        if (made := KEYS.get((self._schema, kind.name))) is not None:
            return made(self, parent)
        assert len(kind.key) == 1
        match kind.key[0]:
            case "uuid":
                return self._uuid()
            case "text":
                return f"{self._rng.getrandbits(64):016x}" + self._rng.choice(("", "", ":1", ' "\\é🙂'))
        return self._rng.getrandbits(40)

    def _columns(self, kind: Kind, names: Sequence[str]) -> tuple[dict[str, Any], str | None]:
        """Values for these columns, as they travel, and the mark of a text among them."""
        columns, mark = {}, None
        for name in names:
            columns[name], marked = self._value(kind, name)
            mark = mark or marked
        return columns, mark

    def _value(self, kind: Kind, name: str) -> tuple[Any, str | None]:
        rng, of, limit = self._rng, kind.types[name], kind.limits.get(name, LIMIT)
        base, nil = of.removesuffix("?"), of.endswith("?")
        if isinstance(limit, list):
            return rng.choice(limit), None
        if (made := COLUMNS.get(name)) is not None:
            return made(rng), None
        above = self._reference(kind, name)
        if above is not None:
            key = self._held(above)
            key = key[0] if isinstance(key, tuple) else key
            return (None if key is None or (nil and rng.random() < 0.5) else self.device.wire.sent(of, key)), None
        mark = f"#{rng.getrandbits(48):012x};"
        text = f"{self.device.user} {mark}"
        match base:
            case "text":
                longer = text + rng.choice(("", "", " ä🙂", " \"'\\/ \n\t", " " + "lang " * 60))
                return (longer if len(longer.encode()) <= limit else text), mark
            case "json":
                document = rng.choice(({"text": text, "n": 1 << 60}, [text, None, 0.5], text))
                return json.dumps(document, ensure_ascii=rng.random() < 0.5), mark
            case "array":
                if name == "numbers":
                    return json.dumps(rng.choice(([], [1, None], [str(1 << 60), "-7"]))), None
                return json.dumps(rng.choice(([text], [text, "", 'a,"b"', "NULL"], [text, "{}"]))), mark
        if nil and rng.random() < 0.2:
            return None, None
        return self.device.wire.sent(of, PLAIN[base](rng)), None

    def _reference(self, kind: Kind, name: str) -> str | None:
        """The kind to whose rows a column of this name refers."""
        stem = name.removesuffix("_id").removesuffix("Id")
        if stem == name:
            return None
        kinds = self.device.rows.kinds
        return kind.name if stem == "parent" else {"for": "step"}.get(stem, stem if stem in kinds else kind.name)

    def pick(self, kind: str) -> Id:
        return self._held(kind)

    def random(self) -> random.Random:
        return self._rng


PLAIN: Final[dict[str, Callable[[random.Random], Any]]] = {
    "uuid": lambda rng: UUID(int=rng.getrandbits(128), version=4),
    "bool": lambda rng: rng.random() < 0.5,
    "int": lambda rng: rng.choice((1, -1, 0, 7, 1000)),
    "bigint": lambda rng: rng.choice((0, 1 << 53, (1 << 53) - 1, -(1 << 63), (1 << 63) - 1, rng.getrandbits(31))),
    "float": lambda rng: rng.choice((0, 0.1, -0.7, 2.5e20, "NaN", "-Infinity")),
    "numeric": lambda rng: rng.choice(("0", "1.5", "1.50", "-0.25", "9.99", "NaN")),
    "instant": lambda rng: rng.randrange(1 << 52),
    "date": lambda rng: rng.choice(("2026-11-30", "0001-01-01", "infinity")),
    "bytes": lambda rng: rng.choice((b"", b"\0\xff", rng.randbytes(300))),
}
COLUMNS: Final[dict[str, Callable[[random.Random], Any]]] = {
    "color": lambda rng: f"#{rng.getrandbits(24):06x}",
    "createdAt": lambda rng: datetime.fromtimestamp(rng.randrange(1 << 31), UTC).isoformat(),
    "created_at": lambda rng: rng.randrange(1 << 31),
    "updated_at": lambda rng: rng.randrange(1 << 31),
    "value": lambda rng: rng.choice((1, -1)),
    "kind": lambda rng: rng.choice(("text", "code")),
}
"""By the column's name, where another value would be refused, or be no text of a person."""


def _pair(first: str, second: str) -> Callable[[Author, Id], Id]:
    """A key of two: `parent`, or a row of another kind."""

    def make(author: Author, parent: Id) -> Id:
        halves = tuple(parent if name == "parent" else author.pick(name) for name in (first, second))
        return None if None in halves else halves

    return make


def _vote(author: Author, parent: Id) -> Id:
    message = author.device.rows.held["message"].get(parent)
    chat = author.pick("chat") if message is None else message.values[0]
    return None if chat is None else (chat, parent)


KEYS: Final[dict[tuple[str, str], Callable[[Author, Id], Id]]] = {
    ("aichat", "vote"): _vote,
    ("aichat", "document"): lambda author, _: (
        UUID(int=author.random().getrandbits(128), version=4),
        author.random().randrange(1 << 52),
    ),
    ("supachat", "chat_file"): _pair("parent", "file"),
    ("twelve", "labelled"): _pair("parent", "label"),
    ("twelve", "preset"): lambda author, _: (author.device.user, author.random().randrange(9)),
    ("twelve", "reaction"): lambda author, parent: (parent, author.random().choice(("👍", "a", "", "b"))),
    ("twelve", "draft"): lambda _, parent: parent,
    ("selfhosted", "tag"): lambda author, _: (f"{author.random().getrandbits(16):x}", str(author.device.user)),
}
"""By schema and kind: keys that are made of the user, the parent or other rows."""
