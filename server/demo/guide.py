"""A conversation of each person that says what can be tried here. Its answer is Markdown, as a model's answers are."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid5

from server.demo.seed import Conversation, Message, Person

QUESTION: Final = "What can I try here?"
ANSWER: Final = """\
Each device on this page has a **database of its own**. Whatever you do works without the server, and arrives \
everywhere once there is a connection:

1. Write on one device, and look at the other.
2. Switch a device's network off, write on both, and switch it on.
3. Stop the demo with `Ctrl-C`, reload this page, go on writing, and start the demo again.
4. Ask for a **story**. While it is written, reload the page, switch a device off and on, or stop it on the other \
device.

| mark | what it means |
|---|---|
| clock | waits on this device |
| tick | the server has stored it |

This is what the page does to show messages, and to send one:

```ts
const messages = sync.list('message', { parent: conversationId });
const message = await sync.insert('message', { conversationId, role: 'user', content: 'Hello' });
```

What you write asks the assistant, unless you switch **Ask** off. How does the app's backend learn of a question? The \
page inserts a second row, which names the message; no request is made:

```ts
await sync.insert('question', { conversationId, messageId: message });
```

So it can be asked offline, and is answered once. The backend takes it from its table in Postgres, inserts an empty \
answer, and writes that as a **stream**: each device shows the text as it grows, and the row gets it once, at the end.

```python
async with Stream(url, token, user, "message", answer, "content") as out:
    async for piece in model:
        await out.write(piece)
```
"""


def conversations(people: Sequence[Person], now: datetime) -> tuple[Conversation, ...]:
    """One for each person, the newest at `now`."""
    made = []
    for person in people:
        key = uuid5(person.id, "guide")
        said = (("user", QUESTION, 20), ("assistant", ANSWER, 15))
        messages = tuple(
            Message(uuid5(key, role), role, content, now - timedelta(seconds=ago)) for role, content, ago in said
        )
        made.append(Conversation(key, person.id, QUESTION, messages))
    return tuple(made)
