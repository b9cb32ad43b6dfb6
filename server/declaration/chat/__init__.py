"""The chat schema: the declaration that ships, and the tables that `migrate` makes for it in an empty database."""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from server.declaration.catalogue import Column, Facts, ForeignKey, Index, Table, Type
from server.declaration.check import load

CHAT_TOML: Final = (files(__name__) / "chat.toml").read_text()
CHAT_SQL: Final = (files(__name__) / "chat.sql").read_text()
TABLE: Final = re.compile(
    r"^CREATE TABLE IF NOT EXISTS public\.(?P<name>\w+) \(\n(?P<body>.*?)\n\)(?: PARTITION BY RANGE \((?P<by>\w+)\))?;",
    re.MULTILINE | re.DOTALL,
)
COLUMN: Final = re.compile(
    r"(?P<name>\w+) +(?P<type>\w+)(?P<required> NOT NULL)?(?P<key> PRIMARY KEY)?(?: UNIQUE)?"
    r"(?: DEFAULT (?P<default>\S+))?(?: REFERENCES public\.(?P<parent>\w+) ON DELETE CASCADE)?"
)
TYPES: Final = {"timestamptz": "timestamp with time zone"}
"""The catalogue's names."""


def _tables() -> Iterator[Table]:
    """The tables of chat.sql as the catalogue has them. A test compares them with a real one."""
    for made in TABLE.finditer(CHAT_SQL):
        columns, foreign = [], []
        key: tuple[str, ...] = ()
        for line in made["body"].split("\n"):
            if (said := COLUMN.match(line.strip())) is None or line.strip().startswith("PRIMARY KEY"):
                key = tuple(re.findall(r"\w+", line.partition("(")[2]))
                continue
            kind = TYPES.get(said["type"], said["type"])
            default = said["default"] and said["default"].rstrip(",")
            if default and default.startswith("'"):
                default = f"{default}::{kind}"
            if said["key"]:
                key = (said["name"],)
            if said["parent"]:
                foreign.append(ForeignKey((said["name"],), "public", said["parent"], ("id",), "c"))
            columns.append(Column(said["name"], Type(kind, "b"), None, bool(said["required"] or said["key"]), default))
        unique = Index("", key, (0,) * len(key), unique=True)
        by = (made["by"],) if made["by"] else None
        yield Table("public", made["name"], "", -1, tuple(columns), key, tuple(foreign), (unique,), partitioned_by=by)


CHAT: Final = load(CHAT_TOML, Facts(tuple(_tables())), "chat.toml")
