"""Checks what is written against the catalogue: the declaration, or everything that is wrong with it. Pure."""

from collections.abc import Iterable
from typing import Final

from protocol.schema import KEY_TYPES, Type
from server.declaration import catalogue
from server.declaration.catalogue import Facts
from server.declaration.file import written
from server.declaration.file.parse import camel, parse, references, unfit
from server.declaration.file.problems import DeclarationError, Problem, listed, meant
from server.declaration.file.written import File
from server.declaration.model import TYPES, Column, Declaration, Devices, Field, Gate, Kind, Parent, Reference, Table
from server.declaration.usage import USAGE

OWNERS: Final = frozenset({Type.UUID, Type.TEXT})
ORDERS: Final = frozenset({Type.INSTANT, Type.INT, Type.BIGINT, Type.TEXT})
SIZED: Final = frozenset({Type.TEXT, Type.JSON, Type.ARRAY, Type.BYTES})
PARTITIONABLE: Final = Table("public", "messages")
VARIABLES: Final = frozenset({"_op", "_owner", "_key", "_patch", "_at", "_key1", "_key2", "_row_at", "_owns"})
"""Those of functions that apply mutations (writing.py), which precede a column in ON CONFLICT."""
OTHERS: Final = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


def load(text: str, facts: Facts, file: str) -> Declaration:
    """Read and check a declaration. Raises DeclarationError, which calls the text `file`."""
    found, problems = parse(text)
    declaration, more = check(found, facts)
    if problems or more:
        raise DeclarationError(file, [*problems, *more])
    return declaration


def check(file: File, facts: Facts) -> tuple[Declaration, list[Problem]]:
    """The declaration, as far as it can be resolved, and what is wrong with it."""
    checked = _Check(file, facts)
    return checked.declaration(), checked.problems


def travels(kind: catalogue.Type) -> Type | None:
    """How values of this type travel. None: they do not."""
    if kind.element is not None:
        of = travels(kind.element)
        return None if of in (None, Type.ARRAY, Type.BYTES) else Type.ARRAY
    if kind.kind == "e" or (kind.kind == "b" and kind.name.rpartition(".")[2] == "citext"):
        return Type.TEXT
    return TYPES.get(kind.name)


def identifies(kind: catalogue.Type) -> bool:
    """Whether values of this type can be in a key. A device may ask for any text, which an enumeration does not know,
    and two texts that citext takes for one are two to a device."""
    return travels(kind) in KEY_TYPES and kind.name in TYPES


def field(column: catalogue.Column) -> Field | None:
    """None: its values do not travel."""
    if (of := travels(column.type)) is None:
        return None
    # `character` is one character in a cast.
    name = {"character": "bpchar", "character[]": "bpchar[]"}.get(column.type.name, column.type.name)
    return Field(column.name, of, name, not column.required, column.default)


def key_of(table: catalogue.Table) -> tuple[str, ...]:
    """The primary key, without the columns by which the table is partitioned if something is left."""
    return tuple(name for name in table.key if name not in (table.partitioned_by or ())) or table.key


def chosen(table: catalogue.Table, columns: written.Columns, omitted: Iterable[str]) -> list[written.Named]:
    """The columns of the table that are synced, in their order. `omitted` are those that `"*"` leaves out."""
    if not columns.all:
        return list(columns.named)
    named = {each.column: each for each in columns.named}
    out = {each.column for each in columns.without} | (set(omitted) - named.keys())
    there = [
        named.get(column.name, written.Named(column.name, column.name))
        for column in table.columns
        if column.name not in out
    ]
    return [*there, *(each for each in columns.named if each.column not in table.column)]


class _Check:
    def __init__(self, file: File, facts: Facts) -> None:
        self.problems: list[Problem] = []
        self.file = file
        self.facts = facts
        self._kinds: dict[str, Kind] = {}
        self._tables: dict[str, catalogue.Table] = {}

    def declaration(self) -> Declaration:
        for kind in _parents_first(self.file.kinds):
            if (table := self._table(kind)) is not None:
                self._tables[kind.name] = table
                self._kinds[kind.name] = _KindCheck(self, kind, table).kind()
        return Declaration(tuple(self._kinds.values()), self._gate())

    def problem(self, path: tuple[str | int, ...], says: str) -> None:
        self.problems.append(Problem(self.file.place(*path), says))

    def parent_of(self, kind: written.Kind) -> tuple[Kind, catalogue.Table] | None:
        name = None if kind.parent is None else kind.parent.kind
        return None if name is None or name not in self._kinds else (self._kinds[name], self._tables[name])

    def column(self, table: catalogue.Table, name: str, path: tuple[str | int, ...]) -> catalogue.Column | None:
        column = table.column.get(name)
        if column is None:
            near = meant(name, table.column) or f" Its columns are {listed(list(table.column))}."
            self.problem(path, f"{_named(table.named)} has no column `{name}`.{near}")
        return column

    def field(self, table: catalogue.Table, name: str, path: tuple[str | int, ...], *, star: bool) -> Field | None:
        """`star`: the column is not named in the file, but among all."""
        column = self.column(table, name, path)
        if column is None:
            return None
        leave = f'Add `"-{name}"`' if star else "Leave it out"
        if column.generated == "v":
            self.problem(path, f"`{name}` is computed when it is read, which no trigger sees. {leave}, or store it.")
            return None
        found = field(column)
        if found is None:
            self.problem(
                path,
                f"`{name}` is of type {_type(column)}, which does not travel. {leave}, or sync a column that holds "
                "it as text.",
            )
        return found

    def _table(self, kind: written.Kind) -> catalogue.Table | None:
        path = ("kind", kind.name, "table")
        table = self.facts.table.get(kind.table)
        if table is None:
            kinds = [each.kind for each in self.facts.others if (each.schema, each.name) == kind.table]
            if kinds:
                says = f"{_named(kind.table)} is {OTHERS[kinds[0]]}, whose changes are not seen. Name a table."
            else:
                says = f"There is no table {_named(kind.table)}.{self._near(kind.table)}"
            self.problem(path, says)
        elif table.partition_of is not None:
            self.problem(path, f"{_named(kind.table)} is a partition. Name the whole table, `{table.partition_of}`.")
            return None
        return table

    def _near(self, name: Table) -> str:
        elsewhere = [table for table in self.facts.table if table.name.casefold() == name.name.casefold()]
        if elsewhere:
            return f" Did you mean `{'.'.join(elsewhere[0])}`?"
        near = meant(".".join(name), [".".join(table) for table in self.facts.table])
        return near or " Create it first."

    def _gate(self) -> Gate | None:
        gate = self.file.gate
        if gate is None:
            return None
        kind = next((kind for kind in self._kinds.values() if kind.table == gate.table), None)
        if kind is None:
            return None
        table = self._tables[kind.name]
        if kind.parent is not None:
            self.problem(
                ("gate", "table"),
                f"The gate asks for the user's row, but rows of `{kind.name}` have a parent. Name the table of a kind "
                "with an `owner`.",
            )
        elif kind.owner is not None and not table.is_unique([kind.owner.name]):
            self.problem(
                ("gate", "table"),
                f"A user may have several rows of `{kind.name}`, and one must decide. Make `{kind.owner.name}` UNIQUE, "
                "or name another table.",
            )
        path = ("gate", "column")
        found = self.field(table, gate.column, path, star=False)
        if found is None:
            return None
        if found.of is not Type.TEXT:
            self.problem(
                path, f"`{gate.column}` is of type {found.type}. The gate's column must be a text or an enumeration."
            )
        devices = kind.devices
        writable = () if devices is None else (*(devices.insert or ()), *devices.update)
        if any(kind.column[name].field == found for name in writable if name in kind.column):
            self.problem(
                path,
                f"Devices write `{gate.column}`, so that a user could decide to sync. Remove it from `devices` of "
                f"`{kind.name}`.",
            )
        return Gate(kind.name, found, gate.syncs, gate.local_only)


class _KindCheck:
    """One kind, whose parent is checked already."""

    def __init__(self, check: _Check, kind: written.Kind, table: catalogue.Table) -> None:
        self._check = check
        self._kind = kind
        self._table = table
        self._read = {
            name
            for name in ("parent", "owner", "columns", "key", "newest", "devices")
            if f"{kind.name}.{name}" not in check.file.unread
        }
        """The keys that are right as they are written, or absent."""

    def kind(self) -> Kind:
        written = self._kind
        key = self._key()
        owner = None if written.owner is None else self._field(written.owner, "owner")
        if owner is not None and not self._holds_users(owner):
            self._problem(f"`{owner.name}` is of type {owner.type}. An owner must be uuid or text.", "owner")
        parent = self._parent()
        columns = self._columns(key, owner, parent)
        names = {column.name: column.field for column in columns if not column.above}
        if written.columns.all and "columns" in self._read:
            self._check.problems += references(written, names, self._check.file)
        newest = written.newest if written.newest in names else None
        if newest is not None and names[newest].of not in ORDERS:
            self._problem(
                f"`{newest}` is of type {names[newest].type}, which orders no list. `newest` must be a timestamp, an "
                "integer or a text.",
                "newest",
            )
        devices = self._devices(columns, key, owner, parent)
        columns = tuple(_never_null(column, devices) if column.name != newest else column for column in columns)
        for name, limit in written.limits.items():
            wanted = SIZED if isinstance(limit, int) else {Type.TEXT}
            if name in names and names[name].of not in wanted:
                says = "has no length" if isinstance(limit, int) else "has no list of texts as its limit"
                self._problem(
                    f"`{name}` is of type {names[name].type}, which {says}. Remove the limit.", "limits", name
                )
        for number, name in enumerate(written.streams):
            if name in names and not self._is_text(names[name]):
                self._problem(
                    f"`{name}` is of type {names[name].type}. Only columns of a text type grow.", "streams", number
                )
        ended = None if written.ended is None else self._field(written.ended, "ended")
        if ended is not None and ended.of is not Type.TEXT:
            self._problem(f"`{ended.name}` is of type {ended.type}. `ended` must be a text or an enumeration.", "ended")
        if written.partition:
            self._partition(key, newest)
        if written.table == USAGE:
            self._counted()
        return Kind(
            name=written.name,
            tag=written.tag,
            table=written.table,
            key=key,
            columns=columns,
            owner=owner,
            parent=parent,
            newest=newest,
            window=written.window,
            devices=devices,
            limits=dict(written.limits),
            partition="month" if written.partition else None,
            archive=written.archive,
            policies=written.policies,
            streams=tuple(name for name in written.streams if name in names),
            ended=ended,
            references=self._references(key, devices, columns),
        )

    def _holds_users(self, found: Field) -> bool:
        return found.of in OWNERS and self._table.column[found.name].type.kind != "e"

    def _is_text(self, found: Field) -> bool:
        return found.of is Type.TEXT and self._table.column[found.name].type.kind != "e"

    def _problem(self, says: str, *path: str | int) -> None:
        self._check.problem(("kind", self._kind.name, *path), says)

    def _field(self, name: str, *path: str | int, star: bool = False) -> Field | None:
        return self._check.field(self._table, name, ("kind", self._kind.name, *path), star=star)

    def _key(self) -> tuple[Field, ...]:
        table, given = self._table, self._kind.key
        if "key" not in self._read:
            return ()
        if not table.key and given is None:
            self._problem(
                f"{_named(table.named)} has no primary key. Add one, or name one or two columns that are unique "
                "together as `key`."
            )
            return ()
        names = given or key_of(table)
        if self._kind.partition and given is None:
            names = tuple(name for name in table.key if name != self._kind.newest) or table.key
        if len(names) > 2:
            self._problem(
                f"The primary key of {_named(table.named)} has {len(names)} columns. A key has one or two: name others "
                "that are unique together as `key`."
            )
            return ()
        found = []
        for number, name in enumerate(names):
            path = ("key", number) if given is not None else ()
            column = self._check.column(table, name, ("kind", self._kind.name, *path))
            if column is None:
                return ()
            if not identifies(column.type):
                self._problem(
                    f"`{name}` in the key of {_named(table.named)} is of type {_type(column)}. Columns of a key are "
                    "uuid, text, int, bigint or a timestamp: name others that are unique together as `key`.",
                    *path,
                )
            elif not column.required:
                self._problem(f"`{name}` may be NULL, and is in the key. Make it NOT NULL.", *path)
            else:
                found.append(field(column))
        if given is not None and found and not self._is_unique(names):
            columns = " and ".join(f"`{name}`" for name in names)
            self._problem(f"Two rows may agree in {columns}. Add a UNIQUE constraint, or name another key.", "key")
        return tuple(each for each in found if each is not None)

    def _is_unique(self, names: tuple[str, ...]) -> bool:
        by = {self._kind.newest} if self._kind.partition else set()
        return self._table.is_unique(names) or set(self._table.key) - by == set(names)

    def _parent(self) -> Parent | None:
        parent = self._kind.parent
        if parent is None:
            return None
        path = ("parent", "column")
        found = self._field(parent.column.column, *path)
        above = self._check.parent_of(self._kind)
        if found is None or above is None:
            return None
        kind, table = above
        if kind.partition is not None:
            self._problem(
                f"`{kind.name}` is partitioned, so it cannot be a parent. Leave out its `partition`, or name another "
                "parent.",
                "parent",
            )
        elif len(kind.key) > 1:
            self._problem(f"The key of `{kind.name}` has two columns. A parent's key has one.", "parent")
        elif kind.key and (kind.key[0].of is not found.of or self._table.column[found.name].type.kind == "e"):
            self._problem(
                f"`{found.name}` is of type {found.type}, and the key of {_named(table.named)} of type "
                f"{kind.key[0].type}. Give them the same type.",
                *path,
            )
        bound = any(
            key.target == kind.table
            and key.columns == (found.name,)
            and kind.key
            and key.referenced == (kind.key[0].name,)
            for key in self._table.foreign
        )
        return Parent(kind.name, found, loose=not bound)

    def _columns(self, key: tuple[Field, ...], owner: Field | None, parent: Parent | None) -> tuple[Column, ...]:
        columns: list[Column] = []
        names: dict[str, str] = {}
        first = self._kind.parent
        if first is not None and parent is not None:
            # Rows without a parent belong to nobody, and are not synced.
            of = parent.field
            columns.append(Column(first.column.name, Field(of.name, of.of, of.type, default=of.default)))
        if first is not None:
            names[camel(first.column.name)] = first.column.name
        above = self._check.parent_of(self._kind)
        if columns and above is not None and above[0].parent is not None:
            (key_above, *_) = above[0].columns
            name = key_above.name if camel(key_above.name) not in names else f"{above[0].name}_{key_above.name}"
            columns.append(Column(name, key_above.field, above=True))
            names[camel(name)] = name
        keys = {each.name for each in key}
        parents = set() if first is None else {first.column.column}
        named, seen = self._kind.columns.named, set[str]()
        for each in self._kind.columns.without:
            self._check.column(self._table, each.column, ("kind", self._kind.name, "columns", each.number))
        for each in chosen(self._table, self._kind.columns, keys | parents | ({owner.name} if owner else set())):
            star = each not in named
            path = ("columns",) if star else ("columns", each.number)
            says = unfit(each.column, each.name) if star else None
            if each.column in keys | parents:
                whose = "the key, which every row has" if each.column in keys else "the parent's key, which comes first"
                says = f"`{each.column}` is {whose}. Remove it from the list."
            elif each.column in seen:
                says = f"`{each.column}` is in the list twice. Remove one of them."
            elif says is None and (other := names.get(camel(each.name))) is not None:
                says = (
                    f"`{other}` and `{each.name}` are one name to clients, `{camel(other)}`. Write `{each.column} as` "
                    "with another name."
                )
            if says is not None:
                self._problem(says, *path)
                continue
            seen.add(each.column)
            names[camel(each.name)] = each.name
            if (found := self._field(each.column, *path, star=star)) is not None:
                columns.append(Column(each.name, found))
        return tuple(columns)

    def _devices(
        self, columns: tuple[Column, ...], key: tuple[Field, ...], owner: Field | None, parent: Parent | None
    ) -> Devices | None:
        devices = self._kind.devices
        if devices is None:
            return None
        names = {column.name: column.field for column in columns if not column.above}
        created = self._instant(devices.created, "created")
        updated = self._instant(devices.updated, "updated")
        user = self._user(devices.owner)
        touches = self._touches(devices.touches)
        ours = {each.name for each in (*key, owner, created, updated, user) if each is not None}
        ours |= set() if parent is None else {parent.field.name}
        for verb, listed_ in (("insert", devices.insert or ()), ("update", devices.update)):
            for number, name in enumerate(listed_):
                column = self._table.column[names[name].name] if name in names else None
                if column is None:
                    continue
                if column.name in ours:
                    self._problem(
                        f"`{name}` is set by the server. Remove it from what devices {verb}.", "devices", verb, number
                    )
                elif column.generated is not None or column.identity == "a":
                    self._problem(
                        f"`{name}` is computed by the database. Remove it from what devices {verb}.",
                        *("devices", verb, number),
                    )
        if devices.insert is not None:
            self._insert(key, ours | {names[name].name for name in devices.insert if name in names})
        return Devices(
            insert=devices.insert,
            update=devices.update,
            delete=devices.delete,
            created=created,
            updated=updated,
            touches=touches,
            owner=user,
        )

    def _insert(self, key: tuple[Field, ...], filled: set[str]) -> None:
        """Whether a device can insert a row in which these columns get a value."""
        path = ("devices", "insert")
        for each in key:
            if self._table.column[each.name].numbered:
                self._problem(
                    f"The database makes `{each.name}`, and devices cannot make such ids. Remove `insert`, or give the "
                    "table a uuid or text as its key.",
                    *path,
                )
        whole = len(key) == len(self._kind.key or key_of(self._table))
        if whole and not self._kind.partition and not self._is_unique_at_once({each.name for each in key}):
            self._problem(
                f"Inserts need a UNIQUE constraint of {listed([each.name for each in key])} and no other column, which "
                "is not DEFERRABLE. Add it, or remove `insert`.",
                *path,
            )
        for each in key:
            if each.name in VARIABLES:
                self._problem(
                    f"A column of the key has the name `{each.name}`, which functions of the server use. Remove "
                    "`insert`, or rename the column.",
                    *path,
                )
        missing = [column.name for column in self._table.columns if not column.filled and column.name not in filled]
        if missing and f"{self._kind.name}.columns" not in self._check.file.unread:
            self._problem(
                f"A row of {_named(self._table.named)} needs {listed(missing)}, which devices would not insert. Add it "
                "to `insert`, or give the column a default."
                if len(missing) == 1
                else f"A row of {_named(self._table.named)} needs {listed(missing)}, which devices would not insert. "
                "Add them to `insert`, or give the columns defaults.",
                *path,
            )
        newest = self._kind.newest
        devices = self._kind.devices
        if self._kind.partition and devices is not None and devices.created != newest:
            self._problem(
                f'The table is partitioned by `{newest}`, so an insert must set it. Write `created = "{newest}"`.',
                *path,
            )

    def _is_unique_at_once(self, names: set[str]) -> bool:
        """What ON CONFLICT needs."""
        return any(
            index.unique and None not in index.columns and set(index.columns) == names for index in self._table.indexes
        )

    def _references(
        self, key: tuple[Field, ...], devices: Devices | None, columns: tuple[Column, ...]
    ) -> dict[str, Reference]:
        if devices is None:
            return {}
        writable = {*(devices.insert or ()), *devices.update}
        names = {column.field.name for column in columns if column.name in writable and not column.above}
        if devices.insert is not None:
            names |= {each.name for each in key}
        names -= {self._kind.owner, None if devices.owner is None else devices.owner.name}
        if self._kind.parent is not None:
            names.discard(self._kind.parent.column.column)
        kinds = {each.table: each.name for each in self._check.file.kinds}
        found = {}
        for foreign in self._table.foreign:
            if len(foreign.columns) == 1 and foreign.columns[0] in names and foreign.target in kinds:
                referenced = field(self._check.facts.table[foreign.target].column[foreign.referenced[0]])
                if referenced is not None:
                    found[foreign.columns[0]] = Reference(kinds[foreign.target], referenced)
        return found

    def _instant(self, name: str | None, key: str) -> Field | None:
        return None if name is None else self._timestamp(self._table, name, key)

    def _timestamp(self, table: catalogue.Table, name: str, key: str) -> Field | None:
        path = ("kind", self._kind.name, "devices", key)
        column = self._check.column(table, name, path)
        if column is None:
            return None
        found = field(column)
        if found is None or found.of is not Type.INSTANT or column.generated is not None:
            self._check.problem(
                path,
                f"`{name}` of {_named(table.named)} is "
                + ("computed by the database" if column.generated else f"of type {_type(column)}")
                + f". `{key}` must be a timestamp: remove it if there is none; a column that holds time otherwise is "
                "an ordinary one.",
            )
            return None
        return found

    def _touches(self, name: str | None) -> Field | None:
        if name is None:
            return None
        if self._kind.parent is None:
            self._problem(
                "`touches` is a column of the parent, and this kind has none. Remove it.", "devices", "touches"
            )
            return None
        above = self._check.parent_of(self._kind)
        return None if above is None else self._timestamp(above[1], name, "touches")

    def _user(self, name: str | None) -> Field | None:
        if name is None:
            return None
        if self._kind.owner is not None:
            self._problem(
                "Inserts set the owner of such a kind anyhow. Remove `owner` from `devices`.", "devices", "owner"
            )
            return None
        found = self._field(name, "devices", "owner")
        if found is not None and not self._holds_users(found):
            self._problem(f"`{name}` is of type {found.type}. It must be uuid or text.", "devices", "owner")
        return found

    def _counted(self) -> None:
        for name, given in {"devices": self._kind.devices, "policies": self._kind.policies or None}.items():
            if given is not None:
                self._problem(
                    "`sync.daily_usage` is counted by `atlas-sync maintain`, and devices only read it. Remove "
                    f"`{name}`.",
                    name,
                )

    def _partition(self, key: tuple[Field, ...], newest: str | None) -> None:
        if (
            self._kind.table != PARTITIONABLE
            or [(each.name, each.of) for each in key] != [("id", Type.UUID)]
            or (self._kind.newest != "created_at")
        ):
            self._problem(
                'So far only `public.messages` with the key `id`, a uuid, and `newest = "created_at"` can be '
                "partitioned. Remove `partition` and `archive`.",
                "partition",
            )
        elif self._table.partitioned_by is None and (others := self._check.facts.references(self._kind.table)):
            # Its primary key becomes (id, created_at).
            tables = listed([".".join(each) for each in others])
            self._problem(
                f"Foreign keys of {tables} refer to {_named(self._table.named)}, and cannot refer to a partitioned "
                "table. Remove `partition` and `archive`, or the foreign keys.",
                "partition",
            )


def _parents_first(kinds: Iterable[written.Kind]) -> list[written.Kind]:
    """Each after its parent, otherwise as in the file. Without those that never lead to an owner."""
    by_name = {kind.name: kind for kind in kinds}
    ordered: dict[str, written.Kind] = {}

    def add(kind: written.Kind, below: tuple[str, ...]) -> None:
        parent = None if kind.parent is None else by_name.get(kind.parent.kind)
        if parent is not None and parent.name not in below:
            add(parent, (*below, kind.name))
        ordered.setdefault(kind.name, kind)

    for kind in by_name.values():
        add(kind, (kind.name,))
    return list(ordered.values())


def _named(table: Table) -> str:
    return f"`{'.'.join(table)}`"


def _type(column: catalogue.Column) -> str:
    return column.type.name if column.domain is None else f"{column.domain} (a domain of {column.type.name})"


def _never_null(column: Column, devices: Devices | None) -> Column:
    """A row that was never updated has the instant at which it was created. The column that orders a list keeps its
    NULLs, which are the oldest there."""
    if devices is None or devices.updated is None or devices.created is None or column.field != devices.updated:
        return column
    if not column.field.nullable or devices.created == devices.updated:
        return column
    return Column(column.name, column.field, instead=devices.created)
