"""P10: nothing is sent on a connection after its token's end; and no token opens a connection but a good one."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from protocol.codec import JSON, Codec
from protocol.frames import Changes, Error, Hello, Live, Ping, Pong, Refresh, Refreshed, Snapshot, Welcome
from server.edge import connection as edge_connection
from tests.support.cluster import Database
from tests.support.peer import Peer, both_codecs, peer
from tests.support.people import add_conversation, add_user
from tests.support.serving import AUDIENCE, SECRET, Running, ServerProcess, serving
from tests.support.waiting import LIMIT, eventually

CANARY = "8d1f6a0e-nobody-may-read-this"
"""In every token that is refused."""

pytestmark = pytest.mark.shared_database


# ---- Tokens of every kind ------------------------------------------------------------------------------------------


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: object, payload: object, secret: str = SECRET, digest: str = "sha256") -> str:
    """A token by hand: no library would make most of these."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    text = ".".join(map(base64url, parts))
    return f"{text}.{base64url(hmac.digest(secret.encode(), text.encode(), digest))}"


def claims(user: UUID, **changed: Any) -> dict[str, Any]:
    """What an honest token says, but for what is changed. A claim of None is left out."""
    now = int(time.time())
    honest = {"sub": str(user), "aud": AUDIENCE, "iss": "tests", "role": "authenticated", "iat": now, "exp": now + 3600}
    return {name: value for name, value in {**honest, "note": CANARY, **changed}.items() if value is not None}


HS256 = {"alg": "HS256", "typ": "JWT"}


def by_hand(user: UUID, **changed: Any) -> str:
    return signed(HS256, claims(user, **changed))


def soon(seconds: int) -> int:
    return int(time.time()) + seconds


@dataclass
class Answer:
    """All that a hello is answered with until the connection ends or is welcomed."""

    welcome: Welcome | None = None
    error: Error | None = None
    code: int | None = None
    data: bytes = b""


async def answer_to(server: Running, presented: str) -> Answer:
    """Present this token in a hello."""
    answer = Answer()
    async with peer(server.url, JSON) as one:
        await one.say(Hello(token=presented, client_id=uuid4()))
        with contextlib.suppress(ConnectionClosed):
            while answer.welcome is None:
                async with asyncio.timeout(LIMIT):
                    text = await one.socket.recv()
                assert isinstance(text, str)
                answer.data += text.encode()
                frame = JSON.decode_to_client(text.encode())
                if isinstance(frame, Welcome):
                    answer.welcome = frame
                elif isinstance(frame, Error):
                    answer.error = frame
        if (close := one.socket.protocol.close_rcvd) is not None:
            answer.code = close.code
            answer.data += close.reason.encode()
    return answer


async def is_refused(server: Running, presented: str) -> None:
    """With the documented code, and without a word of what was presented."""
    answer = await answer_to(server, presented)
    assert answer.error is not None, answer
    assert (answer.error.code, answer.error.retryable, answer.error.answers) == ("token_refused", True, "hello")
    assert answer.code == 4101
    said = answer.data.decode()
    assert CANARY not in said
    for part in {presented, *presented.split(".")}:
        assert len(part) < 8 or part not in said


async def is_accepted(server: Running, presented: str) -> Welcome:
    answer = await answer_to(server, presented)
    assert answer.welcome is not None, answer
    return answer.welcome


# ---- Tokens that are refused ---------------------------------------------------------------------------------------

FULLWIDTH, ARABIC = ({ord("0") + digit: zero + digit for digit in range(10)} for zero in (0xFF10, 0x0660))
REFUSED: dict[str, Callable[[UUID], str]] = {
    "expired an hour ago": lambda user: by_hand(user, exp=soon(-3600)),
    "expired a second ago": lambda user: by_hand(user, exp=soon(-1)),
    "not valid before tomorrow": lambda user: by_hand(user, nbf=soon(86_400)),
    "signed with another secret": lambda user: signed(HS256, claims(user), secret="another secret, and as long"),
    "signed with the empty secret": lambda user: signed(HS256, claims(user), secret=""),
    "a signature cut short": lambda user: by_hand(user)[:-1],
    "another token's signature": lambda user: (
        f"{by_hand(user).rpartition('.')[0]}.{by_hand(uuid4()).rpartition('.')[2]}"
    ),
    "no signature": lambda user: f"{by_hand(user).rpartition('.')[0]}.",
    "alg none": lambda user: f"{signed({'alg': 'none'}, claims(user)).rpartition('.')[0]}.",
    "alg none, in other letters": lambda user: f"{signed({'alg': 'nOnE'}, claims(user)).rpartition('.')[0]}.",
    "alg none, signed all the same": lambda user: signed({"alg": "none"}, claims(user)),
    "alg HS512, with the right secret": lambda user: signed({"alg": "HS512"}, claims(user), digest="sha512"),
    "alg RS256, signed as HS256": lambda user: signed({"alg": "RS256", "kid": "k"}, claims(user)),
    "alg of another type: nil": lambda user: signed({"alg": None}, claims(user)),
    "alg of another type: list": lambda user: signed({"alg": ["HS256"]}, claims(user)),
    "alg of another type: map": lambda user: signed({"alg": {"HS256": 1}}, claims(user)),
    "alg of another type: number": lambda user: signed({"alg": 256}, claims(user)),
    "no alg": lambda user: signed({"typ": "JWT"}, claims(user)),
    "a kid that is no text": lambda user: signed({**HS256, "kid": [1]}, claims(user)),
    "a crit that nobody knows": lambda user: signed({**HS256, "crit": ["x"], "x": 1}, claims(user)),
    "b64 false": lambda user: signed({**HS256, "crit": ["b64"], "b64": False}, claims(user)),
    "a header that is no map": lambda user: signed(["HS256"], claims(user)),
    "a header that is no JSON": lambda user: signed(b"{alg: HS256}", claims(user)),
    "a header of deeply nested lists": lambda user: signed(b"[" * 5000, claims(user)),
    "a payload that is no map": lambda user: signed(HS256, [claims(user)]),
    "a payload that is no JSON": lambda user: signed(HS256, CANARY.encode()),
    "a payload that is no UTF-8": lambda user: signed(HS256, b"\xff\xfe"),
    "a payload of deeply nested lists": lambda user: signed(HS256, b"[" * 5000),
    "for another audience": lambda user: by_hand(user, aud="somebody"),
    "for a list without our audience": lambda user: by_hand(user, aud=["somebody", "else"]),
    "for an audience that is a map": lambda user: by_hand(user, aud={AUDIENCE: 1}),
    "of the role service_role": lambda user: by_hand(user, role="service_role"),
    "of the role anon": lambda user: by_hand(user, role="anon"),
    "of a list of roles": lambda user: by_hand(user, role=["authenticated"]),
    "without exp": lambda user: by_hand(user, exp=None),
    "without sub": lambda user: by_hand(user, sub=None),
    "without aud": lambda user: by_hand(user, aud=None),
    "without iss": lambda user: by_hand(user, iss=None),
    "without role": lambda user: by_hand(user, role=None),
    "a sub that is no UUID": lambda user: by_hand(user, sub=CANARY),
    "an empty sub": lambda user: by_hand(user, sub=""),
    "a sub in braces": lambda user: by_hand(user, sub=f"{{{user}}}"),
    "a sub that is a URN": lambda user: by_hand(user, sub=f"urn:uuid:{user}"),
    "a sub without hyphens": lambda user: by_hand(user, sub=user.hex),
    "a sub with hyphens elsewhere": lambda user: by_hand(user, sub=f"-{user.hex}---"),
    "a sub with a sign": lambda user: by_hand(user, sub=f"+{user.hex[1:]}"),
    "a sub with an underscore": lambda user: by_hand(user, sub=f"{user.hex[0]}_{user.hex[2:]}"),
    "a sub with 0x": lambda user: by_hand(user, sub=f"0x{user.hex[2:]}"),
    "a sub with spaces": lambda user: by_hand(user, sub=f" {user.hex[2:]} "),
    "a sub in fullwidth digits": lambda user: by_hand(user, sub=str(user).translate(FULLWIDTH)),
    "a sub in Arabic digits": lambda user: by_hand(user, sub=str(user).translate(ARABIC)),
    "a sub that ends with a line": lambda user: by_hand(user, sub=f"{user}\n"),
    "a sub that is a number": lambda user: by_hand(user, sub=7),
    "a sub that is a list": lambda user: by_hand(user, sub=[str(user)]),
    "an exp that is a text": lambda user: by_hand(user, exp="tomorrow"),
    "an exp that is a list": lambda user: by_hand(user, exp=[soon(60)]),
    "an exp that is no number": lambda user: by_hand(user, exp=float("nan")),
    "an infinite exp": lambda user: by_hand(user, exp=float("inf")),
    "an empty token": lambda user: "",
    "not a token at all": lambda user: CANARY,
    "points": lambda user: "." * 1000,
    "two parts": lambda user: by_hand(user).rpartition(".")[0],
    "four parts": lambda user: f"{by_hand(user)}.{CANARY}",
    "not base64": lambda user: f"{by_hand(user)[:-1]}!",
    "not ASCII": lambda user: by_hand(user).replace(".", "·"),
    "with a NUL": lambda user: f"\0{by_hand(user)}",
    "with a space before it": lambda user: f" {by_hand(user)}",
    "with «Bearer»": lambda user: f"Bearer {by_hand(user)}",
    "large, and signed with another secret": lambda user: signed(HS256, claims(user, x="x" * 9_000), secret="x" * 32),
}


async def test_every_token_that_is_not_right_is_refused_and_not_repeated(server: Running, user: UUID) -> None:
    for name, made in REFUSED.items():
        try:
            await is_refused(server, made(user))
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(name) from error
    await is_accepted(server, by_hand(user))


async def test_a_token_larger_than_any_honest_one_is_answered(server: Running) -> None:
    answer = await answer_to(server, "x" * 200_000)
    assert answer.error is not None
    assert (answer.error.code, answer.code) in {("token_refused", 4101), ("bad_frame", 4300)}


async def test_a_token_of_eight_kilobytes_is_an_honest_one(server: Running, user: UUID) -> None:
    await is_accepted(server, by_hand(user, app_metadata={"groups": ["x" * 50] * 100}))


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_token_of_another_clock_is_said_to_be_one_and_logged_once_a_minute(
    database: Database, user: UUID, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = {claim: soon(3_600)}
    other: list[dict[str, Any]] = [
        {"role": "anon"},
        {"aud": "somebody"},
        {"iss": "tests", "sub": "x"},
        {"exp": soon(-3_600)},
    ]
    async with serving(database) as server:
        with capture_logs() as told:
            # What else is wrong with a token is no matter of clocks.
            for changed in other:
                answer = await answer_to(server, by_hand(user, **ahead, **changed))
                assert answer.error is not None
                assert "clock" not in answer.error.message
            assert not [event for event in told if "clock" in event["event"]]
            for _ in range(3):
                answer = await answer_to(server, by_hand(user, **ahead))
                assert answer.error is not None
                assert (answer.error.code, answer.code) == ("token_refused", 4101)
                assert "clocks of its issuer and of this server differ" in answer.error.message
            monkeypatch.setattr("server.edge.auth.WARN_AT_MOST", 0.0)
            await is_refused(server, by_hand(user, **ahead))
        warning, _later = [event for event in told if "clock" in event["event"]]
        assert warning["log_level"] == "warning"
        assert 3_500 < warning["seconds"] <= 3_600
        assert CANARY not in str(told)
        await is_accepted(server, by_hand(user, **{claim: soon(5)}))


async def test_a_token_of_a_far_future_is_not_valid_yet(server: Running, user: UUID) -> None:
    for begins in (10**12, 10**19, 1e300, 10**400):
        answer = await answer_to(server, by_hand(user, nbf=begins, exp=soon(60)))
        assert answer.error is not None
        assert "not valid yet" in answer.error.message
    for malformed in (float("inf"), float("nan"), "tomorrow", [1]):
        await is_refused(server, by_hand(user, nbf=malformed))


async def test_a_list_of_audiences_with_ours_is_accepted(server: Running, user: UUID) -> None:
    await is_accepted(server, by_hand(user, aud=["somebody", AUDIENCE]))


async def test_a_sub_in_capitals_is_the_same_user(server: Running, sql: Any) -> None:
    user = await add_user(sql, user=UUID("abcdef01-2345-4678-9abc-def012345678"))
    await is_accepted(server, by_hand(user, sub=str(user).upper()))


async def test_any_issuer_is_accepted_where_none_is_configured(server: Running, user: UUID) -> None:
    await is_accepted(server, by_hand(user, iss="https://anybody.example.com"))


async def test_a_configured_issuer_is_the_only_one(database: Database, user: UUID) -> None:
    async with serving(database, jwt_issuer="https://auth.example.com") as server:
        await is_accepted(server, by_hand(user, iss="https://auth.example.com"))
        for other in ("https://auth.example.com/", "tests", "", ["https://auth.example.com"]):
            await is_refused(server, by_hand(user, iss=other))


async def test_a_configured_audience_is_the_only_one(database: Database, user: UUID) -> None:
    async with serving(database, jwt_audience="atlas") as server:
        await is_accepted(server, by_hand(user, aud="atlas"))
        await is_refused(server, by_hand(user))


@both_codecs
async def test_a_token_that_ends_in_a_far_future_does_no_harm(database: Database, user: UUID, codec: Codec) -> None:
    async with ServerProcess(database.server_url) as server:  # the harm would be the whole process's
        for expires in (10**10, 10**12, 10**14, 10**19, 1e300, 10**400):
            presented = by_hand(user, exp=expires)
            async with peer(server.url, codec) as one:
                await one.say(Hello(token=presented, client_id=uuid4()))
                answer = await one.hear()
                assert isinstance(answer, Welcome) or (isinstance(answer, Error) and answer.code == "token_refused")
            async with peer(server.url, codec) as one:
                await one.greet(user)
                await one.say(Refresh(token=presented))
                answer = await one.hear()
                while isinstance(answer, Snapshot | Live):
                    answer = await one.hear()
                assert isinstance(answer, Refreshed) or (isinstance(answer, Error) and answer.code == "token_refused")


# ---- Key sets ------------------------------------------------------------------------------------------------------


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """One of that name; they take long to make."""
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_rsa(name: str) -> dict[str, Any]:
    key = RSAAlgorithm.to_jwk(rsa_key(name).public_key(), as_dict=True)
    return {**key, "kid": name, "use": "sig", "alg": "RS256"}


def public_ec(name: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(ec_key(name).public_key(), as_dict=True), "kid": name, "use": "sig", "alg": "ES256"}


def by_rsa(user: UUID, name: str, kid: str | None = None, **changed: Any) -> str:
    return jwt.encode(claims(user, **changed), rsa_key(name), algorithm="RS256", headers={"kid": kid or name})


def by_ec(user: UUID, name: str, kid: str | None = None) -> str:
    return jwt.encode(claims(user), ec_key(name), algorithm="ES256", headers={"kid": kid or name})


@dataclass
class KeyServer:
    """A key set behind HTTP, which counts how often it is fetched and can be made to fail."""

    keys: list[dict[str, Any]] = field(default_factory=list)
    fetches: int = 0
    answered: int = 0
    answer: bytes | None = None
    """Instead of the keys."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing is answered while this is not set."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/.well-known/jwks.json"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # uvloop raises RuntimeError for what is written to a line that the peer has closed.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, RuntimeError):
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            await self.open.wait()
            body = json.dumps({"keys": self.keys}).encode()
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            )
            writer.write(head % len(body) + body if self.answer is None else self.answer)
            await writer.drain()
        writer.close()
        self.answered += 1


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    keys = KeyServer([public_rsa("one"), public_ec("two")])
    keys.open.set()
    listening = await asyncio.start_server(keys.serve, "127.0.0.1", 0)
    keys.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield keys


@contextlib.asynccontextmanager
async def with_keys(database: Database, keys: KeyServer, **given: Any) -> AsyncIterator[Running]:
    """A server that knows no secret, unless one is given."""
    async with serving(database, **{"jwt_secret": None, "jwks_url": keys.url, **given}) as running:
        yield running


@pytest.fixture
async def refetching(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not known is asked for every time, and not once in half a minute."""
    monkeypatch.setattr("server.edge.auth.REFETCH_AT_MOST", 0.0)


@pytest.mark.parametrize("made", [lambda user: by_rsa(user, "one"), lambda user: by_ec(user, "two")], ids=["RSA", "EC"])
async def test_a_token_of_a_published_key_is_accepted(
    database: Database, key_server: KeyServer, user: UUID, made: Callable[[UUID], str]
) -> None:
    async with with_keys(database, key_server) as server:
        await is_accepted(server, made(user))


async def test_a_secret_and_keys_may_be_configured_together(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    async with with_keys(database, key_server, jwt_secret=SECRET) as server:
        for presented in (by_hand(user), by_rsa(user, "one"), by_ec(user, "two")):
            await is_accepted(server, presented)


FORMER = "the secret before this one, at least 32 characters long"


async def test_tokens_of_the_current_and_of_the_former_secret_are_accepted(database: Database, user: UUID) -> None:
    async with serving(database, jwt_secret_former=FORMER) as server:
        await is_accepted(server, by_hand(user))
        await is_accepted(server, signed(HS256, claims(user), secret=FORMER))


async def test_a_token_of_the_former_secret_is_refused_once_that_secret_is_removed(
    database: Database, user: UUID
) -> None:
    async with serving(database) as server:
        await is_refused(server, signed(HS256, claims(user), secret=FORMER))


async def test_a_connection_changes_to_a_token_of_the_new_secret(database: Database, user: UUID) -> None:
    async with serving(database, jwt_secret_former=FORMER) as server, peer(server.url) as one:
        await live(one, signed(HS256, claims(user), secret=FORMER))
        expires = soon(7200)
        await one.say(Refresh(token=by_hand(user, exp=expires)))
        assert (await one.hear_a(Refreshed)).expires == expires * 1_000_000


async def test_every_token_that_is_not_right_is_refused_where_there_are_two_secrets(
    database: Database, user: UUID
) -> None:
    async with serving(database, jwt_secret_former=FORMER) as server:
        for name, made in REFUSED.items():
            try:
                await is_refused(server, made(user))
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(name) from error


WRONG_OF_FORMER: dict[str, Callable[[UUID], str]] = {
    "expired": lambda user: signed(HS256, claims(user, exp=soon(-1)), secret=FORMER),
    "another audience": lambda user: signed(HS256, claims(user, aud="another"), secret=FORMER),
    "another role": lambda user: signed(HS256, claims(user, role="service_role"), secret=FORMER),
    "another digest": lambda user: signed({"alg": "HS512"}, claims(user), secret=FORMER, digest="sha512"),
    "alg RS256": lambda user: signed({"alg": "RS256"}, claims(user), secret=FORMER),
    "both secrets": lambda user: signed(HS256, claims(user), secret=SECRET + FORMER),
}


@pytest.mark.parametrize("made", WRONG_OF_FORMER.values(), ids=WRONG_OF_FORMER.keys())
async def test_the_former_secret_makes_no_wrong_claim_right(
    database: Database, user: UUID, made: Callable[[UUID], str]
) -> None:
    async with serving(database, jwt_secret_former=FORMER) as server:
        await is_refused(server, made(user))


@pytest.mark.parametrize("secret", [None, SECRET], ids=["keys only", "keys and a secret"])
async def test_every_token_that_is_not_right_is_refused_where_there_are_keys_too(
    database: Database, key_server: KeyServer, user: UUID, secret: str | None
) -> None:
    async with with_keys(database, key_server, jwt_secret=secret) as server:
        for name, made in REFUSED.items():
            try:
                await is_refused(server, made(user))
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(name) from error


async def test_the_secret_of_hs256_means_nothing_where_only_keys_are_configured(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    async with with_keys(database, key_server) as server:
        await is_refused(server, by_hand(user))


@pytest.mark.parametrize("secret", [None, SECRET], ids=["keys only", "keys and a secret"])
async def test_a_public_key_is_no_hmac_secret(
    database: Database, key_server: KeyServer, user: UUID, secret: str | None
) -> None:
    public = rsa_key("one").public_key()
    forms = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode(),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1).decode(),
        json.dumps(public_rsa("one")),
        public_rsa("one")["n"],
        "one",
    ]
    async with with_keys(database, key_server, jwt_secret=secret) as server:
        await is_accepted(server, by_rsa(user, "one"))
        for form in forms:
            for header in ({**HS256, "kid": "one"}, HS256, {"alg": "RS256", "kid": "one"}):
                await is_refused(server, signed(header, claims(user), secret=form))


async def test_a_secret_in_the_key_set_is_not_taken(database: Database, key_server: KeyServer, user: UUID) -> None:
    published = base64url(SECRET.encode())
    key_server.keys.append({"kty": "oct", "kid": "shared", "alg": "HS256", "k": published})
    async with with_keys(database, key_server) as server:
        await is_refused(server, signed({**HS256, "kid": "shared"}, claims(user)))
        await is_accepted(server, by_rsa(user, "one"))


async def test_a_key_signs_only_with_the_algorithm_of_its_kind(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    async with with_keys(database, key_server) as server:
        await is_refused(server, by_rsa(user, "one", kid="two"))
        await is_refused(server, by_ec(user, "two", kid="one"))


async def test_another_key_of_a_known_name_is_refused(database: Database, key_server: KeyServer, user: UUID) -> None:
    async with with_keys(database, key_server) as server:
        await is_refused(server, by_rsa(user, "another", kid="one"))


async def test_a_token_that_names_no_key_is_refused(database: Database, key_server: KeyServer, user: UUID) -> None:
    async with with_keys(database, key_server) as server:
        await is_refused(server, jwt.encode(claims(user), rsa_key("one"), algorithm="RS256"))


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"exp": 1}, "expired"), ({"aud": "x"}, "audience"), ({"role": "anon"}, "role"), ({"sub": "x"}, "sub")],
)
async def test_the_right_key_does_not_make_a_wrong_claim_right(
    database: Database, key_server: KeyServer, user: UUID, changed: dict[str, Any], why: str
) -> None:
    async with with_keys(database, key_server) as server:
        await is_refused(server, by_rsa(user, "one", **changed))


async def test_unknown_keys_are_refused_and_not_fetched_for_each_time(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    async with with_keys(database, key_server) as server:
        await is_accepted(server, by_rsa(user, "one"))
        for number in range(20):
            await is_refused(server, by_rsa(user, "another", kid=f"invented {number}"))
    assert key_server.fetches == 1


async def test_many_hellos_at_once_fetch_the_keys_once(database: Database, key_server: KeyServer, user: UUID) -> None:
    async with with_keys(database, key_server, sockets_per_user=50) as server:
        await asyncio.gather(*(is_accepted(server, by_rsa(user, "one")) for _ in range(20)))
    assert key_server.fetches == 1


@pytest.mark.usefixtures("refetching")
async def test_a_key_that_was_added_is_found(database: Database, key_server: KeyServer, user: UUID) -> None:
    async with with_keys(database, key_server) as server:
        await is_accepted(server, by_rsa(user, "one"))
        await is_refused(server, by_rsa(user, "three"))
        key_server.keys.append(public_rsa("three"))
        await is_accepted(server, by_rsa(user, "three"))


@pytest.mark.usefixtures("refetching")
async def test_a_key_that_was_taken_away_is_no_key_any_more(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    async with with_keys(database, key_server) as server:
        await is_accepted(server, by_rsa(user, "one"))
        key_server.keys = [public_rsa("three")]
        await is_accepted(server, by_rsa(user, "three"))
        await is_refused(server, by_rsa(user, "one"))


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.mark.usefixtures("refetching")
async def test_a_failing_key_server_takes_no_known_key_away(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    failures = [
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"",
        OK,
        OK + b"<html>",
        OK + b"null",
        OK + b"[]",
        OK + b"{}",
        OK + b'{"keys": 7}',
        OK + b'{"keys": [7]}',
        OK + b'{"keys": [{}]}',
        OK + b'{"keys": []}',
        OK + b'{"keys": [{"kty": "oct", "kid": "one", "k": "c2VjcmV0"}]}',
        OK + b"[" * 100_000,
        OK + b"\xff\xfe",
        b"no HTTP at all",
    ]
    async with with_keys(database, key_server) as server:
        await is_accepted(server, by_rsa(user, "one"))
        for number, answer in enumerate(failures):
            key_server.answer = answer
            await is_refused(server, by_rsa(user, "three"))
            assert key_server.fetches == number + 2, "this one was not asked for"
            await is_accepted(server, by_rsa(user, "one"))


@pytest.mark.usefixtures("refetching")
async def test_one_key_of_a_kind_that_is_not_known_does_not_spoil_the_others(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    key_server.keys[:0] = [{"kty": "PQ", "kid": "from the future"}, {**public_rsa("three"), "kid": None}, {}]
    async with with_keys(database, key_server) as server:
        await is_accepted(server, by_rsa(user, "one"))


@pytest.mark.usefixtures("refetching")
async def test_keys_are_found_once_a_key_server_that_was_away_is_back(
    database: Database, key_server: KeyServer, user: UUID
) -> None:
    key_server.answer = b""
    async with with_keys(database, key_server) as server:
        await is_refused(server, by_rsa(user, "one"))
        key_server.answer = None
        await is_accepted(server, by_rsa(user, "one"))


async def test_a_hello_that_came_in_time_is_not_late_because_the_keys_are(
    database: Database, key_server: KeyServer, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_connection, "HELLO_SECONDS", 0.5)
    key_server.open.clear()
    async with with_keys(database, key_server) as server, peer(server.url) as one:
        await one.say(Hello(token=by_rsa(user, "one"), client_id=uuid4()))
        await eventually(lambda: key_server.fetches)
        async with peer(server.url) as silent:
            assert (await silent.closed())[0] == 4002
        key_server.open.set()
        assert (await one.hear_a(Welcome)).mode == "snapshot"


@pytest.mark.usefixtures("refetching")
async def test_a_token_of_a_known_key_does_not_wait_for_a_key_server_that_hangs(
    database: Database, key_server: KeyServer, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_keys(database, key_server) as server:
        await is_accepted(server, by_rsa(user, "one"))
        monkeypatch.setattr("server.edge.auth.KEYS_FRESH", 0.0)
        monkeypatch.setattr("server.edge.auth.FETCH_SECONDS", 3_600.0)
        key_server.open.clear()
        for _ in range(3):
            await is_accepted(server, by_rsa(user, "one"))
        await eventually(lambda: key_server.fetches == 2)
        async with peer(server.url) as one:
            await one.say(Hello(token=by_rsa(user, "three"), client_id=uuid4()))
            await is_accepted(server, by_rsa(user, "one"))
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "key set"]
    key_server.open.set()
    await eventually(lambda: key_server.answered == 2)


# ---- The end of a token --------------------------------------------------------------------------------------------

SHORT = 4
"""Seconds. Whole ones, and the server closes within the last: enough to be welcomed in, whatever else runs here."""


async def live(one: Peer, presented: str) -> Welcome:
    await one.say(Hello(token=presented, client_id=uuid4()))
    welcome = await one.hear_a(Welcome)
    await one.hear_a(Live)
    return welcome


async def is_past(instant: int) -> None:
    await eventually(lambda: time.time() > instant / 1_000_000)


async def test_welcome_names_the_end_of_the_token(server: Running, user: UUID) -> None:
    expires = soon(1234)
    assert (await is_accepted(server, by_hand(user, exp=expires))).expires == expires * 1_000_000


async def test_a_token_that_was_not_refreshed_ends_the_connection(server: Running, user: UUID) -> None:
    async with peer(server.url) as one:
        await live(one, by_hand(user, exp=soon(SHORT)))
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, code) == ("token_expired", True, 4100)


async def test_nothing_that_is_committed_after_the_tokens_end_is_sent(server: Running, sql: Any, user: UUID) -> None:
    async with peer(server.url) as one:
        welcome = await live(one, by_hand(user, exp=soon(SHORT)))
        await is_past(welcome.expires)
        await add_conversation(sql, user)
        frames = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                frames.append(await one.hear())
    assert not [frame for frame in frames if isinstance(frame, Changes)]
    assert isinstance(frames[-1], Error)


async def test_changes_arrive_until_the_end_and_the_error_is_the_last_word(
    server: Running, sql: Any, user: UUID
) -> None:
    async with peer(server.url) as one, peer(server.url) as other:
        await live(one, by_hand(user, exp=soon(SHORT)))
        await live(other, by_hand(user))
        kinds = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                await add_conversation(sql, user)
                await other.hear_a(Changes)
                kinds.append(type(await one.hear()))
        assert Changes in kinds
        assert kinds[-1] is Error
        await add_conversation(sql, user)
        await other.hear_a(Changes)


async def test_a_refresh_extends_the_life_of_the_connection(server: Running, sql: Any, user: UUID) -> None:
    async with peer(server.url) as one:
        welcome = await live(one, by_hand(user, exp=soon(SHORT)))
        later = soon(3600)
        await one.say(Refresh(token=by_hand(user, exp=later)))
        assert (await one.hear_a(Refreshed)).expires == later * 1_000_000
        await is_past(welcome.expires + 1_000_000)
        await add_conversation(sql, user)
        await one.hear_a(Changes)


async def test_a_refreshed_token_ends_too(server: Running, user: UUID) -> None:
    async with peer(server.url) as one:
        await live(one, by_hand(user))
        await one.say(Refresh(token=by_hand(user, exp=soon(7200))))
        await one.hear_a(Refreshed)
    async with peer(server.url) as one:
        await live(one, by_hand(user, exp=soon(SHORT - 1)))
        await one.say(Refresh(token=by_hand(user, exp=soon(SHORT))))
        await one.hear_a(Refreshed)
        assert (await one.closed())[0] == 4100


async def test_an_earlier_token_does_not_shorten_the_life(server: Running, user: UUID) -> None:
    async with peer(server.url) as one:
        welcome = await live(one, by_hand(user))
        await one.say(Refresh(token=by_hand(user, exp=soon(60))))
        assert (await one.hear_a(Refreshed)).expires == welcome.expires


async def test_a_refresh_with_a_bad_token_is_refused_and_the_connection_goes_on(
    server: Running, sql: Any, user: UUID
) -> None:
    async with peer(server.url) as one:
        await live(one, by_hand(user))
        for made in REFUSED.values():
            await one.say(Refresh(token=made(user)))
            error = await one.hear_a(Error)
            assert (error.code, error.retryable, error.answers) == ("token_refused", True, "refresh")
            assert CANARY not in error.message
        await add_conversation(sql, user)
        await one.hear_a(Changes)


async def test_after_a_refused_refresh_the_old_token_still_ends(server: Running, user: UUID) -> None:
    async with peer(server.url) as one:
        await live(one, by_hand(user, exp=soon(SHORT)))
        await one.say(Refresh(token=by_hand(user, aud="somebody", exp=soon(3600))))
        assert (await one.hear_a(Error)).code == "token_refused"
        assert (await one.closed())[0] == 4100


async def test_a_refresh_after_a_refused_one_is_accepted(server: Running, user: UUID) -> None:
    async with peer(server.url) as one:
        await live(one, by_hand(user))
        await one.say(Refresh(token="nonsense"))
        await one.hear_a(Error)
        await one.say(Refresh(token=by_hand(user, exp=soon(7200))))
        await one.hear_a(Refreshed)


async def test_a_refresh_with_another_users_token_closes_the_connection(server: Running, sql: Any, user: UUID) -> None:
    other = await add_user(sql)
    async with peer(server.url) as one:
        await live(one, by_hand(user))
        await one.say(Refresh(token=by_hand(other)))
        code, error = await one.closed()
    assert error is not None
    assert (error.code, error.retryable, error.answers, code) == ("token_refused", True, "refresh", 4101)


async def test_a_ping_does_not_extend_the_life(server: Running, user: UUID) -> None:
    async with peer(server.url) as one:
        welcome = await live(one, by_hand(user, exp=soon(SHORT)))
        await one.say(Ping())
        await one.hear_a(Pong)
        await is_past(welcome.expires)
        with contextlib.suppress(ConnectionClosed):
            await one.say(Ping())
        assert (await one.closed())[0] == 4100


def test_the_tokens_of_this_file_are_what_a_library_would_make() -> None:
    made = by_hand(UUID(int=1))
    assert jwt.decode(made, SECRET, algorithms=["HS256"], audience=AUDIENCE)["sub"] == str(UUID(int=1))
    assert hashlib.sha256(made.encode()).digest() != hashlib.sha256(by_hand(UUID(int=2)).encode()).digest()
