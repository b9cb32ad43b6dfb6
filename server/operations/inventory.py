"""Objects of Atlas Sync that are missing or altered in a database: how they are mended and reported. Pure."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from server.operations.catalog import Step

NAMED: Final = 5
"""How many of a list are named in a sentence."""
MIGRATE: Final = "Run `atlas-sync migrate`."
FUNCTION: Final = re.compile(
    r"^(?P<text>CREATE OR REPLACE FUNCTION sync\.(?P<name>\w+)\([^;]*? AS (?P<quote>\$\w*\$)(?P<says>.*?)(?P=quote));",
    re.MULTILINE | re.DOTALL,
)
VIEW: Final = re.compile(
    r"^(?P<text>CREATE OR REPLACE VIEW sync\.(?P<name>\w+)(?: WITH \([^)]*\))? AS\s.*?);", re.MULTILINE | re.DOTALL
)
OF_THE_APP: Final = re.compile(r"(schema|(partitioned )?table|column|trigger \w+ on) (?!sync\b)")
"""How `what` begins for what the app made and a declaration names, and for triggers on that."""
LOCKING: Final = ("trigger ", "policy ", "row level security ", "default partition ")
"""How `what` begins for objects whose mending locks a table."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """An object or right that is not as it should be: a row of sql/inventory.sql."""

    what: str
    """Kind and name."""
    problem: str
    mend: str | None
    """Statements that mend it. None: a function or view whose definition is to be filled in, or an operator must
    mend it, and `problem` says how."""
    serving: bool
    """Because of it, the server may miss changes, or Postgres may not record them."""

    @property
    def declared(self) -> bool:
        """Whether it depends on a table of the app, which another declaration need not name."""
        return OF_THE_APP.match(self.what) is not None

    def __str__(self) -> str:
        return f"{self.what} ({self.problem})"


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or view, as its file in sql/functions or sql/views defines it."""

    text: str
    says: str
    """The body of a function, as in pg_proc.prosrc."""

    @property
    def md5(self) -> str:
        return hashlib.md5(self.says.encode(), usedforsecurity=False).hexdigest()


def definitions(scripts: Iterable[str]) -> dict[str, Definition]:
    """The definitions in these scripts, by «function sync.NAME» and «view sync.NAME»."""
    known: dict[str, Definition] = {}
    for script in scripts:
        for found in FUNCTION.finditer(script):
            known[f"function sync.{found['name']}"] = Definition(found["text"], found["says"])
        for found in VIEW.finditer(script):
            known[f"view sync.{found['name']}"] = Definition(found["text"], "")
    return known


def complete(found: Iterable[Wrong], known: Mapping[str, Definition]) -> list[Wrong]:
    """Fill in the statements that create functions and views again."""
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
    """How `Wrong.what` begins."""
    good: str
    """What the doctor says if nothing is wrong."""


TOPICS: Final = {
    "privileges": Topic(
        ("role ", "membership ", "USAGE ", "SELECT ", "EXECUTE ", "rights "), "what the server needs, and no more"
    ),
    "triggers": Topic(("trigger ",), "there and enabled, on every partition too"),
    "row security": Topic(("policy ", "row level security "), "on, and hides nothing from the server"),
    "objects": Topic(("",), "there, and as they were made"),
}
"""Something that belongs to several topics counts for the first."""


def by_topic(found: Sequence[Wrong]) -> dict[str, list[Wrong]]:
    """What is wrong, by topic; all topics are keys."""
    topics: dict[str, list[Wrong]] = {topic: [] for topic in TOPICS}
    for wrong in found:
        topics[next(name for name, topic in TOPICS.items() if wrong.what.startswith(topic.kinds))].append(wrong)
    return topics


def says(found: Sequence[Wrong]) -> str:
    """Sentences about one topic: what is wrong, and what to do unless the problem says that itself."""
    named = ", ".join(str(wrong) for wrong in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    # The login that runs the doctor lacks the membership; the owner's `migrate` cannot grant it.
    own = [wrong.mend for wrong in found if wrong.what.startswith("membership ")]
    sentences = [f"{named}{more}.", *(f"Run {mend} as an administrator." for mend in own)]
    if any(wrong.mend is not None and wrong.mend not in own for wrong in found):
        sentences.append(MIGRATE)
    return " ".join(sentences)


def queue(usage: float, sessions: Sequence[tuple[int, str | None, str | None, str | None]]) -> str:
    """Sentences about who fills the notification queue, and how to end that. `sessions`: pid, role, database, and the
    start of the transaction if this login may know it; the oldest first."""
    filling = f"The notification queue is {usage:.0%} full; when it is full, every commit that notifies fails."
    if not sessions:
        return f"{filling} No session is in a transaction now, so the next notification empties it."
    pid, role, database, since = sessions[0]
    if since is not None:
        return (
            f"{filling} A listening session keeps it from being emptied: most likely {pid} ({role} at {database}), "
            f"which is in the oldest transaction, since {since}. Run SELECT pg_terminate_backend({pid})."
        )
    named = ", ".join(f"{pid} ({role} at {database})" for pid, role, database, _ in sessions[:NAMED])
    more = f" and {len(sessions) - NAMED} more" if len(sessions) > NAMED else ""
    return (
        f"{filling} A listening session in a transaction keeps it from being emptied, one of these: {named}{more}. Run "
        "SELECT pg_terminate_backend(…) for the one in the oldest transaction; `atlas-sync doctor` names it to a "
        "member of pg_read_all_stats."
    )
