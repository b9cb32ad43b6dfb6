"""Reads a declaration's file: what is written, and what is wrong with it in any database. Pure."""

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Final, TypeVar

from protocol.schema import Limit
from server.declaration.file import keys
from server.declaration.file.keys import Key
from server.declaration.file.locate import Path, Place, places
from server.declaration.file.problems import Problem, listed, meant
from server.declaration.file.written import Columns, Devices, File, Gate, Kind, Named, Parent
from server.declaration.model import Table

T = TypeVar("T")

TAGS: Final = ascii_lowercase + ascii_uppercase + digits
NAME: Final = re.compile(rf"[a-z][a-z0-9_]{{0,{keys.NAME - 1}}}")
ON_THE_WIRE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
QUOTED: Final = r'"(?:[^"]|"")+"'
TABLE: Final = re.compile(rf"(?:({QUOTED}|[^\".]+)\.)?({QUOTED}|[^\".]+)")
COLUMN: Final = re.compile(rf"(?:({QUOTED})|(.+?))(?:\s+as\s+(\S+))?")
ERROR: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
ALL: Final = -1
PARENTS: Final = 2
"""That lead to an owner at most: statements join so many tables."""


def parse(text: str) -> tuple[File, list[Problem]]:
    """What is written, as far as it can be read, and what is wrong with it."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # ValueError: an integer of more digits than Python converts.
        return File((), unread=frozenset(["kind"])), [_not_toml(text, str(error))]
    reader = _Reader(places(text))
    return reader.file(found), reader.problems


def _not_toml(text: str, error: str) -> Problem:
    match = ERROR.fullmatch(error)
    said, line, column = match.groups() if match else (error, "1", "1")
    end = Place(text.count("\n") + 1, len(text) - text.rfind("\n"))
    place = Place(int(line), int(column)) if line else end
    return Problem(place, f"This is not TOML ({said}). Correct it.")


def table_of(text: str) -> Table | None:
    """A table's name, with its schema or without; a part that has a dot stands in double quotes, as in SQL."""
    match = TABLE.fullmatch(text)
    return None if match is None else Table(_unquoted(match[1] or "public"), _unquoted(match[2]))


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def camel(name: str) -> str:
    """The name of a property in TypeScript, without an underscore that its end may have there."""
    return re.sub(r"(?<=[^_])_([a-z])", lambda match: match[1].upper(), name).rstrip("_")


class _WrongError(Exception):
    """A value that cannot be read. The problem is recorded."""


class _Reader:
    def __init__(self, places: dict[Path, Place]) -> None:
        self.problems: list[Problem] = []
        self._places = places
        self._unread: set[str] = set()

    def _problem(self, path: Path, says: str) -> None:
        while path and path not in self._places:
            path = path[:-1]
        self.problems.append(Problem(self._places.get(path, Place(1, 1)), says))

    def file(self, found: dict[str, Any]) -> File:
        self._known(found, keys.FILE, (), "a declaration")
        tables = found.get("kind", {})
        if not isinstance(tables, dict) or not tables:
            self._problem(("kind",), "Nothing is declared. Write a table [kind.NAME] for each table that is synced.")
            tables = {}
        tags = self._tags(tables)
        kinds = []
        for name, table in tables.items():
            if not NAME.fullmatch(name):
                self._problem(
                    ("kind", name),
                    f"`{name}` cannot be the name of a kind. Use a lower-case letter, then up to {keys.NAME - 1} "
                    "lower-case letters, digits and underscores.",
                )
            if (kind := self._kind(name, table, tags)) is None:
                self._unread.add(name)
            else:
                kinds.append(kind)
        gate = self._gate(found["gate"]) if "gate" in found else None
        file = File(tuple(kinds), gate, self._places, frozenset(self._unread))
        self._together(file, set(tables))
        return file

    # ---- Values -----------------------------------------------------------------------------------------------------

    def _known(self, found: dict[str, Any], known: Sequence[Key], path: Path, of: str) -> None:
        names = [key.name for key in known]
        for name in found:
            if name not in names:
                near = meant(name, names) or f" Its keys are {listed(names)}."
                self._problem((*path, name), f"`{name}` is no key of {of}.{near}")
        for key in known:
            if key.required and key.name not in found and path:
                self._problem(path, f"`{key.name}` is missing: {key.value}, {key.means}.")

    def _read(
        self, found: dict[str, Any], known: Sequence[Key], name: str, path: Path, read: Callable[[Any], T | None]
    ) -> T | None:
        """The value of a key, if it is there and right. `read` returns None for a value that is not."""
        if name not in found:
            return None
        try:
            value = None if _has_nul(found[name]) else read(found[name])
            if value is not None:
                return value
            key = next(key for key in known if key.name == name)
            self._problem((*path, name), f"`{name}` must be {key.value}.")
        except _WrongError:
            pass
        if path[0] == "kind":
            self._unread.add(f"{path[1]}.{path[2] if len(path) > 2 else name}")
        return None

    def _list(self, value: Any, path: Path, form: str, *, empty: bool = True) -> tuple[str, ...] | None:
        """Different texts."""
        if not isinstance(value, list) or not (value or empty):
            return None
        wrong = False
        for number, each in enumerate(value):
            if not isinstance(each, str) or not each:
                self._problem((*path, number), f"`{path[-1]}` must be {form}.")
                wrong = True
            elif each in value[:number]:
                self._problem((*path, number), f"`{each}` stands here twice. Remove one of them.")
                wrong = True
        if wrong:
            raise _WrongError
        return tuple(value)

    # ---- The gate ---------------------------------------------------------------------------------------------------

    def _gate(self, found: Any) -> Gate | None:
        if not isinstance(found, dict):
            self._problem(("gate",), "`gate` must be a table. Write [gate].")
            return None
        before = len(self.problems)
        path: Path = ("gate",)
        self._known(found, keys.GATE, path, "the gate")
        table = self._read(found, keys.GATE, "table", path, _table)
        column = self._read(found, keys.GATE, "column", path, _name)
        syncs, local_only = (
            self._read(found, keys.GATE, name, path, partial(self._values, name)) for name in ("syncs", "local_only")
        )
        if ("syncs" in found) == ("local_only" in found):
            self._problem(
                path, "The gate needs one of `syncs`, the values that sync, and `local_only`, the values that do not."
            )
        if len(self.problems) > before or table is None or column is None:
            return None
        return Gate(table, column, syncs or (), local_only or ())

    def _values(self, name: str, value: Any) -> tuple[str, ...] | None:
        return self._list(value, ("gate", name), "a list of texts", empty=False)

    # ---- A kind -----------------------------------------------------------------------------------------------------

    def _tags(self, tables: dict[str, Any]) -> dict[str, str]:
        """The tag of each kind: its own, or the first letter of its name that is free."""
        tags: dict[str, str] = {}
        absent = []
        for name, table in tables.items():
            tag = table.get("tag") if isinstance(table, dict) else None
            if tag is None:
                absent.append(name)
            elif not (isinstance(tag, str) and len(tag) == 1 and tag in TAGS):
                self._problem(("kind", name, "tag"), f"`tag` must be {_of(keys.KIND, 'tag').value}.")
            elif other := next((each for each, taken in tags.items() if taken == tag), None):
                self._problem(("kind", name, "tag"), f"`{tag}` is the tag of `{other}`, too. Give one of them another.")
            else:
                tags[name] = tag
        for name in absent:
            free = [tag for tag in (*name, *TAGS) if tag in TAGS and tag not in tags.values()]
            if not free:
                self._problem(("kind", name), f"There are more kinds than tags, {len(TAGS)}. Remove some.")
                break
            tags[name] = free[0]
        return tags

    def _kind(self, name: str, found: Any, tags: dict[str, str]) -> Kind | None:
        path: Path = ("kind", name)
        if not isinstance(found, dict):
            self._problem(path, f"`{name}` must be a table. Write [kind.{name}].")
            return None
        self._known(found, keys.KIND, path, "a kind")

        def read(key: str, form: Callable[[Any], T | None]) -> T | None:
            return self._read(found, keys.KIND, key, path, form)

        table = read("table", _table)
        owner, newest = read("owner", _name), read("newest", _name)
        parent = read("parent", lambda value: self._parent(value, path))
        if ("owner" in found) == ("parent" in found):
            both = "owner" in found
            self._problem(
                (*path, "parent") if both else path,
                "A kind has an owner or a parent, not both. Remove one of them; if devices must write the user beside "
                "the parent, that is `owner` in `devices`."
                if both
                else "Whose rows are these? Give the kind an `owner`, the column that holds the user, or a `parent`.",
            )
        key = read("key", lambda value: self._key(value, path))
        columns = read("columns", lambda value: self._columns(value, path)) or Columns()
        window = read("window", lambda value: _window(value, of_parent="parent" in found))
        devices = read("devices", lambda value: self._devices(value, path))
        limits = read("limits", lambda value: self._limits(value, path)) or {}
        partition = read("partition", lambda value: True if value == "month" else None) or False
        archive = read("archive", _months)
        policies = read("policies", lambda value: value if isinstance(value, bool) else None) or False
        streams = read("streams", lambda value: self._list(value, (*path, "streams"), _of(keys.KIND, "streams").value))
        ended = read("ended", _name)
        if "ended" in found and "streams" not in found:
            self._problem(
                (*path, "ended"), "`ended` says how a stream ended, and there are none. Add `streams`, or remove it."
            )
        if "archive" in found and "partition" not in found:
            self._problem(
                (*path, "archive"),
                'Only a table that is partitioned has an archive. Add `partition = "month"`, or remove `archive`.',
            )
        if "partition" in found and "newest" not in found:
            self._problem((*path, "partition"), "The table is partitioned by `newest`. Name that column.")
        if table is None or name not in tags:
            return None
        return Kind(
            name,
            table,
            tags[name],
            columns,
            key,
            owner,
            parent,
            newest,
            None if window in (None, ALL) else window,
            devices,
            limits,
            partition,
            archive,
            policies,
            streams or (),
            ended,
        )

    def _parent(self, found: Any, kind: Path) -> Parent | None:
        path = (*kind, "parent")
        if not isinstance(found, dict):
            return None
        self._known(found, keys.PARENT, path, "a parent")
        name = self._read(found, keys.PARENT, "kind", path, _name)
        column = self._read(found, keys.PARENT, "column", path, lambda value: self._named(value, (*path, "column"), 0))
        if name is None or column is None:
            raise _WrongError
        return Parent(name, column)

    def _key(self, found: Any, kind: Path) -> tuple[str, ...] | None:
        if isinstance(found, str):
            return (found,) if found else None
        if isinstance(found, list) and 1 <= len(found) <= 2:
            return self._list(found, (*kind, "key"), _of(keys.KIND, "key").value)
        return None

    def _columns(self, found: Any, kind: Path) -> Columns | None:
        path = (*kind, "columns")
        texts = self._list(found, path, _of(keys.KIND, "columns").value)
        if texts is None:
            return None
        named, without = [], []
        wrong = False
        for number, text in enumerate(texts):
            if text == "*":
                continue
            if text.startswith("-") and "*" in texts:
                without.append(Named(_unquoted(text[1:]), "", number))
            elif (each := self._named(text, (*path, number), number)) is None:
                wrong = True
            else:
                named.append(each)
        if wrong:
            raise _WrongError
        return Columns(tuple(named), "*" in texts, tuple(without))

    def _named(self, found: Any, path: Path, number: int) -> Named | None:
        """`column as name`."""
        if not isinstance(found, str) or (match := COLUMN.fullmatch(found)) is None:
            return None
        column = match[2] if match[1] is None else _unquoted(match[1])
        name = column if match[3] is None else match[3]
        if says := unfit(column, name):
            self._problem(path, says)
            raise _WrongError
        return Named(column, name, number)

    def _devices(self, found: Any, kind: Path) -> Devices | None:
        path = (*kind, "devices")
        if not isinstance(found, dict):
            return None
        self._known(found, keys.DEVICES, path, "`devices`")

        def read(key: str, form: Callable[[Any], T | None]) -> T | None:
            return self._read(found, keys.DEVICES, key, path, form)

        def names(key: str) -> tuple[str, ...] | None:
            return read(key, lambda value: self._list(value, (*path, key), _of(keys.DEVICES, key).value))

        insert, update = names("insert"), names("update")
        delete = read("delete", lambda value: value if isinstance(value, bool) else None) or False
        created, updated, touches = read("created", _name), read("updated", _name), read("touches", _name)
        owner = read("owner", _name)
        if "insert" not in found:
            for key, value in (("created", created), ("touches", touches), ("owner", owner)):
                if value is not None:
                    self._problem(
                        (*path, key),
                        f"`{key}` is written by inserts, and devices do not insert. Remove it, or add `insert`.",
                    )
        return Devices(insert, update or (), delete, created, updated, touches, owner)

    def _limits(self, found: Any, kind: Path) -> dict[str, Limit] | None:
        path = (*kind, "limits")
        if not isinstance(found, dict):
            return None
        limits: dict[str, Limit] = {}
        wrong = False
        for name, value in found.items():
            try:
                limit = self._limit(value, (*path, name))
            except _WrongError:
                wrong = True
                continue
            if limit is None:
                self._problem(
                    (*path, name),
                    f'The limit of `{name}` must be "N bytes", N from 1 to {keys.LARGEST:,} without commas, or a list '
                    "of texts.",
                )
                wrong = True
            else:
                limits[name] = limit
        if wrong:
            raise _WrongError
        return limits

    def _limit(self, value: Any, path: Path) -> Limit | None:
        if isinstance(value, str):
            number = _number(value, "bytes?")
            return number if number is not None and 1 <= number <= keys.LARGEST else None
        return self._list(value, path, "a list of texts", empty=False)

    # ---- What is wrong between them ---------------------------------------------------------------------------------

    def _together(self, file: File, names: set[str]) -> None:
        tables: dict[Table, str] = {}
        for kind in file.kinds:
            if (other := tables.setdefault(kind.table, kind.name)) != kind.name:
                self._problem(
                    ("kind", kind.name, "table"),
                    f"`{other}` is of the same table. Declare a table once, with all its columns.",
                )
            if not kind.columns.all and f"{kind.name}.columns" not in file.unread:
                first = () if kind.parent is None else (kind.parent.column.name,)
                self.problems += references(kind, (*first, *(each.name for each in kind.columns.named)), file)
            self._problems_of(kind, file, names)
        if file.gate is not None and not file.unread & names and file.gate.table not in tables:
            known = [".".join(table) for table in tables]
            self._problem(
                ("gate", "table"),
                f"`{'.'.join(file.gate.table)}` is the table of no kind. Declare it as a kind whose owner is the user."
                f"{meant('.'.join(file.gate.table), known)}",
            )

    def _problems_of(self, kind: Kind, file: File, names: set[str]) -> None:
        path = ("kind", kind.name)
        known = {each.name: each for each in file.kinds}
        chain = [kind.name]
        while (parent := known[chain[-1]].parent) is not None:
            if parent.kind not in names:
                if len(chain) == 1:
                    near = meant(parent.kind, names - {kind.name})
                    self._problem((*path, "parent", "kind"), f"There is no kind `{parent.kind}`. Declare it.{near}")
                return
            if parent.kind in chain:
                self._problem(
                    (*path, "parent"),
                    f"`{kind.name}` is below itself. A kind whose rows refer to rows of the same table has them as an "
                    "ordinary column; its parent is another kind."
                    if len(chain) == 1
                    else f"The parents of `{kind.name}` lead in a circle, not to an owner. Give one an `owner`.",
                )
                return
            chain.append(parent.kind)
            if parent.kind not in known:
                return
        if len(chain) > PARENTS + 1:
            self._problem(
                (*path, "parent"),
                f"More than two parents lead from `{kind.name}` to an owner. Give it an `owner`, or another parent.",
            )


def unfit(column: str, name: str) -> str | None:
    """Why a column cannot have this name on the wire."""
    if not ON_THE_WIRE.fullmatch(name):
        return (
            f"`{name}` cannot be a name on the wire, which has letters, digits and underscores. "
            f"Write `{column} as {re.sub(r'[^A-Za-z0-9_]+', '_', name).lstrip('0123456789') or 'name'}`."
        )
    return None


def references(kind: Kind, names: Iterable[str], file: File) -> list[Problem]:
    """Names of columns in the rest of a kind that are not among those that devices receive. `names` are all of them."""
    known = list(names)
    path = ("kind", kind.name)
    problems = []

    def check(name: str, *at: str | int) -> None:
        if name not in known:
            near = meant(name, known) or f" They are {listed(known)}." if known else " It has none."
            says = f"`{name}` is none of the columns that devices receive. Add it to `columns`.{near}"
            problems.append(Problem(file.place(*path, *at), says))

    if kind.newest is not None:
        check(kind.newest, "newest")
    devices = kind.devices or Devices()
    for verb, columns in (("insert", devices.insert or ()), ("update", devices.update)):
        for number, name in enumerate(columns):
            check(name, "devices", verb, number)
    for number, name in enumerate(kind.streams):
        check(name, "streams", number)
    for name in kind.limits:
        if name in known and name not in devices.writable and f"{kind.name}.devices" not in file.unread:
            says = f"Devices do not write `{name}`, so it needs no limit. Remove it, or add the column to `devices`."
            problems.append(Problem(file.place(*path, "limits", name), says))
        else:
            check(name, "limits", name)
    return problems


# ---- Forms ----------------------------------------------------------------------------------------------------------


def _of(known: Sequence[Key], name: str) -> Key:
    return next(key for key in known if key.name == name)


def _has_nul(value: Any) -> bool:
    """Postgres has no such text."""
    if isinstance(value, list):
        return any(map(_has_nul, value))
    if isinstance(value, dict):
        return any(map(_has_nul, value)) or any(map(_has_nul, value.values()))
    return isinstance(value, str) and "\0" in value


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _table(value: Any) -> Table | None:
    return table_of(value) if isinstance(value, str) else None


def _window(value: Any, *, of_parent: bool) -> int | None:
    most = keys.WINDOW_OF_PARENT if of_parent else keys.WINDOW
    if value == "all":
        return ALL
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _months(value: Any) -> int | None:
    return (_number(value, "months?") or None) if isinstance(value, str) else None


def _number(value: str, unit: str) -> int | None:
    match = re.fullmatch(rf"([0-9]{{1,7}}) {unit}", value)
    return None if match is None else int(match[1])
