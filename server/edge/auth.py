"""Verifies the tokens of clients, and never logs or repeats them."""

import asyncio
import contextlib
import hmac
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import httpx
import jwt
import orjson
import structlog
from jwt.utils import base64url_decode

from server.edge.remembered import Remembered, Verified
from server.exceptions import AtlasError
from server.fetch import AnswerError, get
from server.session import Claims

log = structlog.get_logger()

LEEWAY: Final = 10
"""Seconds that a token may be issued in the future, because clocks differ. Its expiry gets no leeway."""
WARN_AT_MOST: Final = 60.0
"""Seconds between two warnings about clocks, because every token may cause one."""
NOT_YET: Final = (
    "The token is not valid yet. Most likely the clocks of its issuer and of this server differ; tell the server's "
    "operator."
)
REQUIRED: Final = ["exp", "sub", "aud", "iss", "role"]
LAST_SECOND: Final = (1 << 53) // 1_000_000
"""The year 2255: the last instant that JavaScript represents exactly."""
KEYS_FRESH: Final = 600.0
"""Seconds until a key set is fetched again."""
REFETCH_AT_MOST: Final = 30.0
"""Minimum interval in seconds between fetches for unknown keys: a stranger can invent any number of key ids."""
FETCH_SECONDS: Final = 5.0
"""Limit on the duration of a fetch."""
KEY_SET_BYTES: Final = 1024 * 1024
KEY_SET_KEYS: Final = 100
"""Honest sets have a few keys, and reading each takes time."""
PUBLIC_MEMBERS: Final = ("kty", "kid", "alg", "use", "n", "e", "crv", "x", "y")
"""Members of a JWK that verification needs (RFC 7518, 6)."""
ALGORITHMS: Final = {"RSA": frozenset({"RS256"}), "EC": frozenset({"ES256"}), "OKP": frozenset({"EdDSA"})}
"""Signature algorithms by type of key. HMAC is never among them: a public key must not be used as a secret."""


class RefusedError(Exception):
    """The token is not accepted. The message may be shown to its bearer, and quotes nothing of it."""


class KeySet:
    """The public keys of a JWKS URL. One fetch runs at a time; the known keys stay in use while it runs or if it fails.

    Only a token with an unknown key waits for a fetch, and for one at most.
    """

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._client = client
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried = -math.inf
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """Return the key with this id; None if the set does not have it."""
        known = self._keys.get(kid)
        self._refresh(REFETCH_AT_MOST if known is None else KEYS_FRESH)
        if known is None and self._fetching is not None:
            await asyncio.wait([self._fetching])
            known = self._keys.get(kid)
        return known

    def has(self, kid: str, key: jwt.PyJWK) -> bool:
        """Return whether `key`, which this set had under this id, still is in it."""
        self._refresh(KEYS_FRESH)
        return self._keys.get(kid) is key

    def _refresh(self, wait: float) -> None:
        """Begin to fetch, unless that was tried in the last `wait` seconds."""
        if self._fetching is None and time.monotonic() - self._tried >= wait:
            self._fetching = asyncio.create_task(self._fetch(), name="key set")

    async def aclose(self) -> None:
        """End a fetch in progress."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _fetch(self) -> None:
        try:
            status, body = await get(self._client, self._url, seconds=FETCH_SECONDS, limit=KEY_SET_BYTES)
            if status != 200:
                raise AnswerError(f"The answer has the status {status}.")
            fetched = _usable(orjson.loads(body))
            self._keys = {kid: _same(self._keys.get(kid), key) for kid, key in fetched.items()}
        except Exception as error:  # no answer of another server may end a hello with a traceback
            why = str(error) if isinstance(error, AtlasError) else type(error).__name__
            log.warning("the key set could not be fetched; the known keys stay", error=why)
        finally:
            self._tried = time.monotonic()
            self._fetching = None


def _usable(document: Any) -> dict[str, jwt.PyJWK]:
    """Return the keys of the set that can verify a token, by id. Raises AnswerError if there is none."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise AnswerError("The answer is not a key set.")
    if len(entries) > KEY_SET_KEYS:
        raise AnswerError(f"The key set has more than {KEY_SET_KEYS} keys.")
    keys = {}
    for entry in entries:
        # An unreadable key may raise anything, and must not affect the other keys.
        with contextlib.suppress(Exception):
            # Without private members, whose check takes cryptography seconds.
            key = jwt.PyJWK({name: entry[name] for name in PUBLIC_MEMBERS if name in entry})
            if isinstance(key.key_id, str) and key.key_type in ALGORITHMS:
                keys[key.key_id] = key
    if not keys:
        raise AnswerError("The key set has no key that can verify a token.")
    return keys


def _same(known: jwt.PyJWK | None, key: jwt.PyJWK) -> jwt.PyJWK:
    """Return the known key if it is the same one: what it verified is still verified."""
    same = known is not None and known.algorithm_name == key.algorithm_name and known.key == key.key
    return known if known is not None and same else key


class Verifier:
    """Accepts HS256 tokens signed with one of `secrets`, tokens signed with a key of `keys`, or both.

    The configuration decides which of the two families are accepted. A token only claims to belong to one of them.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str],
        keys: KeySet | None,
        audience: str,
        issuer: str | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now`: the time in seconds since 1970."""
        self._now = now
        self._secrets = secrets
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._warned = -math.inf
        self._remembered = Remembered()

    def recall(self, token: str) -> Claims | None:
        """Return the contents of a token that was verified before and is still valid; None if `verify` has to look.

        A device that comes back presents the token that it had. To verify it again takes 92 µs, this takes 2 µs.
        """
        found = self._remembered.take(token)
        if found is None or found.claims.expires <= self._now() or found.begins - self._now() > LEEWAY:
            return None
        if found.key is not None and (self._keys is None or not self._keys.has(found.kid, found.key)):
            return None
        self._remembered.put(token, found)
        return found.claims

    async def verify(self, token: str) -> Claims:
        """Return the contents of a valid token. Raises RefusedError for any other."""
        verified = await self._verify(token)
        self._remembered.put(token, verified)
        return verified.claims

    async def _verify(self, token: str) -> Verified:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise RefusedError("This is not a JSON Web Token.") from None
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secrets:
            return Verified(*self._claims(token, self._signer(token), "HS256"))
        if self._keys is not None and isinstance(algorithm, str):
            kid = header.get("kid")
            key = await self._keys.key(kid) if isinstance(kid, str) and len(kid) <= 256 else None
            if key is None or not isinstance(kid, str):
                raise RefusedError("The token's key is not known here.")
            if algorithm not in ALGORITHMS.get(str(key.key_type), ()):
                raise RefusedError("The token's algorithm is not one of its key's.")
            return Verified(*self._claims(token, key, algorithm), kid, key)
        raise RefusedError("The token's algorithm is not accepted here.")

    def _signer(self, token: str) -> str:
        """Return the secret that signed the token; the first if none did, so that one place refuses the token.

        Every secret is tried, and each in constant time: the duration tells nothing about which one fits.
        """
        signed, _, signature = token.rpartition(".")
        given = base64url_decode(signature)
        signer = self._secrets[0]
        for secret in self._secrets:
            if hmac.compare_digest(hmac.digest(secret.encode(), signed.encode(), "sha256"), given):
                signer = secret
        return signer

    def _claims(self, token: str, key: Any, algorithm: str) -> tuple[Claims, int]:
        """Return the contents of a valid token, and when it begins."""
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                # Times are checked last, so that other faults are reported first.
                options={"require": REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            begins = max((int(payload[claim]) for claim in ("iat", "nbf") if claim in payload), default=0)
            begins = min(begins, LAST_SECOND)
            expires = min(int(payload["exp"]), LAST_SECOND)
        except jwt.InvalidAudienceError:
            raise RefusedError("The token is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise RefusedError("The token is from another issuer.") from None
        except jwt.MissingRequiredClaimError as error:
            raise RefusedError(f"The token lacks the claim `{error.claim}`.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise RefusedError("The token's signature or form is not valid.") from None
        # service_role and anon tokens are signed by the same key, and must not open a user's socket.
        if payload["role"] != "authenticated":
            raise RefusedError("The token's role is not `authenticated`.")
        try:
            user = _user(payload["sub"])
        except (ValueError, TypeError, AttributeError):
            raise RefusedError("The token's `sub` is not a UUID.") from None
        if expires <= self._now():
            raise RefusedError("The token has expired.")
        self._has_begun(begins)
        return Claims(user, expires), begins

    def _has_begun(self, begins: int) -> None:
        ahead = begins - self._now()
        if ahead <= LEEWAY:
            return
        if time.monotonic() - self._warned >= WARN_AT_MOST:
            self._warned = time.monotonic()
            log.warning(
                "a token is not valid yet: set this machine's clock and the issuer's by NTP", seconds=round(ahead)
            )
        raise RefusedError(NOT_YET)


def _user(sub: str) -> UUID:
    """Return the user that a `sub` names. Raises ValueError unless it has the canonical form.

    UUID() also accepts braces, `urn:uuid:`, signs and the digits of every script. For the issuer those are other users.
    """
    user = UUID(sub)
    if str(user) != sub.lower():
        raise ValueError("not in the canonical form")
    return user


def subject(token: str) -> UUID | None:
    """Return the user of an unverified token; None if it is no token. For clients, never to grant access."""
    try:
        return _user(jwt.decode(token, options={"verify_signature": False})["sub"])
    except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError):
        return None


def mint(user: UUID, secret: str, *, audience: str, issuer: str, lifetime: int, now: float) -> str:
    """Make a development token as Supabase signs it with the legacy secret. `lifetime`: seconds."""
    claims = {"sub": str(user), "aud": audience, "iss": issuer, "role": "authenticated", "iat": int(now)}
    return jwt.encode({**claims, "exp": int(now) + lifetime}, secret, algorithm="HS256")
