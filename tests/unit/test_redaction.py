"""Secrets that this process knows are in no text."""

import base64
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.samples import forget_secrets
from worker import redaction
from worker.oss.credentials.providers import _made
from worker.redaction import HIDDEN, redact
from worker.registry.client import _login
from worker.settings.show import remember_secrets
from worker.settings.tables import Kafka, Oss, Registry
from worker.words import clean

SECRET = "tok-0123456789"


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_secrets(monkeypatch)


def test_a_secret_is_hidden_wherever_it_is() -> None:
    redaction.remember(SECRET)
    assert redact(f"{SECRET} and {SECRET}.", 100) == f"{HIDDEN} and {HIDDEN}."


def test_a_secret_with_characters_of_a_pattern_is_hidden() -> None:
    redaction.remember("a.c+d(e[f")
    assert redact("a.c+d(e[f abccd(e[f", 100) == f"{HIDDEN} abccd(e[f"


def test_a_secret_that_holds_another_is_hidden_whole() -> None:
    redaction.remember("password", "password-and-more")
    assert redact("password-and-more password", 100) == f"{HIDDEN} {HIDDEN}"


def test_a_short_secret_is_left_since_it_is_part_of_words() -> None:
    redaction.remember("vector", "", None)
    assert redact("oss-vectors", 100) == "oss-vectors"


@pytest.mark.parametrize("before", range(90, 115))
@pytest.mark.parametrize("repeated", [1, 50])
def test_no_part_of_a_secret_is_left_where_a_text_is_cut(before: int, repeated: int) -> None:
    redaction.remember(SECRET)
    text = "x" * before + SECRET * repeated
    for shown in (redact(text, 100), clean(text, 100), clean(text, 50)):
        assert [part for part in (SECRET[:3], SECRET[-3:]) if part in shown] == []


def test_renewed_secrets_are_kept_within_a_bound_and_the_others_always() -> None:
    redaction.remember(SECRET)
    for number in range(1000):
        redaction.remember_renewed(f"secret-{number:06}")
    assert len(redaction._renewed) == 64
    text = f"secret-000999 {SECRET} secret-000936 secret-000935"
    assert redact(text, 100) == f"{HIDDEN} {HIDDEN} {HIDDEN} secret-000935"


def test_a_renewed_secret_that_is_still_in_use_is_not_the_oldest() -> None:
    for number in range(1000):
        redaction.remember_renewed(f"secret-{number:06}")
        redaction.remember_renewed(SECRET)
    assert redact(f"secret-000999 {SECRET} secret-000000", 100) == f"{HIDDEN} {HIDDEN} secret-000000"


def test_a_secret_that_is_renewed_and_set_is_kept() -> None:
    redaction.remember(SECRET)
    redaction.remember_renewed(SECRET, *(f"secret-{number:06}" for number in range(64)))
    assert redact(SECRET, 100) == HIDDEN


def test_the_secrets_of_the_settings_outlive_every_renewal_of_credentials() -> None:
    settings: Any = SimpleNamespace(
        kafka=Kafka(
            sasl_plain_password="kafka-sasl-password",
            ssl_password="kafka-key-password",
            client={"sasl_oauth_token": "kafka-client-token", "proxy_url": "http://me:proxy-password@proxy:1"},
        ),
        oss=Oss(
            region="cn-hangzhou",
            account_id="1234567890",
            bucket="vectors",
            proxy_url="http://me:oss-proxy-password@proxy:1",
        ),
        registry=Registry(url="http://registry", username="me", password="registry-pässword", token="registry-token"),
    )
    remember_secrets(settings)
    for number in range(100):
        _made("key-id-0123456789", f"sts-secret-{number:03}", f"sts-token-{number:03}")
    text = (
        "kafka-sasl-password kafka-key-password kafka-client-token proxy-password oss-proxy-password registry-pässword "
        f"registry-token {base64.b64encode(b'me:proxy-password').decode()}"
    )
    assert redact(text, 1000) == " ".join([HIDDEN] * 8)
    (login,) = _login(Registry(username="me", password="registry-pässword")).values()
    assert redact(login, 1000) == f"Basic {HIDDEN}"
    assert redact("sts-secret-099 sts-token-099 sts-secret-000", 1000) == f"{HIDDEN} {HIDDEN} sts-secret-000"


def test_the_password_of_a_url_is_hidden_in_every_form() -> None:
    redaction.remember_url("http://me:p%40ssw0rd-long@proxy:1")
    basic = base64.b64encode(b"me:p@ssw0rd-long").decode()
    text = f"p%40ssw0rd-long p@ssw0rd-long {basic}"
    assert redact(text, 200) == f"{HIDDEN} {HIDDEN} {HIDDEN}"


def test_the_login_of_a_url_is_hidden_as_it_is_sent_whatever_bytes_it_has() -> None:
    redaction.remember_url("http://me:%ff%00long-password@proxy:1")
    assert redact(base64.b64encode(b"me:\xff\x00long-password").decode(), 100) == HIDDEN


@pytest.mark.parametrize("url", ["", "http://proxy:1", "http://[x", "http://user@proxy"])
def test_a_url_without_a_password_hides_nothing(url: str) -> None:
    redaction.remember_url(url)
    assert redact("http://user@proxy:1", 100) == "http://user@proxy:1"


def test_the_cost_is_that_of_what_is_shown() -> None:
    redaction.remember(*(f"{number:08}-secret" for number in range(64)))
    assert len(redact("x" * 10_000_000, 100)) == 100
