"""Who is this? Checks the tokens that clients present; never logs or repeats them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import UUID

import jwt
import structlog

from server.session import Claims

log = structlog.get_logger()

LEEWAY: Final = 10
"""Seconds that a token may come from the future: clocks differ. Its end gets no such grace."""
REQUIRED: Final = ["exp", "sub", "aud", "iss", "role"]
LAST_SECOND: Final = (1 << 53) // 1_000_000
"""The year 2255: instants travel as integers that JavaScript can hold."""
KEYS_FRESH: Final = 600.0
"""Seconds until a key set is fetched again."""
REFETCH_AT_MOST: Final = 30.0
"""Seconds between two fetches for keys that are not in the set: a stranger can invent key ids without end."""
ALGORITHMS: Final = {"RSA": frozenset({"RS256"}), "EC": frozenset({"ES256"}), "OKP": frozenset({"EdDSA"})}
"""What a key of each type may sign with. HMAC is never among them: a public key must not pass for a secret."""

FetchJson = Callable[[str], Awaitable[Mapping[str, Any]]]


class RefusedError(Exception):
    """The token is not accepted; the message may be shown to its bearer, and contains nothing of it."""


class KeySet:
    """The public keys behind a JWKS address: cached, fetched by one at a time, kept while a fetch fails."""

    def __init__(self, url: str, fetch: FetchJson, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried = -KEYS_FRESH
        self._fetching = asyncio.Lock()

    async def key(self, kid: str) -> jwt.PyJWK | None:
        wait = KEYS_FRESH if kid in self._keys else REFETCH_AT_MOST
        if self._clock() - self._tried >= wait:
            async with self._fetching:
                if self._clock() - self._tried >= wait:
                    await self._refresh()
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        try:
            document = await self._fetch(self._url)
            keys = jwt.PyJWKSet.from_dict(dict(document)).keys
            self._keys = {key.key_id: key for key in keys if key.key_id is not None and key.key_type in ALGORITHMS}
        except Exception as error:  # whatever a foreign server answers must not end a hello with a traceback
            log.warning("the key set could not be fetched; the known keys stay", error=type(error).__name__)
        self._tried = self._clock()


class Verifier:
    """Accepts HS256 tokens of `secret`, tokens of the keys in `keys`, or both if both are configured.

    The configuration decides which families exist; a token only says which of them it claims to be of.
    """

    def __init__(self, *, secret: str | None, keys: KeySet | None, audience: str, issuer: str | None) -> None:
        self._secret = secret
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    async def verify(self, token: str) -> Claims:
        """What the token says. Raises RefusedError."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise RefusedError("This is not a JSON Web Token.") from None
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secret is not None:
            return self._claims(token, self._secret, "HS256")
        if self._keys is not None and isinstance(algorithm, str):
            kid = header.get("kid")
            key = await self._keys.key(kid) if isinstance(kid, str) and len(kid) <= 256 else None
            if key is None:
                raise RefusedError("The token's key is not known here.")
            if algorithm not in ALGORITHMS.get(str(key.key_type), ()):
                raise RefusedError("The token's algorithm is not one of its key's.")
            return self._claims(token, key, algorithm)
        raise RefusedError("The token's algorithm is not accepted here.")

    def _claims(self, token: str, key: Any, algorithm: str) -> Claims:
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": REQUIRED},
            )
        except jwt.ExpiredSignatureError:
            raise RefusedError("The token has ended.") from None
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
            claims = Claims(UUID(payload["sub"]), min(int(payload["exp"]), LAST_SECOND))
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise RefusedError("The token's `sub` is not a UUID.") from None
        if claims.expires <= time.time():
            raise RefusedError("The token has ended.")
        return claims


def subject(token: str) -> UUID | None:
    """Whose token this says it is, unverified; None if it is no token. For a client that holds it, never to grant."""
    try:
        return UUID(jwt.decode(token, options={"verify_signature": False})["sub"])
    except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError):
        return None


def mint(user: UUID, secret: str, *, audience: str, issuer: str, lifetime: int, now: float) -> str:
    """A development token as Supabase would sign it with the legacy secret. `lifetime` in seconds."""
    claims = {"sub": str(user), "aud": audience, "iss": issuer, "role": "authenticated", "iat": int(now)}
    return jwt.encode({**claims, "exp": int(now) + lifetime}, secret, algorithm="HS256")
