"""What the assistant can say, and which of it answers a question. Pure."""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    breaks_off: bool = False
    """Whether the assistant fails when it has written the text."""


@dataclass(frozen=True, slots=True)
class Topic:
    words: str
    """A regular expression of the words that ask for it."""
    texts: tuple[str, ...]
    """The first time the first one, the next time the next one, and so on."""
    breaks_off: bool = False


HOW: Final = """\
The page inserts your message, and a **question** that names it. Both are rows, both go through this device's \
outbox, and they reach Postgres in one piece. The backend takes the question, inserts an empty answer, and then:

```python
async with Stream(url, token, user, "message", answer, "content") as out:
    async for piece in model:
        await out.write(piece)
await sql.execute("UPDATE messages SET content = $1 WHERE id = $2", out.text, answer)
```

What is written goes to every device that you have open, some milliseconds later. The row in Postgres gets the text \
*once*, at the end. Until then each device shows the stream in the row's place, and when the row arrives it shows \
the row: the same text, so you see nothing of it.
"""
HOW_AGAIN: Final = """\
A stream is **the future of one column of one row**. That is all there is to know:

- It has an owner, because the row has one. Nobody else can see it.
- It only grows. Every piece has an offset, counted in characters, so a piece that is sent twice is written once.
- It ends in one of three ways: `done`, `failed` or `stopped`.
- Then its text is in the row, and the stream is gone.

A device that was away asks for nothing. It connects, and gets the text so far in one frame, then what follows.
"""
STOP: Final = """\
Try it: press **Stop** on the other device while I write this.

Stop is not a message to me. It is written to Postgres first, and then I am told. So it counts even if I am not \
connected at that moment, and it does not matter which device you press it on, or which server that device talks to.

1. The device sends `stop`, and keeps it until it is answered.
2. The server ends the stream. From now on it takes nothing more from me.
3. I learn of it with my next piece, or at once if I wait for it.
4. What is written so far **stays**. I put it into the row, so that it is there tomorrow.

If your device is offline, the stop waits, as everything does that you do on it. I may have finished by then. In \
that case nothing happens: a stop that comes too late is not an error, and a text that is there is never taken away. \
You can go on reading, and nobody has to tell you that something went wrong, because nothing did.

You have read this far, so perhaps you did not press it. Then ask me again, and press **Escape** in the field where \
you write. That stops me, too.
"""
OFFLINE: Final = """\
Switch this device's network off while I write, and watch the other one:

- **This one** keeps what it had. Nothing flickers, nothing is lost, and it does not pretend that I still write to it.
- **The other one** goes on as before.

Switch it on again. The device gets the whole text in *one* frame, and goes on from there. It is the same when you \
reload the page: the text so far is in the device's own database, so it is there before the connection is.

You can also ask while you are offline. The question waits in the outbox with its message, and I answer when it comes.
"""
CRASH: Final = """\
Three parts can die while I write, and each one costs something else.

| what dies | what you see |
|---|---|
| the server | the text stops for a moment, then goes on |
| this assistant | the same: its successor reads how far I was, and continues there |
| this assistant, for good | after half a minute the server writes what there is into the row |

The demo prints my process id. `kill -9` it now, and look: the next one of me takes over **in the middle of the \
sentence**. It opens the same stream, gets the text so far, and writes what is missing. There is one answer, not \
two, because the row and the stream were there already.

Nothing of it needs a queue beside Postgres. The question is a row, too, and it is not answered until it says so.
"""
COMPARE: Final = """\
Most chat apps that I know of are built in one of these ways:

| the answer is | reload | second device | disk |
|---|---|---|---|
| the body of a request | gone | not there | once |
| a row, again and again | there | late | a thousand times |
| in Redis, and sent as events | there | if you build it | once, elsewhere |
| **a stream of its row** | there | at once | once |

The first is a weekend's work, and then the first user goes into a tunnel. The second is honest but expensive: each \
version of the row is written to the disk. The third is what people build next. It works; what it lacks is the seam \
between the stream and the stored message, and that is where texts flicker, double or vanish.
"""
RECIPE: Final = """\
Here is a bread that needs no kneading. It needs patience.

**For one loaf**

- 400 g flour, and a little for the table
- 300 ml lukewarm water
- 8 g salt
- 1 g dry yeast: a quarter of a teaspoon

**What to do**

1. Stir everything in a bowl until no flour is dry. It is sticky, and it should be.
2. Cover it, and leave it at room temperature for **12 to 18 hours**.
3. Fold it over itself four times on a floured table. Let it rest for an hour.
4. Heat a heavy pot with its lid in the oven to 240 °C, for half an hour.
5. Put the dough into the pot. Bake 30 minutes with the lid, then 15 without it.

> It is done when it sounds hollow. Let it cool, however good it smells: inside it still bakes.
"""
TEA: Final = """\
Something quick, then: **tomatoes on toast**, for one.

1. Halve 250 g of small tomatoes. Put them in a hot pan with a spoon of olive oil, cut side down, and leave them \
alone for four minutes.
2. Add a clove of garlic in slices, a pinch of salt, and a pinch of sugar if it is not August.
3. Toast two slices of bread. Rub them with the other half of the garlic.
4. Pour the tomatoes over the toast, with all of their juice. Black pepper, and basil if there is any.

It takes ten minutes. A fried egg on top makes it dinner.
"""
STORY: Final = """\
# The keeper of the clock

In a town by the sea there was a clock that was always right. Nobody knew why. It had no pendulum that anybody had \
seen, and the tower had no door. It simply said what time it was, on four sides, and the town believed it.

Boats left by it. Bread was baked by it. When two people quarrelled about who had been late, they went to the square \
and looked up, and the one who had been late paid for the coffee.

The only person who did not trust it was a girl called Ines, who repaired watches in her grandmother's shop. *A \
clock that is always right,* she said, *is one that somebody puts right.* Her grandmother, who had heard this every \
day for a year, gave her a lamp and told her to go and look.

## The first night

Ines sat in the square from midnight until the baker came. She wrote down what the clock said, and what her own \
watch said, every quarter of an hour. At two the clock was four seconds slow. At a quarter past two it was right.

She had looked away for as long as it takes to turn a page.

## The second night

She did not bring paper. She lay on her back on the stones with the lamp put out, and she did not look away at all. \
The stars went over. A cat came, sat on her feet, and left. At two the clock was four seconds slow. And a little \
later, at the height where the swallows nest, a stone in the wall went in like a drawer, and a hand came out.

It was an old hand. It held a stick with a hook at its end. It reached up, found the long hand of the clock, pushed \
it forward by the width of a straw, waited, listened, and went in again. The stone closed.

"Good evening," said Ines.

Nothing answered. But the stone had not closed quite as well as before.

## The third night

She brought a ladder, and bread. She knocked at the stone, seven metres above the square, and when it opened there \
was a man with the face of somebody who has not been spoken to for a long time, and who is trying to remember what \
comes next.

"It loses sixteen seconds a day," he said. "It has done so for four hundred years. I did not build it. I only put it \
right, four times a day, as the one before me did."

"Why don't you mend it?"

"I would have to stop it."

"For how long?"

"An hour. Perhaps two." He looked down at the square, as one looks at a river. "They would be without it. Boats \
would wait. They would stand there and look up, and it would say the wrong time, and they would never again believe \
it."

Ines thought about that. She thought about it so long that he ate half of the bread.

"They would not look up," she said, "if they had something else to look at."

## The day of the fair

So there was a fair. Ines' grandmother asked for it, and nobody had ever refused her anything. There were lanterns, \
and a man who swallowed fire, and a race of boats that went around the island and took the whole afternoon. From \
noon until two nobody in the town looked at the clock, because nobody in the town was in the square.

In the tower, by the light of the lamp, the girl and the old man took out one wheel. It had a hundred and twenty \
teeth, and one of them was worn to half of its length. It had been so for four hundred years. She had made the new \
one the week before, in the shop, from a drawing that he had scratched on a slate.

It took an hour and ten minutes. Then they pushed the hands to where her watch said they belonged, and let it go.

They listened. It sounded as it had always sounded.

## After that

At two in the night Ines sat in the square with her back against the fountain. The clock was right. At a quarter \
past two it was right. No stone moved, and no hand came out.

In the morning there was a door in the tower where there had been none. It was open, and an old man sat in it on a \
kitchen chair with his face in the sun. People said good morning to him as if he had always been there. One of them \
asked him what time it was.

He looked at the sea, then at the shadows, then at his hands.

"I have no idea," he said, and laughed until the swallows flew up.
"""
HELLO: Final = """\
Hello! I am this demo's assistant. I have no model and no network: I know a few texts, and I type them at the pace \
of a model, so that you can see what happens to an answer while it is written.

Ask me about one of these:

- how this **works**, with the code of it
- what **stop** does
- what happens **offline**, or when something **crashes**
- how others do it: a **comparison**
- a **recipe**, or a long **story**
"""
WHO: Final = """\
I am some three hundred lines of Python, beside the server of this demo. Nobody trained me, and I learn nothing.

What I do is what the backend of your app would do with a real model: take a question from Postgres, write an answer \
piece by piece, listen for a stop, and store the result. If you replace the part of me that chooses a text by a call \
to a model, I am finished. I mean that in the good sense.
"""
FAILURE: Final = """\
You asked me to fail, so I will. First I write a little, because a failure at the beginning shows nothing:

1. What is written stays. It is on your devices, and it goes into the row.
2. The answer is marked, so that you know that it is not the whole one.
3. You can have it written again, and the new text takes the place
"""
UNKNOWN: Final = (
    """\
That I do not know: I am a script with a dozen texts, and none of them is about it. Your question is safe all the \
same. It is a row in Postgres, and on each of your devices.

What I can tell you about:

- how this **works**
- what **stop** does, and what happens **offline**
- what a **crash** costs
- how others do it: a **comparison**
- a **recipe** for bread, or a long **story**
""",
    """\
I still do not know it, and asking again does not help, because I am a script. But look at what just happened: the \
new text took the place of the old one, in the **same row**, on all of your devices. That is what «Ask again» does.

Ask me how this **works**, or for a **story**, which is long enough to stop it from your phone.
""",
)

TOPICS: Final = (
    Topic(r"fail\w*|errors?|break|go wrong", (FAILURE,), breaks_off=True),
    Topic(r"stor(y|ies)|tale|long", (STORY,)),
    Topic(r"stop\w*|cancel\w*|interrupt\w*", (STOP,)),
    Topic(r"offline|network|reload\w*|tunnel|disconnect\w*", (OFFLINE,)),
    Topic(r"crash\w*|kill\w*|dies?|dead|restart\w*", (CRASH,)),
    Topic(r"compar\w+|others|redis|sse|difference|table|better|why", (COMPARE,)),
    Topic(r"recipes?|cook\w*|bak(e|ing)|bread|eat|food|dinner|lunch|hungry", (RECIPE, TEA)),
    Topic(r"how|works?|code|streams?|explain", (HOW, HOW_AGAIN)),
    Topic(r"hello|hi|hey|good (morning|evening)|help|try", (HELLO,)),
    Topic(r"who|you|model|ai|robot|script|human", (WHO,)),
)
"""The first one that a question asks for is taken."""


def choose(question: str, again: int) -> Answer:
    """The answer to a question that was asked `again` times before."""
    asked = question.lower()
    for topic in TOPICS:
        if re.search(rf"\b(?:{topic.words})\b", asked):
            return Answer(topic.texts[again % len(topic.texts)].strip(), topic.breaks_off)
    return Answer(UNKNOWN[min(again, len(UNKNOWN) - 1)].strip())
