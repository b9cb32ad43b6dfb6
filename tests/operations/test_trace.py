"""All facts of a row are put into sentences, and the verdict follows from the lines above it."""

from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import CloseCode
from server.operations.trace import Verdict, as_json, status, tell
from server.operations.trace_facts import Change, Client, Deletion, Device, Facts, Feed, Plan, Row, Stream
from server.operations.trace_outlook import SECOND, SILENT, STUCK, Fate, Outlook, outlook
from server.operations.trace_words import CLOSED

NOW: Final = 1_800_000_000 * SECOND
SEQ: Final = NOW - 3_600 * SECOND
"""The message's only change: an hour ago."""
HEAD: Final = NOW - 1_800 * SECOND
OWNER: Final = UUID(int=1)
ROW: Final = Row(
    owner=OWNER,
    parent=str(UUID(int=2)),
    role="user",
    bytes=5,
    created_at=SEQ,
    updated_at=SEQ,
    newer=0,
    archived=False,
)
LIVE: Final = Device(
    client_id=UUID(int=3),
    session="a session",
    server="host/1",
    state="live",
    position=HEAD,
    close_code=None,
    connected_at=NOW - 7_200 * SECOND,
    noted_at=HEAD,
    server_seen_at=NOW - 5 * SECOND,
    resumes=True,
)
FACTS: Final = Facts(
    key=str(UUID(int=4)),
    kind="message",
    table="messages",
    parent_kind="conversation",
    window=50,
    asked_user=None,
    now=NOW,
    log_since=NOW - 86_400 * SECOND,
    is_parent=False,
    searched_all=False,
    row=ROW,
    touch="UPDATE messages",
    copies=1,
    owner=OWNER,
    plan=Plan("core", "active", True),
    feed=Feed(HEAD, HEAD, SEQ, 0),
    changes=(Change(SEQ, 1, "u", 1, 1),),
    changes_total=1,
    first_change=SEQ,
    devices=(LIVE,),
    clients=(),
)
FATE: Final = Fate(SEQ, deleted=False)
BEHIND: Final = replace(LIVE, position=SEQ - 1)
AWAY: Final = replace(BEHIND, state="closed", close_code=1006, noted_at=NOW - 4 * 3_600 * SECOND)


def verdict(**given: Any) -> str:
    return tell(replace(FACTS, **given))[-1].says


# ---- One device -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (LIVE, Outlook.HAS),
        (replace(LIVE, position=SEQ), Outlook.HAS),
        (replace(AWAY, position=SEQ), Outlook.HAS),
        (replace(LIVE, server_seen_at=None), Outlook.HAS),
        (BEHIND, Outlook.STUCK),
        (replace(BEHIND, server_seen_at=SEQ + STUCK), Outlook.AWAY),
        (replace(BEHIND, connected_at=NOW - 6 * SECOND), Outlook.COMING),
        (replace(BEHIND, state="catching_up"), Outlook.COMING),
        (replace(BEHIND, state="stalled"), Outlook.STALLED),
        (replace(BEHIND, state="snapshot", position=None), Outlook.SNAPSHOT),
        # Where it stood before does not count while everything is sent anew.
        (replace(LIVE, state="snapshot"), Outlook.SNAPSHOT),
        (replace(BEHIND, server_seen_at=NOW - SILENT - 1), Outlook.AWAY),
        (AWAY, Outlook.AWAY),
        (replace(AWAY, resumes=False), Outlook.AWAY_LONG),
        (replace(AWAY, position=None, resumes=False), Outlook.AWAY_LONG),
        # It was further than the database is: the database lost its tail.
        (replace(AWAY, position=HEAD + 1, resumes=False), Outlook.AWAY_LONG),
        (replace(AWAY, close_code=CloseCode.BAD_FRAME), Outlook.STAYS_AWAY),
        (replace(AWAY, close_code=CloseCode.LOCAL_ONLY), Outlook.STAYS_AWAY),
        (replace(AWAY, close_code=4399), Outlook.STAYS_AWAY),
        (replace(AWAY, close_code=CloseCode.REPLACED), Outlook.AWAY),
        (replace(AWAY, close_code=CloseCode.TOKEN_EXPIRED), Outlook.AWAY),
    ],
)
def test_the_outlook_of_a_device_follows_from_its_last_report(device: Device, expected: Outlook) -> None:
    assert outlook(FACTS, FATE, device) is expected


@pytest.mark.parametrize("tier", ["free", None, "a tier of tomorrow"])
def test_nothing_is_sent_to_the_devices_of_a_plan_that_does_not_sync(tier: str | None) -> None:
    facts = replace(FACTS, plan=Plan(tier, None, True, syncs=False))
    assert outlook(facts, FATE, AWAY) is Outlook.UNPAID
    assert outlook(facts, FATE, LIVE) is Outlook.HAS


def test_a_change_that_the_log_has_lost_was_received_by_devices_at_whose_position_the_log_continues() -> None:
    lost = Fate(None, deleted=False)
    assert outlook(FACTS, lost, LIVE) is Outlook.HAS
    assert outlook(FACTS, lost, replace(AWAY, resumes=False)) is Outlook.AWAY_LONG


# ---- The verdict ----------------------------------------------------------------------------------------------------


def test_the_verdict_says_which_devices_lack_the_message_and_why() -> None:
    second, third = replace(LIVE, client_id=UUID(int=5)), replace(AWAY, client_id=UUID(int=6))
    assert verdict(devices=(LIVE, second)) == "Delivered to all 2 devices."
    assert verdict(devices=(LIVE, second, third)) == (
        "Delivered to 2 of 3 devices; the other one was last seen 4 h ago and gets it when it comes back."
    )
    stalled = replace(BEHIND, client_id=UUID(int=7), state="stalled")
    assert verdict(devices=(LIVE, AWAY, third, stalled)) == (
        "Delivered to 1 of 4 devices; 2 are away and get it when they come back, 1 takes no data at this moment."
    )
    assert verdict(devices=(), plan=Plan("free", None, True, syncs=False)) == (
        "It is here, and no device is known, and the owner's plan does not sync."
    )


@pytest.mark.parametrize(
    ("device", "says"),
    [
        (BEHIND, "Delivered to none of 1 device; it is live and is not served."),
        (
            replace(AWAY, close_code=CloseCode.BAD_FRAME),
            "Delivered to none of 1 device; it does not come back by itself.",
        ),
    ],
    ids=["stuck", "told to stay away"],
)
def test_a_device_that_needs_somebody_to_act_is_an_obstacle(device: Device, says: str) -> None:
    lines = tell(replace(FACTS, devices=(device,)))
    assert [line.what for line in lines if line.verdict is Verdict.BAD] == ["device", "verdict"]
    assert (lines[-1].says, status(lines)) == (says, 1)


def test_a_plan_that_ended_after_the_delivery_is_no_obstacle() -> None:
    lines = tell(replace(FACTS, plan=Plan("free", None, True, syncs=False)))
    assert (lines[-1].says, status(lines)) == ("Delivered to the only device.", 0)


few = settings(max_examples=40, deadline=None)
"""The facts of a trace are many values to draw."""
times = st.integers(min_value=-(1 << 62), max_value=1 << 62)
near = st.sampled_from([NOW, SEQ, SEQ - 1, HEAD, HEAD + 1, NOW - 2 * SILENT, 0]) | times
uuids = st.uuids()
tiers = st.none() | st.sampled_from(["free", "core"]) | st.text()
plans = st.builds(Plan, tiers, st.none() | st.text(), st.booleans(), st.booleans())
rows = st.builds(
    Row,
    owner=st.just(OWNER),
    parent=st.text(),
    role=st.none() | st.text(),
    bytes=st.integers(0, 1 << 40),
    created_at=st.none() | near,
    updated_at=st.none() | near,
    newer=st.integers(0, 1_000),
    archived=st.booleans(),
)
codes = st.none() | st.sampled_from([*CloseCode]) | st.integers(0, 5_000)
devices = st.builds(
    Device,
    client_id=uuids,
    session=st.text(),
    server=st.text(),
    state=st.sampled_from(["live", "catching_up", "stalled", "snapshot", "closed"]) | st.text(),
    position=st.none() | near,
    close_code=codes,
    connected_at=near,
    noted_at=near,
    server_seen_at=st.none() | near,
    resumes=st.booleans(),
)
changes = st.lists(
    st.builds(Change, near, st.integers(0, 1 << 60), st.sampled_from(["u", "d"]), st.integers(1, 9), st.integers(1, 9)),
    max_size=8,
)
clients = st.builds(Client, uuids, st.integers(0, 1 << 60), near, st.dictionaries(st.integers(0, 1 << 60), st.text()))


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """Any facts that a database may have, also one that was tampered with."""
    row = draw(st.none() | rows)
    known = Facts(
        key=draw(st.text()),
        kind="note",
        table="notes",
        parent_kind=draw(st.none() | st.just("folder")),
        window=draw(st.none() | st.integers(0, 200)),
        asked_user=draw(st.none() | st.just(OWNER)),
        now=NOW,
        log_since=draw(st.none() | near),
        is_parent=draw(st.booleans()),
        searched_all=row is None,
        row=row,
        touch=draw(st.none() | st.text()),
        copies=draw(st.integers(1, 3)) if row else 0,
        owner=OWNER if row else None,
    )
    if row is None and draw(st.booleans()):
        return known
    some = draw(changes)
    first = draw(st.none() | near)
    return replace(
        known,
        owner=OWNER,
        plan=draw(plans),
        feed=Feed(draw(near), draw(st.none() | near), first, None if first is None else draw(near)),
        changes=tuple(some),
        changes_total=len(some) * 2,
        first_change=some[-1].seq if some else None,
        deletions=tuple(draw(st.lists(st.builds(Deletion, st.text(), near, st.booleans()), max_size=3)))
        if some
        else (),
        devices=tuple(draw(st.lists(devices, max_size=4))),
        clients=draw(st.none() | st.lists(clients, max_size=2).map(tuple)),
    )


OPEN: Final = Stream("content", "open", 1_200, "host/1", SEQ, NOW - 3 * SECOND, None, None, None, 0)


@pytest.mark.parametrize(
    ("stream", "verdict", "says"),
    [
        (OPEN, Verdict.WAITING, "1,200 characters so far; its writer was there 3 s ago, at host/1"),
        (
            replace(OPEN, state="stopped", stop_at=NOW - 9 * SECOND, ended_at=NOW - 8 * SECOND),
            Verdict.WAITING,
            "stopped 8 s ago, stopped by a device 9 s ago",
        ),
        (replace(OPEN, state="done", ended_at=SEQ, settled_at=SEQ), Verdict.GOOD, "the row has its text since"),
        (replace(OPEN, state="failed", ended_at=SEQ, failures=4), Verdict.BAD, "4 times in a row"),
    ],
)
def test_a_stream_of_the_row_is_told(stream: Stream, verdict: Verdict, says: str) -> None:
    (line,) = [line for line in tell(replace(FACTS, streams=(stream,))) if line.what == "stream of content"]
    assert line.verdict is verdict
    assert says in line.says


@few
@given(facts())
def test_every_trace_has_a_verdict_that_is_bad_exactly_if_a_line_is(known: Facts) -> None:
    *lines, last = tell(known)
    assert last.what == "verdict"
    assert status([*lines, last]) == int(any(line.verdict is Verdict.BAD for line in lines))
    assert "verdict" not in {line.what for line in lines}
    assert last.says[0].isupper()
    assert last.says.endswith(".")
    assert len([line for line in lines if line.what == "device"]) >= (len(known.devices) if known.row else 0)


@few
@given(facts())
def test_no_device_that_is_behind_counts_as_one_that_has_it(known: Facts) -> None:
    for device in known.devices:
        if outlook(known, FATE, device) is Outlook.HAS:
            assert device.position is not None
            assert device.position >= SEQ
        elif device.state == "closed" and known.feed and device.position is not None:
            assert not SEQ <= device.position <= known.feed.head


@few
@given(facts())
def test_the_json_contains_all_lines_and_facts(known: Facts) -> None:
    lines = tell(known)
    told = orjson.loads(as_json(known, lines))
    assert told["verdict"]["says"] == lines[-1].says
    assert [line["standing"] for line in told["lines"]] == [line.verdict for line in lines[:-1]]
    assert told["facts"]["key"] == known.key
    assert [device["position"] for device in told["facts"]["devices"]] == [each.position for each in known.devices]


def test_every_close_code_is_explained() -> None:
    assert set(CloseCode) <= set(CLOSED)
    for code in range(4_000, 4_500):
        (line,) = [
            line for line in tell(replace(FACTS, devices=(replace(AWAY, close_code=code),))) if line.what == "device"
        ]
        assert f"({code}: " in line.says
