from typing import Any

import pytest

from wsmanager import ConfigurationError, MessagePriority, Tier, WebSocketConfig
from wsmanager.config import settings


def test_the_defaults_are_valid_and_every_setting_is_described() -> None:
    WebSocketConfig()
    assert all(setting.description.endswith(".") for setting in settings())
    assert {setting.name: setting.default for setting in settings()}["max_message_size"] == 1_048_576


def test_a_configuration_cannot_be_changed() -> None:
    config = WebSocketConfig()
    with pytest.raises(AttributeError):
        config.max_depth = 5  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_depth": 0}, "max_depth: Expected `int` >= 1"),
        ({"max_depth": "deep"}, "max_depth: Expected `int`, got `str`"),
        ({"max_error_rate": 1.5}, "max_error_rate: Expected `float` <= 1.0"),
        ({"handler_timeout": -1}, "handler_timeout: Expected `float` > 0.0"),
        (
            {"over_limit": "kick"},
            "over_limit: Invalid enum value 'kick' .allowed: 'refuse', 'replace_oldest'.",
        ),
        ({"slow_timeout": 1.0}, "slow_timeout must not be below send_timeout"),
    ],
)
def test_a_wrong_value_names_the_setting_and_what_is_allowed(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        WebSocketConfig(**values)


def test_a_tier_is_validated_like_the_rest() -> None:
    with pytest.raises(ConfigurationError, match="rate_factor: Expected `float` > 0"):
        Tier(rate_factor=0)


def test_a_mapping_may_hold_texts() -> None:
    config = WebSocketConfig.from_mapping({"max_depth": "8", "rate_limit_window": 30, "idle_timeout": "none"})
    assert (config.max_depth, config.rate_limit_window, config.idle_timeout) == (8, 30.0, None)


def test_an_unknown_setting_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match="max_dept is no setting"):
        WebSocketConfig.from_mapping({"max_dept": 8})


def test_the_environment_is_read_by_prefix() -> None:
    environ = {
        "WSMANAGER_RATE_LIMIT_MAX": "5",
        "WSMANAGER_ALLOWED_ORIGINS": "https://a.example, https://b.example",
        "WSMANAGER_TIERS": '{"pro": {"rate_factor": 2, "priority": 2, "features": ["agents"]}}',
        "WSMANAGER_HANDLER_TIMEOUT": "None",
        "PATH": "/bin",
    }
    config = WebSocketConfig.from_env(environ=environ)
    assert config.rate_limit_max == 5
    assert config.allowed_origins == ("https://a.example", "https://b.example")
    assert config.handler_timeout is None
    assert config.tiers["pro"].priority is MessagePriority.HIGH
    assert config.tiers["pro"].features == {"agents"}


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_MAX_DEPTH", "7")
    assert WebSocketConfig.from_env("CHAT_").max_depth == 7


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MAX_DEPTH", "deep", "WSMANAGER_MAX_DEPTH: Expected `int`, got `str`"),
        ("MAX_DEPHT", "5", "WSMANAGER_MAX_DEPHT is no setting"),
        ("TIERS", "pro", "WSMANAGER_TIERS: Expected a JSON object"),
        ("TIERS", '{"\udcff": {}}', "WSMANAGER_TIERS: Expected a JSON object"),
        ("TIERS", '{"pro": {"rate": 2}}', "WSMANAGER_TIERS: .*unknown field `rate`"),
    ],
)
def test_a_wrong_variable_is_named_as_it_stands_in_the_environment(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        WebSocketConfig.from_env(environ={f"WSMANAGER_{name}": value})
