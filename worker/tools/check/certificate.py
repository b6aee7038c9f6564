"""How long certificates are valid: those of servers, and the client's own."""

import ssl
from typing import Final

from worker.settings.certificates import own_certificate
from worker.tools.check.report import Finding, fault, ok, skipped, warning

EXPIRES_SOON_SECONDS: Final = 14 * 86400.0
_DAY_SECONDS: Final = 86400.0


def described(check: str, subject: str, told: str, not_after: str, now: float) -> Finding:
    """Return the finding on a certificate; `not_after` is its end as OpenSSL writes it."""
    left = ssl.cert_time_to_seconds(not_after) - now
    if left < 0:
        return fault(check, subject, f"{told}; it expired {not_after}", "have the certificate renewed")
    told = f"{told}, {left / _DAY_SECONDS:.0f} days left"
    if left < EXPIRES_SOON_SECONDS:
        return warning(check, subject, told, "have the certificate renewed before it expires")
    return ok(check, subject, told)


def own(check: str, path: str, now: float) -> Finding:
    """Return the finding on a certificate in a file, which the settings have found to be there and readable."""
    try:
        certificate = own_certificate(path)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return skipped(check, path, f"the certificate cannot be shown: {type(error).__name__}")
    if certificate is None:
        return skipped(check, path, "this Python does not show the certificate")
    names = ", ".join(value for part in certificate.get("subject", ()) for _, value in part)
    return described(check, path, f"for {names or 'no name'}", certificate["notAfter"], now)
