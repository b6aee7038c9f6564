"""Secrets that this process knows are in no text."""

import base64

import pytest

from tests.unit.samples import forget_secrets
from worker import redaction
from worker.redaction import HIDDEN, redact
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


def test_the_newest_secrets_are_kept_within_a_bound() -> None:
    for number in range(1000):
        redaction.remember(f"secret-{number:06}")
        redaction.remember(SECRET)
    assert len(redaction._by_age) == 64
    assert redact(f"secret-000999 {SECRET} secret-000000", 100) == f"{HIDDEN} {HIDDEN} secret-000000"


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
