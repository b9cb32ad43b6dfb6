"""What Atlas Sync made in a database and is not as it should be: how it is mended, and how it is said. Pure."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from server.operations.catalog import Step

NAMED: Final = 5
"""Of many, so many are named."""
MIGRATE: Final = "Run `atlas-sync migrate`."
FUNCTION: Final = re.compile(
    r"^(?P<text>CREATE OR REPLACE FUNCTION sync\.(?P<name>\w+)\([^;]*? AS (?P<quote>\$\w*\$)(?P<says>.*?)(?P=quote));",
    re.MULTILINE | re.DOTALL,
)
VIEW: Final = re.compile(
    r"^(?P<text>CREATE OR REPLACE VIEW sync\.(?P<name>\w+)(?: WITH \([^)]*\))? AS\s.*?);", re.MULTILINE | re.DOTALL
)
LOCKING: Final = ("trigger ", "policy ", "row level security ", "default partition ")
"""Beginnings of `what` of that which is mended on a table."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A row of sql/inventory.sql."""

    what: str
    """Kind and name."""
    problem: str
    mend: str | None
    """The statements that mend it."""
    serving: bool
    """With it, the server may not see, or Postgres not record, every change."""

    def __str__(self) -> str:
        return f"{self.what} ({self.problem})"


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or view, as its file in sql/functions or sql/views defines it."""

    text: str
    says: str
    """What is between the quotes of a function."""

    @property
    def md5(self) -> str:
        return hashlib.md5(self.says.encode(), usedforsecurity=False).hexdigest()


def definitions(scripts: Iterable[str]) -> dict[str, Definition]:
    """«function sync.…» and «view sync.…» of the files that define them."""
    known: dict[str, Definition] = {}
    for script in scripts:
        for found in FUNCTION.finditer(script):
            known[f"function sync.{found['name']}"] = Definition(found["text"], found["says"])
        for found in VIEW.finditer(script):
            known[f"view sync.{found['name']}"] = Definition(found["text"], "")
    return known


def complete(found: Iterable[Wrong], known: Mapping[str, Definition]) -> list[Wrong]:
    """With the statements that make functions and views anew."""
    return [
        replace(wrong, mend=known[wrong.what].text) if wrong.mend is None and wrong.what in known else wrong
        for wrong in found
    ]


def mending(wrong: Wrong) -> Step:
    """The step of a migration that mends it."""
    locks = "ACCESS EXCLUSIVE on the table" if wrong.what.startswith(LOCKING) else "none"
    return Step(f"mend {wrong}", locks, (wrong.mend or "",))


@dataclass(frozen=True, slots=True)
class Topic:
    kinds: tuple[str, ...]
    """Beginnings of `what`."""
    good: str
    """What is to be said where nothing is wrong."""


TOPICS: Final = {
    "privileges": Topic(
        ("role ", "membership ", "USAGE ", "SELECT ", "EXECUTE "), "what the server needs, and no more"
    ),
    "triggers": Topic(("trigger ",), "there and enabled, on every partition too"),
    "row security": Topic(("policy ", "row level security "), "on, and hides nothing from the server"),
    "objects": Topic(("",), "there, and as they were made"),
}
"""What belongs to several belongs to the first."""


def by_topic(found: Sequence[Wrong]) -> dict[str, list[Wrong]]:
    """All topics; what of each is wrong."""
    topics: dict[str, list[Wrong]] = {topic: [] for topic in TOPICS}
    for wrong in found:
        topics[next(name for name, topic in TOPICS.items() if wrong.what.startswith(topic.kinds))].append(wrong)
    return topics


def says(found: Sequence[Wrong]) -> str:
    """What is wrong of one topic, and what to do, unless that is part of the problem."""
    named = ", ".join(str(wrong) for wrong in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    # The login that runs this is not the owner's, who cannot mend it by `migrate`.
    own = [wrong.mend for wrong in found if wrong.what.startswith("membership ")]
    sentences = [f"{named}{more}.", *(f"Run {mend} as an administrator." for mend in own)]
    if any(wrong.mend is not None and wrong.mend not in own for wrong in found):
        sentences.append(MIGRATE)
    return " ".join(sentences)


def queue(usage: float, sessions: Sequence[tuple[int, str | None, str | None, str | None]]) -> str:
    """Who fills the notification queue, and how to end it. `sessions`: pid, role, database, and since when it is in a
    transaction, if that may be known; the oldest first."""
    filling = f"The notification queue is {usage:.0%} full; when it is full, every commit that notifies fails."
    if not sessions:
        return f"{filling} No session is in a transaction any more, so the next notification empties it."
    pid, role, database, since = sessions[0]
    if since is not None:
        return (
            f"{filling} A session that listens keeps it: most likely {pid} ({role} at {database}), the oldest of those "
            f"in a transaction, since {since}. Run SELECT pg_terminate_backend({pid})."
        )
    named = ", ".join(f"{pid} ({role} at {database})" for pid, role, database, _ in sessions[:NAMED])
    more = f" and {len(sessions) - NAMED} more" if len(sessions) > NAMED else ""
    return (
        f"{filling} A session that listens keeps it, one of those in a transaction: {named}{more}. Run SELECT "
        "pg_terminate_backend(…) for the oldest; which that is, `atlas-sync doctor` tells a member of "
        "pg_read_all_stats."
    )
