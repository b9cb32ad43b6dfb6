"""More users never cost less, and what grows in proportion does; a total is its parts; nothing is negative."""

import math
from dataclasses import asdict, fields, replace
from typing import Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.projection.assumptions import Assumptions, parse
from server.projection.model import SIZES, Client, Costs, Needs, costs, needs
from server.terminal.project import SHIPPED

VALUES: Final = parse(SHIPPED.read_text(), "it").values
BOUNDS: Final = {each.name: (each.metadata["least"], each.metadata["most"]) for each in fields(Assumptions)}
PROPORTIONAL: Final = (
    "online",
    "changes",
    "statements",
    "server_load",
    "database_load",
    "stored",
    "sent",
    "assets",
    "asset_requests",
    "logged",
)
MANY: Final = settings(max_examples=40)
PRICES: Final = [name for name in BOUNDS if name.endswith("_price")]

users = st.integers(1, 10**9)
clients = st.sampled_from(Client)
polling = st.sampled_from([Client.FULL, Client.DELTA])


@st.composite
def edited(draw: st.DrawFn) -> Assumptions:
    """Somebody's own file: some lines up to a thousand times as large, or smaller, or 0."""
    factors = draw(
        st.dictionaries(st.sampled_from(sorted(BOUNDS)), st.sampled_from([0.0, 0.3, 7.0, 1000.0]), max_size=8)
    )
    values = replace(
        VALUES,
        **{
            name: min(max(factor * getattr(VALUES, name), BOUNDS[name][0]), BOUNDS[name][1])
            for name, factor in factors.items()
        },
    )
    assume(values.commits * values.doorbell_us <= 900_000)
    return values


def numbers(found: Needs | Costs) -> dict[str, float]:
    return {key: value for key, value in asdict(found).items() if key != "client"}


@MANY
@given(users, users, clients, edited())
def test_more_users_never_need_or_cost_less(one: int, other: int, client: Client, values: Assumptions) -> None:
    few, many = (needs(size, client, values) for size in sorted((one, other)))
    for before, after in ((few, many), (costs(few, values), costs(many, values))):
        for key, value in numbers(after).items():
            assert value >= numbers(before)[key], key


@MANY
@given(users, st.integers(1, 1000), clients, edited())
def test_what_is_not_bought_whole_grows_in_proportion(
    one: int, times: int, client: Client, values: Assumptions
) -> None:
    few, many = numbers(needs(one, client, values)), numbers(needs(one * times, client, values))
    for name in PROPORTIONAL:
        assert many[name] == pytest.approx(times * few[name], rel=1e-9), name


@MANY
@given(users, clients, edited())
def test_a_total_is_the_sum_of_its_columns_and_nothing_is_negative(
    size: int, client: Client, values: Assumptions
) -> None:
    need = needs(size, client, values)
    cost = costs(need, values)
    assert cost.total == pytest.approx(sum(numbers(cost).values()))
    for value in (*numbers(need).values(), *numbers(cost).values(), need.connections):
        assert value >= 0
        assert math.isfinite(value)


@MANY
@given(users, clients, edited())
def test_what_is_bought_suffices(size: int, client: Client, values: Assumptions) -> None:
    need = needs(size, client, values)
    assert need.server_load <= need.server_cores * values.utilisation * (1 + 1e-9)
    assert need.connections <= values.process_connections * (1 + 1e-9)
    assert need.database_load <= need.database_cores * values.utilisation * (1 + 1e-9)
    commits = values.commits if client is Client.SYNC else values.write_commits
    assert need.changes <= need.databases * commits * (1 + 1e-9)
    assert need.database_cores >= need.databases


@MANY
@given(users, clients, edited(), st.sampled_from(PRICES))
def test_a_higher_price_never_makes_anything_cheaper(size: int, client: Client, values: Assumptions, name: str) -> None:
    dearer = replace(values, **{name: 2 * getattr(values, name)})
    need = needs(size, client, values)
    assert needs(size, client, dearer) == need
    assert costs(need, dearer).total >= costs(need, values).total


@MANY
@given(users, polling, edited(), st.floats(1, 100))
def test_polling_less_often_never_costs_more_and_atlas_sync_does_not_care(
    size: int, client: Client, values: Assumptions, times: float
) -> None:
    seldom = replace(values, poll_seconds=times * values.poll_seconds)

    def total(client: Client, values: Assumptions) -> float:
        return costs(needs(size, client, values), values).total

    assert total(client, seldom) <= total(client, values) * (1 + 1e-9)
    assert total(Client.SYNC, seldom) == total(Client.SYNC, values)


@pytest.mark.parametrize(
    ("line", "part"), [("cache_from", "cache"), ("replicas_from", "copies"), ("spare_servers_from", "server_cores")]
)
def test_an_optional_part_is_bought_from_the_named_size_on(line: str, part: str) -> None:
    values = replace(VALUES, **{line: 5_000.0})
    before, at = (getattr(needs(size, Client.SYNC, values), part) for size in (4_999, 5_000))
    assert (before, at) == {"cache": (0, 1), "copies": (1, 2), "server_cores": (1, 2)}[part]


@pytest.mark.parametrize(("line", "part"), [("balancer_from", "network"), ("monitoring_from", "monitoring")])
def test_what_is_paid_by_the_month_is_paid_from_the_named_size_on(line: str, part: str) -> None:
    values = replace(VALUES, **{line: 5_000.0})
    before, at = (getattr(costs(needs(size, Client.SYNC, values), values), part) for size in (4_999, 5_000))
    assert at - before > 15


def test_a_user_of_known_habits_takes_what_can_be_calculated_by_hand() -> None:
    """One user with one device, who asks once a day and is answered once; nothing else happens."""
    nothing = (
        "visits",
        "new_devices",
        "other_changes",
        "usage_events",
        "spare_servers_from",
        "replicas_from",
        "packet_bytes",
    )
    values = replace(
        VALUES,
        **dict.fromkeys(nothing, 0.0),
        active_share=1.0,
        devices=1.0,
        online_hours=24.0,
        questions=1.0,
        answers=1.0,
        changes_an_answer=1.0,
        question_bytes=100.0,
        answer_bytes=900.0,
        change_bytes=10.0,
        push_bytes=30.0,
        heartbeat_seconds=86_400.0,
        heartbeat_bytes=60.0,
        peak_factor=1.0,
        message_bytes=500.0,
        log_bytes=50.0,
        change_rows=2.0,
        history_months=12.0,
        log_days=10.0,
        storage_spare=1.0,
        poll_seconds=8_640.0,
        poll_gzip_share=0.5,
        poll_rows=10.0,
        poll_row_bytes=20.0,
        poll_header_bytes=100.0,
        full_poll_statements=5.0,
    )
    month = 365 / 12
    sync, full, delta = (needs(1, client, values) for client in Client)
    assert sync.sent * 1e9 == pytest.approx(month * (30 + 100 + 10 + 900 + 60))
    assert sync.stored * 2**30 == pytest.approx(365 * 2 * (500 + 500) + 10 * 2 * 2 * 50)
    assert full.sent * 1e9 == pytest.approx(month * 10 * (5 * 100 + 0.5 * 10 * (20 + 500)))
    assert delta.sent * 1e9 == pytest.approx(month * (10 * 2 * 100 + 0.5 * (2 * 20 + 1000)))
    assert full.stored * 2**30 == pytest.approx(365 * 2 * (500 + 500))
    assert full.statements * 86_400 == pytest.approx(10 * 5 + 2)
    assert (sync.online, full.online, sync.copies) == (1, 1, 2)


def test_the_table_has_the_sizes_of_the_storage_plan() -> None:
    assert SIZES == (100, 1_000, 10_000, 100_000, 1_000_000)
