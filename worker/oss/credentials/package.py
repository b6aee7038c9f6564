"""Alibaba Cloud's credentials package: made for a mode, and what it says made fit for us.

Its errors quote URLs, which contain the OIDC token, and whole answers. It also logs them by itself.
"""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

from worker.errors import SettingsError
from worker.extras import pip_command
from worker.words import clean

_QUERY: Final = re.compile(r"\?[^\s'\"()]*")
_ANSWER: Final = re.compile(r"\b(result|response|stderr|body):", re.IGNORECASE)
_CODE: Final = re.compile(r"\"Code\"\s*:\s*\"([A-Za-z0-9._-]{1,100})\"")


def provider_of(mode: str) -> Any:
    """Return the package's provider for `oss.credentials`. Raises `SettingsError` where it, or what it needs, is not there."""
    try:
        from alibabacloud_credentials import provider as providers  # noqa: PLC0415 - an extra, needed by these modes alone
    except ImportError:
        raise SettingsError(
            [f"oss.credentials = {json.dumps(mode)} needs more packages: {pip_command('credentials')}"]
        ) from None
    # Its loggers write to stderr by themselves, past the log: each error with the OIDC token and a traceback, and with the
    # variable DEBUG=sdk each request. We get the errors in any case.
    for name in ("credentials", "alibabacloud-tea"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).disabled = True
    try:
        return {
            "default-chain": providers.DefaultCredentialsProvider,
            "ecs-ram-role": providers.EcsRamRoleCredentialsProvider,
            "oidc": providers.OIDCRoleArnCredentialsProvider,
        }[mode]()
    except Exception as error:  # whatever it misses, it says so
        raise SettingsError([f"oss.credentials = {json.dumps(mode)}: {without_answers(str(error))}"]) from None


def end_of(found: Any) -> datetime | None:
    """Return when the package's credentials expire, None where it does not say it, as for the default chain."""
    try:
        return datetime.fromtimestamp(found.get_expiration(), UTC)
    except (AttributeError, TypeError, ValueError, OverflowError, OSError):  # no such method, None, no time
        return None


def without_answers(text: str) -> str:
    """Return an error of the package without what it quotes: the URL's query, which contains the OIDC token, and an answer.

    Of an answer the service's code is kept.
    """
    text = _QUERY.sub("?...", text)
    quoted = _ANSWER.search(text)
    if quoted:
        codes = " ".join(dict.fromkeys(_CODE.findall(text[quoted.start() :])))
        text = f"{text[: quoted.start()].rstrip(' ,')}{f' ({codes})' if codes else ''}"
    return clean(text)
