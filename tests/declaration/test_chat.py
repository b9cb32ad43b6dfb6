"""The declaration that ships, on the tables that `migrate` makes in an empty database."""

import msgspec

from server.declaration.catalogue import Facts
from server.declaration.chat import CHAT, CHAT_TOML
from server.declaration.check import load
from server.declaration.model import Declaration
from tests.declaration.conftest import read_facts
from tests.support.cluster import Cluster


async def test_the_chat_declaration_resolves_to_what_ships(every_postgres: Cluster) -> None:
    facts = await read_facts(every_postgres, "", template="template_atlas")
    assert load(CHAT_TOML, facts, "chat.toml") == CHAT


def test_a_declaration_is_kept_as_json_and_read_again(chat: Facts) -> None:
    resolved = load(CHAT_TOML, chat, "chat.toml")
    again = msgspec.json.decode(msgspec.json.encode(resolved), type=Declaration)
    assert again == resolved
    assert again.digest == resolved.digest
    assert again.schema == resolved.schema
