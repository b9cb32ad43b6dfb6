"""sync.daily_usage, the one table of Atlas Sync that can be declared: what each user used on each day. Pure."""

from typing import Final

from server.declaration.catalogue import Column, Facts, Index, Table, Type
from server.declaration.model import Table as Name

USAGE: Final = Name("sync", "daily_usage")


def _column(name: str, of: str, identity: bool = False) -> Column:
    return Column(name, Type(of, "b"), required=True, identity="a" if identity else None)


TABLE: Final = Table(
    *USAGE,
    owner="",
    rows=-1,
    columns=(
        _column("id", "bigint", identity=True),
        _column("user_id", "uuid"),
        _column("date", "date"),
        _column("conversations_count", "integer"),
        _column("total_tokens_used", "bigint"),
        _column("api_cost_estimate", "numeric"),
        _column("tier", "text"),
        _column("tier_at", "timestamp with time zone"),
    ),
    key=("id",),
    indexes=(
        Index("daily_usage_pkey", ("id",), (0,), unique=True),
        Index("daily_usage_user_id_date_key", ("user_id", "date"), (0, 0), unique=True),
    ),
    secured=True,
)
"""As `atlas-sync migrate` makes it."""


def with_usage(facts: Facts) -> Facts:
    """The tables of a database as they will be once it is migrated: a declaration is checked before that."""
    return facts if USAGE in facts.table else Facts((*facts.tables, TABLE), facts.others)
