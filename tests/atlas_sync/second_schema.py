"""A schema with all that the chat schema lacks: text keys, keys of two columns, every type, three levels of parents."""

from typing import Any, Final

from atlas_sync.schema import Schema

PLAIN: Final[dict[str, Any]] = {
    "hash": "0123456789abcdef",
    "kinds": [
        {
            "name": "topic",
            "tag": "t",
            "key": ["text"],
            "columns": [["name", "text"], ["pinned", "bool"], ["touched", "instant?"]],
            "newest": "touched",
            "window": 20,
            "devices": {"insert": ["name", "pinned"], "update": ["name", "pinned"], "delete": True},
            "limits": {"name": 40},
        },
        {
            "name": "thread",
            "tag": "h",
            "key": ["bigint"],
            "columns": [["topic_id", "text"], ["title", "text?"], ["rank", "bigint?"]],
            "parent": "topic",
            "newest": "rank",
            "window": 10,
            "devices": {"insert": ["title"], "update": ["title"], "delete": True, "touches": "touched"},
        },
        {
            "name": "post",
            "tag": "P",
            "key": ["uuid"],
            "columns": [
                ["thread_id", "bigint"],
                ["kind", "text"],
                ["body", "json"],
                ["tags", "array?"],
                ["tokens", "bigint?"],
                ["votes", "int"],
                ["score", "float?"],
                ["cost", "numeric?"],
                ["day", "date?"],
                ["digest", "bytes?"],
                ["author", "uuid?"],
                ["hidden", "bool?"],
                ["posted", "instant"],
            ],
            "parent": "thread",
            "newest": "posted",
            "window": 5,
            "dated": "posted",
            "devices": {
                "insert": [
                    "kind",
                    "body",
                    "tags",
                    "tokens",
                    "votes",
                    "score",
                    "cost",
                    "day",
                    "digest",
                    "author",
                    "hidden",
                ],
                "update": ["body", "tags", "kind"],
                "delete": True,
                "created": "posted",
            },
            "limits": {"kind": ["note", "question"], "digest": 8},
        },
        {
            "name": "vote",
            "tag": "9",
            "key": ["text", "int"],
            "columns": [["up", "bool"]],
            "window": 0,
            "devices": {"insert": ["up"], "update": ["up"]},
        },
        {"name": "setting", "tag": "s", "key": ["int"], "columns": [["value", "json?"]]},
    ],
}

SECOND: Final = Schema.parse(PLAIN)
