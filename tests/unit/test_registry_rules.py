"""What is wrong between the settings of a registry, and that no message quotes its secrets."""

from typing import Any

import pytest

from worker.redaction import redact
from worker.settings.registry_rules import registry_mistakes
from worker.settings.show import remember_secrets
from worker.settings.tables import SECRETS, Registry


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"username": "user", "token": "of a registry that is turned off"},
        {"url": "http://registry:8081"},
        {"url": "https://registry.example.com/apis/ccompat/v7/"},
        {"url": "https://registry", "username": "user", "password": "p"},
        {"url": "https://registry", "token": "abc.def-1"},
        {"url": "http://127.0.0.1:8081", "username": "user"},
        {"url": "http://registry:8081", "token": "abc", "allow_http": True},
    ],
)
def test_right_settings_have_no_mistake(chosen: dict[str, Any]) -> None:
    assert registry_mistakes(Registry(**chosen)) == []


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"url": "registry:8081"}, "registry.url = 'registry:8081'"),
        ({"url": "https://registry/?a=b"}, "registry.url"),
        ({"url": "https://registry/#x"}, "registry.url"),
        ({"url": "https://[registry"}, "registry.url"),
        ({"url": "ftp://registry"}, "registry.url"),
        ({"url": "https://user:sesame@registry"}, "the login has settings of its own"),
        ({"url": "http://registry:8081", "username": "user"}, "registry.allow_http"),
        ({"url": "http://registry:8081", "token": "sesame"}, "registry.allow_http"),
        ({"url": "https://registry", "password": "sesame"}, "registry.username is needed"),
        ({"url": "https://registry", "username": "user", "token": "sesame"}, "one login is enough"),
        ({"url": "https://registry", "username": "us:er"}, "colon"),
        ({"url": "https://registry", "token": "sesame\nx"}, "registry.token holds a character"),
        ({"ca_file": "/nowhere.pem"}, "registry.ca_file"),
        ({"url": "https://registry", "ca_file": "/nowhere.pem"}, "registry.ca_file"),
    ],
)
def test_a_contradiction_is_named_and_no_secret_is_quoted(chosen: dict[str, Any], named: str) -> None:
    mistakes = registry_mistakes(Registry(**chosen))
    assert len(mistakes) == 1
    assert named in mistakes[0]
    assert "sesame" not in mistakes[0]


def test_the_secrets_are_secrets() -> None:
    from tests.support.app import settings

    assert {"registry.password", "registry.token"} <= SECRETS
    remember_secrets(settings(registry=Registry(url="https://r", username="u", password="sesame-1", token="sesame-2")))
    assert "sesame" not in redact("with sesame-1 and sesame-2", 100)
