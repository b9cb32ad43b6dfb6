"""Random changes by SQL. A statement names its values: `$text` is a new text, `$chat` the key of some row."""

import json
import random
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

NAME: Final = re.compile(r"\$([a-z_]+)(\d*)")
NOW: Final = datetime(2026, 11, 30, tzinfo=UTC)
ODD: Final = ("", "", "", " ä🙂", " \"'\\/ \n\t", " " + "lang " * 600)
"""What texts end with."""


class Change(NamedTuple):
    """Statements that belong together. A value that several of them name is the same in all."""

    weight: int
    statements: tuple[str, ...]
    crosses: bool
    """Whether rows go from one user to another."""


def change(weight: int, *statements: str, crosses: bool = False) -> Change:
    return Change(weight, statements, crosses)


class NothingToPickError(Exception):
    """The change needs a row, and there is none."""


class Values:
    """The values that the statements of one change name.

    `$user` and `$other` are users; with `_text`, as text. A number makes another value of the same name: `$chat2`.
    """

    def __init__(self, sql: Any, rng: random.Random, picks: Mapping[str, str], user: UUID, other: UUID) -> None:
        self._sql = sql
        self._rng = rng
        self._picks = picks
        self._user = user
        self._known: dict[str, Any] = {
            "user": user,
            "other": other,
            "user_text": str(user),
            "other_text": str(other),
        }

    async def bind(self, statement: str) -> tuple[str, list[Any]]:
        """The statement with numbers for names, and its values. Raises NothingToPickError."""
        numbers: dict[str, str] = {}
        values: list[Any] = []
        for match in NAME.finditer(statement):
            if match[0] not in numbers:
                values.append(await self._value(match[1], match[1] + match[2]))
                numbers[match[0]] = f"${len(values)}{_type(values[-1])}"
        return NAME.sub(lambda match: numbers[match[0]], statement), values

    async def _value(self, name: str, numbered: str) -> Any:
        if numbered not in self._known:
            if name in self._picks:
                query, values = await self.bind(self._picks[name])
                picked = await self._sql.fetchval(
                    f"SELECT picked FROM ({query}) AS p (picked) ORDER BY random() LIMIT 1", *values
                )
                if picked is None:
                    raise NothingToPickError
                self._known[numbered] = picked
            else:
                self._known[numbered] = NEW[name](self._rng, self._user)
        return self._known[numbered]


def _type(value: Any) -> str:
    """A cast, where Postgres could take the value for several types."""
    return "::text" if isinstance(value, str) else "::uuid" if isinstance(value, UUID) else ""


def _title(rng: random.Random, user: UUID) -> str:
    return f"{user} {rng.getrandbits(32):x}{rng.choice(ODD[:-1])}"


def _text(rng: random.Random, user: UUID) -> str:
    return f"{user} {rng.getrandbits(32):x}{rng.choice(ODD)}"


def _key(rng: random.Random, _: UUID) -> str:
    return f"{rng.getrandbits(64):016x}" + rng.choice(("", "", "", ":1", ",2", ' "\\é🙂', "/%20"))


def _document(rng: random.Random, user: UUID, depth: int = 2) -> Any:
    """What JSON can say, and jsonb keeps."""
    simple = [None, True, False, 0, -1, 1 << 60, 0.1, 1.5e-7, "", 'ä🙂\n"\\', _title(rng, user)]
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(simple)
    if rng.random() < 0.4:
        return [_document(rng, user, depth - 1) for _ in range(rng.randrange(3))]
    return {rng.choice(["", "a", "ö", "type", "text"]): _document(rng, user, depth - 1) for _ in range(3)}


def _json(rng: random.Random, user: UUID) -> str:
    return json.dumps(_document(rng, user), ensure_ascii=rng.random() < 0.5)


def _verbatim(rng: random.Random, user: UUID) -> str:
    """JSON as only the type json keeps it."""
    return rng.choice((_json(rng, user), ' { "a" : 1, "a" : [2 ] }\n', '"a\\u0000b"', "1.0"))


def _big(rng: random.Random, _: UUID) -> int:
    return rng.choice((0, -1, 1 << 53, (1 << 53) - 1, -(1 << 53), (1 << 63) - 1, -(1 << 63), rng.getrandbits(62)))


def _instant(rng: random.Random, _: UUID) -> str:
    some = NOW + timedelta(microseconds=rng.randrange(-(10**13), 10**13))
    return rng.choice((some.isoformat(), some.isoformat(), "infinity", "-infinity", "9999-12-31 23:59:59.999999+00",
                       "1600-01-01 00:00+00", "2026-01-01 00:00+00"))  # fmt: skip


def _texts(rng: random.Random, user: UUID) -> list[Any] | None:
    flat = [rng.choice((None, "", "NULL", 'a,"b"', "{}", "\\", "ä🙂", _title(rng, user))) for _ in range(4)]
    return rng.choice((None, [], flat, flat[:1], [flat[:2], flat[2:]]))


def _maybe(make: Callable[[random.Random, UUID], Any]) -> Callable[[random.Random, UUID], Any]:
    return lambda rng, user: None if rng.random() < 0.4 else make(rng, user)


def _one_of(*choices: Any) -> Callable[[random.Random, UUID], Any]:
    return lambda rng, _: rng.choice(choices)


NEW: Final[Mapping[str, Callable[[random.Random, UUID], Any]]] = {
    "id": lambda rng, _: UUID(int=rng.getrandbits(128), version=4),
    "seed": lambda rng, _: f"{rng.getrandbits(64):x}",
    "key": _key,
    "short_key": _one_of("a", "b", "a:b", "a,b", '"', "ä", " ", ""),
    "title": _title,
    "maybe": _maybe(_title),
    "text": _text,
    "maybe_text": _maybe(_text),
    "json": _json,
    "maybe_json": _maybe(_json),
    "verbatim": _verbatim,
    "maybe_verbatim": _maybe(_verbatim),
    "number": lambda rng, _: rng.randrange(-5, 1000),
    "maybe_number": _maybe(lambda rng, _: rng.randrange(-5, 1000)),
    "slot": lambda rng, _: rng.choice((0, 1, 2, -1, (1 << 31) - 1)),
    "big": _big,
    "maybe_big": _maybe(_big),
    "few": _one_of(1, 1, 1, 2, 5),
    "many": _one_of(1, 1, 1, 1, 1, 1, 1, 2, 2, 5, 20, 100),
    "flag": _one_of(True, False),
    "maybe_flag": _one_of(True, False, None),
    # What travels as it is written, from a column of 4 bytes, too.
    "half": _one_of(0.0, 0.1, 0.7, -1.35, 2.0),
    "float": _one_of(None, 0.1, -0.0, 1e300, 5e-324, float("nan"), float("inf"), float("-inf")),
    "numeric": _one_of(None, "0", "0.0000", "1.50", "-12345678901234567890.123456789", "1e-20", "NaN", "-Infinity"),
    "price": _one_of("0", "0.0001", "12.5", "999999.9999"),
    "seconds": lambda rng, _: int(NOW.timestamp()) + rng.randrange(-1000, 1000),
    "iso": lambda rng, _: (NOW + timedelta(seconds=rng.randrange(10**6))).isoformat() + "Z",
    "instant": _instant,
    "maybe_instant": _maybe(_instant),
    "date": _one_of(None, "2026-11-30", "0001-01-01", "9999-12-31", "infinity"),
    "day": lambda rng, _: f"2026-11-{rng.randrange(1, 31):02}",
    "texts": _texts,
    "paths": lambda rng, user: [_title(rng, user) for _ in range(rng.randrange(4))],
    "bigs": _one_of(None, [], [1], [1 << 53, None, -(1 << 63)]),
    "bytes": lambda rng, _: rng.choice((None, b"", b"\0\xff", rng.randbytes(3000))),
    "color": lambda rng, _: f"#{rng.getrandbits(24):06x}",
    "emoji": _one_of("👍", "👎", "🏳️‍🌈", "a", ""),
    "role": _one_of("user", "user", "assistant", "system"),
    "tool_role": _one_of("user", "assistant", "tool", "tool"),
}
"""How a new value of each name is made, by chance and for a user. Every text begins with the user."""
