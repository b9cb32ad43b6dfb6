"""Reads database URLs, which may contain parameters of libpq and of other programs.

asyncpg sends every parameter that it does not know to Postgres as a setting, and Postgres refuses the connection if it
does not know the setting.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import quote, unquote, unquote_plus

from server.exceptions import UnfitError

UNREADABLE: Final = (
    "The database's URL cannot be read. Write special characters of its password as %XX: # is %23, / is %2F, @ is %40."
)
FORM: Final = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)(?P<login>[^@/?#]*@)?(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(?:\?(?P<query>[^#]*))?"
)
PLACE: Final = re.compile(r"(?P<name>\[[^\[\]]+\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
"""A host with its port, before the path."""
PLAIN: Final = "%:@!$&'()*+,;=-._~<>{}|^`\\\""
"""Characters of a password that need no escape. asyncpg fails to parse brackets and some letters."""
TRUE: Final = ("true", "1", "yes", "on")
FALSE: Final = ("false", "0", "no", "off")
CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "gsslib": ("gssapi", "sspi"),
    "ssl_min_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
}
"""The values that asyncpg accepts."""
FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
HOLDS: Final[Mapping[str, Collection[str]]] = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("utf8", "UTF8", "utf-8", "UTF-8", "unicode", "UNICODE"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "keepalives": ("1",),
    "load_balance_hosts": ("disable",),
    "max_protocol_version": ("3.0", "3.2", "latest"),
    "min_protocol_version": ("3.0",),
    "replication": FALSE,
    "schema": ("public",),
    "sslaccept": ("accept_invalid_certs",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
"""Values that describe what asyncpg does anyway."""
NO_EFFECT: Final = frozenset(
    {
        # libpq's, on whose effect nothing depends. Our connections have their own keep-alive.
        *("client_encoding", "gssdelegation", "load_balance_hosts", "sslcompression", "sslkeylogfile", "sslsni"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        # Prisma's, and those that Supabase adds for it.
        *("connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size", "single_use_connections"),
        *("max_connection_lifetime", "max_idle_connection_lifetime", "supa", "workaround"),
        # SQLAlchemy's, and those that it passes to its drivers.
        *("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback", "command_timeout"),
        *("pool_size", "max_overflow", "pool_recycle", "pool_pre_ping", "min_size", "max_size", "timeout"),
        *("max_cached_statement_lifetime", "max_cacheable_statement_size", "prepare_threshold"),
        # Django's and Rails'.
        *("conn_max_age", "conn_health_checks", "disable_server_side_cursors", "pool", "encoding"),
        *("prepared_statements", "reaping_frequency", "checkout_timeout", "idle_timeout", "advisory_locks"),
        # Go's and JavaScript's.
        *("pool_max_conns", "pool_min_conns", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter"),
        *("pool_max_conn_idle_time", "pool_health_check_period", "default_query_exec_mode", "statement_cache_capacity"),
        *("description_cache_capacity", "binary_parameters", "disable_prepared_binary_result", "uselibpqcompat"),
        *("max", "min", "max_lifetime", "prepare", "fetch_types"),
    }
)
"""Parameters that are ignored, whatever their values."""
SIGNING_IN: Final = "belongs to an authentication method that asyncpg lacks. Use a password or a certificate."
IMPOSSIBLE: Final[Mapping[str, str]] = {
    "channel_binding": "asks for what asyncpg cannot do. Remove it from the URL; sslmode=verify-full with "
    "sslrootcert=system, or with a file of certificates, verifies the server.",
    "gssencmode": "asks for what asyncpg cannot do. Remove it from the URL, and encrypt with sslmode=require.",
    "max_protocol_version": "must be 3.0, 3.2 or latest. asyncpg speaks 3.0.",
    "min_protocol_version": "asks for more than 3.0, which asyncpg speaks. Remove it from the URL.",
    "replication": "is for replication connections, which cannot run our statements. Remove it from the URL.",
    "require_auth": "asks for what asyncpg cannot ensure. Remove it from the URL, and ensure it in pg_hba.conf.",
    "requirepeer": "asks for what asyncpg cannot ensure. Remove it from the URL.",
    "schema": "names a schema other than public, whose tables are synced. Remove it from the URL if they are there.",
    "sslaccept": "asks for what sslmode=verify-full with sslrootcert=system does. Write that instead.",
    "sslcertmode": "asks for what asyncpg cannot ensure. Remove it from the URL.",
    "sslcrldir": "names a folder, but asyncpg reads a file. Name one with sslcrl.",
    "sslidentity": "names a file that asyncpg does not read. Name the certificate with sslcert, its key with sslkey.",
    **dict.fromkeys(("scram_client_key", "scram_server_key"), SIGNING_IN),
    **dict.fromkeys(("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"), SIGNING_IN),
}
"""Parameters that are refused: to ignore them would break what their author relies on."""


@dataclass(frozen=True, slots=True)
class Target:
    """How to connect."""

    url: str = field(repr=False)
    """A URL that asyncpg understands."""
    ignored: tuple[str, ...]
    """Parameters without effect."""
    pooled: bool
    """`pgbouncer=true`: the URL leads through a pooler in transaction mode."""
    seconds: int | None
    """Timeout for connecting, if the URL has one."""
    system_trust: bool
    """`sslrootcert=system`: this machine must trust the server's certificate."""
    files: Mapping[str, str]
    """Files of certificates and keys, by the parameters that name them."""


def read(url: str) -> Target:
    """Parse a database URL. Raises UnfitError if no connection can be made with it, or none with the properties that it
    demands. The message names the parameter, never its value."""
    parts, _ = _settled(_Parts.of(url))
    names = {parameter.name for parameter in parts.query}
    ignored: list[str] = []
    taken: list[_Parameter] = []
    pooled, seconds = False, None
    for parameter in parts.query:
        name, value = parameter.name, parameter.value
        if value in HOLDS.get(name, ()):
            continue
        if name in CHOICES and value not in CHOICES[name]:
            raise UnfitError(f"The parameter {name} must be one of {', '.join(CHOICES[name])}.")
        match name:
            case "pgbouncer":
                pooled = _is_true(parameter)
            case "connect_timeout":
                if not re.fullmatch(r"-?[0-9]{1,9}", value):
                    raise UnfitError("The parameter connect_timeout must be a number of whole seconds.")
                if int(value) > 0:
                    seconds = int(value)
                else:
                    ignored.append(name)  # libpq then waits without limit
            case "ssl" if "sslmode" not in names:
                mode = value if value in CHOICES["sslmode"] else "require" if _is_true(parameter) else "disable"
                taken.append(_Parameter.of("sslmode", mode))
            case "fallback_application_name" if "application_name" not in names:
                taken.append(_Parameter.of("application_name", value))
            case "ssl" | "fallback_application_name" | "hostaddr":
                ignored.append(name)
            case "sslcertmode" if value == "disable":
                ignored.append(name)
            case _ if name in IMPOSSIBLE:
                raise UnfitError(f"The parameter {name} {IMPOSSIBLE[name]}")
            case _ if name in NO_EFFECT:
                ignored.append(name)
            case _:
                taken.append(parameter)  # one of asyncpg's, or a setting of Postgres
    said = {parameter.name: parameter.value for parameter in taken}
    files: dict[str, str] = {name: said[name] for name in FILES if name in said}
    if system_trust := files.get("sslrootcert") == "system":
        del files["sslrootcert"]
        taken = [parameter for parameter in taken if parameter.name != "sslrootcert"]
        if files or said.get("sslmode", "verify-full") != "verify-full":
            raise UnfitError(
                "The parameter sslrootcert=system goes with sslmode=verify-full, and with no file of certificates."
            )
    url = str(replace(parts, query=tuple(taken)))
    return Target(url, tuple(dict.fromkeys(ignored)), pooled, seconds, system_trust, files)


def hosts(url: str) -> list[str]:
    """Return a URL for each host, in their order and otherwise the same. Raises UnfitError if `url` cannot be read."""
    parts, places = _settled(_Parts.of(url))
    if len(places) < 2:
        return [url]
    if parts.hosts:
        return [str(replace(parts, hosts=one)) for one in parts.hosts.split(",")]
    return [str(parts.leading_to([place])) for place in places]


def wants_standby(url: str) -> bool:
    """Whether `url` permits no connection to a primary. Raises UnfitError if it cannot be read."""
    return _Parts.of(url).said("target_session_attrs") in ("standby", "read-only")


@dataclass(frozen=True, slots=True)
class _Parameter:
    raw: str
    name: str
    value: str

    @classmethod
    def of(cls, name: str, value: str) -> Self:
        return cls(f"{name}={quote(value, safe='/:[],')}", name, value)


@dataclass(frozen=True, slots=True)
class _Place:
    host: str
    port: str
    """Empty if not given."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a URL. str() returns the same URL."""

    scheme: str
    login: str
    hosts: str
    """The hosts before the path."""
    path: str
    query: tuple[_Parameter, ...]

    @classmethod
    def of(cls, url: str) -> Self:
        found = FORM.fullmatch(re.sub(r"[\t\r\n]", "", url.strip()))  # as asyncpg does
        if found is None:
            raise UnfitError(UNREADABLE)
        query = []
        for raw in filter(None, (found["query"] or "").split("&")):
            name, equals, value = raw.partition("=")
            if not equals:
                raise UnfitError(UNREADABLE)
            if value:  # asyncpg ignores empty values
                query.append(_Parameter(raw, unquote_plus(name), unquote_plus(value)))
        login = quote(found["login"] or "", safe=PLAIN)
        return cls(found["scheme"], login, found["hosts"], found["path"] or "", tuple(query))

    def __str__(self) -> str:
        query = "&".join(parameter.raw for parameter in self.query)
        return f"{self.scheme}{self.login}{self.hosts}{self.path}{'?' if query else ''}{query}"

    def said(self, name: str) -> str:
        """Return the parameter's last value, which counts for asyncpg, or an empty string."""
        return next((parameter.value for parameter in reversed(self.query) if parameter.name == name), "")

    def leading_to(self, places: Sequence[_Place]) -> Self:
        """Return the parts with `places` in the query, and with no other hosts."""
        said = [_Parameter.of("host", ",".join(place.host for place in places))] if places[0].host else []
        if any(place.port for place in places):
            said.append(_Parameter.of("port", ",".join(place.port or "5432" for place in places)))
        others = (parameter for parameter in self.query if parameter.name not in ("host", "port"))
        return replace(self, hosts="", query=(*said, *others))


def _settled(parts: _Parts) -> tuple[_Parts, list[_Place]]:
    """Return the parts with hosts and ports where asyncpg finds those that libpq would use, and a list of them.

    libpq prefers hosts in the query (such as a socket's folder beside `localhost`), asyncpg those before the path.
    """
    before = [_place(one) for one in parts.hosts.split(",")] if parts.hosts else []
    host, port = parts.said("host"), parts.said("port")
    by_address = not host and not parts.hosts and bool(parts.said("hostaddr"))
    if by_address:
        host = parts.said("hostaddr")
        parts = replace(parts, query=tuple(one for one in parts.query if one.name != "hostaddr"))
    names = [_bracketed(one) for one in host.split(",")] if host else [place.host for place in before] or [""]
    ports = port.split(",") if port else [place.port for place in before] or [""]
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names):
        raise UnfitError("The URL must have one port for all of its hosts, or one for each.")
    if len(names) > 1 and not all(names):
        raise UnfitError("The URL has a list of hosts with an empty one in it. Remove the comma.")
    if not all(re.fullmatch(r"[0-9]{0,5}", one) and int(one or 1) in range(1, 65_536) for one in ports):
        raise UnfitError("The URL's port must be a number from 1 to 65535.")
    places = [_Place(*one) for one in zip(names, ports, strict=True)]
    if parts.hosts:
        # Python does not parse a URL with a bracket after a comma.
        plain = places == before and all(names) and (len(names) == 1 or "[" not in parts.hosts)
    else:
        plain = not by_address and names == host.split(",") and (all(ports) or not port)
    return (parts if plain else parts.leading_to(places)), places


def _place(one: str) -> _Place:
    found = PLACE.fullmatch(one)
    if found is None:
        raise UnfitError(UNREADABLE)
    return _Place(unquote(found["name"]), found["port"] or "")


def _bracketed(host: str) -> str:
    """Put an IPv6 address in brackets: asyncpg would use its last part as the port."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith(("[", "/")) else host


def _is_true(parameter: _Parameter) -> bool:
    if parameter.value not in (*TRUE, *FALSE):
        raise UnfitError(f"The parameter {parameter.name} must be true or false.")
    return parameter.value in TRUE
