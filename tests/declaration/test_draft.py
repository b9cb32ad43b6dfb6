"""What `atlas-sync init` drafts: a file that is accepted as it is, and with what it suggests."""

import re
import tomllib
from typing import Any, Final

import pytest

from server.declaration.catalogue import Column, Facts, Table, Type
from server.declaration.check import load
from server.declaration.draft import draft, is_secret
from server.exceptions import ConfigError
from tests.declaration.conftest import SCHEMAS, FactsOf

UUID: Final = Type("uuid", "b")
SUGGESTED: Final = re.compile(r"^# (?=(devices|limits|partition|archive) = )", re.MULTILINE)
EVERY: Final = pytest.mark.parametrize("name", ["chat", *SCHEMAS])


def kinds(text: str) -> dict[str, Any]:
    return dict(tomllib.loads(text)["kind"])


@EVERY
def test_a_draft_is_accepted(facts_of: FactsOf, name: str) -> None:
    facts = facts_of(name)
    declaration = load(draft(facts), facts, name)
    assert all(kind.devices is None for kind in declaration.kinds)


@EVERY
def test_what_a_draft_suggests_is_accepted(facts_of: FactsOf, name: str) -> None:
    facts = facts_of(name)
    declaration = load(SUGGESTED.sub("", draft(facts)), facts, name)
    assert any(kind.devices is not None for kind in declaration.kinds)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        pytest.param("chat", {"profile": "id", "conversation": "user_id", "message": "conversation"}, id="chat"),
        pytest.param(
            "v1_on_supabase",
            {
                "profile": "id",
                "conversation": "user_id",
                "message": "conversation",
                "vote": "message",
                "attachment": "message",
                "daily_usage": "user_id",
                "usage_log": "user_id",
            },
            id="V1 on Supabase",
        ),
        pytest.param(
            "ai_chat_template",
            {
                "user": "id",
                "chat": "userId",
                "message_v2": "chat",
                "vote_v2": "message_v2",
                "stream": "chat",
                "suggestion": "userId",
                "document": "userId",
            },
            id="a chat template",
        ),
        pytest.param(
            "chat_ui",
            {
                "profile": "user_id",
                "workspace": "user_id",
                "folder": "workspace",
                "chat": "workspace",
                "message": "chat",
                "file": "user_id",
                "message_file_item": "file",
            },
            id="a chat UI",
        ),
        pytest.param(
            "large_ai_chat",
            {
                "user": "id",
                "session": "user_id",
                "topic": "user_id",
                "thread": "topic",
                "message": "thread",
                "embedding": "user_id",
            },
            id="a large chat",
        ),
        pytest.param(
            "web_ui",
            {
                "user": "id",
                "folder": "user_id",
                "chat": "user_id",
                "chat_message": "chat",
                "tag": "user_id",
                "feedback": "user_id",
            },
            id="a web UI",
        ),
        pytest.param(
            "python_chat",
            {"user": "id", "thread": "userId", "step": "thread", "element": "thread", "feedback": "thread"},
            id="a Python framework",
        ),
    ],
)
def test_tables_are_found_by_owner_or_parent(facts_of: FactsOf, name: str, paths: dict[str, str]) -> None:
    found = kinds(draft(facts_of(name)))
    assert {kind: each.get("owner") or each["parent"]["kind"] for kind, each in found.items()} == paths


def test_lists_have_a_sensible_order(facts_of: FactsOf) -> None:
    newest = {
        name: {kind: each.get("newest") for kind, each in kinds(draft(facts_of(name))).items()}
        for name in ("chat", *SCHEMAS)
    }
    assert newest["chat"] == {"profile": None, "conversation": "updated_at", "message": "created_at"}
    assert newest["chat_ui"]["message"] == "sequence_number"
    assert newest["ai_chat_template"]["chat"] == "createdAt"
    assert newest["web_ui"]["chat_message"] == "created_at"
    assert newest["python_chat"]["step"] == "createdAt"


def test_secrets_and_what_does_not_travel_are_left_out_and_named(facts_of: FactsOf) -> None:
    text = draft(facts_of("ai_chat_template"))
    assert "# Left out: `password` (a secret?).\n" in text
    assert kinds(text)["user"]["columns"] == ["email"]
    text = draft(facts_of("chat_ui"))
    assert "# Left out: `tags` (tsvector does not travel).\n" in text
    assert "`openai_api_key` (a secret?)" in text


@pytest.mark.parametrize(
    "name", ["password_hash", "encryptedPassword", "accessToken", "api_key", "openaiApiKey", "otp"]
)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["total_tokens_used", "tokens", "tokenCount", "token_limit", "key", "objectKey", "title"]
)
def test_a_harmless_name_is_no_secret(name: str) -> None:
    assert not is_secret(name)


def test_tables_that_cannot_be_synced_are_listed_with_the_reason(facts_of: FactsOf, odd: Facts) -> None:
    assert "#   app.three: its key (a integer, b integer, c integer) is not one or two" in draft(odd)
    large = draft(facts_of("large_ai_chat"))
    assert "#   public.message_translates: more than two foreign keys lead to a user." in large
    assert "#   public.migrations: it has no primary key\n" in large
    assert "storage" not in draft(facts_of("v1_on_supabase"))


def test_a_gate_is_suggested_where_there_is_a_plan(facts_of: FactsOf) -> None:
    text = draft(facts_of("chat"))
    gate = re.search(r'^# \[gate\]\n# table = "public.profiles"\n# column = "subscription_tier"\n', text, re.MULTILINE)
    assert gate is not None


def test_only_some_tables_come_with_those_above_them(facts_of: FactsOf) -> None:
    text = draft(facts_of("large_ai_chat"), ["messages"])
    assert list(kinds(text)) == ["topic", "thread", "message"]
    assert "Not drafted" not in text
    assert list(kinds(draft(facts_of("chat"), ["public.profiles", "conversations"]))) == ["profile", "conversation"]


def test_a_table_that_is_asked_for_in_vain_is_named(facts_of: FactsOf, odd: Facts) -> None:
    with pytest.raises(ConfigError, match=r"There is no table `mesages`. Did you mean `public.messages`\?"):
        draft(facts_of("chat"), ["mesages"])
    with pytest.raises(ConfigError, match=r"`app\.moods` cannot be synced: its key"):
        draft(odd, ["app.moods"])


def test_a_database_without_tables_to_sync_is_told_why() -> None:
    with pytest.raises(ConfigError, match="`atlas-sync migrate` makes the chat app's tables"):
        draft(Facts())
    with pytest.raises(ConfigError, match=r"\npublic.notes: it has no primary key"):
        draft(Facts((Table("public", "notes", "app", 0),)))


def test_names_of_the_database_stay_what_they_are_in_the_file() -> None:
    """Whoever may create a table writes no line of the file by its name."""
    name = 'a"\n[gate]\ntable = "x'
    column = Column(name, UUID, required=True)
    table = Table(
        name, name, "app", 0, (Column("user_id", UUID), column, Column(name + "2", Type("point", "b"))), (name,)
    )
    broken = Table("public", name, "app", 0)
    facts = Facts((table, broken))
    declaration = load(draft(facts), facts, "draft")
    assert declaration.gate is None
    assert [kind.table for kind in declaration.kinds] == [(name, name)]


def test_a_large_table_without_order_is_questioned() -> None:
    columns = (Column("id", UUID, required=True), Column("user_id", UUID, required=True))
    facts = Facts((Table("public", "notes", "app", 2_000_000, columns, ("id",)),))
    assert 'window = "all"  # the table has some 2,000,000 rows' in draft(facts)
