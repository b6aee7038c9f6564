"""What is wrong with the settings of a schema registry that are each right by themselves."""

from urllib.parse import urlsplit

from worker.redaction import HIDDEN
from worker.settings import certificates, value_text
from worker.settings.addresses import is_loopback, scheme_and_host
from worker.settings.tables import Registry


def registry_mistakes(registry: Registry) -> list[str]:
    """Return a mistake for each contradiction. None quotes a secret. Without an address the others have no effect."""
    if not registry.url:
        return certificates.authority_mistakes("registry.ca_file", registry.ca_file)
    mistakes = _url_mistakes(registry)
    if registry.password and not registry.username:
        mistakes.append("registry.username is needed with registry.password")
    if registry.token and registry.username:
        mistakes.append("registry.token and registry.username: one login is enough; which one is not clear")
    if registry.token and (found := value_text.credential_problem(registry.token)):
        mistakes.append(f"registry.token {found}")
    if ":" in registry.username:
        mistakes.append("registry.username has a colon, which a login over HTTP cannot carry")
    return mistakes + certificates.authority_mistakes("registry.ca_file", registry.ca_file)


def _url_mistakes(registry: Registry) -> list[str]:
    scheme, host = _scheme_and_host(registry.url)
    if not host:
        shown = HIDDEN if "@" in registry.url else repr(registry.url)
        allowed = "https://host[:port][/path]; the login has settings of its own, registry.username or registry.token"
        return [f"registry.url = {shown}: allowed is {allowed}"]
    has_login = bool(registry.username or registry.token)
    if scheme == "http" and has_login and not registry.allow_http and not is_loopback(host):
        allowed = "a login over plain HTTP is for loopback; registry.allow_http = true allows it elsewhere"
        return [f"registry.url = {registry.url!r}: {allowed}"]
    return []


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Return both, the host empty where the address is none, or has more than a path behind it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "", ""
    return scheme_and_host(parts._replace(path="").geturl())
