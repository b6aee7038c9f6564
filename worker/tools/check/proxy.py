"""How a proxy is asked for a tunnel to the service."""

import base64
from urllib.parse import unquote_to_bytes, urlsplit


def connect_request(proxy_url: str, host: str, port: int) -> bytes:
    """Return the CONNECT request, with the login of the proxy's URL."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    parts = urlsplit(proxy_url)
    if parts.username:
        user, password = (unquote_to_bytes(part or "") for part in (parts.username, parts.password))
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user + b':' + password).decode()}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
