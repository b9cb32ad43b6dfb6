"""The declaration that ships, on the chat app's tables: what it resolves to, and what devices know of it."""

from pathlib import Path

import msgspec

from protocol.schema import Schema
from server.declaration import model
from server.declaration.catalogue import Facts
from server.declaration.check import load
from server.declaration.model import Declaration
from tests.declaration.conftest import HERE

CHAT = Path(model.__file__).with_name("chat.toml").read_text()


def golden(name: str) -> bytes:
    return (HERE / name).read_bytes()


def test_the_chat_declaration_resolves_to_this(chat: Facts) -> None:
    resolved = load(CHAT, chat, "chat.toml")
    assert msgspec.json.decode(golden("chat.json"), type=Declaration) == resolved


def test_devices_know_this_of_it(chat: Facts) -> None:
    schema = load(CHAT, chat, "chat.toml").schema
    assert msgspec.json.decode(golden("chat.schema.json"), type=Schema) == schema


def test_a_declaration_is_kept_as_json_and_read_again(chat: Facts) -> None:
    resolved = load(CHAT, chat, "chat.toml")
    again = msgspec.json.decode(msgspec.json.encode(resolved), type=Declaration)
    assert again == resolved
    assert again.digest == resolved.digest
    assert again.schema == resolved.schema
