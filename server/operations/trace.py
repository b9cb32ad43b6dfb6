"""What became of one message: what Postgres knows of it and of its owner's devices, and what that means, in sentences
for support staff. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import orjson

from protocol.answers import CloseCode, Instruction, instruction
from protocol.frames import DEFAULT_ROWS, Instant
from server import tiers
from server.operations.trace_facts import Device, Facts, Feed, Message, Plan
from server.write.rules import SENTENCES

SECOND: Final = 1_000_000
SILENT: Final = 60 * SECOND
"""Microseconds after which a server that has not noted anything is dead or cut off; it notes every 15 s."""
STUCK: Final = 60 * SECOND
"""Microseconds within which a live device has got a change: a sweep, 30 s, finds what a lost doorbell hid, and the
server notes it 15 s later."""
SHOWN: Final = 5
"""Changes of the message that are listed; the others are counted."""
MEANING: Final = {
    CloseCode.GOING_AWAY: "the server was shutting down",
    CloseCode.INTERNAL: "the server failed at something; its log has the reason",
    CloseCode.HELLO_TIMEOUT: "it connected and said nothing",
    CloseCode.TOO_MANY_SOCKETS: "the user had too many connections open",
    CloseCode.TOO_MANY_FRAMES: "the device sent more than is permitted",
    CloseCode.TOO_MANY_HELLOS: "the user connected more often than is permitted",
    CloseCode.TOKEN_EXPIRED: "its token ran out",
    CloseCode.TOKEN_REFUSED: "its token was refused",
    CloseCode.POSITION_LOST: "the database no longer knew its position",
    CloseCode.BAD_FRAME: "it sent what the protocol does not allow: a fault of the app",
    CloseCode.LOCAL_ONLY: "the user's plan did not sync",
    CloseCode.REPLACED: "a newer connection of the same device took over",
    1000: "the device closed it",
    1001: "the app or the page was left",
    1002: "it broke the WebSocket protocol: a fault of the app, or of a proxy",
    1005: "the device closed it",
    1006: "the line was cut, or the device fell asleep",
    1007: "it sent text that is none: a fault of the app",
    1009: "it sent a frame that is too large: a fault of the app",
}
"""Why a connection ended."""


class Standing(StrEnum):
    GOOD = "good"
    WAITING = "waiting"
    """Comes right by itself, or is good to know."""
    BAD = "bad"
    """Stands in the way."""


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    standing: Standing
    says: str


class Outlook(StrEnum):
    """How a device stands to the message's last change."""

    HAS = "has"
    COMING = "coming"
    SNAPSHOT = "snapshot"
    STALLED = "stalled"
    AWAY = "away"
    AWAY_LONG = "away_long"
    """Longer than the log goes back."""
    STAYS_AWAY = "stays_away"
    UNPAID = "unpaid"
    STUCK = "stuck"
    """Live, and not served."""


STANDINGS: Final = {
    Outlook.HAS: Standing.GOOD,
    Outlook.STAYS_AWAY: Standing.BAD,
    Outlook.UNPAID: Standing.BAD,
    Outlook.STUCK: Standing.BAD,
}
"""Every other outlook comes right by itself."""
MEANS: Final = {
    Outlook.COMING: "had not been sent it when its server last noted, which it does every 15 s",
    Outlook.SNAPSHOT: "gets it in that snapshot",
    Outlook.STALLED: "gets it when it takes data again, or when it comes back",
    Outlook.AWAY: "gets it when it comes back",
    Outlook.AWAY_LONG: "gets a snapshot when it comes back",
    Outlook.STAYS_AWAY: "does not come back by itself: the app has to be opened again, or updated",
    Outlook.UNPAID: "gets nothing while the plan does not sync",
    Outlook.STUCK: "has not been sent it although it is live: look at its server's log, and at `atlas-sync doctor`",
}
"""Said of one device."""
OTHERS: Final = {
    Outlook.COMING: ("is about to get it", "are about to get it"),
    Outlook.SNAPSHOT: ("is getting a snapshot", "are getting a snapshot"),
    Outlook.STALLED: ("takes no data at this moment", "take no data at this moment"),
    Outlook.AWAY: ("is away and gets it when it comes back", "are away and get it when they come back"),
    Outlook.AWAY_LONG: (
        "is away and gets a snapshot when it comes back",
        "are away and get a snapshot when they come back",
    ),
    Outlook.STAYS_AWAY: ("does not come back by itself", "do not come back by themselves"),
    Outlook.UNPAID: ("gets nothing while the plan does not sync", "get nothing while the plan does not sync"),
    Outlook.STUCK: ("is live and is not served", "are live and are not served"),
}
"""Said in the verdict of one that does not have it, and of several."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What a device must have heard of to be in step, as far as this message goes."""

    seq: int | None
    """Where in the feed; None: before what the log still has."""
    deleted: bool


def tell(facts: Facts) -> list[Line]:
    """What is known, line by line, and last the verdict: bad if anything stands in the way."""
    lines = [*_message(facts)]
    fate = _fate(facts)
    if facts.plan is not None and facts.feed is not None:
        lines += _changes(facts)
        lines.append(_feed(facts.feed, facts.log_since))
        outlooks = [] if fate is None else [outlook(facts, fate, device) for device in facts.devices]
        in_step = bool(outlooks) and all(each is Outlook.HAS for each in outlooks)
        lines.append(_plan(facts.plan, needed=not in_step))
        if fate is not None:
            lines += _devices(facts, fate, outlooks)
    if facts.message is None and fate is None:
        lines += _clients(facts)
    return [*lines, _verdict(facts, fate, lines)]


def as_json(facts: Facts, lines: Sequence[Line]) -> str:
    """All of it, for tools."""
    told = {"verdict": lines[-1], "lines": lines[:-1], "facts": facts}
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()


def status(lines: Sequence[Line]) -> int:
    """A command's exit status: 1 if something stands in the way."""
    return int(lines[-1].standing is Standing.BAD)


# ---- The message ----------------------------------------------------------------------------------------------------


def _message(facts: Facts) -> list[Line]:
    message = facts.message
    if message is None:
        return [_absent(facts)]
    where = "in the archive" if message.archived else "in messages"
    lines = [
        Line(
            "message",
            Standing.GOOD,
            f"{where}: role {message.role}, {_count(message.content_bytes, 'byte')} of content, "
            f"conversation {message.conversation}, created {_at(message.created_at)}, "
            f"updated {_at(message.updated_at)}",
        )
    ]
    if facts.copies > 1:
        says = f"{facts.copies} rows have this id, created at different instants; this is about one of them."
        lines.append(Line("message", Standing.WAITING, says))
    if message.owner is None:
        says = "Its conversation does not exist, so it is nobody's, and no device gets it."
        lines.append(Line("owner", Standing.BAD, says))
    elif facts.somebody_elses:
        says = f"It is not user {facts.asked_user}'s but {message.owner}'s, and only their devices get it."
        lines.append(Line("owner", Standing.BAD, says))
    else:
        lines.append(Line("owner", Standing.GOOD, f"user {message.owner}"))
        if message.newer >= DEFAULT_ROWS:
            more = "1,000 or more" if message.newer >= 1_000 else str(message.newer)
            says = (
                f"{more} messages of its conversation are newer: a device that began with a snapshot loads it only "
                "when somebody scrolls there."
            )
            lines.append(Line("window", Standing.WAITING, says))
    return lines


def _absent(facts: Facts) -> Line:
    if facts.is_conversation:
        return Line("message", Standing.BAD, "This is the id of a conversation: ask with a message's.")
    searched = "the whole change log" if facts.searched_all else f"the change log of user {facts.owner}"
    reach = "" if facts.log_since is None else f", which goes back to {_at(facts.log_since)},"
    if facts.changes:
        owner = f" of user {facts.owner}" if facts.searched_all else ""
        return Line("message", Standing.WAITING, f"It does not exist any more. The change log{owner} knows it.")
    other = " Or it is another user's: ask without --user." if facts.asked_user is not None else ""
    says = (
        f"It does not exist, and {searched}{reach} does not know it: it never was here, or was deleted before.{other}"
    )
    return Line("message", Standing.BAD, says)


def _fate(facts: Facts) -> Fate | None:
    """None: there is nothing that a device could have."""
    newest = facts.changes[0] if facts.changes else None
    if facts.message is not None:
        if facts.feed is None:
            return None
        return Fate(newest.seq if newest is not None and newest.op == "u" else None, deleted=False)
    if newest is None:
        return None
    if newest.op == "d":
        return Fate(newest.seq, deleted=True)
    return Fate(max(_gone_with(facts)), deleted=True) if facts.deletions else None


def _gone_with(facts: Facts) -> list[int]:
    """Seqs of the deletions that may have taken the message along; the last of them is the one to have heard of."""
    certain = [deletion.seq for deletion in facts.deletions if deletion.certain]
    return certain[:1] or [deletion.seq for deletion in facts.deletions]


# ---- Its changes, the feed, the plan --------------------------------------------------------------------------------


def _changes(facts: Facts) -> list[Line]:
    lines = []
    for change in reversed(facts.changes[:SHOWN]):
        what = "deleted" if change.op == "d" else "created or changed"
        place = f", row {change.place} of {change.rows} of its transaction" if change.rows > 1 else ""
        when = f"{_at(change.seq)}, {_ago(facts.now, change.seq)}"
        lines.append(Line("change", Standing.GOOD, f"{what} {when}: feed position {change.seq}{place}"))
    if facts.changes_total > SHOWN and facts.first_change is not None:
        says = f"{facts.changes_total - SHOWN} earlier ones, the first {_at(facts.first_change)}"
        lines.insert(0, Line("change", Standing.GOOD, says))
    newest = facts.changes[0] if facts.changes else None
    if facts.message is not None:
        if newest is None or newest.op == "d":
            lines.append(_unrecorded(facts, facts.message))
    elif newest is not None and newest.op == "u":
        lines.append(_vanished(facts))
    return lines


def _unrecorded(facts: Facts, message: Message) -> Line:
    """The message is there, and the log does not say so."""
    assert facts.feed is not None
    way_out = (
        "so it was written with triggers disabled. Let an administrator look at `atlas-sync doctor`, then run "
        f"UPDATE {'messages_archive' if message.archived else 'messages'} SET updated_at = now() "
        f"WHERE id = '{facts.message_id}'."
    )
    if facts.changes:
        return Line("change", Standing.BAD, f"It was deleted and is here again, and no device was told: {way_out}")
    begun = facts.log_since
    if facts.feed.before_first == 0 and facts.feed.log_first is not None:
        begun = max(begun or facts.feed.log_first, facts.feed.log_first)
    if facts.feed.head and begun is not None and message.created_at is not None and message.created_at > begun:
        return Line("change", Standing.BAD, f"The change log goes back to {_at(begun)} and does not know it, {way_out}")
    since = "" if begun is None else f", which for this user begins {_at(begun)}"
    return Line("change", Standing.WAITING, f"no longer in the log{since}")


def _vanished(facts: Facts) -> Line:
    """The log's last word is that the message is there, and it is not."""
    if not facts.deletions:
        says = (
            "It is gone, and the log knows of no deletion: it was deleted with triggers disabled, and devices that "
            "have it keep it. Let an administrator look at `atlas-sync doctor`."
        )
        return Line("change", Standing.BAD, says)
    first = facts.deletions[0]
    gone = f"{_at(first.seq)}, {_ago(facts.now, first.seq)}: feed position {first.seq}"
    if first.certain:
        return Line("change", Standing.GOOD, f"deleted with its conversation {first.conversation} {gone}")
    if len(facts.deletions) == 1:
        return Line("change", Standing.WAITING, f"probably deleted with conversation {first.conversation} {gone}")
    ids = ", ".join(str(deletion.conversation) for deletion in facts.deletions)
    return Line("change", Standing.WAITING, f"probably deleted with one of these conversations: {ids}")


def _feed(feed: Feed, log_since: Instant | None) -> Line:
    if not feed.head and feed.log_head is None:
        return Line("feed", Standing.WAITING, "This user has none: nothing of theirs changed since it is recorded.")
    if feed.log_head is None and log_since is not None and feed.head < log_since:
        return Line("feed", Standing.GOOD, f"at {feed.head}, {_at(feed.head)}; all of it is older than the log")
    if feed.log_head != feed.head:
        log = "has nothing" if feed.log_head is None else f"ends at {feed.log_head}"
        says = (
            f"The feed is at {feed.head} and its log {log}: they were not written together. Let an administrator find "
            "out what restored or changed sync.feeds or sync.log, then run UPDATE sync.meta SET history = "
            "gen_random_uuid(), so that devices start over."
        )
        return Line("feed", Standing.BAD, says)
    return Line("feed", Standing.GOOD, f"at {feed.head}, {_at(feed.head)}; its row and the log agree")


def _plan(plan: Plan, *, needed: bool) -> Line:
    subscription = "" if plan.status is None else f", subscription {plan.status}"
    if plan.tier in tiers.SYNCED:
        return Line("plan", Standing.GOOD, f"tier {plan.tier}{subscription}: syncs")
    found = f"tier {plan.tier}{subscription}" if plan.has_profile else "The owner has no profile"
    says = f"{found}: devices work locally, and nothing is sent to them or taken from them."
    return Line("plan", Standing.BAD if needed else Standing.WAITING, says)


# ---- The devices ----------------------------------------------------------------------------------------------------


def outlook(facts: Facts, fate: Fate, device: Device) -> Outlook:
    """How the device stands to what became of the message."""
    connected = _connected(facts, device)
    between = connected and device.state == "snapshot"
    position = device.position
    head = facts.feed.head if facts.feed else 0
    stands = position is not None and position <= head and not between
    # What the log has lost was heard by whoever the rest of it goes on from.
    if stands and (device.resumes if fate.seq is None else (position or 0) >= fate.seq):
        return Outlook.HAS
    if facts.plan is None or facts.plan.tier not in tiers.SYNCED:
        return Outlook.UNPAID
    if not connected:
        if device.state == "closed" and _stays_away(device.close_code):
            return Outlook.STAYS_AWAY
        return Outlook.AWAY if device.resumes else Outlook.AWAY_LONG
    if between:
        return Outlook.SNAPSHOT
    if device.state == "stalled":
        return Outlook.STALLED
    assert device.server_seen_at is not None
    due = max(fate.seq or 0, device.connected_at) + STUCK
    return Outlook.STUCK if device.state == "live" and device.server_seen_at > due else Outlook.COMING


def _connected(facts: Facts, device: Device) -> bool:
    """What a server said that fell silent is not true any more."""
    return (
        device.state != "closed" and device.server_seen_at is not None and facts.now - device.server_seen_at <= SILENT
    )


def _stays_away(code: int | None) -> bool:
    # One that was replaced is here again already, under another connection.
    return code is not None and code != CloseCode.REPLACED and instruction(code) is Instruction.STAY_AWAY


def _devices(facts: Facts, fate: Fate, outlooks: Sequence[Outlook]) -> list[Line]:
    lines = []
    for device, each in zip(facts.devices, outlooks, strict=True):
        stands = "no position" if device.position is None else f"position {device.position}"
        had = "knows that it is deleted" if fate.deleted else "was sent it"
        means = had if each is Outlook.HAS else MEANS[each]
        says = f"{device.client_id}: {_whereabouts(facts, device)}; {stands}: {means}"
        lines.append(Line("device", STANDINGS.get(each, Standing.WAITING), says))
    seen = {device.client_id for device in facts.devices}
    for client in facts.clients or ():
        if client.client_id not in seen:
            says = f"{client.client_id}: never seen since that is noted; last wrote {_ago(facts.now, client.pushed_at)}"
            lines.append(Line("device", Standing.WAITING, says))
    if not facts.devices:
        says = "None of the owner's was seen since that is noted; one that connects gets a snapshot or what it missed."
        lines.append(Line("device", Standing.WAITING, says))
    return lines


def _whereabouts(facts: Facts, device: Device) -> str:
    last = f"last seen {_ago(facts.now, device.noted_at)}"
    if device.state == "closed":
        code = device.close_code
        meaning = "" if code is None else f" ({code}: {_meaning(code)})"
        return f"{last} on {device.server}, connection {device.session}, closed{meaning}"
    if not _connected(facts, device):
        heard = device.server_seen_at
        silent = "nobody knows since when" if heard is None else f"since {_ago(facts.now, heard)}"
        return f"{last} on {device.server}, connection {device.session}; that server is dead or cut off, {silent}"
    doing = {
        "live": "live",
        "catching_up": "catching up",
        "stalled": "connected, but its socket takes no data",
        "snapshot": "getting a snapshot",
    }.get(device.state, device.state)
    as_of = _ago(facts.now, device.server_seen_at or device.noted_at)
    return f"{doing} on {device.server}, connection {device.session}, as of {as_of}"


def _meaning(code: int) -> str:
    if (known := MEANING.get(code)) is not None:
        return known
    return {
        Instruction.COME_BACK: "an end that it comes back from",
        Instruction.NEW_TOKEN: "it needs a new token",
        Instruction.START_OVER: "it starts over",
        Instruction.STAY_AWAY: "it stays away",
    }[instruction(code)]


# ---- What was pushed ------------------------------------------------------------------------------------------------


def _clients(facts: Facts) -> list[Line]:
    """How far the owner's devices have pushed: where a message is to be looked for that is not here."""
    if facts.asked_user is None:
        says = "Whose outbox it may wait in is not known: say whose message it is with --user."
        return [Line("outbox", Standing.WAITING, says)]
    if facts.clients is None:
        says = "This login may not read sync.clients, how far each device has pushed: ask as an administrator."
        return [Line("outbox", Standing.WAITING, says)]
    if not facts.clients:
        return [Line("outbox", Standing.WAITING, "No device of this user has ever written anything through here.")]
    lines = []
    for client in facts.clients:
        says = (
            f"{client.client_id}: wrote last {_ago(facts.now, client.pushed_at)}, up to number {client.last_mutation}; "
            f"what its outbox numbers {client.last_mutation + 1} and up has not arrived"
        )
        lines.append(Line("outbox", Standing.GOOD, says))
        for n, code in sorted(client.rejected.items()):
            sentence = SENTENCES.get(code, "The server does not accept this change.")
            says = f"{client.client_id}: number {n} was rejected, {code}, and is in quarantine there: {sentence}"
            lines.append(Line("outbox", Standing.WAITING, says))
    return lines


# ---- The verdict ----------------------------------------------------------------------------------------------------


def _verdict(facts: Facts, fate: Fate | None, lines: Sequence[Line]) -> Line:
    obstacle = next((line for line in lines if line.standing is Standing.BAD), None)
    if fate is None:
        return Line("verdict", Standing.BAD, _no_fate(facts))
    outlooks = [outlook(facts, fate, device) for device in facts.devices]
    lacking = [each for each in outlooks if each is not Outlook.HAS]
    standing = Standing.BAD if obstacle is not None else Standing.WAITING if lacking or not outlooks else Standing.GOOD
    says = _reach(fate, len(outlooks), len(outlooks) - len(lacking))
    if lacking:
        says += f"; {_others(facts, outlooks)}"
    if obstacle is not None and obstacle.what not in ("device", "plan"):
        says += f". Something stands in the way: see «{obstacle.what}» above"
    elif obstacle is not None and not outlooks:
        says += ", and the owner's plan does not sync"
    return Line("verdict", standing, f"{says}.")


def _no_fate(facts: Facts) -> str:
    if facts.somebody_elses:
        return "It is another user's: ask without --user, or with the owner's id."
    if facts.message is not None:
        return "It is in no conversation, so no device gets it."
    if facts.changes:
        return "It is gone without a trace, so devices that have it keep it."
    if facts.is_conversation:
        return "There is no such message."
    if facts.plan is not None and facts.plan.tier not in tiers.SYNCED:
        return "It is not here; the user's plan does not sync, so what is written stays on the device."
    return "It is not here: look into the outbox, and the quarantine, of the device that wrote it."


def _reach(fate: Fate, devices: int, reached: int) -> str:
    if not devices:
        return "It was deleted, and no device is known" if fate.deleted else "It is here, and no device is known"
    what = "It was deleted; that has reached" if fate.deleted else "Delivered to"
    if reached == devices:
        return f"{what} {'the only device' if devices == 1 else f'all {devices} devices'}"
    return f"{what} {reached or 'none'} of {_count(devices, 'device')}"


def _others(facts: Facts, outlooks: Sequence[Outlook]) -> str:
    lacking = [(device, each) for device, each in zip(facts.devices, outlooks, strict=True) if each is not Outlook.HAS]
    if len(lacking) > 1:
        counts = Counter(each for _, each in lacking)
        return ", ".join(f"{count} {OTHERS[each][count > 1]}" for each, count in counts.items())
    ((device, each),) = lacking
    subject = "it" if len(outlooks) == 1 else "the other one"
    if each in (Outlook.AWAY, Outlook.AWAY_LONG):
        return f"{subject} was last seen {_ago(facts.now, device.noted_at)} and {MEANS[each]}"
    return f"{subject} {OTHERS[each][0]}"


# ---- Words ----------------------------------------------------------------------------------------------------------


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _at(instant: Instant | None) -> str:
    if instant is None:
        return "at no time"
    try:
        return f"{datetime.fromtimestamp(instant / SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "beyond the calendar"


def _ago(now: Instant, then: Instant) -> str:
    seconds = (now - then) / SECOND
    if seconds < 1:
        return "just now"
    for name, size, most in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{seconds // size:.0f} {name} ago"
    return f"{seconds // 86_400:,.0f} days ago"
