"""Drafts a declaration for a database: what `atlas-sync init` writes, for a person to edit. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from protocol.schema import Limit, Type
from server.declaration.catalogue import Column, Facts, ForeignKey, Table
from server.declaration.check import ORDERS, OWNERS, PARTITIONABLE, identifies, key_of, travels
from server.declaration.file import write
from server.declaration.file.parse import PARENTS, TAGS, camel
from server.declaration.file.problems import meant
from server.declaration.file.written import Columns, Devices, Kind, Named, Parent
from server.declaration.model import Table as Name
from server.declaration.usage import USAGE
from server.exceptions import ConfigError

USERS: Final = frozenset({"user", "users", "profile", "profiles", "userprofile", "userprofiles", "appuser", "appusers"})
"""Tables whose key is a user, in lower case and without underscores."""
OWNER: Final = (
    *("userid", "ownerid", "useruuid", "owneruuid", "profileid", "accountid", "user", "owner"),
    *("createdby", "createdbyid", "creatorid", "authorid"),
)
UPDATED: Final = ("updatedat", "updated", "modifiedat", "lastupdated", "lastmessageat", "lastactivityat")
CREATED: Final = ("createdat", "created", "insertedat", "timestamp", "createdon", "date", "time", "start")
SEQUENCE: Final = ("sequencenumber", "sequence", "seq", "position", "ordinal", "idx", "turn")
PLANS: Final = ("subscriptiontier", "tier", "plan", "subscriptionplan", "subscriptionstatus", "subscription")
TITLES: Final = ("title", "name", "label", "subject")
SYSTEM: Final = re.compile(
    r"storage|realtime|_realtime|vault|graphql(_public)?|extensions|net|cron|pgsodium(_masks)?|pgbouncer|drizzle|"
    r"supabase_\w+"
)
"""Schemas of Supabase and of tools, not of the app."""
OURS: Final = (Name("public", "messages_archive"),)
SECRET: Final = frozenset(
    {"password", "passwd", "pwd", "passcode", "secret", "salt", "otp", "credential", "credentials"}
)
KEYS: Final = frozenset({"api", "private", "secret", "access", "encryption", "signing", "service"})
"""What makes a `key` secret that follows."""
COUNTED: Final = frozenset({"count", "counts", "limit", "usage", "used", "total", "cost", "budget"})
"""What makes a `token` no secret that precedes it or follows."""
WINDOW: Final = 50
MANY: Final = 100_000
"""From so many rows on, a window that has all is questioned."""
SHORT: Final = 1000
LONG: Final = 100_000

HEAD: Final = """\
# Which tables are synced, and how. Drafted by `atlas-sync init`; it is yours to edit. Decide of each table:
#   - Is it synced at all? If not, delete it here. What is below it, its `parent`, goes with it.
#   - columns: what devices receive, of the user's own rows. Delete what they do not show. `column as name` renames.
#   - owner: the column must hold what the tokens of your users have as `sub`.
#   - newest, window: the order of lists, and how many rows a new device gets; it loads older ones as pages.
#   - devices: what devices may write; commented out: they only read. Name only what a user may set to anything.
# server/README.md has all keys. `atlas-sync migrate --plan` checks this file, and shows what will be done.
"""


@dataclass(frozen=True, slots=True)
class _Place:
    """How a table belongs to users."""

    table: Table
    key: tuple[str, ...]
    owner: str | None = None
    parent: Name | None = None
    column: str | None = None
    """That holds the parent's key."""
    depth: int = 0
    """Parents up to the owner."""

    @property
    def is_user(self) -> bool:
        return self.key == (self.owner,)


def draft(facts: Facts, only: Sequence[str] = ()) -> str:
    """The text of a file. `only`: names of tables, with their schema or without; their parents come with them.

    Raises ConfigError for a table that does not exist or cannot be synced, and if there is none that can.
    """
    places, reasons = _places(facts)
    wanted = _wanted(facts, places, reasons, only)
    chosen = _in_order([place for name, place in places.items() if name in wanted])
    if not chosen:
        why = "".join(f"\n{'.'.join(name)}: {reason}" for name, reason in reasons.items())
        raise ConfigError(
            "No table can be synced as it is."
            + (why or " There is none. `atlas-sync migrate` makes the chat app's tables in an empty database.")
        )
    chosen, rest = chosen[: len(TAGS)], chosen[len(TAGS) :]
    reasons |= {place.table.named: "there are more tables than tags" for place in rest}
    names = _names(chosen)
    blocks = [HEAD, _gate(chosen, names)]
    tags: set[str] = set()
    for place in chosen:
        tag = next(tag for tag in (*names[place.table.named], *TAGS) if tag in TAGS and tag not in tags)
        tags.add(tag)
        blocks.append(_block(place, names, tag, facts))
    if reasons and not only:
        lines = [write.comment(f"  {'.'.join(name)}: {reason}") for name, reason in sorted(reasons.items())]
        blocks.append("\n".join(["# Not drafted:", *lines, ""]))
    return "\n".join(blocks)


# ---- Whose rows they are --------------------------------------------------------------------------------------------


def _places(facts: Facts) -> tuple[dict[Name, _Place], dict[Name, str]]:
    """How each table belongs to users, or why it does not."""
    places: dict[Name, _Place] = {}
    reasons: dict[Name, str] = {}

    def find(table: Table, below: tuple[Name, ...]) -> _Place | None:
        name = table.named
        if name in places or name in reasons or name in below:
            return places.get(name)
        key, why = _key(table)
        if key is None:
            reasons[name] = why
            return None
        owner = _owner(table, key)
        above = [
            (foreign, found)
            for foreign in table.foreign
            if (found := _above(foreign, table, (*below, name))) is not None
        ]
        above.sort(key=lambda each: (table.column[each[0].columns[0]].required, each[0].cascades, each[1].depth))
        foreign, parent = above[-1] if above else (None, None)
        certain = foreign is not None and foreign.cascades and table.column[foreign.columns[0]].required
        if owner is not None and (not certain or key == (owner,)):
            places[name] = _Place(table, key, owner)
        elif foreign is not None and parent is not None:
            places[name] = _Place(table, key, None, parent.table.named, foreign.columns[0], parent.depth + 1)
        elif any(places[target].depth == PARENTS for each in table.foreign if (target := each.target) in places):
            reasons[name] = "more than two foreign keys lead to a user. Give it a column that holds the user"
        else:
            reasons[name] = "no column holds a user, and no foreign key leads to a table that has one"
        return places.get(name)

    def _above(foreign: ForeignKey, table: Table, below: tuple[Name, ...]) -> _Place | None:
        """The place of the table that the key refers to, if it can be the parent."""
        target = facts.table.get(foreign.target)
        if target is None or len(foreign.columns) > 1 or target is table or target.partition_of is not None:
            return None
        place = find(target, below)
        if place is None or place.is_user or place.depth == PARENTS or place.key != foreign.referenced:
            return None
        same = travels(table.column[foreign.columns[0]].type) is travels(target.column[place.key[0]].type)
        return place if same else None

    for table in facts.tables:
        if table.partition_of is None and table.named not in OURS and not SYSTEM.fullmatch(table.schema):
            find(table, ())
    return places, reasons


def _key(table: Table) -> tuple[tuple[str, ...] | None, str]:
    """The columns of the key; without one, why."""
    uniques = [tuple(name for name in index.columns if name is not None) for index in table.indexes if index.unique]
    for names in ([key_of(table)] if table.key else []) + [each for each in uniques if table.is_unique(each)]:
        columns = [table.column[name] for name in names]
        if 1 <= len(columns) <= 2 and all(each.required and identifies(each.type) for each in columns):
            return names, ""
    if not table.key:
        return None, "it has no primary key"
    types = ", ".join(f"{name} {table.column[name].type.name}" for name in table.key)
    return (
        None,
        f"its key ({types}) is not one or two columns of uuid, text, int, bigint or a timestamp, nor is another unique",
    )


def _owner(table: Table, key: tuple[str, ...]) -> str | None:
    """The column that holds the user."""
    fit = [column.name for column in table.columns if travels(column.type) in OWNERS]
    leading = [
        foreign.columns[0]
        for foreign in table.foreign
        if len(foreign.columns) == 1 and foreign.columns[0] in fit and _is_users(foreign.schema, foreign.table)
    ]
    if len(key) == 1 and key[0] in fit and (key[0] in leading or (_plain(table.name) in USERS and not leading)):
        return key[0]
    by_name = sorted((name for name in fit if _plain(name) in OWNER), key=lambda name: OWNER.index(_plain(name)))
    certain = [name for name in by_name if name in leading]
    return next(iter((*certain, *by_name, *leading)), None)


def _is_users(schema: str, table: str) -> bool:
    return schema == "auth" or _plain(table) in USERS


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _wanted(facts: Facts, places: dict[Name, _Place], reasons: dict[Name, str], only: Sequence[str]) -> set[Name]:
    if not only:
        return set(places) - {USAGE}
    wanted: set[Name] = set()
    for each in only:
        found = [name for name in facts.table if each in (".".join(name), name.name)]
        known = [".".join(name) for name in (*places, *reasons)]
        if not found:
            raise ConfigError(f"There is no table `{each}`.{meant(each, known) or ' Name one of the database.'}")
        fit = [name for name in found if name in places]
        if not fit:
            raise ConfigError(f"`{each}` cannot be synced: {reasons.get(found[0], 'it is a partition')}.")
        name: Name | None = fit[0]
        while name is not None:
            wanted.add(name)
            name = places[name].parent
    return wanted


def _in_order(places: Iterable[_Place]) -> list[_Place]:
    """Users first, then each table with all that is below it."""
    places = list(places)
    ordered: list[_Place] = []

    def add(place: _Place) -> None:
        ordered.append(place)
        for child in places:
            if child.parent == place.table.named:
                add(child)

    for place in sorted(places, key=lambda place: (not place.is_user, place.table.named)):
        if place.parent is None:
            add(place)
    return ordered


def _names(places: Sequence[_Place]) -> dict[Name, str]:
    """The names of the kinds: that of the table, in the singular."""
    names: dict[Name, str] = {}
    for place in places:
        words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", place.table.name).lower()
        name = _singular(re.sub(r"[^a-z0-9_]+", "_", words).strip("_"))[:30]
        name = name if name[:1].isalpha() else f"t_{name}"
        number = 2
        base = name
        while name in names.values():
            name, number = f"{base}_{number}", number + 1
        names[place.table.named] = name
    return names


def _singular(name: str) -> str:
    for plural, singular in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if name.endswith(plural) and len(name) > len(plural) + 1:
            return name.removesuffix(plural) + singular
    return name if name.endswith(("ss", "us", "is")) or len(name) < 3 else name.removesuffix("s")


# ---- One kind -------------------------------------------------------------------------------------------------------


def _block(place: _Place, names: dict[Name, str], tag: str, facts: Facts) -> str:
    table = place.table
    name = names[table.named]
    parent = None
    if place.parent is not None and place.column is not None:
        parent = Parent(names[place.parent], Named(place.column, _fit(place.column, set())))
    columns, left_out = _columns(place, parent)
    newest = _newest(place, columns)
    kind = Kind(
        name=name,
        table=table.named,
        tag=tag,
        columns=Columns(columns),
        key=None if place.key == key_of(table) else place.key,
        owner=place.owner,
        parent=parent,
        newest=newest,
        window=WINDOW if newest is not None and not place.is_user else None,
    )
    lines = write.kind(kind).splitlines()
    if left_out:
        at = next(number for number, line in enumerate(lines) if line.startswith("columns = "))
        lines.insert(at, write.comment(f"Left out: {', '.join(left_out)}."))
    if kind.window is None and table.rows >= MANY:
        at = lines.index('window = "all"')
        lines[at] += f"  # the table has some {table.rows:,} rows: a number limits what a new device gets"
    if place.owner is not None and not table.column[place.owner].required:
        at = next(number for number, line in enumerate(lines) if line.startswith("owner = "))
        lines[at] += "  # where it is NULL, the row is nobody's and is not synced"
    numbered = [name for name in place.key if table.column[name].numbered]
    devices = None if place.is_user else _devices(place, kind, facts)
    if numbered and not place.is_user:
        lines.append(write.comment(f"Devices cannot insert: the database makes `{numbered[0]}`."))
    elif devices is not None:
        lines.append(f"# devices = {write.devices(devices)}")
        if limits := _limits(place, kind, devices):
            lines.append(f"# limits = {write.limits(limits)}")
    if _partitionable(place, newest, facts):
        lines.append('# partition = "month"  # `migrate` partitions the table: for tables of many millions of rows')
        lines.append('# archive = "12 months"')
    return "\n".join([*lines, ""])


def _columns(place: _Place, parent: Parent | None) -> tuple[tuple[Named, ...], list[str]]:
    """The columns that are synced, and what is said of those that are left out."""
    columns, left_out = [], []
    taken = set() if parent is None else {camel(parent.column.name)}
    for column in place.table.columns:
        if column.name in place.key or column.name in (place.owner, place.column):
            continue
        if travels(column.type) is None:
            left_out.append(f"`{column.name}` ({column.domain or column.type.name} does not travel)")
        elif column.generated is not None:
            left_out.append(f"`{column.name}` (computed)")
        elif is_secret(column.name):
            left_out.append(f"`{column.name}` (a secret?)")
        else:
            name = _fit(column.name, taken)
            taken.add(camel(name))
            columns.append(Named(column.name, name))
    return tuple(columns), left_out


def _fit(column: str, taken: set[str]) -> str:
    """A name on the wire."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", column)
    name = name if re.match(r"[A-Za-z_]", name) else f"_{name}"
    number, base = 2, name
    while camel(name) in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def is_secret(name: str) -> bool:
    """Whether a column of this name is rather not for devices."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")
    if SECRET & set(words):
        return True
    if "token" in words and not COUNTED & set(words):
        return True
    return any(first in KEYS and second in ("key", "keys") for first, second in pairwise(words))


def _newest(place: _Place, columns: Sequence[Named]) -> str | None:
    """The column that orders the list, by its wire name."""
    table = place.table
    order = (*SEQUENCE, *CREATED, *UPDATED) if place.parent is not None else (*UPDATED, *CREATED)
    if place.is_user:
        return None
    fit = [each for each in columns if travels(table.column[each.column].type) in ORDERS]
    found = [each for each in fit if _plain(each.column) in order]
    return min(found, key=lambda each: order.index(_plain(each.column))).name if found else None


def _devices(place: _Place, kind: Kind, facts: Facts) -> Devices | None:
    """A suggestion that would be accepted. None: devices cannot insert rows."""
    table = place.table
    created, updated = _instant(table, CREATED), _instant(table, UPDATED)
    user = _owner(table, place.key) if place.parent is not None else None
    ours = {*place.key, place.owner, place.column, created, updated, user}

    def writable(each: Named) -> bool:
        column = table.column[each.column]
        return each.column not in ours and column.identity != "a" and not column.numbered

    references = {name for foreign in table.foreign for name in foreign.columns}
    wanted = [
        each for each in kind.columns.named if writable(each) and _is_content(table.column[each.column], references)
    ]
    filled = {each.column for each in wanted} | ours
    if not all(column.filled or column.name in filled for column in table.columns):
        return None
    touches = None if place.parent is None else _instant(facts.table[place.parent], UPDATED)
    return Devices(
        insert=tuple(each.name for each in wanted),
        update=tuple(each.name for each in wanted if _plain(each.column) not in ("role", *CREATED)),
        delete=True,
        created=created,
        updated=updated,
        touches=touches,
        owner=user,
    )


def _is_content(column: Column, references: set[str]) -> bool:
    """Something that a person writes, or that a row cannot be without."""
    if not column.filled:
        return True
    refers = column.name in references or re.search(r"(_id|Id|_ids|Ids)$", column.name)
    return not refers and travels(column.type) in {Type.TEXT, Type.JSON, Type.BOOL, Type.ARRAY}


def _partitionable(place: _Place, newest: str | None, facts: Facts) -> bool:
    table = place.table
    return (
        table.named == PARTITIONABLE
        and place.key == ("id",)
        and travels(table.column["id"].type) is Type.UUID
        and newest == "created_at"
        and travels(table.column["created_at"].type) is Type.INSTANT
        and not facts.references(table.named)
    )


def _instant(table: Table, names: Sequence[str]) -> str | None:
    found = [
        column.name
        for column in table.columns
        if _plain(column.name) in names and travels(column.type) is Type.INSTANT and column.generated is None
    ]
    return min(found, key=lambda name: names.index(_plain(name))) if found else None


def _limits(place: _Place, kind: Kind, devices: Devices) -> dict[str, Limit]:
    limits: dict[str, Limit] = {}
    for each in kind.columns.named:
        column = place.table.column[each.column]
        of = travels(column.type)
        if each.name not in devices.writable or column.type.kind == "e":
            continue
        if of is Type.TEXT and _plain(each.column) == "role":
            limits[each.name] = ("user",)
        elif of is Type.TEXT:
            limits[each.name] = SHORT if _plain(each.column) in TITLES else LONG
        elif of is Type.JSON:
            limits[each.name] = LONG
    return limits


# ---- The gate -------------------------------------------------------------------------------------------------------


def _gate(places: Sequence[_Place], names: dict[Name, str]) -> str:
    said = "# Who syncs: the users whose row has one of these values. Without a gate, every user with a token does.\n"
    for place in places:
        if place.owner is None or not place.table.is_unique([place.owner]):
            continue
        plans = [
            column.name
            for column in place.table.columns
            if _plain(column.name) in PLANS and travels(column.type) is Type.TEXT and column.generated is None
        ]
        if plans:
            column = min(plans, key=lambda name: PLANS.index(_plain(name)))
            lines = [
                "[gate]",
                f"table = {write.table(place.table.named)}",
                f"column = {write.quoted(column)}",
                'syncs = ["…"]',
            ]
            return said + "".join(f"# {line}\n" for line in lines)
    return said + '# [gate]\n# table = "…"\n# column = "…"\n# syncs = ["…"]\n'
