"""What is said of a declaration that does not fit its database, and what one that fits resolves to."""

import re
from collections.abc import Callable
from typing import Final

import pytest

from protocol.schema import Column as Told
from protocol.schema import Type
from server.declaration import model
from server.declaration.catalogue import Facts
from server.declaration.chat import CHAT_TOML
from server.declaration.check import load
from server.declaration.file.problems import DeclarationError
from server.declaration.model import Declaration, Field

NOTE: Final = '[kind.note]\ntable = "app.notes"\nowner = "user_id"\n'
"""A kind, in three lines."""
NUMBER: Final = '[kind.number]\ntable = "app.numbers"\nowner = "owner"\n'
MESSAGE: Final = '[kind.message]\ntable = "messages"\nowner = "owner"\n'


def said(text: str, facts: Facts) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        load(text, facts, "sync.toml")
    return [f"{place.line}:{place.column}: {says}" for place, says in caught.value.problems]


def kind(text: str, facts: Facts) -> model.Kind:
    return load(text, facts, "sync.toml").kinds[-1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            NOTE.replace("notes", "nots"), "2:1: There is no table `app.nots`. Did you mean `app.notes`?", id="no table"
        ),
        pytest.param(
            NOTE.replace("app.notes", "Notes"),
            "2:1: There is no table `public.Notes`. Did you mean `app.notes`?",
            id="a table of another schema",
        ),
        pytest.param(NOTE.replace("notes", "few"), "2:1: `app.few` is a view", id="a view"),
        pytest.param(
            NOTE.replace("notes", "parts_1"),
            "2:1: `app.parts_1` is a partition. Name the whole table, `app.parts`.",
            id="a partition",
        ),
        pytest.param(
            NOTE + 'columns = ["heding"]',
            "4:12: `app.notes` has no column `heding`. Did you mean `heading`?",
            id="no column",
        ),
        pytest.param(NOTE.replace('"user_id"', '"user"'), "3:1: `app.notes` has no column `user`", id="no owner"),
        pytest.param(
            NOTE + 'columns = ["near"]', "4:12: `near` is of type point, which does not travel.", id="a point"
        ),
        pytest.param(
            NOTE + 'columns = ["pair"]', "4:12: `pair` is of type app.pair, which does not travel.", id="a composite"
        ),
        pytest.param(NOTE + 'columns = ["datas"]', "4:12: `datas` is of type bytea[]", id="an array of bytea"),
        pytest.param(
            NOTE + 'columns = ["*"]', '4:1: `took` is of type interval, which does not travel. Add `"-took"`', id="all"
        ),
        pytest.param(
            NOTE + 'columns = ["*", "-tok"]',
            "4:17: `app.notes` has no column `tok`. Did you mean `took`?",
            id="all but none",
        ),
        pytest.param(
            NOTE + 'columns = ["id"]', "4:12: `id` is the key, which every row has.", id="the key as a column"
        ),
        pytest.param(
            NOTE + 'columns = ["created_at", "createdAt"]',
            "4:26: `created_at` and `createdAt` are one name to clients, `createdAt`.",
            id="one name in TypeScript",
        ),
        pytest.param(
            NOTE + 'columns = ["code", "code as c"]', "4:20: `code` is in the list twice.", id="a column twice"
        ),
        pytest.param(
            NOTE.replace("user_id", "team"), "3:1: `team` is of type integer. An owner must be", id="an int owns"
        ),
        pytest.param(NOTE + 'key = "code"', "4:1: `code` may be NULL, and is in the key.", id="NULL in the key"),
        pytest.param(NOTE + 'key = "needed"', "4:1: Two rows may agree in `needed`.", id="a key that is not unique"),
        pytest.param(NOTE + 'key = ["id", "day"]', "4:14: `day` in the key", id="a day in the key"),
        pytest.param(
            NOTE.replace("notes", "keyless").replace("user_id", "owner"),
            "1:7: `app.keyless` has no primary key.",
            id="no key",
        ),
        pytest.param(
            NOTE.replace("notes", "three").replace("user_id", "owner"),
            "1:7: The primary key of `app.three` has 3 columns.",
            id="a wide key",
        ),
        pytest.param(
            NOTE.replace("notes", "moods").replace("user_id", "owner"),
            "1:7: `mood` in the key of `app.moods`",
            id="an enumeration in the key",
        ),
        pytest.param(
            NOTE.replace("notes", "moods").replace("user_id", "owner"),
            "1:7: `name` in the key of `app.moods`",
            id="a text of any case in the key",
        ),
        pytest.param(
            NOTE + 'columns = ["day"]\nnewest = "day"',
            "5:1: `day` is of type date, which orders no list.",
            id="an order",
        ),
        pytest.param(
            NOTE + '[kind.n]\ntable = "app.numbers"\nparent = { kind = "note", column = "label" }',
            "6:27: `label` is of type text, and the key of `app.notes` of type uuid.",
            id="a parent's key of another type",
        ),
        pytest.param(
            NOTE + '[kind.p]\ntable = "app.pairs"\nparent = { kind = "note", column = "note_id" }\n'
            '[kind.n]\ntable = "app.numbers"\nparent = { kind = "p", column = "note" }',
            "9:1: The key of `p` has two columns. A parent's key has one.",
            id="a parent with a key of two columns",
        ),
        pytest.param(
            NOTE + 'columns = ["code"]\ndevices = { insert = ["code"] }',
            "5:13: A row of `app.notes` needs `needed`, which devices would not insert. Add it to `insert`",
            id="a column that an insert does not fill",
        ),
        pytest.param(
            NUMBER + 'columns = ["label"]\ndevices = { insert = ["label"] }',
            "5:13: The database makes `id`, and devices cannot make such ids.",
            id="a key that the database makes",
        ),
        pytest.param(
            NOTE + 'columns = ["length"]\ndevices = { update = ["length"] }',
            "5:23: `length` is computed by the database.",
            id="devices write a computed column",
        ),
        pytest.param(
            NUMBER + 'columns = ["seen"]\ndevices = { update = ["seen"] }',
            "5:23: `seen` is computed by the database.",
            id="devices write an identity",
        ),
        pytest.param(
            NOTE + 'columns = ["user_id"]\ndevices = { update = ["user_id"] }',
            "5:23: `user_id` is set by the server.",
            id="devices write the owner",
        ),
        pytest.param(
            NOTE + 'columns = ["created_at"]\ndevices = { update = ["created_at"], updated = "created_at" }',
            "5:23: `created_at` is set by the server.",
            id="devices write an instant of the server",
        ),
        pytest.param(
            NOTE + 'devices = { updated = "day" }',
            "4:13: `day` of `app.notes` is of type date. `updated` must be a timestamp",
            id="a day",
        ),
        pytest.param(
            NOTE + 'columns = ["needed"]\ndevices = { insert = ["needed"], touches = "at" }',
            "5:34: `touches` is a column of the parent, and this kind has none.",
            id="touches without parent",
        ),
        pytest.param(
            NOTE
            + '[kind.p]\ntable = "app.pairs"\nparent = { kind = "note", column = "note_id" }\ncolumns = ["worth"]\n'
            'devices = { insert = ["worth"], touches = "a" }',
            "8:33: `app.notes` has no column `a`.",
            id="touches what the parent has not",
        ),
        pytest.param(
            NOTE + 'columns = ["needed"]\ndevices = { insert = ["needed"], owner = "user_id" }',
            "5:34: Inserts set the owner of such a kind anyhow.",
            id="the owner twice",
        ),
        pytest.param(
            NOTE + 'columns = ["team"]\ndevices = { update = ["team"] }\nlimits = { team = "9 bytes" }',
            "6:12: `team` is of type integer, which has no length.",
            id="a limit of a number",
        ),
        pytest.param(
            NOTE + '[gate]\ntable = "app.notes"\ncolumn = "mood"\nsyncs = ["glad"]',
            "5:1: A user may have several rows of `note`, and one must decide.",
            id="a gate with several rows",
        ),
        pytest.param(
            NUMBER + '[gate]\ntable = "app.numbers"\ncolumn = "note"\nsyncs = ["a"]',
            "6:1: `note` is of type uuid. The gate's column must be a text",
            id="a gate of another type",
        ),
        pytest.param(
            NOTE + 'columns = ["at"]\nnewest = "at"\npartition = "month"',
            "6:1: So far only `public.messages`",
            id="a partition of another table",
        ),
        pytest.param(
            MESSAGE + 'columns = ["created_at"]\nnewest = "created_at"\npartition = "month"',
            "6:1: Foreign keys of `public.messages` refer to `public.messages`",
            id="a partition of what is referred to",
        ),
    ],
)
def test_what_does_not_fit_is_said_where_it_stands(odd: Facts, text: str, says: str) -> None:
    lines = said(text, odd)
    assert any(line.startswith(says) for line in lines), lines


def test_a_mistake_is_named_once(odd: Facts) -> None:
    """What follows from it is not named as well."""
    text = (
        NOTE + 'columns = ["heding"]\ndevices = { update = ["heding"] }\nlimits = { heding = "9 bytes" }\nnewest = 1\n'
    )
    assert [line.partition(": ")[0] for line in said(text, odd)] == ["4:12", "7:1"]
    child = (
        NOTE.replace("notes", "nots") + '[kind.p]\ntable = "app.pairs"\nparent = { kind = "note", column = "note_id" }'
    )
    assert [line.partition(": ")[0] for line in said(child, odd)] == ["2:1"]


def test_a_file_and_a_database_are_wrong_at_once(odd: Facts) -> None:
    lines = said(NOTE + 'columns = ["near"]\nwindw = 1\n' + NUMBER.replace('"owner"', '"seen"'), odd)
    assert [line.partition(": ")[0] for line in lines] == ["4:12", "5:1", "8:1"]


def test_the_message_has_a_line_for_each_error(odd: Facts) -> None:
    with pytest.raises(DeclarationError) as caught:
        load(NOTE + 'columns = ["near"]\nwindw = 1\n', odd, "my.toml")
    first, *lines = str(caught.value).split("\n")
    assert first == "The declaration has 2 errors."
    assert [re.sub(r": .*", "", line) for line in lines] == ["my.toml:4:12", "my.toml:5:1"]


# ---- What fits ------------------------------------------------------------------------------------------------------


def test_types_travel(odd: Facts) -> None:
    columns = ["heading", "mood", "moods", "titles", "email", "code", "price", "at", "data", "length", "day"]
    found = kind(NOTE + f"columns = {columns}", odd)
    assert {column.name: (column.field.of, column.field.type) for column in found.columns} == {
        "heading": (Type.TEXT, "text"),
        "mood": (Type.TEXT, "app.mood"),
        "moods": (Type.ARRAY, "app.mood[]"),
        "titles": (Type.ARRAY, "app.title[]"),
        "email": (Type.TEXT, "public.citext"),
        "code": (Type.TEXT, "bpchar"),
        "price": (Type.NUMERIC, "numeric"),
        "at": (Type.INSTANT, "timestamp without time zone"),
        "data": (Type.BYTES, "bytea"),
        "length": (Type.INT, "integer"),
        "day": (Type.DATE, "date"),
    }


def test_all_columns_are_those_of_the_table_but_for_key_owner_and_parent(odd: Facts) -> None:
    left_out = ["near", "spans", "pair", "datas", "took", "createdAt"]
    names = '"*", "odd name as odd_name", ' + ", ".join(f'"-{name}"' for name in left_out)
    found = kind(NOTE + f"columns = [{names}]", odd)
    columns = "team heading mood moods titles email code price at data length needed odd_name created_at day"
    assert [column.name for column in found.columns] == columns.split()
    child = kind(
        NOTE + '[kind.p]\ntable = "app.pairs"\nparent = { kind = "note", column = "note_id" }\ncolumns = ["*"]', odd
    )
    assert [column.name for column in child.columns] == ["note_id", "worth"]
    assert [field.of for field in child.key] == [Type.UUID, Type.INT]


def test_the_parents_key_comes_first_and_is_never_nil(odd: Facts) -> None:
    text = (
        NOTE
        + '[kind.number]\ntable = "app.numbers"\nparent = { kind = "note", column = "note as of" }\ncolumns = ["label"]'
    )
    declaration = load(text, odd, "sync.toml")
    (_, told) = declaration.schema.kinds
    assert told.columns == (Told("of", "uuid"), Told("label", "text?"))
    (_, number) = declaration.kinds
    assert number.parent == model.Parent("note", Field("note", Type.UUID, "uuid", nullable=True))


def test_a_table_that_the_app_partitioned_needs_no_partition_here(odd: Facts) -> None:
    found = kind('[kind.part]\ntable = "app.parts"\nowner = "owner"\ncolumns = ["at"]\nnewest = "at"', odd)
    assert [field.name for field in found.key] == ["id"]
    assert found.dated is None


def test_messages_are_partitioned_where_nothing_refers_to_them(chat: Facts) -> None:
    found = load(CHAT_TOML, chat, "chat.toml").kind["message"]
    assert found.partition == "month"
    assert found.archive == 12
    assert found.dated is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            lambda text: text.replace(
                "[kind.message]",
                '[kind.reply]\ntable = "conversations"\nparent = { kind = "message", column = "id" }\n[kind.message]',
            ).replace(
                '[kind.conversation]\ntag = "c"\ntable = "public.conversations"',
                '[kind.conversation]\ntable = "profiles"',
            ),
            "`message` is partitioned, so it cannot be a parent.",
            id="a partitioned parent",
        ),
        pytest.param(
            lambda text: text.replace(
                'delete = true, created = "created_at", updated = "updated_at", touches', "touches"
            ),
            'The table is partitioned by `created_at`, so an insert must set it. Write `created = "created_at"`.',
            id="an insert without the instant",
        ),
        pytest.param(
            lambda text: text.replace('newest = "created_at"', 'newest = "updated_at"'),
            "So far only `public.messages`",
            id="another instant",
        ),
    ],
)
def test_what_is_partitioned_has_rules_of_its_own(chat: Facts, change: Callable[[str], str], says: str) -> None:
    assert any(says in line for line in said(change(CHAT_TOML), chat)), said(change(CHAT_TOML), chat)


def test_kinds_come_after_their_parents_and_otherwise_as_in_the_file(chat: Facts) -> None:
    blocks = re.split(r"(?=^\[)", CHAT_TOML, flags=re.MULTILINE)
    moved = "".join([blocks[0], blocks[4], blocks[2], blocks[3], blocks[1]])
    declaration: Declaration = load(moved, chat, "chat.toml")
    assert [each.name for each in declaration.kinds] == ["conversation", "message", "profile"]
