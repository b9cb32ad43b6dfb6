"""Database URLs: each parameter is used, listed as ignored, or refused with one sentence; hosts stay the same."""

import ctypes
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.exceptions import UnfitError
from server.url import CHOICES, FILES, HOLDS, IMPOSSIBLE, NO_EFFECT, hosts, read
from tests.support.cluster import binaries

HERE = "postgres://me:secret@db.example.com:5432/app"
ASYNCPG = {
    *("host", "port", "user", "password", "passfile", "dbname", "service", "sslpassword", "krbsrvname"),
    *CHOICES,
    *FILES,
}
"""Parameters of libpq that asyncpg reads in a URL."""
SETTINGS = {"application_name", "options"}
"""Parameters of libpq that Postgres accepts."""


@pytest.mark.parametrize(
    "url",
    [
        "postgres://db",
        "postgres://me:secret@a:1,b:2/db",
        "postgresql://me@a,b,c:5433/db?target_session_attrs=read-write&sslmode=require",
        "postgres://me@/db?host=a,b&port=1,2",
        "postgres://me@/db?host=/run/postgresql&port=5433",
        "postgres://me@%2Frun%2Fpostgresql/db",
        "postgres://me:%23%2F%40@[::1]:5432/db",
        f"{HERE}?application_name=chat&options=-c%20statement_timeout%3D3s&lock_timeout=200",
        f"{HERE}?sslmode=verify-full&sslrootcert=/etc/ca.crt&sslcert=/etc/me.crt&sslkey=/etc/me.key",
    ],
)
def test_parameters_that_asyncpg_or_postgres_understands_stay_unchanged(url: str) -> None:
    assert (read(url).url, read(url).ignored) == (url, ())


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("pgbouncer=false&schema=public", ""),
        ("sslmode=require&channel_binding=prefer&gssencmode=prefer&keepalives=1", "sslmode=require"),
        ("application_name=", ""),
        ("&sslmode=require&", "sslmode=require"),
        ("ssl=true", "sslmode=require"),
        ("ssl=verify-ca", "sslmode=verify-ca"),
        ("ssl=0", "sslmode=disable"),
        ("fallback_application_name=a%20b", "application_name=a%20b"),
        ("connect_timeout=7&sslmode=prefer", "sslmode=prefer"),
        ("sslmode=verify-full&sslrootcert=system", "sslmode=verify-full"),
    ],
)
def test_parameters_with_another_form_in_asyncpg_are_translated(asked: str, given: str) -> None:
    target = read(f"{HERE}?{asked}")
    assert (target.url, target.ignored) == (f"{HERE}{'?' if given else ''}{given}", ())


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("postgres://me:secret@localhost/db?host=/cloudsql/a:b:c", "postgres://me:secret@/db?host=/cloudsql/a:b:c"),
        ("postgres://me@a:1/db?host=b,c&sslmode=prefer", "postgres://me@/db?host=b,c&port=1,1&sslmode=prefer"),
        ("postgres://me@a:1/db?port=6432", "postgres://me@/db?host=a&port=6432"),
        ("postgres://me@a:1,[::1]:2/db", "postgres://me@/db?host=a,[::1]&port=1,2"),
        ("postgres://me@/db?host=::1,10.0.0.1&port=1,2", "postgres://me@/db?host=[::1],10.0.0.1&port=1,2"),
        ("postgres://me@/db?hostaddr=10.0.0.1", "postgres://me@/db?host=10.0.0.1"),
        ("postgres://me@:5433/db", "postgres://me@/db?port=5433"),
        ("postgres://me:p[é@a/db", "postgres://me:p%5B%C3%A9@a/db"),
        ("postgres://me@a/db\n", "postgres://me@a/db"),
    ],
)
def test_hosts_are_where_libpq_would_find_them(url: str, given: str) -> None:
    assert (read(url).url, read(url).ignored) == (given, ())


def test_parameters_for_atlas_sync_are_read() -> None:
    plain = read(HERE)
    assert (plain.pooled, plain.seconds, plain.system_trust, plain.files) == (False, None, False, {})
    told = read(f"{HERE}?pgbouncer=true&connect_timeout=3&sslmode=verify-full&sslrootcert=system")
    assert (told.pooled, told.seconds, told.system_trust, told.files) == (True, 3, True, {})
    assert read(f"{HERE}?sslrootcert=a&sslcert=b&sslkey=c&sslcrl=d").files == {
        "sslrootcert": "a",
        "sslcert": "b",
        "sslkey": "c",
        "sslcrl": "d",
    }


def test_parameters_without_effect_are_listed_once_and_removed() -> None:
    every = [*sorted(NO_EFFECT), "hostaddr"]
    target = read(f"{HERE}?{'&'.join(f'{name}=x&{name}=y' for name in every)}&sslmode=require")
    assert target.ignored == tuple(every)
    assert target.url == f"{HERE}?sslmode=require"
    assert read(f"{HERE}?connect_timeout=0").ignored == ("connect_timeout",)
    assert read(f"{HERE}?ssl=true&sslmode=verify-ca").ignored == ("ssl",)
    assert read(f"{HERE}?application_name=a&fallback_application_name=b").ignored == ("fallback_application_name",)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        *((f"{name}=x-secret", f"The parameter {name} ") for name in (*IMPOSSIBLE, *CHOICES)),
        ("channel_binding=require", "Remove it"),
        ("gssencmode=require", "sslmode=require"),
        ("schema=chat", "public"),
        ("sslmode=no-verify", "one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslrootcert=system&sslmode=require", "sslmode=verify-full"),
        ("sslrootcert=system&sslcert=/x-secret", "no file"),
        ("connect_timeout=x-secret", "whole seconds"),
        ("pgbouncer=x-secret", "true or false"),
        ("ssl=x-secret", "true or false"),
        ("host=a,b&port=1,2,3", "one port"),
        ("host=a,,b", "Remove the comma"),
        ("port=99999", "from 1 to 65535"),
        ("port=x-secret", "from 1 to 65535"),
        ("x-secret", "cannot be read"),
    ],
)
def test_impossible_parameters_are_refused_in_one_sentence_without_their_value(asked: str, says: str) -> None:
    with pytest.raises(UnfitError, match=says) as refused:
        read(f"postgres://me@/db?{asked}")
    assert "x-secret" not in str(refused.value)
    assert re.fullmatch(r"[A-Z][^\n]*\.", str(refused.value))


@pytest.mark.parametrize("password", ["4#x", "4/x", "4@x", "4?x", "x#", "x/", "x@", "x?"])
def test_an_unescaped_password_does_not_lead_to_another_host(password: str) -> None:
    with pytest.raises(UnfitError, match=r"%XX"):
        read(f"postgres://me:{password}@db/app")
    quoted = read(f"postgres://me:{quote(password, safe='')}@db/app").url
    assert unquote(urlsplit(quoted).password or "") == password


class _Option(ctypes.Structure):
    """PQconninfoOption of libpq-fe.h."""

    _fields_: ClassVar = [
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", ctypes.c_int),
    ]


def libpq_parameters() -> Iterator[str]:
    library = next(path for path in binaries("18").parent.glob("lib/libpq.*") if path.suffix in (".so", ".dylib"))
    libpq = ctypes.CDLL(str(library))
    libpq.PQconndefaults.restype = ctypes.POINTER(_Option)
    for option in libpq.PQconndefaults():
        if option.keyword is None:
            return
        yield option.keyword.decode()


def test_every_parameter_of_libpq_is_handled() -> None:
    """Only those that Postgres accepts are sent to it, because it refuses the connection for others."""
    known = list(libpq_parameters())
    assert len(known) > 40
    for name in known:
        value = "1" if name in ("connect_timeout", "port") else CHOICES.get(name, ["x"])[0]
        try:
            target = read(f"postgres:///?{name}={value}")
        except UnfitError as error:
            assert name in str(error)  # noqa: PT017  # one or the other is right
            continue
        given = parse_qs(urlsplit(target.url).query)
        assert name in target.ignored or set(given) <= ASYNCPG | SETTINGS, name


parameters = st.lists(
    st.sampled_from(
        [
            *((name, "7") for name in sorted(NO_EFFECT)),
            *((name, value) for name, values in sorted({**HOLDS, **CHOICES}.items()) for value in values),
            *(("pgbouncer", "true"), ("connect_timeout", "3"), ("ssl", "true"), ("application_name", "a & b")),
            *(("user", "me@here"), ("search_path", "a,b"), ("fallback_application_name", "x")),
        ]
    ),
    max_size=8,
).map(lambda pairs: "&".join(f"{name}={quote(value)}" for name, value in pairs))
places = st.lists(
    st.tuples(st.sampled_from(["a", "b.example.com", "10.0.0.1", "[::1]", "[fe80::2]"]), st.integers(1, 65535)),
    min_size=1,
    max_size=4,
)
logins = st.sampled_from(["", "me@", "me:secret@", "me:%40%3A%2F@"])


@given(logins, places, parameters)
def test_a_url_that_was_read_is_read_the_same_again(login: str, at: list[tuple[str, int]], asked: str) -> None:
    target = read(f"postgres://{login}{','.join(f'{host}:{port}' for host, port in at)}/db?{asked}")
    again = read(target.url)
    assert (again.url, again.ignored, again.pooled, again.seconds) == (target.url, (), False, None)
    given = parse_qs(urlsplit(target.url).query)
    assert not given.keys() & {*target.ignored, *NO_EFFECT, "pgbouncer", "connect_timeout"}
    for name, (*_, value) in parse_qs(asked).items():
        if name not in {*NO_EFFECT, *HOLDS, "pgbouncer", "connect_timeout", "ssl", "fallback_application_name"}:
            assert given[name][-1] == value


@given(logins, places, parameters, st.booleans())
def test_a_url_with_several_hosts_becomes_one_url_per_host(
    login: str, at: list[tuple[str, int]], asked: str, in_the_query: bool
) -> None:
    if in_the_query:
        names, ports = ",".join(host for host, _ in at), ",".join(str(port) for _, port in at)
        url = f"postgresql://{login}/db?host={names}&port={ports}{'&' if asked else ''}{asked}"
    else:
        url = f"postgresql://{login}{','.join(f'{host}:{port}' for host, port in at)}/db{'?' if asked else ''}{asked}"
    each = hosts(url)
    alone = read(f"postgresql://{login}h/db?{asked}")
    assert len(each) == len(at)
    for one, (host, port) in zip(each, at, strict=True):
        assert hosts(one) == [one]
        target = read(one)
        parts = urlsplit(target.url)
        query = parse_qs(parts.query)
        if parts.hostname:
            assert (parts.hostname, parts.port) == (host.strip("[]"), port)
        else:
            assert (query.pop("host"), query.pop("port")) == ([host], [str(port)])
        expected = urlsplit(alone.url)
        assert (query, parts.path) == (parse_qs(expected.query), "/db")
        assert (parts.username, parts.password) == (expected.username, expected.password)
        assert replace(target, url="") == replace(alone, url="")


@pytest.mark.parametrize(
    ("url", "each"),
    [
        ("postgres://me@a,b:2/db", ["postgres://me@a/db", "postgres://me@b:2/db"]),
        ("postgres://me@/db?host=a,b&port=7", ["postgres://me@/db?host=a&port=7", "postgres://me@/db?host=b&port=7"]),
        ("postgres://me@/db?host=/x,/y&a=1", ["postgres://me@/db?host=/x&a=1", "postgres://me@/db?host=/y&a=1"]),
        ("postgres://me@a/db?host=/x", ["postgres://me@a/db?host=/x"]),
        ("postgres:///db?pgbouncer=true", ["postgres:///db?pgbouncer=true"]),
        ("postgres://me@a:1,[::1]:2/db", ["postgres://me@/db?host=a&port=1", "postgres://me@/db?host=[::1]&port=2"]),
    ],
)
def test_hosts_are_found_before_the_path_and_in_the_query(url: str, each: list[str]) -> None:
    assert hosts(url) == each


@given(st.text(alphabet="ab1é℀/:@?#[],=&%+ \t'\"-", max_size=20), st.sampled_from(["", "me:secret@", "a:1,b"]))
def test_any_text_is_read_or_refused(text: str, before: str) -> None:
    try:
        each = hosts(f"postgres://{before}{text}")
    except UnfitError:
        return
    assert each
