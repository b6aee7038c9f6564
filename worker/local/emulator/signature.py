"""OSS signature version 4 in its header form, verified from its specification."""

import datetime as dt
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from worker.local.emulator.errors import Refusal

ALGORITHM = "OSS4-HMAC-SHA256"
# Requests whose clock differs by more are refused with RequestTimeTooSkewed (documentation of signature version 4).
MAX_SKEW_SECONDS = 15 * 60


@dataclass(frozen=True)
class KeyPair:
    """An access key."""

    access_key_id: str
    secret: str


class AccessKeys:
    """The access keys that are accepted: at first the one of the start, until others take its place."""

    def __init__(self, first: KeyPair) -> None:
        self.first = first
        self._secrets: dict[str, str] = {}
        self.reset()

    def accept(self, keys: Iterable[KeyPair]) -> None:
        """Accept these, and no others."""
        self._secrets = {key.access_key_id: key.secret for key in keys}

    def reset(self) -> None:
        """Accept the one of the start alone."""
        self.accept([self.first])

    @property
    def ids(self) -> list[str]:
        """The ids of those that are accepted."""
        return list(self._secrets)

    def secret(self, access_key_id: str) -> str | None:
        """The secret of one, None where it is not accepted."""
        return self._secrets.get(access_key_id)


@dataclass(frozen=True)
class SignedRequest:
    """What a signature covers: `headers` have lower-case names, `query` is the raw query string, `bucket` and
    `account` are None for an operation on no bucket."""

    method: str
    query: str
    headers: Mapping[str, str]
    account: str | None
    bucket: str | None


@dataclass(frozen=True)
class _Authorization:
    access_key_id: str
    date: str
    region: str
    additional_headers: tuple[str, ...]
    signature: str


def verify(request: SignedRequest, keys: AccessKeys, now: dt.datetime) -> str:
    """Return the region that the request was signed for; raise Refusal (403) when the signature is wrong."""
    authorization = _parse(request.headers.get("authorization"))
    secret = keys.secret(authorization.access_key_id)
    if secret is None:
        raise Refusal(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records.")
    timestamp = _check_time(request.headers.get("x-oss-date"), authorization.date, now)
    expected = _sign(request, authorization, timestamp, secret)
    if not hmac.compare_digest(expected.encode(), authorization.signature.encode()):
        message = "The request signature we calculated does not match the signature you provided."
        raise Refusal(403, "SignatureDoesNotMatch", message)
    return authorization.region


def _parse(header: str | None) -> _Authorization:
    if header is None:
        raise Refusal(403, "AccessDenied", "The request is not signed.")
    algorithm, _, rest = header.partition(" ")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    scope = fields.get("Credential", "").split("/")
    if algorithm != ALGORITHM or scope[3:] != ["oss", "aliyun_v4_request"] or not fields.get("Signature"):
        message = f"The Authorization header must read: {ALGORITHM} Credential=.../date/region/oss/aliyun_v4_request,"
        raise Refusal(403, "AccessDenied", message + "Signature=...")
    additional = tuple(name for name in fields.get("AdditionalHeaders", "").split(";") if name)
    return _Authorization(scope[0], scope[1], scope[2], additional, fields["Signature"])


def _check_time(timestamp: str | None, scope_date: str, now: dt.datetime) -> str:
    try:
        signed_at = dt.datetime.strptime(timestamp or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        raise Refusal(403, "AccessDenied", "The header x-oss-date must read yyyymmddThhmmssZ.") from None
    if abs((now - signed_at).total_seconds()) > MAX_SKEW_SECONDS:
        message = "The difference between the request time and the current time is too large."
        raise Refusal(403, "RequestTimeTooSkewed", message)
    if signed_at.strftime("%Y%m%d") != scope_date:
        raise Refusal(403, "SignatureDoesNotMatch", "The date of the credential scope is not that of x-oss-date.")
    return signed_at.strftime("%Y%m%dT%H%M%SZ")


def _sign(request: SignedRequest, authorization: _Authorization, timestamp: str, secret: str) -> str:
    scope = f"{authorization.date}/{authorization.region}/oss/aliyun_v4_request"
    canonical = _canonical_request(request, authorization)
    string_to_sign = "\n".join((ALGORITHM, timestamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    digest = f"aliyun_v4{secret}".encode()
    for part in (authorization.date, authorization.region, "oss", "aliyun_v4_request", string_to_sign):
        digest = hmac.digest(digest, part.encode(), "sha256")
    return digest.hex()


def _canonical_request(request: SignedRequest, authorization: _Authorization) -> str:
    resource = f"acs:ossvector:{authorization.region}:{request.account or ''}:{request.bucket or ''}"
    pairs = sorted(pair.partition("=")[::2] for pair in request.query.split("&") if pair)
    additional = sorted({name.lower() for name in authorization.additional_headers})
    headers = sorted((name, value) for name, value in request.headers.items() if _is_signed(name) or name in additional)
    return "\n".join(
        (
            request.method,
            f"/{quote(resource, safe='')}/",
            "&".join(f"{name}={value}" if value else name for name, value in pairs),
            "".join(f"{name}:{value.strip()}\n" for name, value in headers),
            ";".join(additional),
            "UNSIGNED-PAYLOAD",
        )
    )


def _is_signed(name: str) -> bool:
    return name.startswith("x-oss-") or name in {"content-type", "content-md5"}
