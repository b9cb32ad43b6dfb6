"""A schema as a literal of TypeScript, from which an app's types derive. Pure."""

import json
import re
from typing import Any, Final

import msgspec

from protocol.schema import Schema

WIDTH: Final = 120
ORDER: Final = ("name", "tag", "key", "parent", "columns")
"""Of a kind's properties: the others follow in their order."""
HEAD: Final = (
    "/** What is synced: `atlas-sync schema --typescript` wrote this. Write it again when the declaration changed. */"
)


def module(schema: Schema) -> str:
    """The text of `schema.ts`. The same schema has the same text."""
    value = msgspec.to_builtins(schema, order="deterministic")
    kinds = [{**{name: kind[name] for name in ORDER if name in kind}, **kind} for kind in value["kinds"]]
    return f"{HEAD}\n\nexport const schema = {_literal({**value, 'kinds': kinds}, '', 27)} as const;\n"


def _literal(value: Any, indent: str, before: int) -> str:
    """`before`: how much stands before it and after it in its line. What fits into a line is in one."""
    match value:
        case dict() | list() | tuple():
            flat = _flat(value)
            if indent and len(indent) + before + len(flat) <= WIDTH:
                return flat
            deeper = indent + "  "
            if isinstance(value, dict):
                pairs = ((f"{_name(name)}: ", each) for name, each in value.items())
            else:
                pairs = (("", each) for each in value)
            lines = [f"{deeper}{name}{_literal(each, deeper, len(name) + 1)},\n" for name, each in pairs]
            opening, closing = "{}" if isinstance(value, dict) else "[]"
            return f"{opening}\n{''.join(lines)}{indent}{closing}"
        case _:
            return _flat(value)


def _flat(value: Any) -> str:
    match value:
        case dict():
            inside = ", ".join(f"{_name(name)}: {_flat(each)}" for name, each in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case list() | tuple():
            return f"[{', '.join(map(_flat, value))}]"
        case str():
            return _text(value)
        case _:
            return json.dumps(value)


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else _text(name)


def _text(value: str) -> str:
    """In single quotes, unless that would take more escapes."""
    quote = '"' if "'" in value and '"' not in value else "'"
    inside = (f"\\{each}" if each in (quote, "\\") else each for each in value)
    return quote + "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in inside) + quote
