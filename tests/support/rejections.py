"""Rejected mutations: rules that an app may have, and what a rejection promises."""

import re
from typing import Any
from uuid import uuid4

from protocol.frames import Applied, Rejected
from tests.support.device import PushingDevice, Said, now
from tests.support.oracle import select_everything
from tests.support.rows import CreateConversation, RenameConversation

RULES: dict[str, str] = {
    "a check": "ALTER TABLE messages ADD CHECK (content NOT LIKE '%darn%')",
    "a trigger that raises": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN RAISE EXCEPTION 'No %', NEW.content; END IF; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that raises afterwards": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN RAISE EXCEPTION 'No %', NEW.content; END IF; RETURN NULL; END $$;
        CREATE TRIGGER rule AFTER INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that raises at commit": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN RAISE EXCEPTION 'No %', NEW.content; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER rule AFTER INSERT OR UPDATE ON messages DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that forbids": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN
            RAISE insufficient_privilege USING MESSAGE = 'No ' || NEW.content; END IF; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that divides by zero": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM 1 / (NEW.content NOT LIKE '%darn%')::int; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a unique index": """
        CREATE TABLE public.said (what text UNIQUE); INSERT INTO public.said VALUES ('darn');
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO public.said SELECT 'darn' WHERE NEW.content LIKE '%darn%'; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
}
"""Rules of an app's database against a message that contains «darn»."""


CONSTRAINT = re.compile(r" \(\w+\)$")
CONTENT = "nobody-else-may-read-this"


def is_fit_to_show(result: Rejected) -> None:
    """The message is a sentence for people, perhaps with the name of a constraint behind it. It quotes no content and
    names nothing internal."""
    message = CONSTRAINT.sub("", result.message)
    assert 10 < len(message) < 300, result
    assert message[0].isupper(), result
    assert message[-1] in ".!?", result
    assert "\n" not in message, result
    for never in (CONTENT, "psql", "asyncpg", "sync.", "public.", "violates", "constraint", "Traceback", "msgspec"):
        assert never not in message, result


async def between_good_ones(device: PushingDevice, sql: Any, *bad: Said) -> list[Rejected]:
    """Push each bad mutation between two that must be applied; returns the rejections."""
    conversation, at = uuid4(), now()
    good: list[Said] = [
        CreateConversation(conversation, f"{CONTENT} 0", at),
        *(RenameConversation(conversation, f"{CONTENT} {number}", at) for number in range(1, len(bad) + 1)),
    ]
    pushed: list[Said] = [good[0]]
    for one, other in zip(bad, good[1:], strict=True):
        pushed += [one, other]
    before = await select_everything(sql, device.user)
    results = await device.push(*pushed)
    assert [type(result) for result in results[::2]] == [Applied] * len(good), results
    after = await select_everything(sql, device.user)
    assert after == {**before, ("c", conversation): (f"{CONTENT} {len(bad)}", at, at)}
    assert await device.reach(max(result.seq for result in results if isinstance(result, Applied))) == after
    rejections = []
    for mutation, result in zip(pushed[1::2], results[1::2], strict=True):
        assert isinstance(result, Rejected), (mutation, result)
        is_fit_to_show(result)
        rejections.append(result)
    # Its number is consumed, and the same rejection comes again.
    repeated = await device.push(*pushed, n=device.number - len(pushed))
    assert repeated[1::2] == rejections
    return rejections
