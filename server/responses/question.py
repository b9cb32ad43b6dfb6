"""Which questions are one question: the canonical form, the key, and the limits of what is kept. Pure."""

import hashlib
import unicodedata
from decimal import Decimal
from typing import Final, NamedTuple

from server.exceptions import AtlasError

EVERYBODY: Final = "everybody"
"""The scope of a response that any user may get."""

QUESTION_BYTES: Final = 32 * 1024
"""Limit on a question, in bytes of UTF-8."""
NAME_BYTES: Final = {"model": 200, "tier": 100, "scope": 1_000}
"""Limits on what else makes up a key, in bytes of UTF-8."""
RESPONSE_BYTES: Final = 256 * 1024
"""Limit on a response, in bytes of UTF-8. A request may have 1 MiB, and JSON writes some characters as several."""
TTL_SECONDS: Final = (1.0, 30 * 86_400.0)
"""How long a response may be kept."""
LEASE_SECONDS: Final = (1.0, 600.0)
"""How long computing a response may take, until another caller computes it."""
WAIT_SECONDS: Final = 60.0
"""How long a caller may wait for another one."""
TOKENS: Final = 2**31 - 1
COST: Final = Decimal(1_000_000)
PLACES: Final = Decimal("0.00000001")
"""A cost is rounded to these decimals."""

FORM: Final = b"1"
"""Changes whenever the canonical form does: what was kept under another one is not found."""


class InputError(AtlasError):
    """What the caller gave is outside of the limits. The message says which, and does not repeat it."""


class Key(NamedTuple):
    """Names a response."""

    hash: str
    """SHA-256 of the canonical question, the model and the scope, in hexadecimal."""
    tier: str


def canonical(question: str) -> str:
    """The form that all spellings of a question share: Unicode NFKC, case folded, white space collapsed and trimmed.

    Compatibility characters become plain ones (ﬁ → fi, ² → 2, full-width → ASCII), letters lose their case (ẞ → ss),
    and any run of white space is one space. Punctuation, accents and the order of words count.
    """
    if question.isascii():
        folded = question.lower()
    else:
        # Unicode 3.13, D146: folding and normalising once each is not enough for all characters.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", question).casefold())
        folded = unicodedata.normalize("NFKC", folded.casefold())
    return " ".join(folded.split())


def key(question: str, *, model: str, tier: str, scope: str) -> Key:
    """The key of a question's response. Raises InputError.

    `scope` says who may get the response and what else it depends on: EVERYBODY, or a text of the caller's choice, such
    as a user's id and the version of a system prompt. It has no default: a response that was made from one user's data
    must never have the scope EVERYBODY. Model, tier and scope are compared as they are.
    """
    _check_size("question", question, QUESTION_BYTES)
    for name, value in (("model", model), ("tier", tier), ("scope", scope)):
        _check_size(name, value, NAME_BYTES[name])
        if not value or "\0" in value:
            raise InputError(f"The {name} must be a text, not empty and without U+0000.")
    plain = canonical(question)
    if not plain:
        raise InputError("The question is empty.")
    parts = [part.encode() for part in (scope, model, plain)]
    digest = hashlib.sha256(FORM)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return Key(digest.hexdigest(), tier)


def check_response(text: str, ttl: float, tokens: int, cost: Decimal) -> Decimal:
    """Check what is to be stored, and return the cost as it is stored. Raises InputError."""
    _check_size("response", text, RESPONSE_BYTES)
    if "\0" in text:
        raise InputError("The response contains U+0000, which Postgres cannot store. Take it out.")
    _check_range("ttl", ttl, *TTL_SECONDS, "seconds")
    if not 0 <= tokens <= TOKENS:
        raise InputError(f"tokens must be from 0 to {TOKENS}.")
    if not (cost.is_finite() and 0 <= cost < COST and (rounded := cost.quantize(PLACES)) < COST):
        raise InputError(f"cost must be from 0 to less than {COST}.")
    return rounded


def check_lease(lease: float | None, wait: float) -> None:
    """Raises InputError."""
    if lease is not None:
        _check_range("lease", lease, *LEASE_SECONDS, "seconds")
    _check_range("wait", wait, 0, WAIT_SECONDS, "seconds")


def _check_range(name: str, value: float, least: float, most: float, unit: str) -> None:
    if not least <= value <= most:
        raise InputError(f"{name} must be from {least:,.10g} to {most:,.10g} {unit}.")


def _check_size(name: str, value: str, most: int) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InputError(f"The {name} contains half of a surrogate pair, which is no character. Take it out.") from None
    if size > most:
        raise InputError(f"The {name} has {size:,} bytes of UTF-8; at most {most:,} are taken.")
