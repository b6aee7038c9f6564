"""The answers of the emulator that are no successes: in the service's own form, or as a rule says."""

from typing import Literal, NamedTuple
from xml.sax.saxutils import escape

import orjson

from worker.local.emulator.faults import Rule, code_of


class Rendered(NamedTuple):
    """An answer, complete but for Date, Server and Content-Length."""

    status: int
    headers: dict[str, str]
    content: bytes


def error_answer(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    host: str,
    form: Literal["json", "xml", "html", "truncated"] = "json",
    ec: str | None = None,
) -> Rendered:
    """Return an error as the service gives it; forms other than JSON are met as well. An `ec` of "" is left out."""
    ec = f"{status:04d}-00000001" if ec is None else ec
    fields = {"Code": code, "Message": message, "RequestId": request_id, "HostId": host} | ({"EC": ec} if ec else {})
    content = orjson.dumps({"Error": fields})
    media_type = "application/json"
    match form:
        case "truncated":
            content = content[: len(content) // 2]
        case "xml":
            media_type = "application/xml"
            elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
            content = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{elements}</Error>'.encode()
        case "html":
            media_type = "text/html"
            content = f"<html><body><h1>{status} {escape(code)}</h1></body></html>".encode()
    headers = {"Content-Type": media_type, "x-oss-request-id": request_id} | ({"x-oss-ec": ec} if ec else {})
    return Rendered(status, headers, content)


def answer_of(rule: Rule, *, request_id: str, host: str) -> Rendered:
    """Return the answer of a rule that has a status."""
    status, content = rule.status or 500, rule.fixed_content()
    answer = error_answer(
        status, code_of(rule), rule.message, request_id=request_id, host=host, form=rule.body, ec=rule.ec
    )
    headers = answer.headers if rule.headers is None else rule.headers
    if rule.retry_after is not None:
        headers = {**headers, "Retry-After": str(rule.retry_after)}
    if content is None:
        content = answer.content
    return Rendered(status, headers, b"" if status in (204, 304) else content)
