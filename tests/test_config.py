"""Settings: a wrong one ends the start with a sentence that says what to set; the table in server/README.md is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from server.cli import cli
from server.config import Environment, MaintainSettings, ServeSettings, TokenSettings, load
from server.demo.embedded import find_binaries
from server.exceptions import ConfigError

GOOD = {"DATABASE_URL": "postgres://localhost/app", "ATLAS_JWT_SECRET": "x" * 32}
KINDS: list[type[Environment]] = [ServeSettings, MaintainSettings, TokenSettings]
NAMES = sorted({str(field.alias) for kind in KINDS for field in kind.model_fields.values()})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_what_must_be_set_suffices(environment: pytest.MonkeyPatch) -> None:
    settings = load(ServeSettings)
    assert (settings.port, settings.processes, settings.jwt_audience) == (8000, 1, "authenticated")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", None),
        ("DATABASE_URL", "mysql://localhost/app"),
        ("DATABASE_URL", "postgres://me:se#cret@localhost/app"),
        ("DATABASE_URL", "postgres://localhost/app?channel_binding=require"),
        ("ATLAS_LISTEN_URL", "localhost"),
        ("ATLAS_LISTEN_URL", "postgres://localhost/app?sslmode=on"),
        ("DATABASE_URL", "postgres://one,two/app?target_session_attrs=standby"),
        ("ATLAS_LISTEN_URL", "postgres://one,two/app?target_session_attrs=read-only"),
        ("ATLAS_JWT_SECRET", "short"),
        ("ATLAS_JWT_SECRET_FORMER", "short"),
        ("ATLAS_JWKS_URL", "ftp://example.com"),
        ("ATLAS_JWKS_URL", "http://auth.example.com/keys"),
        ("ATLAS_JWKS_URL", "http://localhost.example.com/keys"),
        ("ATLAS_JWKS_URL", "http://127.0.0.1@example.com/keys"),
        ("ATLAS_JWKS_URL", "http://10.0.0.1/keys"),
        ("ATLAS_JWKS_URL", "http://[::2]/keys"),
        ("ATLAS_JWKS_URL", "http://[::1/keys"),
        ("ATLAS_JWKS_URL", "https:///keys"),
        ("PORT", "65536"),
        ("PORT", "eighty"),
        ("WEB_CONCURRENCY", "0"),
        ("ATLAS_ALLOWED_ORIGINS", "chat.internal"),
        ("ATLAS_KEEPALIVE_SECONDS", "0"),
        ("ATLAS_SOCKETS_PER_USER", "0"),
        ("ATLAS_LOG_LEVEL", "loud"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://localhost/cache"),
        ("ATLAS_REPLICA_URLS", "replica"),
        ("ATLAS_REPLICA_URLS", "postgres://replica/app,"),
        ("ATLAS_REPLICA_URLS", "postgres://replica/app,another"),
        ("ATLAS_SERVICE_TOKEN", "short"),
        ("ATLAS_USAGE", "maybe"),
        ("ATLAS_USAGE_DAYS", "six"),
        ("ATLAS_RESPONSES_MIB", "0"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not_repeated(
    environment: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    if value is None:
        environment.delenv(name)
    else:
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"^{name}: [^\n]+\.$") as error:
        load(ServeSettings)
    assert not value or len(value) < 4 or value not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ATLAS_USAGE", "maybe", "must be true or false"),
        ("ATLAS_USAGE_DAYS", "six", "must be a whole number"),
        ("ATLAS_USAGE_DAYS", "6", "must be at least 7"),
        ("PORT", "65536", "must be at most 65535"),
        ("ATLAS_PUSH_RATE", "0", "must be greater than 0"),
        ("ATLAS_SERVICE_TOKEN", "short", "must have at least 32 characters"),
        ("ATLAS_REPLICA_URLS", "postgres://one/app, postgres:two", "number 2 must be a URL"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_in_plain_words(
    environment: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}: {said}"):
        load(ServeSettings)


def test_without_any_key_no_token_could_be_verified(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("ATLAS_JWT_SECRET")
    with pytest.raises(ConfigError, match="ATLAS_JWT_SECRET or ATLAS_JWKS_URL"):
        load(ServeSettings)
    environment.setenv("ATLAS_JWKS_URL", "https://example.com/keys")
    assert load(ServeSettings).jwt_secret is None


@pytest.mark.parametrize(
    "url",
    ["https://example.com/keys", "http://localhost:9999/keys", "http://127.0.0.1/keys", "http://[::1]:8080/keys"],
)
def test_keys_come_by_https_or_from_this_machine(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("ATLAS_JWKS_URL", url)
    assert load(ServeSettings).jwks_url == url


def test_figures_are_not_served_without_a_token_where_everybody_is(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ATLAS_METRICS_PORT", "8000")
    with pytest.raises(ConfigError, match="ATLAS_METRICS_PORT must be another port than PORT"):
        load(ServeSettings)
    environment.setenv("PORT", "8001")
    assert load(ServeSettings).metrics_port == 8000


def test_origins_are_separated_by_commas(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ATLAS_ALLOWED_ORIGINS", "https://app.example.com, http://localhost:5173/")
    assert load(ServeSettings).allowed_origins == ["https://app.example.com", "http://localhost:5173"]


def test_a_former_secret_needs_the_one_that_replaces_it(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ATLAS_JWT_SECRET_FORMER", "y" * 32)
    assert load(ServeSettings).jwt_secrets == ["x" * 32, "y" * 32]
    environment.delenv("ATLAS_JWT_SECRET")
    for keys in ("", "https://example.com/keys"):
        environment.setenv("ATLAS_JWKS_URL", keys)
        with pytest.raises(ConfigError, match=r"^ATLAS_JWT_SECRET_FORMER needs ATLAS_JWT_SECRET"):
            load(ServeSettings)


def test_a_secret_is_in_no_representation_of_the_settings(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ATLAS_JWT_SECRET_FORMER", "y" * 32)
    assert "y" * 32 not in repr(load(ServeSettings))
    assert GOOD["ATLAS_JWT_SECRET"] not in repr(load(ServeSettings))
    assert GOOD["ATLAS_JWT_SECRET"] not in repr(load(TokenSettings))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_setting_is_one_that_is_not_set(environment: pytest.MonkeyPatch, name: str) -> None:
    for kind in KINDS:
        environment.delenv(name, raising=False)
        without = told(kind)
        environment.setenv(name, "")
        assert told(kind) == without


def told(kind: type[Environment]) -> object:
    """The settings, or what is wrong with them."""
    try:
        return load(kind).model_dump()
    except ConfigError as error:
        return str(error)


def test_an_empty_variable_of_a_command_is_one_that_is_not_set(environment: pytest.MonkeyPatch) -> None:
    program = typer.main.get_command(cli)
    assert isinstance(program, TyperGroup)
    variables = set()
    for name, command in program.commands.items():
        names = [str(option.envvar) for option in command.params if option.envvar]
        variables.update(names)
        without = command.make_context(name, [], resilient_parsing=True).params
        for variable in names:
            environment.setenv(variable, "")
        assert command.make_context(name, [], resilient_parsing=True).params == without
    assert variables == {"ATLAS_TOKEN", "ATLAS_URL", "ATLAS_METRICS_URL", "ATLAS_METRICS_TOKEN"}


def test_the_empty_name_of_a_folder_is_none(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.delenv("ATLAS_PG_BIN", raising=False)
    without = find_binaries()
    environment.setenv("ATLAS_PG_BIN", "")
    assert find_binaries() == without
    environment.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    program = "from server import metrics; assert not metrics.shared(); metrics.PROCESSES.set(1)"
    path = str(Path(__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{path!r}]; {program}"], cwd=tmp_path, check=True
    )
    assert not list(tmp_path.iterdir())


def of_a_service(name: str) -> dict[str, str]:
    """What Kubernetes sets in every container beside a Service of that name."""
    prefix = name.upper().replace("-", "_")
    return {
        f"{prefix}_SERVICE_HOST": "10.0.0.7",
        f"{prefix}_SERVICE_PORT": "9187",
        f"{prefix}_SERVICE_PORT_HTTP": "9187",
        f"{prefix}_PORT": "tcp://10.0.0.7:9187",
        f"{prefix}_PORT_9187_TCP": "tcp://10.0.0.7:9187",
        f"{prefix}_PORT_9187_TCP_PROTO": "tcp",
        f"{prefix}_PORT_9187_TCP_PORT": "9187",
        f"{prefix}_PORT_9187_TCP_ADDR": "10.0.0.7",
    }


@pytest.mark.parametrize("service", ["atlas", "atlas-sync", "atlas-metrics", "metrics", "database", "web", "port"])
def test_a_service_of_kubernetes_is_no_setting(environment: pytest.MonkeyPatch, service: str) -> None:
    without = load(ServeSettings).model_dump()
    for name, value in of_a_service(service).items():
        environment.setenv(name, value)
    settings = load(ServeSettings)
    assert settings.model_dump() == without
    assert bool(list(settings.without_effect())) == (service == "atlas-metrics")


@pytest.mark.parametrize("value", ["tcp://10.0.0.7:9187", "udp://10.0.0.7:53", "tcp://[fd00::7]:9187"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_PORT")])
def test_the_port_of_a_service_is_said_to_be_none_of_ours(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    (sentence,) = load(ServeSettings).without_effect()
    service = name.removesuffix("_PORT").lower().replace("_", "-")
    assert re.match(rf"{name} is ignored: .* Service named {service}\. .*enableServiceLinks: false", sentence)
    assert value not in sentence


def test_a_port_that_is_none_is_not_taken_for_a_services(environment: pytest.MonkeyPatch) -> None:
    for name, value in (("ATLAS_METRICS_PORT", "http://10.0.0.7:9187"), ("PORT", "tcp://10.0.0.7:9187")):
        environment.setenv(name, value)
        with pytest.raises(ConfigError, match=f"^{name}: "):
            load(ServeSettings)
        environment.delenv(name)


def test_a_variable_that_is_called_as_a_field_is_no_setting(environment: pytest.MonkeyPatch) -> None:
    """HOST is set by some shells, LOG_LEVEL for other programs, METRICS_PORT by Kubernetes."""
    without = load(ServeSettings).model_dump()
    for field in ServeSettings.model_fields:
        for name in {field, field.upper()} - {*NAMES}:
            environment.setenv(name, "x")
    assert load(ServeSettings).model_dump() == without


def test_parameters_without_effect_are_named_with_their_setting(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://db/app?pool_timeout=x-secret&sslmode=require&connection_limit=1")
    environment.setenv("ATLAS_ADMIN_URL", "postgres://db/app?sslmode=require")
    environment.setenv("ATLAS_LISTEN_URL", "postgres://db/app?supa=x-secret")
    assert list(load(MaintainSettings).without_effect()) == [
        "These parameters of DATABASE_URL have no effect here: pool_timeout, connection_limit. "
        "server/README.md says why.",
        "These parameters of ATLAS_LISTEN_URL have no effect here: supa. server/README.md says why.",
    ]


def test_the_settings_table_has_every_setting_with_its_default() -> None:
    readme = (Path(__file__).parents[1] / "server" / "README.md").read_text()
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", readme, re.MULTILINE))
    settings = {**MaintainSettings.model_fields, **ServeSettings.model_fields}
    expected = {field.alias: field.default for field in settings.values()}
    assert set(table) == {*expected, "ATLAS_PG_BIN"}
    for name, default in expected.items():
        assert name is not None
        said = table[name].strip().strip("`")
        assert said == (
            "–"
            if default is None
            else "required"
            if repr(default) == "PydanticUndefined"
            else ",".join(sorted(default))
            if isinstance(default, frozenset)
            else str(default).lower()
            if isinstance(default, bool)
            else str(default)
        )
