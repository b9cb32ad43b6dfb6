"""The keys of a declaration's file: what each must be, and what it means. The file is validated by this list, and the
reference in server/README.md is made from it."""

from dataclasses import dataclass
from typing import Final

WINDOW: Final = 500
"""Rows of a list that a new device gets at most, unless all. As in `hello` (SPEC.md, 3)."""
WINDOW_OF_PARENT: Final = 200
LARGEST: Final = 200_000
"""Bytes of the longest value that a device may write: a push travels in one frame of 256 KiB."""
NAME: Final = 40
"""Characters of a kind's longest name: names of triggers and functions are made of it, and Postgres' end after 63."""


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    value: str
    """What it must be."""
    means: str
    required: bool = False


GATE: Final = (
    Key("table", "the table of a kind", "whose rows decide who syncs. A user without a row does not", required=True),
    Key("column", "a column of that table", "of a text type or an enumeration", required=True),
    Key("syncs", "a list of texts", "the values that sync. This or `local_only`"),
    Key("local_only", "a list of texts", "the values that do not sync; all others do, and NULL"),
)
KIND: Final = (
    Key("table", 'a table, such as "public.notes"', "in schema `public` if none is named", required=True),
    Key(
        "tag",
        "one character, a letter or a digit",
        "what its rows are called on the wire; if absent, the first letter of the name that is free",
    ),
    Key(
        "key",
        "a column, or a list of one or two",
        "of type uuid, text, int, bigint or a timestamp; unique together. If absent, the primary key without the "
        "columns that the table is partitioned by",
    ),
    Key("owner", "a column of type uuid or text", "holds the user. This or `parent`"),
    Key(
        "parent",
        "a table { kind, column }",
        "rows belong to whom the parent's row belongs, and go with it. At most two parents lead to an owner",
    ),
    Key(
        "columns",
        'a list of columns, such as ["title", "createdAt as created_at"]',
        'what devices receive, under the names on the wire. `"*"` is all but the key, the owner and the parent\'s key, '
        '`"-name"` all but that one',
    ),
    Key(
        "newest",
        "one of the columns",
        "orders lists and pages, newest first; of a timestamp type, an integer or text. If absent, the key orders",
    ),
    Key(
        "window",
        f'"all" or a number up to {WINDOW} ({WINDOW_OF_PARENT} for a kind with a parent)',
        "how many rows a new device gets: of the list, or of each parent. If absent, all; 0: only changes and pages",
    ),
    Key(
        "devices",
        "a table",
        "what devices may write. If absent, they only read. A row of a kind that a foreign key of one column names "
        "must be the user's own",
    ),
    Key(
        "limits",
        'a table of columns, each "N bytes" or a list of texts',
        f"the longest value that devices may write, in bytes of UTF-8, up to {LARGEST:,}; or the values that they may "
        "write, and only rows that hold one of these may they update",
    ),
    Key(
        "partition",
        '"month"',
        "`migrate` partitions the table by `newest`. Only for `public.messages` with the key `id`, a uuid, and "
        '`newest` = "created_at"',
    ),
    Key(
        "archive",
        'a number of months, such as "12 months"',
        "after which rows of a partitioned table move to the archive",
    ),
    Key("policies", "true or false", "`migrate` makes row policies for end users. If absent, false"),
    Key(
        "streams",
        "a list of synced columns",
        "of a text type, whose text the app's backend may stream. If absent, none",
    ),
    Key(
        "ended",
        "a column of the table, of a text type or an enumeration",
        "takes `done`, `failed` or `stopped` when the server writes the text of a stream to the row. Needs `streams`",
    ),
)
PARENT: Final = (
    Key("kind", "the name of another kind", "whose key has one column", required=True),
    Key("column", "a column", "holds the parent's key; the first of the columns that devices receive", required=True),
)
DEVICES: Final = (
    Key("insert", "a list of synced columns", "the columns that a new row may have. If absent, devices do not insert"),
    Key("update", "a list of synced columns", "the columns that may be changed"),
    Key("delete", "true or false", "whether rows may be deleted. If absent, false"),
    Key("created", "a column of the table, of a timestamp type", "takes the instant of an insert"),
    Key(
        "updated",
        "a column of the table, of a timestamp type",
        "takes the instant of an insert, and of an update unless it is later already; NULL reads as `created`",
    ),
    Key("touches", "a column of the parent's table, of a timestamp type", "an insert raises it to its instant"),
    Key(
        "owner",
        "a column of the table, of type uuid or text",
        "takes the user, where rows of a parent hold the user too; if it is a part of the key, a device puts its user "
        "there",
    ),
)
FILE: Final = (
    Key("gate", "a table", "who syncs. If absent, every user with a token does"),
    Key("kind", "tables, such as [kind.note]", "the synced tables, one each", required=True),
)
SECTIONS: Final = {"gate": GATE, "kind": KIND, "parent": PARENT, "devices": DEVICES}


def reference() -> str:
    """The tables of all keys, as server/README.md has them."""
    titles = {
        "gate": "`[gate]`",
        "kind": "`[kind.NAME]`",
        "parent": "`parent`",
        "devices": "`devices`",
    }
    lines = ["| key | value | meaning |", "|---|---|---|"]
    for section, keys in SECTIONS.items():
        lines.append(f"| **{titles[section]}** | | |")
        for key in keys:
            means = key.means + ". Required" * key.required
            cells = (f"`{key.name}`", key.value, means)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
