"""The jars of Apache Kafka: fetched once, checked at every start.

A lock file of jgo beside this module lists the files with their SHA-256s. jgo downloads and keeps them
in the local Maven repository: `~/.m2/repository`, or where M2_REPO or jgo's own settings say; those settings may also
name repositories to download from. jgo only logs a wrong checksum, and never compares with a lock file by itself, so
that is done here, before Java sees a jar. lock.py writes the lock file.
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from worker.extras import pip_command
from worker.local.broker.errors import BrokerError

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

MEGABYTES = {"4.3.1": 44, "3.9.1": 50, "2.8.2": 39}
"""The versions there are, and what the jars of each weigh, for the message at the first download."""

ATTEMPTS = 3


def classpath(version: str, report: Callable[[str], None], check: Callable[[], None]) -> list[Path]:
    """The verified jars of this Kafka version, downloaded if they are not there yet.

    `report` gets a line of progress at times; `check` is called a few times a second and may raise to stop waiting.
    BrokerError if jgo is not installed, or a jar cannot be had or is not the one in the lock file.
    """
    maven = context()
    locked = _locked(maven, version)
    if any(not _is_sound(artifact, digest) for artifact, digest in locked.items()):
        with _one_at_a_time(maven.repo_cache):
            missing = {artifact: digest for artifact, digest in locked.items() if not _is_sound(artifact, digest)}
            _fetch_all(version, missing, maven.repo_cache, report, check)
    return [_path(artifact) for artifact in locked]


def context() -> "MavenContext":
    """How jgo reaches the repositories, by its own settings. BrokerError if it is not installed."""
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415 - part of the extra `demo`
        from jgo.maven import MavenContext  # noqa: PLC0415 - likewise
    except ImportError:
        raise BrokerError(f"the local broker needs more packages: {pip_command('demo')}") from None
    settings = GlobalSettings.load()
    maven = MavenContext(repo_cache=settings.repo_cache, timeout=30)
    maven.remote_repos.update(settings.repositories)
    return maven


def lock_path(version: str) -> Path:
    """The lock file of this Kafka version."""
    return Path(__file__).with_name(f"kafka-{version}.lock.toml")


def _locked(maven: "MavenContext", version: str) -> "dict[Artifact, str]":
    from jgo.env import LockFile  # noqa: PLC0415 - part of the extra `demo`

    if not lock_path(version).exists():
        raise BrokerError(f"no Apache Kafka {version} here, but {', '.join(MEGABYTES)}")
    file = LockFile.load(lock_path(version))
    return {
        maven.project(jar.groupId, jar.artifactId).at_version(jar.version).artifact(packaging=jar.packaging): (
            jar.sha256 or ""
        )
        for jar in file.dependencies
    }


def _path(artifact: "Artifact") -> Path:
    path = artifact.cached_path
    if path is None:
        raise BrokerError("jgo is set to keep no local Maven repository, but the jars must be somewhere")
    return path


def _is_sound(artifact: "Artifact", digest: str) -> bool:
    try:
        with _path(artifact).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:  # most often it is not there; what cannot be read cannot be used either
        return False


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep two processes from writing the same jar at once; the second then finds it there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".oss-vectors-worker.lock").open("w")
    except OSError as error:
        raise BrokerError(f"cannot keep the jars of Apache Kafka in {folder}: {error.strerror}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_all(
    version: str,
    missing: "dict[Artifact, str]",
    folder: Path,
    report: Callable[[str], None],
    check: Callable[[], None],
) -> None:
    if not missing:
        return
    report(f"Apache Kafka {version}: fetching {len(missing)} jars (all are {MEGABYTES[version]} MB) to {folder}, once")
    executor = ThreadPoolExecutor(4, "jars")
    try:
        pending = {executor.submit(_fetch, artifact, digest) for artifact, digest in missing.items()}
        reported = 0
        while pending:
            check()
            ended, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            for future in ended:
                future.result()
            done = len(missing) - len(pending)
            if done // 10 > reported // 10 or not pending:
                report(f"{done} of {len(missing)} jars")
                reported = done
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _fetch(artifact: "Artifact", digest: str) -> None:
    reason = "its SHA-256 is not the one in the lock file"
    for _ in range(ATTEMPTS):
        try:
            _path(artifact).unlink(missing_ok=True)
            artifact.resolve()
        except (OSError, RuntimeError) as error:  # an OSError is what every error of `requests` is
            reason = str(error)
            continue
        if _is_sound(artifact, digest):
            return
    with contextlib.suppress(OSError):
        _path(artifact).unlink(missing_ok=True)
    raise BrokerError(f"cannot fetch {artifact.filename}, for which the network is needed once: {reason}")
