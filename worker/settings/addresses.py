"""Addresses in the settings: of brokers, of the service, of a proxy, and to listen on."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_KAFKA_PORT: Final = 9092  # of a broker without a port, as the client has it


def is_server(server: str) -> bool:
    """Return whether it is a broker's address that the client can read: see `host_and_port`."""
    return host_and_port(server) is not None


def host_and_port(server: str) -> tuple[str, int] | None:
    """Return the host and the port of a broker's address; None where it is none.

    It is a host, or one with a port; the port is 9092 where it has none. A host is a name, an IPv4 address, or an IPv6
    address in brackets, which is returned without them.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", server)
    if found is None or (found[1] and not is_address(found[1])):
        return None
    port = int(found[3] or _KAFKA_PORT)
    return (found[1] or found[2], port) if 1 <= port <= 65535 else None


def is_proxy(address: str) -> bool:
    """Return whether the client can read the address. Where it cannot, its errors quote parts of it, a password too."""
    try:
        parts = urlsplit(address)
        return bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:
        return False


def scheme_and_host(endpoint: str, *, with_user: bool = False) -> tuple[str, str]:
    """Return both, the host empty where the endpoint is none."""
    try:
        parts = urlsplit(endpoint)
        plain = parts._replace(path=parts.path.rstrip("/")).geturl() == f"{parts.scheme}://{parts.netloc}"
        usable = (
            parts.scheme in ("http", "https") and plain and (with_user or "@" not in parts.netloc) and parts.port != 0
        )
    except ValueError:  # a bracket that is not closed, a port that is none
        return "", ""
    host = parts.hostname or ""
    return parts.scheme, host if usable and (is_host_name(host) or is_address(host)) else ""


def is_host_name(host: str) -> bool:
    """Return whether it is a name that can be looked up: labels of 1 to 63 letters, digits, - and _."""
    return all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in host.removesuffix(".").split("."))


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_address(host) and ipaddress.ip_address(host).is_loopback


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:  # a name
        return False
    return True
