"""Settings: a wrong one ends the start with one sentence that says what to set, and the README's table is true."""

import re
from pathlib import Path

import pytest

from server.config import MaintainSettings, ServeSettings, TokenSettings, load
from server.errors import ConfigError

GOOD = {"DATABASE_URL": "postgres://localhost/app", "ATLAS_JWT_SECRET": "x" * 32}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for field in ServeSettings.model_fields.values():
        assert field.alias is not None
        monkeypatch.delenv(field.alias, raising=False)
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
        ("ATLAS_LISTEN_URL", "localhost"),
        ("ATLAS_JWT_SECRET", "short"),
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
        ("ATLAS_ALLOWED_ORIGINS", ""),
        ("ATLAS_KEEPALIVE_SECONDS", "0"),
        ("ATLAS_SOCKETS_PER_USER", "0"),
        ("ATLAS_LOG_LEVEL", "loud"),
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


def test_a_secret_is_in_no_representation_of_the_settings(environment: pytest.MonkeyPatch) -> None:
    assert GOOD["ATLAS_JWT_SECRET"] not in repr(load(ServeSettings))
    assert GOOD["ATLAS_JWT_SECRET"] not in repr(load(TokenSettings))


def test_the_readme_has_every_setting_with_its_default() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
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
            else str(default)
        )
