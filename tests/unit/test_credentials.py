"""Where credentials come from: what is taken, what is refused, what is kept, and that no secret is told."""

import importlib
import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_oss_v2.credentials import AnonymousCredentialsProvider, Credentials

from tests.support.bounded import join, thread
from tests.unit.samples import FakeClock
from worker.errors import SettingsError
from worker.oss.credentials.package import without_answers
from worker.oss.credentials.program import ProgramError
from worker.oss.credentials.providers import (
    AGAIN_SECONDS,
    KEPT_SECONDS,
    USED_SECONDS,
    CredentialsError,
    CredentialsFile,
    Fetched,
    Kept,
    Provider,
    credentials_provider,
)
from worker.settings.tables import Oss
from worker.words import clean

LIMIT_S = 30.0
SECRET = "hunter2-do-not-show"
ENVIRONMENT = {"OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": SECRET}


def provider(mode: Any, environ: dict[str, str] | None = None, **settings: Any) -> Provider:
    oss = Oss(region="cn-hangzhou", bucket="my-bucket", account_id="1", credentials=mode, **settings)
    return credentials_provider(oss, environ or {})


def parts(given: Credentials) -> tuple[str, str, str | None]:
    return given.access_key_id, given.access_key_secret, given.security_token


def test_anonymous_is_of_the_class_that_the_sdk_leaves_unsigned() -> None:
    made = provider("anonymous")
    assert isinstance(made, AnonymousCredentialsProvider)
    assert parts(made.get_credentials()) == ("", "", None)


# -- what a header cannot carry


@pytest.mark.parametrize("around", ["{}\n", " {} ", "\t{}\r\n", "{}\u00a0"])
def test_white_space_around_the_environments_credentials_is_dropped(around: str) -> None:
    environ = {name: around.format(value) for name, value in {**ENVIRONMENT, "OSS_SESSION_TOKEN": "token"}.items()}
    assert parts(provider("environment", environ).get_credentials()) == ("id", SECRET, "token")


def test_a_token_of_white_space_alone_is_none() -> None:
    assert parts(provider("environment", {**ENVIRONMENT, "OSS_SESSION_TOKEN": " \n"}).get_credentials())[2] is None


BAD = ["{}\nx", "{} x", "{}\x00", "{}\xe9", "{}\u0661", "\ufeff{}", "{}\udcff"]


@pytest.mark.parametrize("name", ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"])
@pytest.mark.parametrize("bad", BAD)
def test_what_a_header_cannot_carry_is_a_wrong_setting_that_is_not_shown(name: str, bad: str) -> None:
    with pytest.raises(SettingsError) as raised:
        provider("environment", {**ENVIRONMENT, name: bad.format(SECRET)})
    (mistake,) = raised.value.mistakes
    assert mistake.endswith(
        f"takes {name} from the environment, and it holds a character other than the visible ones of ASCII"
    )
    assert SECRET not in mistake


def written(path: Path, **content: object) -> Path:
    """Replace the file as its writers do, by renaming."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"access_key_id": "id", "access_key_secret": SECRET, **content}))
    return new.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "credentials.json"


def test_white_space_around_a_files_credentials_is_dropped(path: Path) -> None:
    written(path, access_key_id=" id\n", access_key_secret=f"{SECRET}\n", session_token=" token ")
    assert parts(CredentialsFile(path).read()) == ("id", SECRET, "token")


@pytest.mark.parametrize("bad", [bad for bad in BAD if "\udcff" not in bad])
@pytest.mark.parametrize("name", ["access_key_id", "access_key_secret", "session_token"])
def test_a_files_credentials_that_a_header_cannot_carry_are_wrong_and_not_shown(
    path: Path, name: str, bad: str
) -> None:
    written(path, **{name: bad.format(SECRET)})
    with pytest.raises(SettingsError) as raised:
        CredentialsFile(path)
    assert f"the {name.replace('_', ' ')} holds a character other than the visible" in raised.value.mistakes[0]
    assert SECRET not in raised.value.mistakes[0]


# -- a file that others write


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "large"])
def test_what_is_no_small_file_is_refused_at_once(path: Path, kind: str) -> None:
    make: dict[str, Callable[[], object]] = {
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "large": lambda: path.write_bytes(b" " * 100_000),
    }
    make[kind]()
    with pytest.raises(SettingsError, match=r"oss.credentials_file = .*(regular file|directory|larger than 65536)"):
        CredentialsFile(path)


def half_written(path: Path) -> None:
    path.write_text(f'{{"access_key_id": "id", "access_key_secret": "{SECRET}')


def gone(path: Path) -> None:
    path.unlink()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def wrong(path: Path) -> None:
    written(path, session_token=f"{SECRET}\nx")


@pytest.mark.parametrize("change", [half_written, gone, a_fifo, wrong])
def test_a_file_that_cannot_be_read_leaves_the_old_credentials_until_it_can(
    path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = CredentialsFile(written(path, access_key_id="old"))
    change(path)
    assert [file.read().access_key_id for _ in range(5)] == ["old"] * 5
    path.unlink(missing_ok=True)
    written(path, access_key_id="new")
    assert [file.read().access_key_id for _ in range(2)] == ["new"] * 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert SECRET not in str([record.__dict__ for record in caplog.records])


def test_a_file_that_looks_unchanged_is_read_again_once_the_service_refuses(path: Path) -> None:
    file = CredentialsFile(written(path, access_key_id="old"))
    status = path.stat()
    path.write_text(path.read_text().replace("old", "new"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.read().access_key_id == "old"
    file.forget()
    assert file.read().access_key_id == "new"


# -- a program's credentials, kept


class Source:
    """Gives numbered credentials, or fails; may be held up."""

    def __init__(self) -> None:
        self.runs = 0
        self.seconds: float | None = None
        self.error: Exception | None = None
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self) -> Fetched:
        self.runs += 1
        number, error, seconds = self.runs, self.error, self.seconds
        assert self.may_end.wait(LIMIT_S)
        if error is not None:
            raise error
        return Fetched(Credentials(f"id-{number}", "s"), seconds)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def kept(source: Source, clock: FakeClock) -> Kept:
    return Kept(source, clock, wait_seconds=LIMIT_S)


def settled(kept: Kept) -> str:
    """Ask, wait for the run that this may have started, and ask again."""
    kept.current()
    with kept._changed:
        assert kept._changed.wait_for(lambda: not kept._is_fetching, LIMIT_S)
    return str(kept.current().access_key_id)


def test_where_no_thread_can_be_started_the_next_request_tries_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            kept.current()
    assert settled(kept) == "id-1"


def test_without_an_end_they_are_fetched_again_every_few_minutes(kept: Kept, source: Source, clock: FakeClock) -> None:
    assert [settled(kept) for _ in range(100)] == ["id-1"] * 100
    clock.pass_by(KEPT_SECONDS - 1)
    assert (settled(kept), source.runs) == ("id-1", 1)
    clock.pass_by(1)
    assert (settled(kept), source.runs) == ("id-2", 2)


@pytest.mark.parametrize(("seconds", "renewed_after"), [(3600.0, 3420.0), (600.0, 420.0), (300.0, 150.0), (60.0, 30.0)])
def test_they_are_renewed_before_they_end(
    kept: Kept, source: Source, clock: FakeClock, seconds: float, renewed_after: float
) -> None:
    source.seconds = seconds
    assert settled(kept) == "id-1"
    clock.pass_by(renewed_after - 1)
    assert settled(kept) == "id-1"
    clock.pass_by(1)
    assert settled(kept) == "id-2"


def test_requests_use_the_old_ones_while_a_run_renews_them(kept: Kept, source: Source, clock: FakeClock) -> None:
    source.seconds = 3600.0
    assert settled(kept) == "id-1"
    clock.pass_by(3500.0)
    source.may_end.clear()
    assert [kept.current().access_key_id for _ in range(5)] == ["id-1"] * 5
    source.may_end.set()
    assert (settled(kept), source.runs) == ("id-2", 2)


def test_a_run_that_fails_leaves_the_old_ones_for_as_long_as_they_are_good(
    kept: Kept, source: Source, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    source.seconds = 3600.0
    settled(kept)
    source.error = ProgramError("it ended with code 1")
    clock.pass_by(3500.0)
    assert [settled(kept) for _ in range(10)] == ["id-1"] * 10
    assert source.runs == 2
    clock.pass_by(AGAIN_SECONDS)
    assert (settled(kept), source.runs) == ("id-1", 3)
    clock.pass_by(100.0)
    with pytest.raises(CredentialsError, match="it ended with code 1"):
        kept.current()
    assert [record.getMessage() for record in caplog.records] == ["credentials not renewed; those in use are kept"]


def test_many_threads_wait_for_one_run(kept: Kept, source: Source) -> None:
    source.may_end.clear()
    found: list[str] = []
    threads = [thread(lambda: found.append(kept.current().access_key_id)) for _ in range(20)]
    source.may_end.set()
    join(*threads)
    assert (found, source.runs) == (["id-1"] * 20, 1)


def test_a_run_that_hangs_holds_a_request_for_a_bounded_time(source: Source, clock: FakeClock) -> None:
    source.may_end.clear()
    kept = Kept(source, clock, wait_seconds=0.05)
    for _ in range(2):
        with pytest.raises(CredentialsError, match="has given nothing within 0 s; it still runs"):
            kept.current()
    assert source.runs == 1
    source.may_end.set()


def test_a_run_that_failed_is_not_tried_again_at_once(kept: Kept, source: Source, clock: FakeClock) -> None:
    source.error = RuntimeError(f"with {SECRET} in it")
    for _ in range(5):
        with pytest.raises(CredentialsError, match="an unforeseen error: RuntimeError"):
            kept.current()
    assert source.runs == 1
    source.error = None
    clock.pass_by(AGAIN_SECONDS)
    assert settled(kept) == "id-2"


def test_what_the_service_refuses_is_fetched_anew_but_not_for_each_refusal(
    kept: Kept, source: Source, clock: FakeClock
) -> None:
    settled(kept)
    clock.pass_by(AGAIN_SECONDS)
    for _ in range(8):  # as many requests were on their way
        kept.forget()
        assert settled(kept) == "id-2"
    assert source.runs == 2


def test_credentials_that_were_refused_are_used_where_no_others_come(
    kept: Kept, source: Source, clock: FakeClock
) -> None:
    """One index may be denied to them, and others not."""
    settled(kept)
    clock.pass_by(AGAIN_SECONDS)
    source.error = RuntimeError("no answer")
    kept.forget()
    assert settled(kept) == "id-1"
    source.error = None
    kept.forget()
    clock.pass_by(AGAIN_SECONDS)
    assert settled(kept) == "id-3"


# -- the program itself


def command(tmp_path: Path, output: str) -> str:
    """A program that prints this, and notes each run."""
    code = "import sys; open(sys.argv[1],'a').write('x'); sys.stdout.write(sys.argv[2])"
    return shlex.join([sys.executable, "-S", "-c", code, str(tmp_path / "runs"), output])


def printed(**content: object) -> str:
    return json.dumps({"mode": "AK", "access_key_id": "id", "access_key_secret": SECRET, **content})


def test_the_end_of_the_credentials_in_use_is_known_where_their_source_says_it(path: Path, tmp_path: Path) -> None:
    end = datetime(2999, 1, 1, tzinfo=UTC).timestamp()
    program = provider(
        "process", credentials_process=command(tmp_path, printed(sts_token="t", expiration="2999-01-01T00:00:00Z"))
    )
    assert program.expires_at() is None  # nothing was fetched yet
    program.get_credentials()
    assert program.expires_at() == pytest.approx(end)
    program.close()
    for said, expected in (("2999-01-01T00:00:00Z", end), ("soon", None), (17, None)):
        written(path, access_key_id="id", access_key_secret=SECRET, session_token="t", expiration=said)
        file = provider("file", credentials_file=str(path))
        assert file.expires_at() == expected  # also before the first request


def test_a_file_that_is_renewed_while_no_request_is_sent_shows_its_new_end(path: Path) -> None:
    def said(year: int) -> str:
        return f"{year}-01-01T00:00:00Z"

    file = provider("file", credentials_file=str(written(path, session_token="t", expiration=said(2900))))
    file.get_credentials()
    written(path, session_token="t", expiration=said(2999))
    assert file.expires_at() == datetime(2999, 1, 1, tzinfo=UTC).timestamp()
    a_fifo(path)  # which opening must not wait for
    assert file.expires_at() == datetime(2999, 1, 1, tzinfo=UTC).timestamp()


def test_the_end_of_what_only_requests_renew_is_not_shown_while_there_is_none(clock: FakeClock) -> None:
    given = Credentials("id", "s", expiration=datetime(2999, 1, 1, tzinfo=UTC))
    lazy = Provider(lambda: given, clock=clock)
    lazy.get_credentials()
    clock.pass_by(USED_SECONDS - 1)
    assert lazy.expires_at() is not None
    clock.pass_by(1)
    assert lazy.expires_at() is None
    lazy.get_credentials()
    assert lazy.expires_at() is not None


def test_the_end_is_that_of_the_newest_credentials_and_remains_where_none_can_be_given(
    source: Source, clock: FakeClock
) -> None:
    def fetch() -> Fetched:
        fetched = source()
        fetched.credentials.expiration = datetime(2990 + source.runs, 1, 1, tzinfo=UTC)
        return fetched

    kept = Kept(fetch, clock, wait_seconds=LIMIT_S)
    source.seconds = 1000.0
    lazy = Provider(kept.current, newest=kept.newest, clock=clock)
    settled(kept)
    clock.pass_by(900.0)
    lazy.get_credentials()  # gets the old ones, and has new ones fetched
    settled(kept)
    assert lazy.expires_at() == datetime(2992, 1, 1, tzinfo=UTC).timestamp()
    source.error = CredentialsError("no")
    clock.pass_by(2000.0)
    with pytest.raises(CredentialsError):
        lazy.get_credentials()
    assert lazy.expires_at() == datetime(2992, 1, 1, tzinfo=UTC).timestamp()


@pytest.fixture
def package() -> Iterator[Any]:
    """Import the package anew, and drop it afterwards: it reads its environment when it is imported."""

    def pop() -> dict[str, Any]:
        names = [name for name in sys.modules if name.split(".")[0] == "alibabacloud_credentials"]
        return {name: sys.modules.pop(name) for name in names}

    before = pop()
    yield importlib.import_module("alibabacloud_credentials.provider")
    pop()
    sys.modules.update(before)


@pytest.mark.parametrize(("expiration", "expected"), [(1_900_000_000, 1_900_000_000.0), (None, None), (10**30, None)])
@pytest.mark.parametrize(
    ("mode", "name"), [("ecs-ram-role", "EcsRamRoleCredentialsProvider"), ("oidc", "OIDCRoleArnCredentialsProvider")]
)
def test_the_package_says_the_end_of_what_it_renews(
    mode: str,
    name: str,
    expiration: int | None,
    expected: float | None,
    package: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FromMemory:
        def get_credentials(self) -> object:
            return package.refreshable.Credentials(
                access_key_id="id", access_key_secret=SECRET, security_token="t", expiration=expiration
            )

    monkeypatch.setattr(package, name, FromMemory)
    by_role = provider(mode)
    by_role.get_credentials()
    assert by_role.expires_at() == expected


def test_a_program_is_run_once_for_many_requests(tmp_path: Path) -> None:
    made = provider("process", credentials_process=command(tmp_path, printed(access_key_id=" id\n")))
    assert [parts(made.get_credentials()) for _ in range(50)] == [("id", SECRET, None)] * 50
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize("mode", ["StsToken", None])
def test_a_program_gives_a_token_and_its_end(tmp_path: Path, mode: str | None) -> None:
    output = printed(mode=mode, sts_token="token", expiration="2999-01-01T00:00:00Z")
    made = provider("process", credentials_process=command(tmp_path, output))
    assert parts(made.get_credentials()) == ("id", SECRET, "token")


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (SECRET, "printed no credentials: JSON is malformed"),
        (
            f'{{"access_key_id": "{SECRET}"}}',
            "printed no credentials: Object missing required field `access_key_secret`",
        ),
        (printed(access_key_id=5), "Expected `str`, got `int`"),
        (printed(mode="StsToken"), "printed no sts_token, which mode StsToken needs"),
        (printed(expiration="2020-01-01T00:00:00Z"), "printed credentials that have expired"),
        (printed(expiration=f"soon {SECRET}"), "printed an expiration that is no time"),
        (printed(access_key_secret=f"{SECRET} x"), "the access key secret holds a character other than"),
        (printed(access_key_secret=" "), "the access key secret is empty"),
        ("\ufeff{", "printed no credentials"),
        ("[" * 50_000, "printed no credentials"),
    ],
)
def test_what_a_program_prints_is_refused_without_showing_it(tmp_path: Path, output: str, why: str) -> None:
    made = provider("process", credentials_process=command(tmp_path, output))
    with pytest.raises(CredentialsError, match=why.replace("(", r"\(")) as raised:
        made.get_credentials()
    assert SECRET not in str(raised.value)


# -- the package for roles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Max retries exceeded with url: /?A=b&OIDCToken=secret (Caused by X('y'))", "Max retries exceeded with url: /?... (Caused by X('y'))"),
        ('error, http_code: 400, result: {"Code": "AuthenticationFail.NoPermission", "x": "secret"}', "error, http_code: 400 (AuthenticationFail.NoPermission)"),
        ('failed, response: {"SecurityToken": "secret"}', "failed"),
        ("exit status 1\nstderr: secret", "exit status 1"),
        ("plain", "plain"),
    ],
)  # fmt: skip
def test_an_error_of_the_package_loses_what_it_quotes(text: str, expected: str) -> None:
    assert without_answers(text) == expected


@pytest.mark.parametrize("mode", ["oidc", "default-chain"])
def test_a_token_that_could_not_be_exchanged_is_nowhere(
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The package puts it into a URL, and the URL into its error and its own log."""
    token = tmp_path / "token"
    token.write_text(SECRET)
    for name, value in {
        "ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/x",
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1:oidc-provider/x",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(token),
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "HOME": str(tmp_path),
        "DEBUG": "sdk",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CredentialsError) as raised:
        provider(mode).get_credentials()
    assert "sts" in str(raised.value)
    shown = capfd.readouterr()
    assert (SECRET in str(raised.value), shown.out, shown.err, caplog.text) == (False, "", "", "")


def test_this_module_hides_the_secrets_that_it_gives_out() -> None:
    provider("environment", ENVIRONMENT)
    assert SECRET not in clean(f"header: '{SECRET}'")
