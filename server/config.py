"""Every setting, from the environment. A test compares this file with the table in server/README.md."""

import os
import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from protocol.frames import MAX_MUTATIONS
from server.exceptions import ConfigError, UnfitError
from server.url import read, wants_standby

Settings = TypeVar("Settings", bound="Environment")

SECRET_CHARACTERS = 32
"""HS256 with a shorter secret can be guessed offline from one token (RFC 7518, 3.2)."""

HELLOS_PER_SOCKET = 6
"""Hellos a minute and socket: a connection that breaks every ten seconds."""

ROLES = frozenset({"user", "assistant", "system"})
"""The roles of messages."""

TOKEN_CHARACTERS = 16
"""Minimum length of the token for metrics, which gives access to figures and to no rows."""

SERVICE_TOKEN_CHARACTERS = 32
"""Minimum length of a token of the app's backend, which may write for every user."""

A_SERVICE: Final = re.compile(r"(tcp|udp|sctp)://.+:[0-9]+")
"""The value that Kubernetes gives NAME_PORT in every container, if there is a Service NAME."""

PLAINLY: Final = {
    "missing": "is not set, and there is no default",
    "bool_parsing": "must be true or false",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
}
"""What Pydantic says, as an operator would read it, by its types of errors."""


def _is_postgres(url: str) -> str:
    if not url.startswith(("postgres://", "postgresql://")):
        raise ValueError("must be a URL that begins with postgres:// or postgresql://")
    try:
        read(url)
    except UnfitError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return url


PostgresUrl = Annotated[str, AfterValidator(_is_postgres)]


def _may_lead_to_a_primary(url: str) -> str:
    if wants_standby(_is_postgres(url)):
        raise ValueError(
            "has a target_session_attrs that permits only standbys: write read-write, which leads to the primary"
        )
    return url


PrimaryUrl = Annotated[str, AfterValidator(_may_lead_to_a_primary)]


def _is_redis(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be a URL that begins with redis://, rediss:// or unix://")
    try:
        path = urlsplit(url).path
    except ValueError:
        return url  # redis-py reads it, and says what is wrong
    if not url.startswith("unix:") and not re.fullmatch("/?|/[0-9]+", path):
        # redis-py would take database 0.
        raise ValueError("must name its database by a number, as in redis://host:6379/0")
    return url


RedisUrl = Annotated[str, AfterValidator(_is_redis)]


def _cannot_be_changed_on_its_way(url: str) -> str:
    """Refuse URLs whose answer can be changed on its way: who can insert a key can sign tokens of every user."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
    except ValueError:
        scheme, host = "", ""
    if not host or not (scheme == "https" or (scheme == "http" and _is_this_machine(host))):
        raise ValueError("must be a URL that begins with https:// (http:// only for localhost and 127.0.0.1)")
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


KeySetUrl = Annotated[str, AfterValidator(_cannot_be_changed_on_its_way)]


class Environment(BaseSettings):
    """Settings by their names in capitals, and by no other names: a variable HOST belongs to another program."""

    model_config = SettingsConfigDict(
        case_sensitive=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_ours(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        setting = cls.model_fields[info.field_name]
        return setting.default if _is_of_a_service(str(setting.alias), value) else value

    def without_effect(self) -> Iterator[str]:
        """A sentence about each setting that has no effect, without its value."""
        for setting in type(self).model_fields.values():
            name = str(setting.alias)
            if _is_of_a_service(name, os.environ.get(name)):
                service = name.removesuffix("_PORT").lower().replace("_", "-")
                yield (
                    f"{name} is ignored: it has what Kubernetes sets it to for a Service named {service}. Give the "
                    "Service another name, or set enableServiceLinks: false for this pod."
                )


def _is_of_a_service(name: str, value: object) -> bool:
    return name.endswith("_PORT") and isinstance(value, str) and A_SERVICE.fullmatch(value) is not None


class DatabaseSettings(Environment):
    database_url: PrimaryUrl = Field(alias="DATABASE_URL", description="postgres://user:password@host:port/database")
    listen_url: PrimaryUrl | None = Field(None, alias="ATLAS_LISTEN_URL")

    replica_urls: Annotated[list[PostgresUrl] | None, NoDecode] = Field(None, alias="ATLAS_REPLICA_URLS", repr=False)
    redis_url: RedisUrl | None = Field(None, alias="REDIS_URL", repr=False)

    @field_validator("replica_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: Any) -> Any:
        return [url.strip() for url in re.split(r",(?=\s*postgres)", value)] if isinstance(value, str) else value

    @field_validator("replica_urls")
    @classmethod
    def _are_separated(cls, urls: list[str] | None) -> list[str] | None:
        if any("," in urlsplit(url).path for url in urls or ()):
            raise ValueError("must be URLs that begin with postgres:// or postgresql://, separated by commas")
        return urls

    def without_effect(self) -> Iterator[str]:
        yield from super().without_effect()
        for name in ("database_url", "listen_url", "admin_url", "replica_urls"):
            given = getattr(self, name, None) or []
            urls = [given] if isinstance(given, str) else given
            if ignored := dict.fromkeys(parameter for url in urls for parameter in read(url).ignored):
                setting = type(self).model_fields[name].alias
                names = ", ".join(ignored)
                yield f"These parameters of {setting} have no effect here: {names}. server/README.md says why."


class OwnerSettings(DatabaseSettings):
    """Settings of commands that change the database's structure."""

    admin_url: PrimaryUrl | None = Field(None, alias="ATLAS_ADMIN_URL")

    @property
    def owner_url(self) -> str:
        return self.admin_url or self.database_url


class ProcessSettings(Environment):
    """How a long-running process reports events."""

    sentry_dsn: str | None = Field(None, alias="SENTRY_DSN", pattern=r"^https?://", repr=False)
    log_level: str = Field("info", alias="ATLAS_LOG_LEVEL", pattern="^(debug|info|warning|error)$")
    log_format: str = Field("json", alias="ATLAS_LOG_FORMAT", pattern="^(json|console)$")


class UsageSettings(Environment):
    """How long events of usage are kept. `serve` refuses older ones, and `maintain` drops them."""

    usage_days: int = Field(90, alias="ATLAS_USAGE_DAYS", ge=7, le=3_650)


class CostSettings(OwnerSettings):
    cost_floor: float = Field(5.0, alias="ATLAS_COST_FLOOR", gt=0, allow_inf_nan=False)


class MaintainSettings(CostSettings, UsageSettings, ProcessSettings):
    log_days: int = Field(90, alias="ATLAS_LOG_DAYS", ge=7, le=36_500)
    forget_days: int = Field(400, alias="ATLAS_FORGET_DAYS", ge=30, le=36_500)


class TokenSettings(Environment):
    jwt_secret: str | None = Field(None, alias="ATLAS_JWT_SECRET", min_length=SECRET_CHARACTERS, repr=False)
    jwt_audience: str = Field("authenticated", alias="ATLAS_JWT_AUDIENCE", min_length=1)
    jwt_issuer: str | None = Field(None, alias="ATLAS_JWT_ISSUER", min_length=1)


class ServiceSettings(Environment):
    """What the app's backend needs to use this server."""

    service_token: str | None = Field(
        None, alias="ATLAS_SERVICE_TOKEN", min_length=SERVICE_TOKEN_CHARACTERS, repr=False
    )
    service_token_former: str | None = Field(
        None, alias="ATLAS_SERVICE_TOKEN_FORMER", min_length=SERVICE_TOKEN_CHARACTERS, repr=False
    )

    @property
    def service_tokens(self) -> list[str]:
        """Tokens of the app's backend that are accepted."""
        return [token for token in (self.service_token, self.service_token_former) if token is not None]

    @model_validator(mode="after")
    def _replaces(self) -> Self:
        if self.service_token is None and self.service_token_former is not None:
            raise ValueError("ATLAS_SERVICE_TOKEN_FORMER needs ATLAS_SERVICE_TOKEN, the token that replaces it")
        return self


class ServeSettings(DatabaseSettings, TokenSettings, ServiceSettings, UsageSettings, ProcessSettings):
    usage: bool = Field(False, alias="ATLAS_USAGE")
    host: str = Field("0.0.0.0", alias="ATLAS_HOST")
    port: int = Field(8000, alias="PORT", ge=0, le=65_535)
    processes: int = Field(1, alias="WEB_CONCURRENCY", ge=1, le=256)
    jwt_secret_former: str | None = Field(
        None, alias="ATLAS_JWT_SECRET_FORMER", min_length=SECRET_CHARACTERS, repr=False
    )
    jwks_url: KeySetUrl | None = Field(None, alias="ATLAS_JWKS_URL")
    allowed_origins: Annotated[list[str] | None, NoDecode] = Field(None, alias="ATLAS_ALLOWED_ORIGINS")
    sockets_per_user: int = Field(20, alias="ATLAS_SOCKETS_PER_USER", ge=1)
    hellos_per_minute: int | None = Field(None, alias="ATLAS_HELLOS_PER_MINUTE", ge=1)
    keepalive: float = Field(25.0, alias="ATLAS_KEEPALIVE_SECONDS", gt=0, le=3_600)
    write_deadline: float = Field(30.0, alias="ATLAS_WRITE_DEADLINE", gt=0)
    sweep: float = Field(30.0, alias="ATLAS_SWEEP_SECONDS", gt=0)
    drain: float = Field(20.0, alias="ATLAS_DRAIN_SECONDS", ge=0)
    push_batch: int = Field(256, alias="ATLAS_PUSH_BATCH", ge=1, le=MAX_MUTATIONS)
    push_rate: float = Field(100.0, alias="ATLAS_PUSH_RATE", gt=0)
    push_burst: int = Field(1_000, alias="ATLAS_PUSH_BURST", ge=1)
    pool_size: int = Field(11, alias="ATLAS_POOL_SIZE", ge=2, le=100)
    doorbells: Literal["listen", "wal", "auto"] = Field("listen", alias="ATLAS_DOORBELLS")
    responses: bool = Field(False, alias="ATLAS_RESPONSES")
    responses_mib: int = Field(64, alias="ATLAS_RESPONSES_MIB", ge=1, le=65_536)
    metrics_port: int | None = Field(None, alias="ATLAS_METRICS_PORT", ge=1, le=65_535)
    metrics_host: str = Field("127.0.0.1", alias="ATLAS_METRICS_HOST")
    metrics_token: str | None = Field(None, alias="ATLAS_METRICS_TOKEN", min_length=TOKEN_CHARACTERS, repr=False)

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [origin.strip().rstrip("/") for origin in value.split(",")] if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: list[str] | None) -> list[str] | None:
        for origin in origins or []:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise ValueError("must be origins like https://app.example.com, separated by commas")
        return origins

    @property
    def jwt_secrets(self) -> list[str]:
        """Secrets of HS256 tokens that are accepted; the current one first."""
        return [secret for secret in (self.jwt_secret, self.jwt_secret_former) if secret is not None]

    @property
    def hellos(self) -> int:
        """Hellos of one user in a minute."""
        return self.hellos_per_minute or HELLOS_PER_SOCKET * self.sockets_per_user

    @model_validator(mode="after")
    def _caches_for_somebody(self) -> Self:
        if self.responses and self.service_token is None:
            raise ValueError("ATLAS_RESPONSES needs ATLAS_SERVICE_TOKEN, the token of those that use the cache")
        return self

    @model_validator(mode="after")
    def _keeps_figures_apart(self) -> Self:
        if self.metrics_port == self.port:
            raise ValueError("ATLAS_METRICS_PORT must be another port than PORT: who reaches it needs no token")
        return self

    @model_validator(mode="after")
    def _can_verify(self) -> Self:
        if self.jwt_secret is None and self.jwt_secret_former is not None:
            raise ValueError("ATLAS_JWT_SECRET_FORMER needs ATLAS_JWT_SECRET, the secret that replaces it")
        if self.jwt_secret is None and self.jwks_url is None:
            raise ValueError("set ATLAS_JWT_SECRET or ATLAS_JWKS_URL: without one no token can be verified")
        return self


def load(settings: type[Settings], **given: Any) -> Settings:
    """Read the settings from the environment and from `given` (by field name).

    Raises ConfigError with a sentence that names the setting, and never its value.
    """
    try:
        return settings(**{str(settings.model_fields[name].alias): value for name, value in given.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        said = PLAINLY.get(first["type"])
        problem = said.format(**first.get("ctx", {})) if said else first["msg"].removeprefix("Value error, ")
        # Of a list: the first part of `loc` names the setting, the second is an index.
        name, *index = first["loc"] or ("",)
        place = f"number {int(index[0]) + 1} " if index else ""
        subject = f"{name}: {place}" if name else ""
        raise ConfigError(f"{subject}{problem}. server/README.md has a table of all settings.") from None
