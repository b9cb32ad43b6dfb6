"""Which steps are left is a matter of what the catalog says, and of nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.operations.adoptable import NotAdoptableError, check
from server.operations.adoption import LATEST, SPARE, horizon, is_needed, plan

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TEXT, UUID, INSTANT = "text", "uuid", "timestamp with time zone"


def column(kind: str, default: str | None = None, *, required: bool = False) -> dict[str, Any]:
    return {"type": kind, "required": required, "default": default, "identity": False}


def constraint(name: str, kind: str, definition: str, *, tab: str = "messages", **more: Any) -> dict[str, Any]:
    about = {"validated": True, "inherited": True, "cascades": False, "columns": ["id"]}
    return {"tab": tab, "name": name, "kind": kind, "def": definition, **about, **more}


def index(name: str, *, tab: str = "messages", **more: Any) -> dict[str, Any]:
    about = {"valid": True, "unique": False, "constraint": False}
    return {"tab": tab, "name": name, "def": f"CREATE INDEX {name} ON public.{tab} USING btree (id)", **about, **more}


def facts() -> dict[str, Any]:
    """Of the app's tables as it made them."""
    table = {"kind": "r", "owner": "app", "mine": True, "secured": False, "forced": False, "comment": None}
    names = ("triggers", "policies", "grants", "column_grants", "unsecured", "kept_open", "views", "policies_elsewhere")
    others = ("functions", "row_functions", "rules", "key_views", "sequences", "publications", "referenced_by", "usage")
    return {
        "now": NOW.timestamp(),
        "tables": {name: {**table, "told_by_key": False} for name in ("profiles", "conversations", "messages")},
        "columns": {
            **{f"profiles.{name}": column(TEXT) for name in ("subscription_tier", "subscription_status")},
            **{f"{name}.id": column(UUID, required=True) for name in ("profiles", "conversations", "messages")},
            "conversations.user_id": column(UUID),
            "conversations.title": column(TEXT),
            **{f"conversations.{name}": column(INSTANT) for name in ("created_at", "updated_at")},
            "messages.conversation_id": column(UUID),
            **{f"messages.{name}": column(TEXT) for name in ("role", "content")},
            "messages.created_at": column(INSTANT),
        },
        "constraints": [
            constraint("messages_pkey", "p", "PRIMARY KEY (id)"),
            constraint("conversation", "f", "FOREIGN KEY (conversation_id) …", columns=["conversation_id"]),
        ],
        "indexes": [index("messages_pkey", unique=True, constraint=True), index("by_time")],
        "auth": False,
        **dict.fromkeys((*names, *others)),
    }


def bounded(end: datetime, *, validated: bool = True) -> dict[str, Any]:
    """The same, with the constraint of an earlier try."""
    found = facts()
    definition = f"CHECK (((created_at IS NOT NULL) AND (created_at < '{end:%Y-%m-%d %H:%M:%S}+00'::timestamp…)))"
    found["constraints"].append(constraint("atlas_bounds", "c", definition, validated=validated))
    return found


def said(found: dict[str, Any], newest: datetime | None = None, nulls: tuple[str, ...] = ()) -> list[str]:
    return [step.says for step in plan(found, newest, nulls)]


def about_bounds(found: dict[str, Any], newest: datetime | None = None) -> list[str]:
    return [says.split()[0] for says in said(found, newest) if "bounds" in says or "old table holds" in says]


def test_an_empty_database_and_a_partitioned_table_need_nothing() -> None:
    empty = {**facts(), "tables": None}
    partitioned = facts()
    partitioned["tables"]["messages"]["kind"] = "p"
    for found in (empty, partitioned):
        assert not is_needed(found)
        assert plan(found, None, ()) == []


def test_the_last_step_is_the_only_one_that_locks_both_tables_against_everybody() -> None:
    planned = plan(facts(), None, ())
    assert [step.locks for step in planned if "ACCESS EXCLUSIVE on messages and conversations" in step.locks] == [
        planned[-1].locks
    ]
    assert all(step.kind == "brief" for step in planned if "ACCESS EXCLUSIVE" in step.locks)


def test_what_takes_long_is_one_statement_by_itself() -> None:
    found = plan(facts(), None, ("messages.created_at",))
    assert {step.kind for step in found} == {"brief", "index", "scan", "rows"}
    assert all(len(step.statements) == 1 for step in found if step.kind != "brief")


def test_what_is_done_is_not_done_again() -> None:
    whole = said(facts())
    found = bounded(NOW + timedelta(days=40))
    found["columns"]["messages.updated_at"] = column(INSTANT, "now()")
    for name in ("conversations.created_at", "conversations.updated_at", "messages.created_at"):
        found["columns"][name] = column(INSTANT, "now()", required=name.startswith("conversations"))
    names = ("atlas_messages_v1_pkey", "atlas_messages_v1_newest")
    found["indexes"] += [index(name, unique=name.endswith("pkey")) for name in names]
    found["indexes"].append(index("conversations_newest", tab="conversations"))
    cascading: dict[str, Any] = {"columns": ["conversation_id"], "cascades": True}
    found["constraints"].append(constraint("atlas_messages_v1_conversation", "f", "FOREIGN KEY …", **cascading))
    assert len(whole) > 15
    assert [says.split(",")[0] for says in said(found)] == ["put a partitioned table in the place of messages"]


def test_an_index_that_is_not_valid_is_dropped_and_built_anew() -> None:
    found = facts()
    found["indexes"].append(index("atlas_messages_v1_newest", valid=False))
    about = [says for says in said(found) if "atlas_messages_v1_newest" in says]
    assert about == ["drop what is left of atlas_messages_v1_newest", "build the index atlas_messages_v1_newest"]


def test_a_bound_is_renewed_when_it_has_come_near_and_only_then() -> None:
    far = bounded(NOW + timedelta(days=2))
    assert about_bounds(far) == []
    assert about_bounds(bounded(NOW + timedelta(days=2), validated=False)) == ["validate"]
    assert about_bounds(bounded(NOW + timedelta(hours=23))) == ["drop", "note", "validate"]
    assert about_bounds(far, NOW + timedelta(days=3)) == ["drop", "note", "validate"]


@pytest.mark.parametrize("newest", [None, NOW - timedelta(days=900), NOW + timedelta(days=1), NOW + LATEST])
def test_the_old_table_ends_with_a_month_beyond_every_message_with_days_to_spare(newest: datetime | None) -> None:
    end = horizon(NOW, newest)
    assert (end.day, end.hour, end.minute, end.second, end.microsecond) == (1, 0, 0, 0, 0)
    assert end > max(NOW, newest or NOW) + SPARE


def test_a_message_dated_wrongly_is_no_reason_for_a_table_without_end() -> None:
    with pytest.raises(NotAdoptableError, match="Correct created_at"):
        horizon(NOW, NOW + LATEST + timedelta(seconds=1))


def test_a_varying_text_is_a_text_and_another_type_of_an_instant_is_not() -> None:
    found = facts()
    found["columns"]["messages.role"] = column("character varying")
    check(found)
    found["columns"]["messages.updated_at"] = column("timestamp without time zone")
    with pytest.raises(NotAdoptableError, match=r"messages.updated_at is timestamp without time zone, and must be"):
        check(found)


def test_a_view_or_a_table_of_somebody_else_stops_it_before_anything_is_done() -> None:
    found = facts()
    about = {"kind": "v", "def": "SELECT", "options": "", "owner": "reports", "mine": False}
    found["views"] = [{"name": "recent", **about}]
    with pytest.raises(NotAdoptableError, match=r"recent looks into public.messages, and belongs to reports"):
        check(found)
    found = facts()
    found["tables"]["conversations"]["mine"] = False
    with pytest.raises(NotAdoptableError, match=r"public.conversations belongs to app. Migrate with that login"):
        check(found)


def test_whoever_reached_all_rows_goes_on_doing_so_whatever_its_name() -> None:
    found = facts()
    found["unsecured"] = [{"tab": table, "role": '"The App"'} for table in ("profiles", "messages")]
    found["kept_open"] = [{"tab": "profiles", "role": '"The App"'}]
    planned = plan(found, None, ())
    assert not any("go on reaching all rows of profiles" in step.says for step in planned)
    assert any('ON public.messages TO "The App" USING (true)' in each for each in planned[-1].statements)
