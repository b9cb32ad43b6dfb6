"""Real conversations as this project's rows: `chitchat-dataset` (7,168 between 1,315 people, 2018, MIT).

Only `read` does I/O.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from server.demo.seed import Conversation, Message, Person

CONVERSATIONS_PER_USER: Final = 60
"""Of each person only the newest are used: the busiest person has 2,000, and one screen of them is enough."""
HELD_BACK: Final = 5
"""One in so many conversations is replayed instead of loaded, so that new messages arrive in the demo."""
TITLE_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Cast:
    """The people of a demo, the conversations to load, and those to replay."""

    people: tuple[Person, ...]
    said: tuple[Conversation, ...]
    to_come: tuple[Conversation, ...]


def read() -> Mapping[str, Any]:
    """Read the data set, by conversation id. Takes half a second."""
    # Imported here, because it loads 40 MB that only the demo and the benchmarks use.
    from chitchat_dataset import Dataset

    dataset: Mapping[str, Any] = Dataset()
    return dataset


def cast(dataset: Mapping[str, Any], users: int, now: datetime) -> Cast:
    """Select the `users` people with the most conversations.

    Timestamps keep their distances. They are shifted so that the newest loaded message is one minute old at `now`.
    """
    # Conversations become rows only after the selection: most of the data set is not selected.
    of_user: dict[str, list[str]] = defaultdict(list)
    for key, value in dataset.items():
        if any(value["messages"]):
            of_user[_lines(value)[0]["sender"]].append(key)
    busiest = sorted(of_user, key=lambda user: (-len(of_user[user]), user))[:users]
    said: list[Conversation] = []
    to_come: list[Conversation] = []
    for user in busiest:
        keys = sorted(of_user[user], key=lambda key: str(_lines(dataset[key])[-1]["timestamp"]))
        newest = [_conversation(UUID(key), dataset[key]) for key in keys[-CONVERSATIONS_PER_USER:]]
        keep = len(newest) - max(1, len(newest) // HELD_BACK) if len(newest) > 1 else 1
        said += newest[:keep]
        to_come += newest[keep:]
    shift = now - timedelta(minutes=1) - max(conversation.last_at for conversation in said)
    return Cast(
        people=tuple(Person(UUID(user), _tier(i)) for i, user in enumerate(busiest)),
        said=tuple(conversation.shifted(shift) for conversation in said),
        to_come=tuple(to_come),
    )


def _tier(i: int) -> str:
    # The first two are on a paid tier, because the demo prints their tokens. Every fifth person is on the free tier.
    return "free" if i % 5 == 4 else ("studio", "core")[i % 2]


def _lines(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [line for block in value["messages"] for line in block]


def _conversation(conversation_id: UUID, value: Mapping[str, Any]) -> Conversation:
    lines = _lines(value)
    owner = UUID(lines[0]["sender"])
    messages = tuple(
        Message(
            id=uuid5(conversation_id, str(i)),
            role="user" if UUID(line["sender"]) == owner else "assistant",
            content=line["text"],
            at=datetime.fromisoformat(line["timestamp"]),
        )
        for i, line in enumerate(lines)
    )
    title = (value.get("prompt") or lines[0]["text"])[:TITLE_CHARACTERS]
    # The order of the lines is the order of the conversation, even where a clock was set back.
    ascending: list[Message] = []
    for message in messages:
        earliest = ascending[-1].at + timedelta(microseconds=1) if ascending else message.at
        ascending.append(replace(message, at=max(message.at, earliest)))
    return Conversation(conversation_id, owner, title, tuple(ascending))


def pauses(conversation: Conversation, longest: float) -> Iterable[tuple[Message, float]]:
    """Each message with the seconds since the message before it, at most `longest`."""
    before = conversation.messages[0].at
    for message in conversation.messages:
        yield message, min((message.at - before).total_seconds(), longest)
        before = message.at
