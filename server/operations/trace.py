"""What became of one row, in sentences for support staff, from what Postgres knows of it. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

from protocol.frames import Instant
from server.feed.ports import DeviceState
from server.operations.trace_facts import Device, Facts, Feed, Plan, Row, Stream
from server.operations.trace_outlook import Fate, Outlook, is_connected, outlook
from server.operations.trace_words import DOING, LACKING, MEANS, ago, at, closed, count
from server.write.rules import SENTENCES

SHOWN: Final = 5
"""Changes of the row that are listed; older ones are counted."""


class Verdict(StrEnum):
    GOOD = "good"
    WAITING = "waiting"
    """It resolves by itself, or is good to know."""
    BAD = "bad"
    """It is an obstacle: somebody has to do something."""


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    verdict: Verdict
    says: str


VERDICTS: Final = {
    Outlook.HAS: Verdict.GOOD,
    Outlook.STAYS_AWAY: Verdict.BAD,
    Outlook.UNPAID: Verdict.BAD,
    Outlook.STUCK: Verdict.BAD,
}
"""Every other outlook resolves by itself: WAITING."""


def tell(facts: Facts) -> list[Line]:
    """What is known, line by line. The last line is the verdict: BAD if any other line is."""
    lines = [*_row(facts)]
    fate = _fate(facts)
    if facts.plan is not None and facts.feed is not None:
        lines += _changes(facts)
        lines += [_stream(stream, facts.now) for stream in facts.streams]
        lines.append(_feed(facts.feed, facts.log_since))
        outlooks = [] if fate is None else [outlook(facts, fate, device) for device in facts.devices]
        in_step = bool(outlooks) and all(each is Outlook.HAS for each in outlooks)
        lines.append(_plan(facts.plan, needed=not in_step))
        if fate is not None:
            lines += _devices(facts, fate, outlooks)
    if facts.row is None and fate is None:
        lines += _clients(facts)
    return [*lines, _verdict(facts, fate, lines)]


def as_json(facts: Facts, lines: Sequence[Line]) -> str:
    """The lines and the facts, for tools."""
    *others, last = ({"what": line.what, "standing": line.verdict, "says": line.says} for line in lines)
    told = {"verdict": last, "lines": others, "facts": facts}
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()


def status(lines: Sequence[Line]) -> int:
    """The exit status of the command: 1 if something has to be done."""
    return int(lines[-1].verdict is Verdict.BAD)


# ---- Its streams ----------------------------------------------------------------------------------------------------


def _stream(stream: Stream, now: Instant) -> Line:
    what = f"stream of {stream.column}"
    opened = f"opened {at(stream.opened_at)}"
    if stream.failures:
        says = (
            f"{stream.state}, {opened}; its text could not be written into the row, "
            f"{count(stream.failures, 'time')} in a row. The server's log has the SQLSTATE; it tries again."
        )
        return Line(what, Verdict.BAD, says)
    if stream.settled_at is not None:
        return Line(what, Verdict.GOOD, f"{stream.state}, {opened}; the row has its text since {at(stream.settled_at)}")
    wanted = "" if stream.stop_at is None else f", stopped by a device {ago(now, stream.stop_at)}"
    length = f"{count(stream.length, 'character')} so far"
    if stream.ended_at is not None:
        says = f"{stream.state} {ago(now, stream.ended_at)}{wanted}, {opened}, {length}; the row does not have it yet"
        return Line(what, Verdict.WAITING, says)
    says = f"open{wanted}, {opened}, {length}; its writer was there {ago(now, stream.touched_at)}, at {stream.server}"
    return Line(what, Verdict.WAITING, says)


# ---- The row --------------------------------------------------------------------------------------------------------


def _row(facts: Facts) -> list[Line]:
    row = facts.row
    if row is None:
        return [_absent(facts)]
    told = [
        *([f"role {row.role}"] if row.role is not None else []),
        f"{count(row.bytes, 'byte')} of content",
        *([f"{facts.parent_kind} {row.parent}"] if facts.parent_kind is not None else []),
        *([f"created {at(row.created_at)}"] if row.created_at is not None else []),
        *([f"updated {at(row.updated_at)}"] if row.updated_at is not None else []),
    ]
    where = "in the archive" if row.archived else f"in {facts.table}"
    lines = [Line(facts.kind, Verdict.GOOD, f"{where}: {', '.join(told)}")]
    if facts.copies > 1:
        says = f"{facts.copies} rows have this id and different times of creation; this is about one of them."
        lines.append(Line(facts.kind, Verdict.WAITING, says))
    if row.owner is None:
        parent = f"Its {facts.parent_kind} does not exist" if facts.parent_kind else "Its owner column holds no user"
        says = f"{parent}, so it has no owner, and no device gets it."
        lines.append(Line("owner", Verdict.BAD, says))
    elif facts.somebody_elses:
        says = f"It belongs to user {row.owner}, not to {facts.asked_user}; only the owner's devices get it."
        lines.append(Line("owner", Verdict.BAD, says))
    else:
        lines.append(Line("owner", Verdict.GOOD, f"user {row.owner}"))
        if facts.window is not None and row.newer >= facts.window:
            more = "1,000 or more" if row.newer >= 1_000 else str(row.newer)
            of = f"of its {facts.parent_kind}" if facts.parent_kind is not None else "of its owner"
            says = (
                f"{more} rows {of} are newer: a device that started with a snapshot loads it only "
                "when its user scrolls back that far."
            )
            lines.append(Line("window", Verdict.WAITING, says))
    return lines


def _absent(facts: Facts) -> Line:
    if facts.is_parent:
        says = (
            f"This is the key of a {facts.parent_kind}: give the key of a {facts.kind}, or --kind {facts.parent_kind}."
        )
        return Line(facts.kind, Verdict.BAD, says)
    searched = "the whole change log" if facts.searched_all else f"the change log of user {facts.owner}"
    reach = "" if facts.log_since is None else f", which goes back to {at(facts.log_since)},"
    if facts.changes:
        owner = f" of user {facts.owner}" if facts.searched_all else ""
        return Line(facts.kind, Verdict.WAITING, f"It no longer exists. The change log{owner} contains it.")
    other = " Or it is another user's: ask without --user." if facts.asked_user is not None else ""
    says = (
        f"It does not exist, and {searched}{reach} does not contain it: it never arrived, or was deleted before.{other}"
    )
    return Line(facts.kind, Verdict.BAD, says)


def _fate(facts: Facts) -> Fate | None:
    """None: no device could have anything."""
    newest = facts.changes[0] if facts.changes else None
    if facts.row is not None:
        if facts.feed is None:
            return None
        return Fate(newest.seq if newest is not None and newest.op == "u" else None, deleted=False)
    if newest is None:
        return None
    if newest.op == "d":
        return Fate(newest.seq, deleted=True)
    return Fate(max(_gone_with(facts)), deleted=True) if facts.deletions else None


def _gone_with(facts: Facts) -> list[int]:
    """Seqs of the deletions of parents that may have deleted the row too. A device must have received the
    last of them."""
    certain = [deletion.seq for deletion in facts.deletions if deletion.certain]
    return certain[:1] or [deletion.seq for deletion in facts.deletions]


# ---- Its changes, the feed, the plan --------------------------------------------------------------------------------


def _changes(facts: Facts) -> list[Line]:
    lines = []
    for change in reversed(facts.changes[:SHOWN]):
        what = "deleted" if change.op == "d" else "created or changed"
        place = f", row {change.place} of {change.rows} of its transaction" if change.rows > 1 else ""
        when = f"{at(change.seq)}, {ago(facts.now, change.seq)}"
        lines.append(Line("change", Verdict.GOOD, f"{what} {when}: feed position {change.seq}{place}"))
    if facts.changes_total > SHOWN and facts.first_change is not None:
        says = f"{facts.changes_total - SHOWN} earlier ones, the first {at(facts.first_change)}"
        lines.insert(0, Line("change", Verdict.GOOD, says))
    newest = facts.changes[0] if facts.changes else None
    if facts.row is not None:
        if newest is None or newest.op == "d":
            lines.append(_unrecorded(facts, facts.row))
    elif newest is not None and newest.op == "u":
        lines.append(_vanished(facts))
    return lines


def _unrecorded(facts: Facts, row: Row) -> Line:
    """The row exists, and the log has no change that says so."""
    assert facts.feed is not None
    way_out = "so it was written while triggers were disabled. Let an administrator run `atlas-sync doctor`, then " + (
        f"run {facts.touch}." if facts.touch is not None else f"change a synced column of {facts.kind} {facts.key}."
    )
    if facts.changes:
        return Line("change", Verdict.BAD, f"It was deleted and exists again, and no device was told: {way_out}")
    begun = facts.log_since
    if facts.feed.before_first == 0 and facts.feed.log_first is not None:
        begun = max(begun or facts.feed.log_first, facts.feed.log_first)
    if facts.feed.head and begun is not None and row.created_at is not None and row.created_at > begun:
        return Line(
            "change", Verdict.BAD, f"The change log goes back to {at(begun)} and does not contain it, {way_out}"
        )
    since = "" if begun is None else f", which for this user begins {at(begun)}"
    return Line("change", Verdict.WAITING, f"no longer in the log{since}")


def _vanished(facts: Facts) -> Line:
    """The row does not exist, and its last change in the log is not a deletion."""
    if not facts.deletions:
        says = (
            "It is gone, and the log has no deletion: it was deleted while triggers were disabled, and devices that "
            "have it keep it. Let an administrator run `atlas-sync doctor`."
        )
        return Line("change", Verdict.BAD, says)
    first = facts.deletions[0]
    gone = f"{at(first.seq)}, {ago(facts.now, first.seq)}: feed position {first.seq}"
    if first.certain:
        return Line("change", Verdict.GOOD, f"deleted with its {facts.parent_kind} {first.parent} {gone}")
    if len(facts.deletions) == 1:
        return Line("change", Verdict.WAITING, f"probably deleted with {facts.parent_kind} {first.parent} {gone}")
    keys = ", ".join(deletion.parent for deletion in facts.deletions)
    return Line("change", Verdict.WAITING, f"probably deleted with one of these of kind {facts.parent_kind}: {keys}")


def _feed(feed: Feed, log_since: Instant | None) -> Line:
    if not feed.head and feed.log_head is None:
        return Line(
            "feed", Verdict.WAITING, "This user has none: nothing of theirs has changed since changes are recorded."
        )
    if feed.log_head is None and log_since is not None and feed.head < log_since:
        return Line("feed", Verdict.GOOD, f"at {feed.head}, {at(feed.head)}; all of it is older than the log")
    if feed.log_head != feed.head:
        log = "has nothing" if feed.log_head is None else f"ends at {feed.log_head}"
        says = (
            f"The feed is at {feed.head} and its log {log}: they were not written together. Let an administrator find "
            "out what restored or changed sync.feeds or sync.log, then run UPDATE sync.meta SET history = "
            "gen_random_uuid(), so that devices start over."
        )
        return Line("feed", Verdict.BAD, says)
    return Line("feed", Verdict.GOOD, f"at {feed.head}, {at(feed.head)}; its row and the log agree")


def _plan(plan: Plan, *, needed: bool) -> Line:
    subscription = "" if plan.status is None else f", subscription {plan.status}"
    if plan.syncs:
        found = "there is no gate" if plan.tier is None else f"tier {plan.tier}{subscription}"
        return Line("plan", Verdict.GOOD, f"{found}: syncs")
    found = (
        f"tier {plan.tier or 'NULL'}{subscription}" if plan.has_profile else "The owner has no row of the gate's kind"
    )
    says = f"{found}: devices work locally; nothing is sent to them, and their pushes are refused."
    return Line("plan", Verdict.BAD if needed else Verdict.WAITING, says)


# ---- The devices ----------------------------------------------------------------------------------------------------


def _devices(facts: Facts, fate: Fate, outlooks: Sequence[Outlook]) -> list[Line]:
    lines = []
    for device, each in zip(facts.devices, outlooks, strict=True):
        stands = "no position" if device.position is None else f"position {device.position}"
        had = "knows that it is deleted" if fate.deleted else "was sent it"
        means = had if each is Outlook.HAS else MEANS[each]
        says = f"{device.client_id}: {_place(facts, device)}; {stands}: {means}"
        lines.append(Line("device", VERDICTS.get(each, Verdict.WAITING), says))
    seen = {device.client_id for device in facts.devices}
    for client in facts.clients or ():
        if client.client_id not in seen:
            pushed = ago(facts.now, client.pushed_at)
            says = f"{client.client_id}: never seen since devices are recorded; last pushed {pushed}"
            lines.append(Line("device", Verdict.WAITING, says))
    if not facts.devices:
        says = (
            "The owner has none that was seen since devices are recorded; one that connects gets a snapshot or the "
            "changes it missed."
        )
        lines.append(Line("device", Verdict.WAITING, says))
    return lines


def _place(facts: Facts, device: Device) -> str:
    last = f"last seen {ago(facts.now, device.noted_at)}"
    if device.state == DeviceState.CLOSED:
        code = device.close_code
        meaning = "" if code is None else f" ({code}: {closed(code)})"
        return f"{last} on {device.server}, connection {device.session}, closed{meaning}"
    if not is_connected(facts, device):
        heard = device.server_seen_at
        silent = "" if heard is None else f", last report {ago(facts.now, heard)}"
        return f"{last} on {device.server}, connection {device.session}; that server is dead or cut off{silent}"
    doing = DOING.get(device.state, device.state)
    as_of = ago(facts.now, device.server_seen_at or device.noted_at)
    return f"{doing} on {device.server}, connection {device.session}, as of {as_of}"


# ---- What was pushed ------------------------------------------------------------------------------------------------


def _clients(facts: Facts) -> list[Line]:
    """How far the owner's devices have pushed: a row that never arrived may wait in an outbox."""
    if facts.asked_user is None:
        says = "The owner is not known, so no outbox can be named: give the owner with --user."
        return [Line("outbox", Verdict.WAITING, says)]
    if facts.clients is None:
        says = "This login may not read sync.clients (how far each device has pushed): ask as an administrator."
        return [Line("outbox", Verdict.WAITING, says)]
    if not facts.clients:
        return [Line("outbox", Verdict.WAITING, "No device of this user has ever pushed anything.")]
    lines = []
    for client in facts.clients:
        says = (
            f"{client.client_id}: last pushed {ago(facts.now, client.pushed_at)}, up to number {client.last_mutation}; "
            f"mutations from number {client.last_mutation + 1} on have not arrived"
        )
        lines.append(Line("outbox", Verdict.GOOD, says))
        for n, code in sorted(client.rejected.items()):
            sentence = SENTENCES.get(code, "The server does not accept this mutation.")
            says = f"{client.client_id}: number {n} was rejected, {code}, and is in the device's quarantine: {sentence}"
            lines.append(Line("outbox", Verdict.WAITING, says))
    return lines


# ---- The verdict ----------------------------------------------------------------------------------------------------


def _verdict(facts: Facts, fate: Fate | None, lines: Sequence[Line]) -> Line:
    obstacle = next((line for line in lines if line.verdict is Verdict.BAD), None)
    if fate is None:
        return Line("verdict", Verdict.BAD, _no_fate(facts))
    outlooks = [outlook(facts, fate, device) for device in facts.devices]
    lacking = [each for each in outlooks if each is not Outlook.HAS]
    verdict = Verdict.BAD if obstacle is not None else Verdict.WAITING if lacking or not outlooks else Verdict.GOOD
    says = _reach(fate, len(outlooks), len(outlooks) - len(lacking))
    if lacking:
        says += f"; {_others(facts, outlooks)}"
    if obstacle is not None and obstacle.what not in ("device", "plan"):
        says += f". There is an obstacle: see «{obstacle.what}» above"
    elif obstacle is not None and not outlooks:
        says += ", and the owner's plan does not sync"
    return Line("verdict", verdict, f"{says}.")


def _no_fate(facts: Facts) -> str:
    if facts.somebody_elses:
        return "It belongs to another user: ask without --user, or with the owner's id."
    if facts.row is not None:
        return "It has no owner, so no device gets it."
    if facts.changes:
        return "It is gone and its deletion was not recorded, so devices that have it keep it."
    if facts.is_parent:
        return f"There is no such {facts.kind}."
    if facts.plan is not None and not facts.plan.syncs:
        return "It is not here; the user's plan does not sync, so rows stay on the device that wrote them."
    return "It is not here: look into the outbox and the quarantine of the device that wrote it."


def _reach(fate: Fate, devices: int, reached: int) -> str:
    if not devices:
        return "It was deleted, and no device is known" if fate.deleted else "It is here, and no device is known"
    what = "It was deleted; that has reached" if fate.deleted else "Delivered to"
    if reached == devices:
        return f"{what} {'the only device' if devices == 1 else f'all {devices} devices'}"
    return f"{what} {reached or 'none'} of {count(devices, 'device')}"


def _others(facts: Facts, outlooks: Sequence[Outlook]) -> str:
    lacking = [(device, each) for device, each in zip(facts.devices, outlooks, strict=True) if each is not Outlook.HAS]
    if len(lacking) > 1:
        counts = Counter(each for _, each in lacking)
        return ", ".join(f"{number} {LACKING[each][number > 1]}" for each, number in counts.items())
    ((device, each),) = lacking
    subject = "it" if len(outlooks) == 1 else "the other one"
    if each in (Outlook.AWAY, Outlook.AWAY_LONG):
        return f"{subject} was last seen {ago(facts.now, device.noted_at)} and {MEANS[each]}"
    return f"{subject} {LACKING[each][0]}"
