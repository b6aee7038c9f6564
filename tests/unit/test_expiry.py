"""When credentials and certificates end: read from real certificates, again when a file changes."""

import datetime as dt
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry

from tests.unit.samples import NEEDED
from worker.settings.certificates import end_of_authorities, end_of_own
from worker.settings.load import load
from worker.telemetry.expiry import EndOfFile, ExpiryCollector, certificate_ends

END = dt.datetime(2031, 5, 6, 7, 8, 9, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_own(authority: trustme.CA, path: Path, end: dt.datetime) -> None:
    issued = authority.issue_cert("worker.example", not_before=end - dt.timedelta(days=9000), not_after=end)
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))


def test_the_end_of_the_clients_own_certificate_is_read(authority: trustme.CA, tmp_path: Path) -> None:
    write_own(authority, tmp_path / "own.pem", END)
    assert end_of_own(tmp_path / "own.pem") == END.timestamp()


def test_of_several_authorities_the_last_end_counts(authority: trustme.CA, tmp_path: Path) -> None:
    """Else the old one, which is kept while servers change to the new one, would be a trouble without a reason."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    alone = end_of_authorities(path)
    below = authority.create_child_ca()
    below.cert_pem.write_to_path(str(path), append=True)
    both = end_of_authorities(path)
    below.cert_pem.write_to_path(str(path))
    assert alone is not None
    assert both == max(alone, end_of_authorities(path) or 0.0)


def test_a_server_certificate_that_is_trusted_as_it_is_has_an_end_too(authority: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    issued = authority.issue_cert("a.example", not_before=END - dt.timedelta(days=9000), not_after=END)
    issued.cert_chain_pems[0].write_to_path(str(path))
    assert end_of_authorities(path) == END.timestamp()


def test_a_file_without_a_certificate_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("nothing", encoding="ascii")
    assert [read(tmp_path / name) for read in (end_of_own, end_of_authorities) for name in ("text", "away")] == [
        None
    ] * 4


def test_a_file_is_read_again_when_it_changes_and_only_then(authority: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "own.pem"
    reads: list[Path] = []

    def read(file: Path) -> float | None:
        reads.append(file)
        return end_of_own(file)

    end = EndOfFile(path, read)
    assert (end(), reads) == (None, [])
    write_own(authority, path, END)
    assert [end(), end(), len(reads)] == [END.timestamp(), END.timestamp(), 1]
    later = END + dt.timedelta(days=90)
    path.unlink()
    assert end() == END.timestamp()  # a renewal may remove it for a moment
    write_own(authority, tmp_path / "new.pem", later)
    (tmp_path / "new.pem").rename(path)
    assert [end(), len(reads)] == [later.timestamp(), 2]


def test_an_end_is_that_of_what_connections_are_made_with(authority: trustme.CA, tmp_path: Path) -> None:
    """kafka-python reads a file for each connection. The sessions with the service and the registry read theirs once."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    named = dict.fromkeys(("KAFKA__SSL_CAFILE", "OSS__CA_FILE", "REGISTRY__CA_FILE"), str(path))
    environ = NEEDED | {f"OSS_VECTORS_{name}": value for name, value in named.items()}
    ends = certificate_ends(load(None, environ).settings)
    before = end_of_authorities(path)
    assert {use: end() for use, end in ends.items()} == dict.fromkeys(("kafka-ca", "oss-ca", "registry-ca"), before)
    write_own(authority, tmp_path / "new.pem", END)
    (tmp_path / "new.pem").rename(path)
    assert {use: end() for use, end in ends.items()} == {
        "kafka-ca": END.timestamp(),
        "oss-ca": before,
        "registry-ca": before,
    }


def test_what_has_no_known_end_has_no_series() -> None:
    registry = CollectorRegistry()
    ends = ExpiryCollector()
    registry.register(ends)
    name = "oss_vectors_certificate_expiry_timestamp_seconds"
    ends.certificates = {"kafka-client": lambda: 5.0, "oss-ca": lambda: None}
    assert registry.get_sample_value("oss_vectors_credentials_expiry_timestamp_seconds") is None
    assert [registry.get_sample_value(name, {"use": use}) for use in ("kafka-client", "oss-ca")] == [5.0, None]
    ends.credentials = lambda: 7.0
    assert registry.get_sample_value("oss_vectors_credentials_expiry_timestamp_seconds") == 7.0
