"""What devices notice of another declaration: where they need no snapshot, they hold what a new device would get."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.schema import Type
from server.declaration.changes import Change, Need, changes, evidence
from server.declaration.chat import CHAT
from server.declaration.model import Column, Declaration, Devices, Field, Gate, Kind, Parent, Table

UUID = Field("id", Type.UUID, "uuid")
NUMBER = Field("number", Type.INT, "integer")
HOME = Field("home", Type.UUID, "uuid")
FIELDS = {
    name: Field(name, of, type_, nullable=True)
    for name, of, type_ in (("a", Type.TEXT, "text"), ("b", Type.INT, "integer"), ("c", Type.INT, "integer"))
}


# ---- One change ------------------------------------------------------------------------------------------------------


def of(name: str, **others: Any) -> Declaration:
    """The chat schema with one kind as named."""
    return replace(CHAT, kinds=tuple(replace(kind, **others) if kind.name == name else kind for kind in CHAT.kinds))


def message(change: Callable[[Kind], Any]) -> Declaration:
    (kind,) = (kind for kind in CHAT.kinds if kind.name == "message")
    return of("message", **change(kind))


METADATA = Field("metadata", Type.JSON, "jsonb", nullable=True)
WITH_METADATA = message(lambda kind: {"columns": (*kind.columns, Column("metadata", METADATA))})
WITHOUT_ROLE = message(lambda kind: {"columns": tuple(each for each in kind.columns if each.name != "role")})
WITHOUT_MESSAGES = replace(CHAT, kinds=CHAT.kinds[:2])
EACH = {
    "nothing": (CHAT, CHAT, []),
    "the first declaration": (None, CHAT, []),
    "the gate": (CHAT, replace(CHAT, gate=None), [("", Need.NO)]),
    "the values of the gate": (
        CHAT,
        replace(CHAT, gate=Gate("profile", FIELDS["a"], syncs=("core", "studio", "pro"))),
        [("", Need.NO)],
    ),
    "a new kind": (WITHOUT_MESSAGES, CHAT, [("message", Need.IF_ROWS)]),
    "a new kind of which a new device gets nothing": (
        WITHOUT_MESSAGES,
        of("message", window=0),
        [("message", Need.NO)],
    ),
    "a new kind below one of which a new device gets nothing": (
        replace(of("conversation", window=0), kinds=of("conversation", window=0).kinds[:2]),
        of("conversation", window=0),
        [("message", Need.NO)],
    ),
    "a kind that is gone": (CHAT, WITHOUT_MESSAGES, [("message", Need.YES)]),
    "a new column": (CHAT, WITH_METADATA, [("message", Need.IF_VALUES)]),
    "a column that is gone": (CHAT, WITHOUT_ROLE, [("message", Need.IF_ROWS)]),
    "the order of columns": (
        CHAT,
        message(lambda kind: {"columns": (kind.columns[0], *reversed(kind.columns[1:]))}),
        [],
    ),
    "another type": (
        WITH_METADATA,
        message(lambda kind: {"columns": (*kind.columns, Column("metadata", replace(METADATA, type="json")))}),
        [("message", Need.IF_ROWS)],
    ),
    "NULL permitted": (
        CHAT,
        message(
            lambda kind: {
                "columns": tuple(replace(each, field=replace(each.field, nullable=True)) for each in kind.columns)
            }
        ),
        [],
    ),
    "another column under its name": (
        CHAT,
        message(
            lambda kind: {
                "columns": tuple(
                    replace(each, field=replace(each.field, name="body")) if each.name == "content" else each
                    for each in kind.columns
                )
            }
        ),
        [("message", Need.IF_ROWS)],
    ),
    "a larger window": (CHAT, of("conversation", window=51), [("conversation", Need.IF_ROWS)]),
    "all": (CHAT, of("conversation", window=None), [("conversation", Need.IF_ROWS)]),
    "a smaller window": (CHAT, of("conversation", window=49), [("conversation", Need.NO)]),
    "another order": (CHAT, of("conversation", newest="created_at"), [("conversation", Need.IF_ROWS)]),
    "another order of all": (
        of("conversation", window=None),
        of("conversation", window=None, newest=None),
        [("conversation", Need.NO)],
    ),
    "the tag": (CHAT, of("profile", tag="q"), [("profile", Need.YES)]),
    "the table": (CHAT, of("profile", table=Table("public", "people")), [("profile", Need.YES)]),
    "the key": (CHAT, of("conversation", key=(NUMBER,)), [("conversation", Need.YES)]),
    "the owner": (CHAT, of("conversation", owner=HOME), [("conversation", Need.YES)]),
    "the parent": (CHAT, of("message", parent=Parent("profile", HOME)), [("message", Need.YES)]),
    "partitions": (
        CHAT,
        of("message", partition=None, archive=None),
        [("message", Need.YES), ("message", Need.IF_ARCHIVED)],
    ),
    "the age of archived rows": (CHAT, of("message", archive=24), []),
    "an archive that is gone": (CHAT, of("message", archive=None), [("message", Need.IF_ARCHIVED)]),
    "a new archive": (of("message", archive=None), CHAT, [("message", Need.IF_ARCHIVED)]),
    "what devices may write": (CHAT, of("conversation", devices=Devices(delete=True)), [("conversation", Need.NO)]),
    "what may be streamed": (CHAT, of("message", streams=()), [("message", Need.NO)]),
    "limits": (CHAT, of("conversation", limits={}), [("conversation", Need.NO)]),
}


@pytest.mark.parametrize(("before", "after", "expected"), EACH.values(), ids=EACH)
def test_each_change_says_whether_devices_need_a_snapshot(
    before: Declaration | None, after: Declaration, expected: list[tuple[str, Need]]
) -> None:
    assert [(change.kind, change.need) for change in changes(before, after)] == expected


def test_what_becomes_of_open_streams_is_said() -> None:
    some = of("message", streams=("content", "role"), ended=HOME)
    assert [change.says for change in changes(CHAT, some)] == [
        "Column role of kind message may be streamed",
        "How streams of kind message ended is noted in its column home",
    ]
    assert [change.says for change in changes(some, of("message", streams=("role",)))] == [
        "Column content of kind message is streamed no more: its open streams end, and rows get their texts",
        "How streams of kind message ended is noted no more",
    ]


def test_the_evidence_is_looked_up_in_the_archive_too() -> None:
    (change,) = changes(CHAT, WITH_METADATA)
    assert evidence(WITH_METADATA, change) == (
        "EXISTS (SELECT FROM public.messages t WHERE t.metadata IS NOT NULL) OR "
        "EXISTS (SELECT FROM public.messages_archive t WHERE t.metadata IS NOT NULL)"
    )
    (change,) = changes(WITHOUT_MESSAGES, of("message", archive=None))
    assert evidence(of("message", archive=None), change) == "EXISTS (SELECT FROM public.messages t)"
    (change,) = changes(CHAT, WITHOUT_MESSAGES)
    assert evidence(WITHOUT_MESSAGES, change) is None


def test_an_archive_that_is_no_longer_declared_is_looked_at_too() -> None:
    for before, after in ((CHAT, of("message", archive=None)), (of("message", archive=None), CHAT)):
        (change,) = changes(before, after)
        assert evidence(after, change) == "EXISTS (SELECT FROM public.messages_archive t)"


# ---- Any change ------------------------------------------------------------------------------------------------------

Value = int | None
RowOf = dict[str, Value]
Data = dict[str, dict[int, RowOf]]
"""The rows of each table by their keys: the column `home`, and values of FIELDS."""
View = dict[str, dict[int, RowOf]]
"""The rows that a device holds, by kind and key, as the schema names their columns."""


@st.composite
def declarations(draw: st.DrawFn) -> Declaration:
    """Up to two kinds of three tables, the second perhaps below the first."""
    kinds: list[Kind] = []
    for name in draw(st.sampled_from([(), ("one",), ("one", "two"), ("two",)])):
        below = bool(kinds) and draw(st.booleans())
        taken = draw(st.lists(st.sampled_from([*FIELDS]), unique=True))
        home = (Column("home", HOME),) if below else ()
        kinds.append(
            Kind(
                name,
                draw(st.sampled_from("xy" if name == "one" else "zy")),
                Table("public", draw(st.sampled_from(["t", "u"]) if name == "one" else st.just("v"))),
                (UUID,),
                (*home, *(Column(each, FIELDS[draw(st.sampled_from([each, "c"]))]) for each in taken)),
                owner=None if below else UUID,
                parent=Parent("one", HOME) if below else None,
                newest=draw(st.sampled_from([None, *taken])),
                window=draw(st.sampled_from([None, 0, 1, 2])),
            )
        )
    if len({kind.tag for kind in kinds}) < len(kinds):
        kinds.pop()
    return Declaration(tuple(kinds))


rows = st.dictionaries(
    st.integers(0, 3),
    st.fixed_dictionaries(
        {"home": st.integers(0, 3), **dict.fromkeys(FIELDS, st.one_of(st.none(), st.integers(0, 2)))}
    ),
    max_size=4,
)
datas = st.fixed_dictionaries({"t": rows, "u": rows, "v": rows})


def given_to_a_new_device(declaration: Declaration, data: Data) -> View:
    view: View = {}
    for kind in declaration.kinds:
        lists: dict[Value, list[tuple[tuple[int, int], int]]] = {}
        for key, row in data[kind.table.name].items():
            home = row["home"] if kind.parent is not None else None
            newest = row[kind.column[kind.newest].field.name] if kind.newest is not None else None
            if kind.parent is None or home in view[kind.parent.kind]:
                lists.setdefault(home, []).append(((-1 if newest is None else newest, key), key))
        view[kind.name] = {
            key: {name: data[kind.table.name][key][column.field.name] for name, column in kind.column.items()}
            for listed in lists.values()
            for _, key in sorted(listed, reverse=True)[: kind.window]
        }
    return view


def as_read_by(declaration: Declaration, view: View) -> View:
    """Unknown kinds and columns are dropped; what is missing is NULL."""
    return {
        kind.name: {key: {name: row.get(name) for name in kind.column} for key, row in view.get(kind.name, {}).items()}
        for kind in declaration.kinds
    }


def is_true(change: Change, after: Declaration, data: Data) -> bool:
    if change.need in (Need.YES, Need.NO):
        return change.need is Need.YES
    held = data[after.kind[change.kind].table.name]
    field = change.field
    return bool(held) if field is None else any(row[field.name] is not None for row in held.values())


@given(declarations(), declarations(), datas)
def test_devices_that_need_no_snapshot_hold_what_a_new_device_gets(
    before: Declaration, after: Declaration, data: Data
) -> None:
    if any(is_true(change, after, data) for change in changes(before, after)):
        return
    held = as_read_by(after, given_to_a_new_device(before, data))
    for kind, fresh in given_to_a_new_device(after, data).items():
        assert {key: held[kind].get(key) for key in fresh} == fresh
    # Of what they have read of the log, and will read, each entry means what it meant.
    for each in after.kinds:
        if each.name in before.kind:
            former = before.kind[each.name]
            assert (former.tag, former.table, former.parent) == (each.tag, each.table, each.parent)
        else:
            assert each.tag not in before.tagged


@given(declarations())
def test_the_same_declaration_changes_nothing(declaration: Declaration) -> None:
    assert changes(declaration, declaration) == []
