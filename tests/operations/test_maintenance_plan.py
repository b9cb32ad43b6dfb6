"""Carried out on a model of a database, a plan of maintenance loses nothing, overlaps nothing, and comes to an end."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, Literal
from unittest.mock import patch

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.operations import maintenance_plan
from server.operations.maintenance_plan import (
    AHEAD_MONTHS,
    DEFAULTS,
    FEW,
    MANY,
    MOST,
    WEEKLY,
    Archive,
    Bound,
    CountUsage,
    DeleteExpired,
    DropLog,
    DropUsage,
    Forget,
    Make,
    MoveToArchive,
    Partition,
    Policy,
    Seen,
    Step,
    Strays,
    Table,
    TurnDefault,
    Validate,
    plan,
    staying,
)

Parent = Literal["messages", "log", "usage_logs"]
NOW: Final = datetime(2026, 7, 14, 9, 30, tzinfo=UTC)
POLICY: Final = Policy(log_days=90, forget_days=400)
NOTHING: Final = Seen(
    now=NOW,
    partitions=[],
    strays=[],
    forgotten_clients=False,
    forgotten_devices=False,
    silent_servers=False,
    expired_responses=False,
    archive_months=12,
)


def month(now: datetime, ahead: int) -> datetime:
    """The first instant of a month, counted from now's."""
    months = now.year * 12 + now.month - 1 + ahead
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def week(now: datetime, ahead: int) -> datetime:
    """A Monday, counted from now's."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=now.weekday()) + timedelta(weeks=ahead)


def unit(of: str, now: datetime, ahead: int) -> datetime:
    return week(now, ahead) if of in WEEKLY else month(now, ahead)


def following(of: str, since: datetime) -> datetime:
    return unit(of, since, 1)


def family(of: Table) -> tuple[Table, ...]:
    return (of,) if of in WEEKLY else ("messages", "messages_archive")


class Model:
    """A database as far as the plan sees it; it refuses what Postgres would refuse."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def do(self, step: Step) -> None:
        match step:
            case Make(of, since):
                self._make(of, since)
            case MoveToArchive(name, since, until):
                into = self.partition(name)
                assert into.of == "messages_archive"
                assert into.since <= since
                assert until <= into.until
                self._take("messages", since, until)
            case TurnDefault(of, since, until):
                assert not self.overlapping(of, since, until)
                assert all(since <= some.since < until for some in self.strays(of)), "what stays lies beyond its bounds"
                self._take(of, since, until)
                self._add(Partition(of, f"{of}_{since:%Y_%m_%d}_on", since, until))
            case Bound(name):
                assert not self.partition(name).bounded
                self._change(name, bounded=True)
            case Validate(name):
                assert self.partition(name).bounded
                self._change(name, validated=True)
            case Archive(name):
                assert self.partition(name).of == "messages"
                assert self.partition(name).validated, "it would be read under the lock"
                self._change(name, of="messages_archive", bounded=False, validated=False)
            case DropLog(name):
                assert self.partition(name).of == "log"
                self._set(partitions=[some for some in self.seen.partitions if some.name != name])
            case DropUsage(name):
                assert self.partition(name).of == "usage_logs"
                assert not self.seen.uncounted_usage
                self._set(partitions=[some for some in self.seen.partitions if some.name != name])
            case CountUsage():
                self._set(uncounted_usage=False)
            case Forget("usage_keys"):
                self._set(old_usage_keys=False)
            case Forget("usage_conversations"):
                self._set(old_usage_conversations=False)
            case Forget("usage_events"):
                assert not self.seen.uncounted_usage
                self._set(strays=[some for some in self.seen.strays if some.of != "usage_logs" or self.kept(some)])
            case Forget("clients"):
                self._set(forgotten_clients=False)
            case Forget("devices"):
                self._set(forgotten_devices=False)
            case Forget("servers"):
                self._set(silent_servers=False)
            case DeleteExpired():
                self._set(expired_responses=False)

    def kept(self, stray: Strays) -> bool:
        """Its events are not old."""
        return following("log", stray.since) > self.seen.now - timedelta(days=POLICY.usage_days + 1)

    def partition(self, name: str) -> Partition:
        (found,) = [some for some in self.seen.partitions if some.name == name]
        return found

    def overlapping(self, of: Table, since: datetime, until: datetime) -> list[Partition]:
        return [
            some for some in self.seen.partitions if some.of in family(of) and some.since < until and some.until > since
        ]

    def strays(self, of: Table) -> list[Strays]:
        return [some for some in self.seen.strays if some.of == of]

    def holding(self, of: Table, moment: datetime) -> Partition | None:
        found = self.overlapping(of, moment, moment + timedelta(microseconds=1))
        assert len(found) <= 1, "partitions overlap"
        return found[0] if found else None

    def _make(self, of: Table, since: datetime) -> None:
        until = following(of, since)
        if not self.overlapping(of, since, until):
            self._take(of if of in WEEKLY else "messages", since, until)
            self._add(Partition(of, f"{of}_{since:%Y_%m_%d}", since, until))

    def _take(self, of: Table, since: datetime, until: datetime) -> None:
        self._set(strays=[some for some in self.seen.strays if some.of != of or not since <= some.since < until])

    def _add(self, partition: Partition) -> None:
        self._set(partitions=[*self.seen.partitions, partition])

    def _change(self, name: str, **changes: object) -> None:
        self._set(
            partitions=[
                replace(some, **changes) if some.name == name else some  # type: ignore[arg-type]  # by keyword
                for some in self.seen.partitions
            ]
        )

    def _set(self, **changes: object) -> None:
        self.seen = replace(self.seen, **changes)  # type: ignore[arg-type]  # by keyword


few = settings(max_examples=40, deadline=None)
"""A database is many values to draw."""
policies = st.builds(Policy, log_days=st.integers(7, 200), forget_days=st.just(400))
instants = st.datetimes(datetime(2006, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


@st.composite
def partitions_of(draw: st.DrawFn, of: Parent, now: datetime) -> list[Partition]:
    """Of whole months, or weeks, some of them long, with holes in between; of messages, the older ones archived."""
    made: list[Partition] = []
    ahead = draw(st.integers(-45, -1))
    archived_before = draw(st.integers(-45, 0)) if of == "messages" else -1_000
    while ahead < 20:
        length = draw(st.sampled_from([1, 1, 1, 1, 3]))
        if draw(st.booleans()):
            parent: Table = "messages_archive" if ahead + length <= archived_before else of
            bounded = parent == "messages" and draw(st.booleans())
            since, until = unit(of, now, ahead), unit(of, now, ahead + length)
            name = f"old_{of}_{since:%Y_%m_%d}"
            made.append(Partition(parent, name, since, until, bounded, bounded and draw(st.booleans())))
        ahead += length + draw(st.sampled_from([0, 0, 0, 2, 20]))
    return made


SIZES: Final = [1, FEW, FEW + 1, FEW + 1, MANY // 2, MANY, MANY + 1, 10 * MANY]


@st.composite
def databases(draw: st.DrawFn) -> Seen:
    now = draw(instants)
    partitions = [*draw(partitions_of("messages", now)), *draw(partitions_of("log", now))]
    strays: list[Strays] = []
    parents: tuple[Parent, ...] = ("messages", "log")
    for of in parents:
        for ahead in sorted(draw(st.sets(st.integers(-50, 20), max_size=8))):
            since = unit(of, now, ahead)
            # Where there is a partition, no row strays.
            if not any(some.of == of and some.since <= since < some.until for some in partitions):
                strays.append(Strays(of, since, draw(st.sampled_from(SIZES))))
    months = draw(st.one_of(st.none(), st.integers(1, 30)))
    clients, devices, servers, responses = (draw(st.booleans()) for _ in range(4))
    return Seen(now, partitions, strays, clients, devices, servers, responses, archive_months=months)


def carried_out(seen: Seen, policy: Policy) -> Iterator[tuple[Step, Model]]:
    """Look after look, until nothing is left to do: each step, and the database after it."""
    model = Model(seen)
    for _ in range(10):
        for step in plan(model.seen, policy):
            model.do(step)
            yield step, model
    assert plan(model.seen, policy) == [], "it never comes to an end"


def settled(seen: Seen, policy: Policy) -> Model:
    model = Model(seen)
    for _, model in carried_out(seen, policy):  # noqa: B007 (the last one)
        pass
    return model


def horizon(seen: Seen) -> datetime:
    """What was created before it is to be archived."""
    return datetime.min.replace(tzinfo=UTC) if seen.archive_months is None else month(seen.now, -seen.archive_months)


@few
@given(databases(), policies)
def test_after_a_plan_only_partitions_of_strays_are_left_to_be_archived_and_dropped(seen: Seen, policy: Policy) -> None:
    # Many on both sides of a partition that is dropped are on no side of one afterwards.
    assume(len(heavy_gaps(seen, "log")) <= 1)
    model = Model(seen)
    for step in plan(seen, policy):
        model.do(step)
    before = {some.name for some in seen.partitions}
    while rest := plan(model.seen, policy):
        new = {some.name for some in model.seen.partitions} - before
        assert all(isinstance(step, Bound | Validate | Archive | DropLog) and step.partition in new for step in rest)
        for step in rest:
            model.do(step)


@few
@given(databases(), policies)
def test_partitions_never_overlap(seen: Seen, policy: Policy) -> None:
    for _, model in carried_out(seen, policy):
        partitions = sorted(model.seen.partitions, key=lambda some: some.since)
        for of in DEFAULTS:
            mine = [some for some in partitions if some.of in family(of)]
            assert all(one.until <= other.since for one, other in pairwise(mine)), mine


def due(now: datetime, stray: Strays) -> bool:
    """Its partition is one of those that are made ahead, or it is the log's."""
    return stray.of == "log" or month(now, 0) <= stray.since <= month(now, AHEAD_MONTHS)


@few
@given(databases(), policies)
def test_every_stray_lands_in_a_partition_of_its_time_but_for_few_and_for_many_on_both_sides_of_one(
    seen: Seen, policy: Policy
) -> None:
    dropped: list[Partition] = []
    model = Model(seen)
    before = seen
    for step, model in carried_out(seen, policy):
        if isinstance(step, DropLog):
            dropped += [some for some in before.partitions if some.name == step.partition]
        before = model.seen
    assert sum(some.of not in WEEKLY for some in seen.partitions) < MOST - 8, "there is room"
    for stray in model.seen.strays:
        if stray.rows > MANY:
            # Many elsewhere, or few that stay, keep it from becoming a partition as it is.
            assert len(model.seen.strays) > 1
        else:
            assert stray.rows <= FEW
            assert not due(seen.now, stray)
    for stray in seen.strays:
        held = model.holding(stray.of, stray.since)
        if stray in model.seen.strays:
            assert held is None
        elif held is None:
            assert any(some.since <= stray.since < some.until for some in dropped)
        else:
            assert following(stray.of, stray.since) <= held.until


@few
@given(databases(), policies)
def test_exactly_the_messages_older_than_the_declaration_says_are_archived(seen: Seen, policy: Policy) -> None:
    archived = {some.name for some in seen.partitions if some.of == "messages_archive"}
    for some in settled(seen, policy).seen.partitions:
        if some.of == "messages_archive" and some.name not in archived:
            assert some.until <= horizon(seen)
        elif some.of == "messages":
            assert some.until > horizon(seen)


@few
@given(databases(), policies)
def test_exactly_the_changes_older_than_log_days_are_dropped(seen: Seen, policy: Policy) -> None:
    oldest = seen.now - timedelta(days=policy.log_days)
    before = seen
    model = Model(seen)
    for step, model in carried_out(seen, policy):
        if isinstance(step, DropLog):
            (gone,) = [some for some in before.partitions if some.name == step.partition]
            assert gone.of == "log"
            assert gone.until <= oldest
        before = model.seen
    assert all(some.until > oldest for some in model.seen.partitions if some.of == "log")


@few
@given(databases(), policies)
def test_the_coming_months_and_weeks_are_there(seen: Seen, policy: Policy) -> None:
    model = settled(seen, policy)
    for of in DEFAULTS:
        moment = seen.now
        while moment <= month(seen.now, AHEAD_MONTHS):
            staying = any(stray.since == unit(of, moment, 0) for stray in model.strays(of))
            assert model.holding(of, moment) or staying, (of, moment)
            moment = following(of, moment)


@few
@given(databases(), st.integers(7, 200))
def test_without_an_archive_in_the_declaration_nothing_is_archived(seen: Seen, days: int) -> None:
    """Except strays of a month that is archived already."""
    for step, _ in carried_out(replace(seen, archive_months=None), Policy(days, 400)):
        assert not isinstance(step, Bound | Validate | Archive)
        assert not (isinstance(step, Make) and step.of == "messages_archive")


@st.composite
def used(draw: st.DrawFn) -> Seen:
    """Events of any week, in partitions and elsewhere."""
    now = draw(instants)
    partitions = draw(partitions_of("usage_logs", now))
    strays = [
        Strays("usage_logs", since, draw(st.sampled_from(SIZES)))
        for since in sorted(week(now, ahead) for ahead in draw(st.sets(st.integers(-50, 120), max_size=8)))
        if not any(some.since <= since < some.until for some in partitions)
    ]
    return replace(
        NOTHING, now=now, partitions=partitions, strays=strays, uncounted_usage=draw(st.booleans()),
        old_usage_keys=draw(st.booleans()), old_usage_conversations=draw(st.booleans()),
    )  # fmt: skip


@few
@given(used())
def test_events_are_counted_before_any_are_dropped_and_dropped_when_they_are_old(seen: Seen) -> None:
    model = settled(seen, POLICY)  # it asserts the order
    oldest = seen.now - timedelta(days=POLICY.usage_days + 1)
    assert not model.seen.uncounted_usage
    assert not model.seen.old_usage_keys
    assert all(some.until > oldest for some in model.seen.partitions if some.of == "usage_logs")
    gone = {some.name for some in seen.partitions} - {some.name for some in model.seen.partitions}
    assert all(some.until <= oldest for some in seen.partitions if some.name in gone)
    for stray in model.seen.strays:
        assert stray.rows > MANY or stray.since > month(seen.now, AHEAD_MONTHS), "it could have a partition"
        assert following("log", stray.since) > oldest


def test_no_partition_is_made_of_events_that_are_old_or_far_ahead() -> None:
    weeks = [*range(-200, -15), *range(16, 100)]
    seen = replace(NOTHING, strays=[Strays("usage_logs", week(NOW, ahead), 1) for ahead in weeks])
    made = [step for step in plan(seen, POLICY) if not isinstance(step, Forget)]
    assert made == plan(NOTHING, POLICY)
    assert Forget("usage_events") in plan(seen, POLICY)


@few
@given(databases(), policies)
def test_the_default_partition_is_turned_exactly_when_there_are_many_strays_and_the_others_can_be_moved(
    seen: Seen, policy: Policy
) -> None:
    steps = plan(seen, policy)
    for of in ("messages", "log"):
        heavy = heavy_gaps(seen, of)
        sizes = [sum(rows) for rows in heavy or gaps(seen, of)]
        turned = [step for step in steps if isinstance(step, TurnDefault) and step.of == of]
        assert bool(turned) == (len(heavy) <= 1 and max(sizes, default=0) > MANY)
        assert all(step.rows == max(sizes) for step in turned)


def heavy_gaps(seen: Seen, of: str) -> Sequence[Sequence[int]]:
    """Those with a month, or week, that is too much to move."""
    return [rows for rows in gaps(seen, of) if max(rows) > MANY]


def gaps(seen: Seen, of: str) -> Sequence[Sequence[int]]:
    """The strays between any two partitions: of each month, or week, how many."""
    kin = ("log",) if of == "log" else ("messages", "messages_archive")
    taken = [some for some in seen.partitions if some.of in kin]
    found: dict[int, list[int]] = {}
    for stray in seen.strays:
        if stray.of == of and not any(some.since <= stray.since < some.until for some in taken):
            found.setdefault(sum(some.until <= stray.since for some in taken), []).append(stray.rows)
    return list(found.values())


@few
@given(databases(), policies)
def test_every_step_says_what_it_does_in_a_line(seen: Seen, policy: Policy) -> None:
    for step in plan(seen, policy):
        assert str(step)[0].islower()
        assert "\n" not in str(step)
        assert len(str(step)) < 160


@st.composite
def adopted(draw: st.DrawFn) -> Seen:
    """A table that somebody partitioned by other bounds than months, and rows of any time."""
    now = draw(instants)
    bounds = sorted(draw(st.sets(instants, min_size=2, max_size=8)))
    ends = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    if draw(st.booleans()):
        bounds = [ends[0], *bounds]
    if draw(st.booleans()):
        bounds = [*bounds, ends[1]]
    partitions = [
        Partition(draw(st.sampled_from(["messages", "messages_archive"])), f"theirs_{i}", since, until)
        for i, (since, until) in enumerate(pairwise(bounds))
        if draw(st.booleans())
    ]
    months = {month(moment, 0) for moment in draw(st.lists(st.one_of(instants, st.sampled_from(bounds[:3]))))}
    strays = [
        Strays("messages", since, draw(st.sampled_from([1, MANY + 1])))
        for since in sorted({*months, *draw(st.sets(st.sampled_from(ends)))})
        if not any(some.of == "messages" and some.since <= since < some.until for some in partitions)
    ]
    return replace(NOTHING, now=now, partitions=partitions, strays=strays)


@few
@given(adopted(), policies)
def test_no_step_is_refused_by_postgres_whatever_the_partitions_of_an_adopted_table_are(
    seen: Seen, policy: Policy
) -> None:
    model = Model(seen)
    for _ in range(3):
        for step in plan(model.seen, policy):
            model.do(step)


@pytest.mark.parametrize("rows", [1, MANY + 1])
def test_strays_dated_before_2000_or_more_than_two_years_ahead_stay_where_they_are(rows: int) -> None:
    dates = [datetime.min.replace(tzinfo=UTC), datetime(1999, 12, 1, tzinfo=UTC)]
    dates += [month(NOW, 25), datetime.max.replace(tzinfo=UTC)]
    seen = replace(NOTHING, strays=[Strays("messages", date, rows) for date in dates])
    assert plan(seen, POLICY) == plan(NOTHING, POLICY)


def archived(months: int) -> list[Partition]:
    """So many before the year that is not archived."""
    return [
        Partition("messages_archive", f"sync.old_{i}", month(NOW, -13 - i), month(NOW, -12 - i)) for i in range(months)
    ]


def test_no_partition_is_made_for_every_month_that_a_user_chooses() -> None:
    months = [since for ahead in range(-318, 25) if (since := month(NOW, ahead)) not in coming()]
    seen = replace(NOTHING, strays=[Strays("messages", since, 1) for since in months])
    assert plan(seen, POLICY) == plan(NOTHING, POLICY)
    assert staying(seen, POLICY) is None


def coming() -> list[datetime]:
    return [month(NOW, ahead) for ahead in range(AHEAD_MONTHS + 1)]


@pytest.mark.parametrize(("rows", "made"), [(FEW, False), (FEW + 1, True)])
@pytest.mark.parametrize("ahead", [-30, -1, AHEAD_MONTHS + 1, 20])
def test_few_strays_of_a_month_stay_where_they_are(ahead: int, rows: int, made: bool) -> None:
    seen = replace(NOTHING, strays=[Strays("messages", month(NOW, ahead), rows)])
    steps = plan(seen, POLICY)
    assert [step for step in steps if isinstance(step, Make) and step.strays] == [
        Make("messages_archive" if ahead < -12 else "messages", month(NOW, ahead), rows) for _ in range(made)
    ]
    assert staying(seen, POLICY) is None


@pytest.mark.parametrize("since", coming())
def test_a_month_whose_partition_is_made_ahead_gets_it_with_its_strays_however_few_and_however_many_there_are(
    since: datetime,
) -> None:
    seen = replace(NOTHING, partitions=archived(MOST), strays=[Strays("messages", since, 1)])
    assert Make("messages", since, 1) in plan(seen, POLICY)


def test_beside_the_partitions_of_five_years_none_is_made_of_strays_and_that_is_reported() -> None:
    strays = [Strays("messages", month(NOW, ahead), FEW + 1) for ahead in range(-8, -1)]
    there = archived(MOST - 2)
    seen = replace(NOTHING, partitions=there, strays=strays)
    made = [step for step in plan(seen, POLICY) if isinstance(step, Make) and step.strays]
    assert made == [Make("messages", stray.since, stray.rows) for stray in strays[:-3:-1]], "the youngest"
    said = staying(seen, POLICY)
    assert said is not None
    assert said.startswith(f"{5 * (FEW + 1)} rows stay in a default partition (messages from 2025-11-01")
    assert "\n" not in said
    full = replace(seen, partitions=archived(MOST), strays=strays[:2])
    assert plan(full, POLICY) == plan(NOTHING, POLICY)
    assert "README.md" in str(staying(full, POLICY))


@pytest.mark.parametrize(("last", "turned"), [(-1, False), (0, True)])
def test_beside_many_partitions_the_default_is_turned_only_into_the_partition_of_now(last: int, turned: bool) -> None:
    strays = [Strays("messages", month(NOW, ahead), MANY + 1) for ahead in range(-6, last + 1)]
    steps = plan(replace(NOTHING, partitions=archived(MOST), strays=strays), POLICY)
    assert any(isinstance(step, TurnDefault) for step in steps) == turned


@few
@given(databases(), policies, st.integers(0, 8))
def test_strays_add_no_partition_beside_too_many(seen: Seen, policy: Policy, room: int) -> None:
    with patch.object(maintenance_plan, "MOST", sum(some.of not in WEEKLY for some in seen.partitions) + room):
        model = settled(seen, policy)
    before = {some.name for some in seen.partitions}
    new = [some for some in model.seen.partitions if some.of not in WEEKLY and some.name not in before]
    assert sum(some.until <= month(seen.now, 0) or some.since > month(seen.now, AHEAD_MONTHS) for some in new) <= room


def test_beside_strays_that_stay_many_stay_too_and_few_are_moved() -> None:
    staying = Strays("messages", datetime.max.replace(tzinfo=UTC), 1)
    many = Strays("messages", month(NOW, -3), MANY + 1)
    few = Strays("messages", month(NOW, -2), MANY)
    steps = plan(replace(NOTHING, strays=[staying, many, few]), POLICY)
    assert steps == [Make("messages", few.since, few.rows), *plan(NOTHING, POLICY)]


@pytest.mark.parametrize(
    ("since", "months", "archived"),
    [(-13, 12, True), (-12, 12, False), (-1, 1, False), (-2, 1, True), (-40, None, False)],
)
def test_a_month_is_archived_when_its_last_instant_is_so_many_whole_months_old(
    since: int, months: int | None, archived: bool
) -> None:
    partition = Partition("messages", "sync.a_month", month(NOW, since), month(NOW, since + 1))
    steps = plan(replace(NOTHING, partitions=[partition], archive_months=months), POLICY)
    assert (Archive("sync.a_month") in steps) == archived


def test_a_database_without_partitioned_messages_gets_no_partitions_of_them() -> None:
    made = {step.of for step in plan(replace(NOTHING, partitioned=False), POLICY) if isinstance(step, Make)}
    assert made == {"log", "usage_logs"}
