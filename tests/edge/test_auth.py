"""A token that was verified is not verified again, and yet counts for nothing once it would be refused."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from server.edge import auth
from server.edge.auth import LEEWAY, KeySet, RefusedError, Verifier, mint
from server.session import Claims
from tests.support.waiting import eventually

ANNE: Final = UUID(int=1)
SECRET: Final = "a secret of this test, longer than 32 characters"
LIFETIME: Final = 3_600


class Gate:
    """A verifier, the time that it goes by, and the key set that it asks."""

    def __init__(self) -> None:
        self.time = float(int(time.time()))
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("one", "two")}
        self.fetches = 0
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.set = KeySet("http://keys.example.com/", self.client)
        self.verifier = Verifier(
            secrets=[SECRET], keys=self.set, audience="authenticated", issuer=None, now=lambda: self.time
        )

    def _answer(self, _: httpx.Request) -> httpx.Response:
        self.fetches += 1
        keys: list[dict[str, Any]] = [
            {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid} for kid, key in self.keys.items()
        ]
        return httpx.Response(200, stream=httpx.ByteStream(json.dumps({"keys": keys}).encode()))

    def by_secret(self) -> str:
        return mint(ANNE, SECRET, audience="authenticated", issuer="tests", lifetime=LIFETIME, now=self.time)

    def by_key(self, kid: str = "one") -> str:
        said = jwt.decode(self.by_secret(), options={"verify_signature": False})
        return jwt.encode(said, self.keys[kid], algorithm="ES256", headers={"kid": kid})

    async def fetched(self) -> None:
        before = self.fetches
        await eventually(lambda: self.fetches > before)
        await eventually(lambda: self.set._fetching is None)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    await gate.set.aclose()
    await gate.client.aclose()


async def test_a_verified_token_is_recalled_as_it_was_verified(gate: Gate) -> None:
    for token in (gate.by_secret(), gate.by_key()):
        assert gate.verifier.recall(token) is None
        claims = await gate.verifier.verify(token)
        for _ in range(2):
            assert gate.verifier.recall(token) == claims == Claims(ANNE, int(gate.time) + LIFETIME)


async def test_a_refused_token_is_never_recalled(gate: Gate) -> None:
    token = gate.by_secret()
    await gate.verifier.verify(token)
    forged = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    with pytest.raises(RefusedError):
        await gate.verifier.verify(forged)
    assert gate.verifier.recall(forged) is None


async def test_an_expired_token_is_not_recalled(gate: Gate) -> None:
    token = gate.by_secret()
    await gate.verifier.verify(token)
    gate.time += LIFETIME - 1
    assert gate.verifier.recall(token) is not None
    gate.time += 1
    assert gate.verifier.recall(token) is None


async def test_a_token_is_not_recalled_by_a_clock_that_was_set_back_before_its_beginning(gate: Gate) -> None:
    token = gate.by_secret()
    await gate.verifier.verify(token)
    gate.time -= LEEWAY
    assert gate.verifier.recall(token) is not None
    gate.time -= 1
    assert gate.verifier.recall(token) is None


async def test_a_token_counts_as_long_as_the_key_set_has_its_key(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, secret = gate.by_key("one"), gate.by_key("two"), gate.by_secret()
    for token in (one, two, secret):
        await gate.verifier.verify(token)
    monkeypatch.setattr(auth, "KEYS_FRESH", 0.0)
    # The set is fetched again without a token that has to be verified; the same keys are still the same.
    assert gate.verifier.recall(one) is not None
    await gate.fetched()
    assert gate.verifier.recall(one) is not None
    await gate.fetched()
    gate.keys = {"one": ec.generate_private_key(ec.SECP256R1())}  # another key of this id, and none of the other
    assert gate.verifier.recall(secret) is not None
    assert gate.verifier.recall(one) is not None
    await gate.fetched()
    assert gate.verifier.recall(secret) is not None
    assert gate.verifier.recall(one) is None
    assert gate.verifier.recall(two) is None
    for token in (one, two):
        with pytest.raises(RefusedError):
            await gate.verifier.verify(token)
