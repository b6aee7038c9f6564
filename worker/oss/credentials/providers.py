"""Where the service's credentials come from, as `oss.credentials` says.

No source is trusted to give them clean: white space around a part is dropped, other characters that a header cannot carry
are refused. No error quotes a part, what a program wrote, or what a server answered.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from alibabacloud_oss_v2.credentials import (
    AnonymousCredentialsProvider,
    Credentials,
    CredentialsProvider,
    StaticCredentialsProvider,
)

from worker import redaction
from worker.errors import SettingsError
from worker.oss.credentials import package
from worker.oss.credentials.program import Program, ProgramError
from worker.settings import files
from worker.settings.rules import credential_mistakes
from worker.settings.tables import Oss
from worker.settings.value_text import credential_problem, shown_path
from worker.words import clean

log = logging.getLogger("worker.credentials")

KEPT_SECONDS: Final = 300.0  # credentials for which the program names no end
RENEWED_BEFORE_SECONDS: Final = 180.0  # their end, or at half of their time if that is later
WAIT_SECONDS: Final = 10.0  # for the program, if there are no credentials yet; the program continues to run
AGAIN_SECONDS: Final = 5.0  # after a run that failed, or that gave what the service refuses
# Without a request nothing is renewed, and nothing needs to be. It is the time from when a request would have renewed them to
# when the alert about their end, which is two minutes before it, would fire.
USED_SECONDS: Final = 60.0

Clock = Callable[[], float]


class CredentialsError(Exception):
    """There are no credentials now; the message says why, and quotes nothing of them."""


class Provider(CredentialsProvider):  # type: ignore[misc]  # the SDK ships no types
    """The SDK's provider, with what the worker needs besides."""

    def __init__(
        self,
        get: Callable[[], Credentials],
        forget: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
        *,
        newest: Callable[[], Credentials | None] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """`newest` returns what the next request would get, and fetches nothing: it may be newer than what was given last."""
        self._get = get
        self._newest = newest or (lambda: self._given)
        self._clock = clock
        self._given: Credentials | None = None
        self._asked_at = float("-inf")
        self.forget = forget
        """Fetch again at the next request, since the service refused what was given last."""
        self.close = close
        """End what runs for it."""

    def get_credentials(self) -> Credentials:
        """Return credentials for one request; the SDK calls it for each. Raises whatever failed."""
        self._asked_at = self._clock()
        self._given = self._get()
        return self._given

    def expires_at(self) -> float | None:
        """Return when the credentials in use expire, Unix time; None where that is not known, or none are in use.

        They are in use for `USED_SECONDS` after a request: without one they are not renewed, and end without harm.
        """
        return _end_of(self._newest()) if self._clock() - self._asked_at < USED_SECONDS else None


def credentials_provider(settings: Oss, environ: Mapping[str, str]) -> Provider:
    """Return the provider for `oss.credentials`. Raises `SettingsError` if there are none at the start."""
    mode = settings.credentials
    if mode == "anonymous":
        return _Anonymous()
    if mode == "environment":
        return Provider(_from_environment(environ).get_credentials)
    if mode == "file":
        return _OfFile(CredentialsFile(Path(settings.credentials_file)))
    if mode == "process":
        program = Program(settings.credentials_process)
        kept = Kept(lambda: _from_program(program, time.time), time.monotonic)
        return Provider(kept.current, kept.forget, program.close, newest=kept.newest)
    return Provider(_from_credentials_package(mode))


class _Anonymous(Provider, AnonymousCredentialsProvider):  # type: ignore[misc]  # the SDK ships no types
    """The SDK leaves a request unsigned only for this class of its own."""

    def __init__(self) -> None:
        super().__init__(AnonymousCredentialsProvider().get_credentials)


class _OfFile(Provider):
    """Another program renews the file, also while no request reads it."""

    def __init__(self, file: "CredentialsFile") -> None:
        super().__init__(file.read, file.forget, newest=file.read)

    def expires_at(self) -> float | None:
        """Return the end that the file says now, Unix time; None where it says none."""
        return _end_of(self._newest())


def _end_of(credentials: Credentials | None) -> float | None:
    end = None if credentials is None else credentials.expiration
    return None if end is None else float(end.timestamp())


def _made(key_id: object, secret: object, token: object) -> Credentials:
    """Return credentials, without white space around their parts. Raises `CredentialsError`."""
    parts = [part.strip() if isinstance(part, str) else "" for part in (key_id, secret, token)]
    for name, part in zip(("access key id", "access key secret", "session token"), parts, strict=True):
        if (part or name != "session token") and (problem := credential_problem(part)):
            raise CredentialsError(f"the {name} {problem}")
    redaction.remember_renewed(parts[1], parts[2])
    return Credentials(parts[0], parts[1], parts[2] or None)


def _from_environment(environ: Mapping[str, str]) -> Any:
    if mistakes := credential_mistakes(environ):
        raise SettingsError(mistakes)
    made = _made(environ["OSS_ACCESS_KEY_ID"], environ["OSS_ACCESS_KEY_SECRET"], environ.get("OSS_SESSION_TOKEN"))
    return StaticCredentialsProvider(made.access_key_id, made.access_key_secret, made.security_token)


# -- a file


class CredentialsFile:
    """JSON with `access_key_id`, `access_key_secret` and, if any, `session_token` and `expiration`; read again when it changes.

    While the file is missing, or half written, the credentials that were read last are kept, and it is read again at the next
    request. Raises `SettingsError` if it cannot be read at the start.
    """

    class Content(msgspec.Struct):
        access_key_id: str
        access_key_secret: str
        session_token: str | None = None
        expiration: object = None  # RFC 3339; it is only reported, so another form of it is no mistake

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._problem = ""
        try:
            self._credentials = self._read_again()
        except (OSError, ValueError, CredentialsError) as error:
            expected = "expected JSON with access_key_id, access_key_secret and, if any, session_token"
            raise SettingsError(
                [f"oss.credentials_file = {shown_path(str(path))}: {_what_failed(error)}; {expected}"]
            ) from None

    def read(self) -> Credentials:
        """Return the credentials in force."""
        with self._lock:
            try:
                if self._stamp is None or _stamp(self._path) != self._stamp:
                    self._credentials = self._read_again()
            except (OSError, ValueError, CredentialsError) as error:
                self._log_change(_what_failed(error))
            else:
                self._log_change("")
            return self._credentials

    def forget(self) -> None:
        """Read the file again at the next request, even if it looks unchanged."""
        self._stamp = None

    def _read_again(self) -> Credentials:
        stamp = _stamp(self._path)  # before the content, so that a change in between is read at the next request
        content = msgspec.json.decode(files.read(self._path, files.SECRET_BYTES), type=self.Content)
        made = _made(content.access_key_id, content.access_key_secret, content.session_token)
        made.expiration = _moment(content.expiration)
        self._stamp = stamp
        return made

    def _log_change(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning(
                "credentials file not read; the credentials read before are kept, and it is read again",
                extra={"file": str(self._path), "error": problem},
            )
        elif self._problem and not problem:
            log.info("credentials file read again", extra={"file": str(self._path)})
        self._problem = problem


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return (status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size)


def _what_failed(error: Exception) -> str:
    return clean(files.why(error))


# -- a program


class Fetched(NamedTuple):
    """Credentials, and for how many seconds they are valid from now on, None if that is not known."""

    credentials: Credentials
    seconds: float | None


class Kept:
    """Credentials that cost something to fetch: fetched by one thread at a time, and kept while they are valid.

    They are fetched again before they expire, while requests still use the old ones. If that fails, the old ones are used
    until they expire.
    """

    def __init__(self, fetch: Callable[[], Fetched], clock: Clock, wait_seconds: float = WAIT_SECONDS) -> None:
        self._fetch = fetch
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._credentials: Credentials | None = None
        self._good_until = self._fetched_at = self._fetch_at = float("-inf")
        self._is_fetching = False
        self._is_refused = False  # the service refused those in use, and others are on their way
        self._problem = ""

    def current(self) -> Credentials:
        """Return credentials. Raises `CredentialsError` if there are none, and none come in `wait_seconds`."""
        with self._changed:
            self._fetch_if_due()
            if ((good := self._good()) is None or self._is_refused) and self._is_fetching:
                self._changed.wait_for(lambda: not self._is_fetching, self._wait_seconds)
                good = self._good()
            if good is not None:
                return good
            still = f"oss.credentials_process has given nothing within {self._wait_seconds:.0f} s; it still runs"
            ended = self._problem or "the credentials that oss.credentials_process gave have expired"
            raise CredentialsError(still if self._is_fetching else ended)

    def newest(self) -> Credentials | None:
        """Return what was fetched last, None before anything was."""
        return self._credentials

    def forget(self) -> None:
        """Fetch again at the next request, which waits for it. The old ones are used where nothing comes.

        What was fetched a moment ago is kept: the service refused older ones.
        """
        with self._changed:
            if self._clock() - self._fetched_at >= AGAIN_SECONDS and not self._is_refused:
                self._is_refused = True
                self._fetch_at = float("-inf")

    def _good(self) -> Credentials | None:
        return self._credentials if self._clock() < self._good_until else None

    def _fetch_if_due(self) -> None:
        if not self._is_fetching and self._clock() >= self._fetch_at:
            # The thread is started first: if the system cannot start one, the next request tries again.
            threading.Thread(target=self._run, name="credentials", daemon=True).start()
            self._is_fetching = True

    def _run(self) -> None:
        fetched, problem = None, ""
        try:
            fetched = self._fetch()
        except (CredentialsError, ProgramError) as error:
            problem = str(error)
        except Exception as error:  # those that wait get every kind of error; its text may quote a secret
            problem = f"an unforeseen error: {type(error).__name__}"
        with self._changed:
            self._note_run(fetched, problem)
            self._is_fetching = self._is_refused = False
            self._changed.notify_all()

    def _note_run(self, fetched: Fetched | None, problem: str) -> None:
        now = self._clock()
        if fetched is None:
            if problem != self._problem and self._good() is not None:
                log.warning("credentials not renewed; those in use are kept", extra={"error": problem})
            self._problem, self._fetch_at = problem, now + AGAIN_SECONDS
            return
        seconds = fetched.seconds
        self._credentials, self._problem, self._fetched_at = fetched.credentials, "", now
        self._good_until = float("inf") if seconds is None else now + seconds
        self._fetch_at = now + (KEPT_SECONDS if seconds is None else max(seconds / 2, seconds - RENEWED_BEFORE_SECONDS))


class _Output(msgspec.Struct):
    """What the program prints, as the Alibaba Cloud CLI's profiles of mode External expect it."""

    access_key_id: str
    access_key_secret: str
    mode: str | None = None
    sts_token: str | None = None
    expiration: str | None = None


def _from_program(program: Program, wall: Clock) -> Fetched:
    """Run the program. Raises `ProgramError` and `CredentialsError`."""
    try:
        output = msgspec.json.decode(program.run(), type=_Output)
    except ValueError as error:  # its text names a place in the output, and never what is there
        raise CredentialsError(f"oss.credentials_process printed no credentials: {clean(str(error))}") from None
    if output.mode == "StsToken" and not output.sts_token:
        raise CredentialsError("oss.credentials_process printed no sts_token, which mode StsToken needs")
    made = _made(output.access_key_id, output.access_key_secret, output.sts_token)
    if not output.expiration:
        return Fetched(made, None)
    seconds = _unix_time(output.expiration) - wall()
    if seconds <= 0:
        raise CredentialsError("oss.credentials_process printed credentials that have expired")
    made.expiration = datetime.fromtimestamp(wall() + seconds, UTC)  # for `check`, which reports it
    return Fetched(made, seconds)


def _unix_time(text: str) -> float:
    if (moment := _moment(text)) is None:
        raise CredentialsError("oss.credentials_process printed an expiration that is no time")
    return moment.timestamp()


def _moment(text: object) -> datetime | None:
    """Return the time that a text says, None where it says none."""
    try:
        moment = datetime.fromisoformat(text.strip() if isinstance(text, str) else "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# -- the package for roles and profiles


def _from_credentials_package(mode: str) -> Callable[[], Credentials]:
    provider = package.provider_of(mode)

    def fetch() -> Credentials:
        try:
            found = provider.get_credentials()
        except Exception as error:
            raise CredentialsError(f"{mode}: {package.without_answers(str(error))}") from None
        made = _made(found.get_access_key_id(), found.get_access_key_secret(), found.get_security_token())
        made.expiration = package.end_of(found)
        return made

    return fetch
