"""Addresses in the settings: of brokers, of the service, of a proxy, and to listen on."""

import ipaddress
import re
from urllib.parse import urlsplit


def is_server(server: str) -> bool:
    """Return whether it is a host, or one with a port. A host is a name, an IPv4 address, or an IPv6 one in brackets."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", server)
    if found is None or (found[2] and not 1 <= int(found[2]) <= 65535):
        return False
    return not found[1] or is_address(found[1])


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
