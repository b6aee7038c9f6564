"""What an answer of the service means, and whether it is the service's at all.

An answer is believed only if the service gave it. A proxy, a firewall, a captive portal or a load balancer answers with any
status and any page; that is a fault on the way, which says nothing of the records. The service's own answers carry its
request id (the header `x-oss-request-id`), and its errors have one form, in JSON or XML.

Nothing here raises: whatever a status, a header or a body contains, the result is an error of `worker.errors` or None.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from worker.errors import Blame, BlockReason, Refused, RetryReason, SinkError, TargetError, Transient
from worker.oss.codes import REFUSED_STATUSES, About, about_of
from worker.oss.dialect import CALLS
from worker.words import clean

CREDENTIAL_STATUSES: Final = frozenset({401, 403})
REQUEST_ID: Final = "x-oss-request-id"
EC: Final = "x-oss-ec"


# 24 characters today ("Obtain request IDs", OSS documentation).
_REQUEST_ID_FORM: Final = re.compile(r"[0-9A-Za-z._-]{8,128}")
_EC_FORM: Final = re.compile(r"[0-9]{4}-[0-9]{8}")


class Answer(NamedTuple):
    """An answer. `body` is as it was sent, not unpacked, and None if it was longer than what is read.

    `was_all_sent`: it came after the whole request had left; the service does not answer well before that.
    """

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes | None = b""
    was_all_sent: bool = True


class _Said(NamedTuple):
    """The error fields of an answer. `code` is empty if it does not have the service's error form."""

    code: str
    message: str
    request_id: str  # "" where it has none that the service could have given
    ec: str  # the finer code, which a person finds in the documentation; "" where it has none of its form


def error_of(operation: str, answer: Answer) -> SinkError | None:
    """Return the error that an answer to the operation means, None if the service has done the operation."""
    if not 200 <= answer.status <= 299:
        return error_of_answer(answer)
    doubt = _why_not_believed(operation, answer)
    if not doubt:
        return None
    said = _said(answer)
    return Transient(
        f"not accepted, {doubt}: {said.message}" if said.message else f"not accepted, {doubt}",
        kind=RetryReason.SERVER if said.request_id else RetryReason.NETWORK,
        status=answer.status,
        code=said.code,
        request_id=said.request_id,
        unknown_outcome=True,
        blame=Blame.PROXY if said.request_id else Blame.NONE,  # such as an answer that names records
    )


def error_of_answer(answer: Answer) -> SinkError:
    """Return what an answer other than 2xx means: by its status first, by its code second."""
    said, status = _said(answer), answer.status
    about = about_of(said.code, status, said.message, said.ec) if said.request_id else None
    if status >= 500 or status < 200 or status in (408, 425, 429) or (about is About.LIMIT and status >= 400):
        return _try_again(answer, said, about)
    # 409 OperationAborted, 411 MissingContentLength
    is_of_request = status in REFUSED_STATUSES or (about is About.WAY and status not in {*CREDENTIAL_STATUSES, 404})
    if is_of_request and about not in (About.CREDENTIALS, About.TARGET):
        return _of_content(answer, said, about)
    return _of_caller_or_target(answer, said, about)


def _try_again(answer: Answer, said: _Said, about: About | None) -> Transient:
    status = answer.status
    throttled = status == 429 or about is About.LIMIT or (status == 503 and "Limit" in said.code)
    return Transient(
        said.message or ("no message" if said.request_id else _stranger(answer)),
        kind=RetryReason.THROTTLED if throttled else RetryReason.SERVER,
        status=status,
        code=said.code,
        request_id=said.request_id,
        retry_after=retry_after(answer.headers),
        unknown_outcome=not throttled and not 300 <= status <= 499,
        # Some content is answered with 500; not so a proxy's 500, nor any other status.
        blame=Blame.CONTENT if status == 500 and said.request_id else Blame.NONE,
    )


def _of_content(answer: Answer, said: _Said, about: About | None) -> SinkError:
    """Judge 400, 413 and 422, which blame the records only in the service's form and with a code that can be about them."""
    is_services = bool(said.code and said.request_id)
    if is_services and (about is About.CONTENT or (about is None and answer.status == 413)):
        return Refused(said.message or "no message", status=answer.status, code=said.code, request_id=said.request_id)
    is_unknown = is_services and about is None
    return Transient(
        (said.message or "no message") if is_services else _stranger(answer),
        kind=RetryReason.SERVER if is_services else RetryReason.NETWORK,
        status=answer.status,
        code=said.code,
        request_id=said.request_id,
        retry_after=retry_after(answer.headers),
        blame=Blame.CONTENT if is_unknown else Blame.PROXY,
    )


def _of_caller_or_target(answer: Answer, said: _Said, about: About | None) -> TargetError:
    status, block, message = answer.status, BlockReason.TARGET, said.message or "no message"
    if 300 <= status <= 399:
        message = f"a redirect{redirected_to(answer)}, which is not followed: check oss.endpoint and oss.proxy_url"
    elif status == 407:
        message = "the proxy refuses the login: check the name and password in oss.proxy_url"
    elif about is About.CREDENTIALS or (
        status in CREDENTIAL_STATUSES and said.request_id and about is not About.TARGET
    ):
        block = BlockReason.CREDENTIALS
    elif not said.request_id:
        # A proxy's 401 or 403 says nothing of the credentials.
        message = _stranger(answer)
    # The rest, 404 and what no writer expects (405, 409): the request went to the wrong place.
    if said.ec and status in REFUSED_STATUSES:
        message += f" (EC {said.ec})"  # the code may say less
    return TargetError(message, block=block, status=status, code=said.code, request_id=said.request_id)


def _why_not_believed(operation: str, answer: Answer) -> str:
    """Return why a 2xx is not believed, "" if it is: the service has done the operation."""
    if answer.status not in CALLS[operation].accepted:
        return f"{operation} is not answered so"
    if not _request_id(answer.headers):
        return _stranger(answer)
    if not answer.was_all_sent:
        return "it came before the whole request had been sent"
    return _why_no_success(answer)


def _why_no_success(answer: Answer) -> str:
    """Return what is wrong with the body of an answer that says that the operation was done."""
    if answer.body is None:
        return "it is too large"
    if not (content := answer.body.strip()):
        return ""
    if header(answer.headers, "content-encoding").lower() not in ("", "identity"):
        return "it is packed, which was not asked for"
    said = _json(content)
    if said is None:
        return "it is no JSON"
    is_error = "Error" in said or any(said[name] for name in _ERROR_NAMES & said.keys())
    is_bad_code = any(said[name] and str(said[name]).lower() not in _GOOD_CODES for name in _CODE_NAMES & said.keys())
    return "it holds an error" if is_error or is_bad_code else ""


# Of other forms of errors, where they are not null, empty or 0.
_ERROR_NAMES: Final = frozenset(("error", "errors", "Errors", "failedVectors", "FailedVectors"))
_CODE_NAMES: Final = frozenset(("Code", "code", "errorCode", "ErrorCode"))
_GOOD_CODES: Final = frozenset(("0", "200", "204", "ok", "success"))


def _stranger(answer: Answer) -> str:
    """Return the message for an answer that is not the service's."""
    kind = clean(header(answer.headers, "content-type"), 60) or "no content type"
    size = "too large" if answer.body is None else f"{len(answer.body)} bytes"
    return f"not the service's answer (no {REQUEST_ID} and error form; {kind}, {size}): a proxy or firewall may have given it"


def redirected_to(answer: Answer) -> str:
    """Return where a redirect leads, without what may be secret in it."""
    try:
        place = urlsplit(header(answer.headers, "location")[:2000])
    except ValueError:
        return ""
    return f" to {clean(f'{place.scheme}://{place.hostname}', 200)}" if place.hostname else ""


# -- reading


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header's value, whatever the case of its name; "" if there is none."""
    return next((str(value).strip() for key, value in headers.items() if key.lower() == name.lower()), "")


def _request_id(headers: Mapping[str, str]) -> str:
    """Return the request id, the first where a proxy has joined several; "" if there is none that the service could have given."""
    found = [part.strip() for part in header(headers, REQUEST_ID).split(",")]
    return found[0] if all(_REQUEST_ID_FORM.fullmatch(part) for part in found) else ""


def _said(answer: Answer) -> _Said:
    fields = _error_fields(answer.body or b"")
    found = fields.get("RequestId", "").strip()
    in_body = found if _REQUEST_ID_FORM.fullmatch(found) else ""
    ec = fields.get("EC", "").strip() or header(answer.headers, EC)
    return _Said(
        code=fields.get("Code", "").strip(),
        message=fields.get("Message", ""),
        request_id=_request_id(answer.headers) or in_body,
        ec=ec if _EC_FORM.fullmatch(ec) else "",
    )


def _error_fields(body: bytes) -> Mapping[str, str]:
    """Return the fields of an error in the service's form, with a code; none if the body is something else."""
    content = body.strip().removeprefix(b"\xef\xbb\xbf").lstrip()
    if content.startswith(b"{"):
        found = (_json(content) or {}).get("Error")
        fields = (
            {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
        )
    elif content.startswith(b"<"):
        fields = _xml_fields(content)
    else:
        fields = {}
    return fields if fields.get("Code", "").strip() else {}


def _json(content: bytes) -> dict[str, object] | None:
    """Return a JSON object, None if it is none. Bytes that are no UTF-8 are replaced, since it is read for its words only."""
    try:
        found = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_MOST_XML_BYTES: Final = 65536


def _xml_fields(content: bytes) -> dict[str, str]:
    # The service's errors are short and have no DTD; a deep tree is slow to build, and entities can be bombs.
    if len(content) > _MOST_XML_BYTES or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        return {}
    try:
        root = ET.fromstring(content)  # noqa: S314 - bounded in size, and without entities
    except (ET.ParseError, ValueError, LookupError, RecursionError):  # not well-formed, or an unknown encoding
        return {}
    if _local_name(root.tag) != "Error":
        return {}
    return {_local_name(child.tag): child.text or "" for child in root}


def _local_name(tag: str) -> str:
    return tag.rpartition("}")[2]


_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_MOST_SECONDS: Final = 999_999_999.0
_RETRY_AFTER_CHARACTERS: Final = 200  # of two dates and more


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a Retry-After header asks for, 0 or more; None if there is none that makes sense.

    Fractions count, and of several values the longest. A date is compared with the answer's own Date.
    """
    value = header(headers, "retry-after")[:_RETRY_AFTER_CHARACTERS]
    parts = [part.strip() for part in value.split(",")]
    if all(_SECONDS.fullmatch(part) for part in parts):
        return max(float(part) for part in parts)
    until, said_at = _moment(value), _moment(header(headers, "date")[:_RETRY_AFTER_CHARACTERS])
    if until is None or said_at is None:
        return None
    seconds = (until - said_at).total_seconds()
    return max(0.0, seconds) if seconds <= _MOST_SECONDS else None


def _moment(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except Exception:  # the text is foreign, and the parser raises more kinds than it documents
        return None
