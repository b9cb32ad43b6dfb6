"""Schemas: what is read, what is refused and with which words, and how rows are mapped between two of them."""

import hashlib
from copy import deepcopy
from typing import Any
from uuid import UUID

import msgspec
import pytest

from atlas_sync.checks import ProtocolError
from atlas_sync.codec import CODECS
from atlas_sync.mutation import Delete, Insert, Update
from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Column, Devices, Schema
from atlas_sync.wire import Wire
from protocol import schema as of_the_server
from tests.atlas_sync.second_schema import PLAIN, SECOND

A = UUID(int=2)


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The second schema with one value changed, or removed (`to` is ...)."""
    plain = deepcopy(PLAIN)
    inner: Any = plain
    for step in path[:-1]:
        inner = inner[step]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return plain


# ---- Reading -------------------------------------------------------------------------------------------------------


def test_a_schema_is_read_with_everything_that_it_says() -> None:
    assert [kind.name for kind in SECOND] == ["topic", "thread", "post", "vote", "setting", "document"]
    post, vote = SECOND["post"], SECOND["vote"]
    assert (post.tag, post.key, post.parent, post.newest, post.window, post.dated) == (
        "P",
        ("uuid",),
        "thread",
        "posted",
        5,
        "posted",
    )
    assert post.columns[:5] == (
        Column("thread_id", "bigint"),
        Column("topic_id", "text"),
        Column("kind", "text"),
        Column("body", "json"),
        Column("tags", "array", nullable=True),
    )
    assert (vote.key, vote.window, vote.devices) == (("text", "int"), 0, Devices(insert=("up",), update=("up",)))
    assert (SECOND["setting"].devices, SECOND["setting"].window) == (None, None)
    assert dict(post.limits) == {"kind": ("note", "question"), "digest": 8}
    assert ("post" in SECOND, "chat" in SECOND, SECOND.get("chat")) == (True, False, None)
    assert SECOND.above("post") == (("thread", "thread_id"), ("topic", "topic_id"))
    assert SECOND.below("topic") == (("thread", "topic_id"), ("post", "topic_id"))
    assert (SECOND.above("vote"), SECOND.below("post")) == ((), ())


@pytest.mark.parametrize("schema", [SECOND, Schema.chat()], ids=["second", "chat"])
def test_a_schema_is_written_as_it_is_read(schema: Schema) -> None:
    assert Schema.parse(schema.plain()) == schema


@pytest.mark.parametrize("schema", [SECOND, Schema.chat()], ids=["second", "chat"])
def test_a_schema_is_one_of_the_server(schema: Schema) -> None:
    msgspec.convert(schema.plain(), of_the_server.Schema, strict=True)


def test_the_hash_of_the_chat_schema_is_the_one_that_the_server_makes() -> None:
    def without_nil(value: Any) -> Any:
        return {k: without_nil(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    kinds = [without_nil(kind) for kind in Schema.chat().plain()["kinds"]]
    encoded = msgspec.json.encode(msgspec.convert(kinds, tuple[of_the_server.Kind, ...]))
    assert hashlib.sha256(encoded).hexdigest()[:16] == Schema.chat().hash


def test_fields_and_types_from_the_future_are_tolerated() -> None:
    plain = changed("kinds", 0, "columns", 1, to=["pinned", "tristate?", "more"])
    plain["kinds"][0]["colour"] = plain["colour"] = "blue"
    assert Schema.parse(plain)["topic"].columns[1] == Column("pinned", "tristate", nullable=True)


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ([], "not a map"),
        (changed("hash", to=...), "hash: missing"),
        (changed("hash", to=7), "hash: not a text"),
        (changed("kinds", to={}), "kinds: not an array"),
        (changed("kinds", 1, to=7), r"kinds: \[1\]: not a map"),
        (changed("kinds", 0, "name", to="Topic"), r"\[0\]: name: not of the form"),
        (changed("kinds", 0, "tag", to="tt"), r"\[0\]: tag: not of the form"),
        (changed("kinds", 0, "tag", to="-"), r"\[0\]: tag: not of the form"),
        (changed("kinds", 0, "tag", to="h"), "two have the tag h"),
        (changed("kinds", 3, "name", to="topic"), "two have the name topic"),
        (changed("kinds", 0, "key", to=[]), "key: not one or two"),
        (changed("kinds", 0, "key", to=["int", "int", "int"]), "key: not one or two"),
        (changed("kinds", 0, "columns", 0, to=["name"]), r"columns: \[0\]: not a name and a type"),
        (changed("kinds", 0, "columns", 0, to=["na-me", "text"]), r"columns: \[0\]: not of the form"),
        (changed("kinds", 0, "columns", 0, to=["pinned", "text"]), "two have the name pinned"),
        (changed("kinds", 0, "newest", to="age"), "newest: not a column"),
        (changed("kinds", 2, "dated", to="age"), "dated: not a column"),
        (changed("kinds", 0, "window", to=-1), "window: negative"),
        (changed("kinds", 1, "parent", to="post"), "thread.parent: no kind before this one"),
        (changed("kinds", 1, "parent", to="thread"), "thread.parent: no kind before this one"),
        (changed("kinds", 1, "columns", 0, to=["topic_id", "uuid"]), "its first column is not its parent's key"),
        (changed("kinds", 1, "columns", to=[]), "newest: not a column"),
        (
            changed("kinds", 2, "columns", 1, to=["topic_id", "uuid"]),
            "its second column is not the key of its parent's",
        ),
        (changed("kinds", 0, "devices", "update", to="name"), "devices: update: not an array"),
        (changed("kinds", 0, "devices", "update", to=["age"]), "topic.devices: not a column"),
        (changed("kinds", 2, "devices", "created", to="age"), "post.devices: not a column"),
        (changed("kinds", 1, "devices", "touches", to="age"), "thread.devices.touches: not a column of its parent"),
        (changed("kinds", 0, "limits", to=[]), "limits: not a map"),
        (changed("kinds", 0, "limits", "name", to=[1]), r"limits: \[0\]: not a text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schema_that_contradicts_itself_is_refused_and_the_place_named(plain: Any, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        Schema.parse(plain)


# ---- Order and keys ------------------------------------------------------------------------------------------------


def topic(key: str, touched: int | None) -> Row:
    return Row("topic", 1, key, {"name": key, "pinned": False, "touched": touched})


def test_rows_are_ordered_by_newest_and_key_with_nil_as_the_oldest() -> None:
    rows = [topic("b", 5), topic("a", 5), topic("é", 5), topic("z", None), topic("c", -7)]
    ordered = sorted(rows, key=SECOND["topic"].rank, reverse=True)
    assert [row.id for row in ordered] == ["é", "b", "a", "c", "z"]
    votes = [Row("vote", 1, key, {"up": True}) for key in (("a", 2), ("b", 1), ("a", 10))]
    assert [row.id for row in sorted(votes, key=SECOND["vote"].rank)] == [("a", 2), ("a", 10), ("b", 1)]


def test_a_row_has_a_place_a_target_and_a_parent() -> None:
    post = Row("post", 1, A, {"thread_id": 7, "posted": 9})
    assert SECOND["post"].place(post) == (9, A)
    assert SECOND["post"].target(post) == (A, 9)
    assert SECOND["post"].parent_of(post) == 7
    vote = Row("vote", 1, ("a", 1), {"up": True})
    assert SECOND["vote"].place(vote) == (None, ("a", 1))
    assert SECOND["vote"].target(vote) == ("a", 1)
    assert SECOND["vote"].parent_of(vote) is None


def test_a_column_is_an_attribute_of_its_row_unless_the_row_has_that_name_itself() -> None:
    post = Row("post", 1, A, {"kind": "note", "votes": 3})
    assert (post.votes, post.kind, post.values["kind"]) == (3, "post", "note")
    with pytest.raises(AttributeError, match="post has no column age"):
        _ = post.age


# ---- Mapping -------------------------------------------------------------------------------------------------------

JSON = CODECS["json"]


def mapped(theirs: dict[str, Any], *rows: list[Any]) -> tuple[Row | Deleted, ...]:
    return Wire(JSON, Schema.parse(theirs), SECOND).rows(list(rows))


def test_rows_are_mapped_by_the_names_of_their_kinds_and_columns() -> None:
    theirs = changed("kinds", 0, "columns", to=[["touched", "instant"], ["icon", "text"], ["name", "text?"]])
    theirs["kinds"][0]["devices"] = None
    theirs["kinds"][0]["tag"] = "Z"
    rows = mapped(theirs, ["Z", 1, "a", 5, "star", None, "more"], ["-Z", 2, "a"], ["t", 3, "a"], ["-t", 3, "a"])
    assert rows == (Row("topic", 1, "a", {"name": None, "pinned": None, "touched": 5}), Deleted("topic", 2, "a"))


def test_a_column_of_another_type_is_another_column_but_integers_are_integers() -> None:
    theirs = changed("kinds", 0, "columns", to=[["name", "json"], ["pinned", "later?"], ["touched", "instant"]])
    (row,) = mapped(theirs, ["t", 1, "a", '"x"', {}, 7])
    assert row == Row("topic", 1, "a", {"name": None, "pinned": None, "touched": 7})
    theirs = changed("kinds", 2, "columns", 6, to=["votes", "bigint"])
    row = mapped(theirs, ["P", 1, str(A), 7, "t", "note", "{}", None, None, "9007199254740993", *[None] * 6, 9])[0]
    assert isinstance(row, Row)
    assert row.votes == 2**53 + 1


@pytest.mark.parametrize(
    "theirs",
    [
        changed("kinds", 0, to={**PLAIN["kinds"][0], "key": ["uuid"], "tag": "t"}),
        changed("kinds", 0, to={**PLAIN["kinds"][0], "key": ["later"], "tag": "t"}),
        changed("kinds", 0, to={**PLAIN["kinds"][0], "name": "theme"}),
        changed("kinds", 0, to={**PLAIN["kinds"][0], "key": ["text", "text"]}),
    ],
    ids=["another key", "a key of a later version", "another name", "a key of two"],
)
def test_a_kind_of_another_key_is_another_kind(theirs: dict[str, Any]) -> None:
    theirs["kinds"] = theirs["kinds"][:1]
    wire = Wire(JSON, Schema.parse(theirs), SECOND)
    assert wire.rows([["t", 1, "a", "n", True, 5], ["-t", 1, "a"]]) == ()
    assert wire.mutation(Insert("topic", "a", {"name": "n"}, 1)) == ()


def test_without_a_schema_of_its_own_a_device_has_the_server_s_columns_that_it_understands() -> None:
    theirs = Schema.parse(changed("kinds", 0, "columns", 1, to=["pinned", "later"]))
    (row,) = Wire(JSON, theirs).rows([["t", 1, "a", "n", {}, 5]])
    assert row == Row("topic", 1, "a", {"name": "n", "touched": 5})


def test_mutations_are_written_for_the_server_s_schema() -> None:
    theirs = changed("kinds", 0, "tag", to="Z")
    theirs["kinds"][2]["dated"] = None
    wire = Wire(JSON, Schema.parse(theirs), SECOND)
    assert wire.mutation(Insert("topic", "a", {"name": "n"}, 1)) == ("+", "Z", "a", {"name": "n"}, 1)
    assert wire.mutation(Update("post", (A, 9), {"body": [1]}, 1)) == ("~", "P", A, {"body": "[1]"}, 1)
    assert Wire(JSON, SECOND).mutation(Delete("post", (A, 9))) == ("-", "P", (A, 9))


def test_the_instant_of_a_dated_kind_follows_both_columns_of_its_key() -> None:
    plain = changed("kinds", 3, "dated", to="day")
    plain["kinds"][3] |= {"columns": [["up", "bool"], ["day", "instant"]]}
    wire = Wire(JSON, Schema.parse(plain))
    assert wire.mutation(Delete("vote", (("a", 1), 9))) == ("-", "9", ("a", 1, 9))
    assert wire.mutation(Insert("vote", ("a", 1), {"up": True}, 9)) == ("+", "9", ("a", 1), {"up": True}, 9)
