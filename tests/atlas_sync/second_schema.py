"""A schema with all that the chat schema lacks: text keys, keys of two columns, every type, three levels of parents."""

import json
from pathlib import Path
from typing import Any, Final

import protocol
from atlas_sync.schema import Schema

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    schema.pop("name"): schema
    for schema in json.loads((Path(protocol.__file__).parent / "vectors" / "schemas.json").read_text(encoding="utf-8"))
}
PLAIN: Final = SCHEMAS["topics"]
SECOND: Final = Schema.parse(PLAIN)
