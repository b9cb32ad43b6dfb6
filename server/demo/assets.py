"""Built files as HTTP serves them: compressed by the build, with entity tags, immutable where the name permits it.

The answer to a request is a pure function of the file and two of the request's headers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

IDENTITY: Final = "identity"
CODINGS: Final = {"br": ".br", "gzip": ".gz", IDENTITY: ""}
"""Content codings, and the suffix of the file that has each; the smallest one first."""
TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
CHARSET: Final = "; charset=utf-8"
IMMUTABLE: Final = "public, max-age=31536000, immutable"
REVALIDATED: Final = "no-cache"
NEVER_STORED: Final = "no-store"

_HASH: Final = re.compile(r".*-([0-9a-f]{16})\.[a-z]+")
_MEMBER: Final = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?"
)
_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_UNLISTED: Final = 0.0001
"""The weight of «identity» where the request does not mention it: less than every weight that it can give."""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Asset:
    type: str
    """Its media type."""
    immutable: bool
    contents: Mapping[str, bytes]
    """By content coding: `IDENTITY`, and the others that the build made."""
    tags: Mapping[str, str]
    """The entity tag of each of `contents`."""


def read(folder: Path) -> dict[str, Asset]:
    """The files below `folder`, by their path relative to it. Files of other types than `TYPES` are not served."""
    return {
        path.relative_to(folder).as_posix(): _asset(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES and path.is_file()
    }


def _asset(path: Path) -> Asset:
    copies = {coding: path.with_name(path.name + suffix) for coding, suffix in CODINGS.items()}
    contents = {coding: copy.read_bytes() for coding, copy in copies.items() if copy.exists()}
    return Asset(
        type=TYPES[path.suffix] + CHARSET,
        immutable=carries_its_hash(path.name, contents[IDENTITY]),
        contents=contents,
        tags={coding: f'"{sha256(content).hexdigest()[:32]}"' for coding, content in contents.items()},
    )


def carries_its_hash(name: str, content: bytes) -> bool:
    """Whether the name carries the hash of this content («page-0123456789abcdef.js»), so that no other content ever has
    this name."""
    found = _HASH.fullmatch(name)
    return found is not None and sha256(content).hexdigest().startswith(found[1])


def answer(asset: Asset, accept_encoding: str | None, if_none_match: str | None) -> Answer:
    """The answer to GET and HEAD. The arguments are the request's headers, None where it has none."""
    headers = {"Vary": "Accept-Encoding"}
    coding = choose(accept_encoding, asset.contents)
    if coding is None:
        told = f"Accept one of these content codings: {', '.join(asset.contents)}.\n"
        return Answer(
            406, headers | {"Cache-Control": NEVER_STORED, "Content-Type": f"text/plain{CHARSET}"}, told.encode()
        )
    headers |= {"Cache-Control": IMMUTABLE if asset.immutable else REVALIDATED, "ETag": asset.tags[coding]}
    if if_none_match is not None and names(if_none_match, asset.tags[coding]):
        return Answer(304, headers, b"")
    headers["Content-Type"] = asset.type
    if coding != IDENTITY:
        headers["Content-Encoding"] = coding
    return Answer(200, headers, asset.contents[coding])


def choose(accept_encoding: str | None, offered: Mapping[str, object]) -> str | None:
    """The coding that the request wants most; of several, the first of `offered`. None: it wants none of them.

    RFC 9110, 12.5.3. A request without the header gets `IDENTITY`: programs that do not send it seldom decode anything.
    """
    if accept_encoding is None:
        return IDENTITY
    weights = {}
    for member in accept_encoding.lower().split(","):
        if found := _MEMBER.fullmatch(member):  # one that is not well-formed asks for nothing
            weights["gzip" if found[1] == "x-gzip" else found[1]] = float(found[2] or 1)
    others = weights.get("*")

    def weight(coding: str) -> float:
        unlisted = _UNLISTED if coding == IDENTITY else 0.0
        return weights.get(coding, unlisted if others is None else others)

    best = max(offered, key=weight)
    return best if weight(best) > 0 else None


def names(if_none_match: str, tag: str) -> bool:
    """Whether the header If-None-Match names this entity tag, by weak comparison (RFC 9110, 13.1.2)."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)
