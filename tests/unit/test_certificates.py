"""Certificates and keys that the settings name, tried with real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.unit.samples import NEEDED
from worker.cli import main
from worker.errors import SettingsError
from worker.settings.load import load

PASSWORD = "key-password-do-not-show"


class Files(NamedTuple):
    """Files of one certificate authority, a client's certificate, and keys."""

    authority: str
    certificate: str
    key: str
    both: str
    encrypted: str
    old_encrypted: str
    other_key: str
    text: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    client, other = authority.issue_cert("client"), authority.issue_cert("other")
    key = load_pem_private_key(client.private_key_pem.bytes(), None)
    lock = BestAvailableEncryption(PASSWORD.encode())
    contents = {
        "authority": authority.cert_pem.bytes(),
        "certificate": client.cert_chain_pems[0].bytes(),
        "key": client.private_key_pem.bytes(),
        "both": client.private_key_and_cert_chain_pem.bytes(),
        "encrypted": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock),
        "old_encrypted": key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, lock),
        "other_key": other.private_key_pem.bytes(),
        "text": b"no certificate, \xff and no key\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return Files(*(str(folder / name) for name in Files._fields))


def mistakes(files: Files, **given: str) -> Sequence[str]:
    """Return what is wrong with these settings of the table kafka; a value that names a file of `files` is its path."""
    values = {name: getattr(files, value, value) for name, value in given.items()}
    try:
        load(None, NEEDED | {f"OSS_VECTORS_KAFKA__{name.upper()}": value for name, value in values.items()})
    except SettingsError as error:
        return error.mistakes
    return ()


@pytest.mark.parametrize(
    "given",
    [
        {"ssl_cafile": "authority"},
        {"ssl_cafile": "both"},
        {"ssl_certfile": "both"},
        {"ssl_certfile": "certificate", "ssl_keyfile": "key"},
        {"ssl_certfile": "certificate", "ssl_keyfile": "key", "ssl_password": "not needed"},
        {"ssl_certfile": "certificate", "ssl_keyfile": "encrypted", "ssl_password": PASSWORD},
        {"ssl_certfile": "certificate", "ssl_keyfile": "old_encrypted", "ssl_password": PASSWORD},
    ],
    ids=str,
)
def test_certificates_and_keys_in_pem_are_accepted(files: Files, given: dict[str, str]) -> None:
    assert mistakes(files, **given) == ()


@pytest.mark.parametrize(
    ("given", "setting", "expected"),
    [
        ({"ssl_cafile": "text"}, "ssl_cafile", "it contains no certificate in PEM"),
        ({"ssl_cafile": "key"}, "ssl_cafile", "it contains no certificate in PEM"),
        ({"ssl_certfile": "key"}, "ssl_certfile", "it contains no certificate in PEM"),
        ({"ssl_certfile": "certificate"}, "ssl_certfile", "it contains no private key in PEM; set kafka.ssl_keyfile to the file of the key"),
        ({"ssl_keyfile": "text"}, "ssl_keyfile", "it contains no private key in PEM"),
        ({"ssl_certfile": "certificate", "ssl_keyfile": "text"}, "ssl_keyfile", "it contains no private key in PEM"),
        ({"ssl_certfile": "certificate", "ssl_keyfile": "other_key"}, "ssl_keyfile", "the key does not belong to the certificate in kafka.ssl_certfile"),
        ({"ssl_certfile": "certificate", "ssl_keyfile": "encrypted"}, "ssl_keyfile", "the key is encrypted; set kafka.ssl_password"),
        ({"ssl_certfile": "certificate", "ssl_keyfile": "old_encrypted"}, "ssl_keyfile", "the key is encrypted; set kafka.ssl_password"),
        ({"ssl_certfile": "certificate", "ssl_keyfile": "encrypted", "ssl_password": "wrong"}, "ssl_keyfile", "kafka.ssl_password does not decrypt the key"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_client_could_not_use_is_one_mistake(
    files: Files, given: dict[str, str], setting: str, expected: str
) -> None:
    path = getattr(files, given[setting])
    assert mistakes(files, **given) == (f"kafka.{setting} = {path!r}: {expected}",)


def test_two_wrong_files_are_two_mistakes(files: Files) -> None:
    found = mistakes(files, ssl_cafile="text", ssl_certfile="text", ssl_keyfile="text")
    assert [each.partition(" = ")[0] for each in found] == [
        "kafka.ssl_cafile",
        "kafka.ssl_certfile",
        "kafka.ssl_keyfile",
    ]


def test_a_damaged_key_is_a_mistake_that_shows_nothing_of_it(files: Files, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    (found,) = mistakes(files, ssl_certfile="certificate", ssl_keyfile=str(tmp_path / "damaged"))
    assert found.startswith(f"kafka.ssl_keyfile = '{tmp_path}/damaged': the certificate and its key cannot be loaded: ")
    assert "c2VjcmV0" not in found


@pytest.mark.parametrize("command", ["run", "config"])
def test_a_wrong_file_ends_the_command_with_78_and_one_line(files: Files, command: str) -> None:
    variables = NEEDED | {"OSS_ACCESS_KEY_ID": "test", "OSS_ACCESS_KEY_SECRET": "test"}
    kafka = {
        "OSS_VECTORS_KAFKA__SSL_CERTFILE": files.certificate,
        "OSS_VECTORS_KAFKA__SSL_KEYFILE": files.encrypted,
        "OSS_VECTORS_KAFKA__SSL_PASSWORD": PASSWORD + "!",
    }
    result = CliRunner().invoke(main, [command], env=variables | kafka)
    lines = result.stderr.splitlines()
    expected = f"  kafka.ssl_keyfile = {files.encrypted!r}: kafka.ssl_password does not decrypt the key"
    assert (result.exit_code, lines) == (78, ["1 wrong setting:", expected])
    assert PASSWORD not in result.output


def test_the_authorities_of_the_service_are_looked_at_too(files: Files) -> None:
    with pytest.raises(SettingsError) as raised:
        load(None, NEEDED | {"OSS_VECTORS_OSS__CA_FILE": files.text})
    assert raised.value.mistakes == (f"oss.ca_file = {files.text!r}: it contains no certificate in PEM",)
