"""chat.toml, resolved against the tables that `migrate` makes in an empty database. A test compares the two."""

from importlib.resources import files
from typing import Final

from protocol.schema import Type
from server.declaration.model import Column, Declaration, Devices, Field, Gate, Kind, Parent, Table

CHAT_TOML: Final = (files("server.declaration") / "chat.toml").read_text()


def _uuid(name: str, default: str | None = None) -> Field:
    return Field(name, Type.UUID, "uuid", default=default)


def _text(name: str, *, nullable: bool = False, default: str | None = None) -> Field:
    return Field(name, Type.TEXT, "text", nullable, default)


def _instant(name: str) -> Field:
    return Field(name, Type.INSTANT, "timestamp with time zone", default="now()")


_TIER: Final = _text("subscription_tier", default="'free'::text")
_OWN_INSTANTS: Final = (
    Column("created_at", _instant("created_at")),
    Column("updated_at", _instant("updated_at")),
)
_HOME: Final = _uuid("conversation_id")

CHAT: Final = Declaration(
    kinds=(
        Kind(
            name="profile",
            tag="p",
            table=Table("public", "profiles"),
            key=(_uuid("id"),),
            columns=(Column("tier", _TIER), Column("status", _text("subscription_status", nullable=True))),
            owner=_uuid("id"),
            policies=True,
        ),
        Kind(
            name="conversation",
            tag="c",
            table=Table("public", "conversations"),
            key=(_uuid("id", default="gen_random_uuid()"),),
            columns=(Column("title", _text("title", nullable=True)), *_OWN_INSTANTS),
            owner=_uuid("user_id"),
            newest="updated_at",
            window=50,
            devices=Devices(
                insert=("title",),
                update=("title",),
                delete=True,
                created=_instant("created_at"),
                updated=_instant("updated_at"),
            ),
            limits={"title": 1_000},
            policies=True,
        ),
        Kind(
            name="message",
            tag="m",
            table=Table("public", "messages"),
            key=(_uuid("id", default="gen_random_uuid()"),),
            columns=(
                Column("conversation_id", _HOME),
                Column("role", _text("role")),
                Column("content", _text("content")),
                *_OWN_INSTANTS,
            ),
            parent=Parent("conversation", _HOME),
            newest="created_at",
            window=50,
            devices=Devices(
                insert=("role", "content"),
                update=("content",),
                delete=True,
                created=_instant("created_at"),
                updated=_instant("updated_at"),
                touches=_instant("updated_at"),
            ),
            limits={"content": 100_000, "role": ("user",)},
            partition="month",
            archive=12,
            policies=True,
        ),
    ),
    gate=Gate("profile", _TIER, syncs=("core", "studio")),
)
