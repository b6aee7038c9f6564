"""Certificates and keys that the settings name: readable, in PEM, and fit for each other; and when they end.

They are tried as the clients will use them. OpenSSL is never left to ask for a password on a terminal.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.settings import files
from worker.settings.tables import Kafka
from worker.settings.value_text import shown_path

_KEY: bytes = b"PRIVATE KEY-----"  # how the first line of every kind of key in PEM ends
_ENCRYPTED: tuple[bytes, ...] = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


def file_mistakes(table: str, paths: Mapping[str, str]) -> list[str]:
    """Return a mistake for each of these files that cannot be read."""
    return [
        f"{table}.{name} = {shown_path(path)}: {found}"
        for name, path in paths.items()
        if path and (found := files.problem(path, files.CERTIFICATE_BYTES))
    ]


def authority_mistakes(setting: str, path: str) -> list[str]:
    """Return a mistake where a file of certificates to trust cannot be read, or contains none."""
    table, _, name = setting.partition(".")
    unreadable = file_mistakes(table, {name: path})
    if unreadable or not path or _has_certificate(path):
        return unreadable
    return [f"{setting} = {shown_path(path)}: it contains no certificate in PEM"]


def kafka_mistakes(kafka: Kafka) -> list[str]:
    """Return the mistakes of `kafka.ssl_cafile`, `ssl_certfile`, `ssl_keyfile` and `ssl_password`."""
    own = {"ssl_certfile": kafka.ssl_certfile, "ssl_keyfile": kafka.ssl_keyfile}
    mistakes = authority_mistakes("kafka.ssl_cafile", kafka.ssl_cafile)
    unreadable = file_mistakes("kafka", own)
    return mistakes + (unreadable or _pair_mistakes(kafka))


def _pair_mistakes(kafka: Kafka) -> list[str]:
    """Return the mistakes of the client's certificate and key, which can be read."""
    mistakes = []
    certificate, key = kafka.ssl_certfile, kafka.ssl_keyfile
    if certificate and not _has_certificate(certificate):
        mistakes.append(f"kafka.ssl_certfile = {shown_path(certificate)}: it contains no certificate in PEM")
    content = files.read(Path(key or certificate), files.CERTIFICATE_BYTES) if key or certificate else _KEY
    if _KEY not in content:
        where = f"kafka.ssl_keyfile = {shown_path(key)}" if key else f"kafka.ssl_certfile = {shown_path(certificate)}"
        advice = "" if key else "; set kafka.ssl_keyfile to the file of the key"
        mistakes.append(f"{where}: it contains no private key in PEM{advice}")
    if certificate and not mistakes and (found := _load(kafka, content)):
        mistakes.append(found)
    return mistakes


def _load(kafka: Kafka, key: bytes) -> str:
    """Load the certificate and its key as the client will. Return what is wrong, "" where nothing is."""
    name = "ssl_keyfile" if kafka.ssl_keyfile else "ssl_certfile"
    where = f"kafka.{name} = {shown_path(kafka.ssl_keyfile or kafka.ssl_certfile)}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            kafka.ssl_certfile, kafka.ssl_keyfile or None, lambda: kafka.ssl_password
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            return f"{where}: the key does not belong to the certificate in kafka.ssl_certfile"
        if not any(mark in key for mark in _ENCRYPTED):
            return f"{where}: the certificate and its key cannot be loaded: {error}"
        if not kafka.ssl_password:
            return f"{where}: the key is encrypted; set kafka.ssl_password"
        return f"{where}: kafka.ssl_password does not decrypt the key"
    return ""


def _has_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False
    return True


def own_certificate(path: str) -> dict[str, Any] | None:
    """Return the first certificate of a file as `SSLSocket.getpeercert` shows one; None where this Python does not show it.

    Raises `OSError` or `ValueError` if the file cannot be read or contains none.
    """
    # Python shows a certificate that no handshake has verified by this alone; CPython's own tests rely on it since 2.6.
    decode: Any = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)
    return None if decode is None else dict(decode(path))


def end_of_own(path: Path) -> float | None:
    """Return when the first certificate of a file ends, Unix time; None where that cannot be known."""
    try:
        certificate = own_certificate(str(path))
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return None
    return None if certificate is None else float(ssl.cert_time_to_seconds(certificate["notAfter"]))


def end_of_authorities(path: Path) -> float | None:
    """Return when the last authority of a file ends, Unix time; None where that cannot be known.

    While authorities are changed, a file has the old one beside the new one. The end of the old one is then no trouble.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return None
    ends = [ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs()]
    return float(max(ends)) if ends else end_of_own(path)  # a server's own certificate may be trusted as it is
