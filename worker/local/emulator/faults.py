"""Faults on demand, and limits that tests adjust: which request is hit, and by what."""

import base64
import math
import random
import re
import time
from collections.abc import Collection
from typing import Literal

import msgspec

from worker.local.emulator.errors import Refusal


class Rule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Hits the requests that fulfil every condition that is set.

    Conditions: `operation` (as `PutVectors`), `bucket`, `index`, `keys` (the request contains one of them),
    `key_contains` (one of its keys contains this), `body_contains` (its body does), then `skip` (the first N of these
    pass), `count` (hits at most N), `probability` (of each request, drawn from a generator started with `seed`).

    Effects: `latency_seconds` before anything else; then `hang` (no answer: until the client goes, or the connection is
    reset after `latency_seconds`), or `reset` (the connection is reset "before" or "after" the request is applied), or
    an error answer of `status`, `code`, `message`, `ec` (the finer code; "" leaves it out, and without `ec` it is one that the
    service does not have), the header `Retry-After: retry_after`, and a body in the form `body` ("truncated" is JSON cut in
    the middle). With none of these the request is only slow. `applies` says how much of it is done all the same: "none",
    "half" (the first half of the vectors or keys) or "all".

    An answer as something else on the way gives it, where a `status` may be 200 to 599: `headers` are all that it has besides
    Date, Server and Content-Length, so without `x-oss-request-id` it is not the service's; the body is `content`, or
    `content_base64`, `content_repeat` times. `drip` gives it out one byte each `drip_seconds`: from the status line on
    ("headers"), the body alone ("body"), or says 100 Continue so often, without end ("continue").

    `refuse_keys` is short for `operation` PutVectors, these `keys`, and status 400 unless `status` is given.
    """

    operation: str | None = None
    bucket: str | None = None
    index: str | None = None
    keys: frozenset[str] | None = None
    key_contains: str | None = None
    body_contains: str | None = None
    skip: int = 0
    count: int | None = None
    probability: float = 1.0
    seed: int = 0
    latency_seconds: float = 0.0
    hang: bool = False
    reset: Literal["before", "after"] | None = None
    status: int | None = None
    code: str | None = None
    message: str = "A fault on demand."
    ec: str | None = None
    retry_after: int | str | None = None
    body: Literal["json", "xml", "html", "truncated"] = "json"
    headers: dict[str, str] | None = None
    content: str | None = None
    content_base64: str | None = None
    content_repeat: int = 1
    drip: Literal["headers", "body", "continue"] | None = None
    drip_seconds: float = 0.7
    applies: Literal["none", "half", "all"] = "none"
    refuse_keys: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.refuse_keys is not None:
            self.operation, self.keys = "PutVectors", self.refuse_keys
            self.status = 400 if self.status is None else self.status
        if self.reset is not None:
            self.applies = "all" if self.reset == "after" else "none"
        least = 300 if self.headers is None and self.content is None and self.content_base64 is None else 200
        if self.status is not None and not least <= self.status <= 599:
            message = f"status: expected {least} to 599, got {self.status}; below 300 with headers or content alone"
            raise ValueError(message)
        self._check_answer()

    def _check_answer(self) -> None:
        given = (self.headers, self.content, self.content_base64, self.drip)
        if self.status is None and any(part is not None for part in given):
            message = "headers, content, content_base64 and drip belong to an answer: status is needed"
            raise ValueError(message)
        if self.content is not None and self.content_base64 is not None:
            message = "content and content_base64: expected one of them"
            raise ValueError(message)
        if self.content_repeat < 0 or not 0 < self.drip_seconds < math.inf:
            message = "expected content_repeat from 0 on, and drip_seconds above 0"
            raise ValueError(message)
        for name, value in (self.headers or {}).items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                message = f"headers: {name!r} is no header that can be sent"
                raise ValueError(message)
        self.fixed_content()

    def fixed_content(self) -> bytes | None:
        """The body that the rule gives, None where it gives none."""
        if self.content_base64 is not None:
            return base64.b64decode(self.content_base64, validate=True) * self.content_repeat
        return None if self.content is None else self.content.encode() * self.content_repeat

    @property
    def answers(self) -> bool:
        """Whether the rule takes the answer over, rather than slowing the request down."""
        return self.hang or self.reset is not None or self.status is not None


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_CODES = {
    400: "VectorIndexParameterInvalid",
    403: "AccessDenied",
    404: "NoSuchVectorIndex",
    413: "EntityTooLarge",
    429: "QpsLimitExceeded",
    500: "InternalError",
    503: "ServiceUnavailable",
}


def code_of(rule: Rule) -> str:
    """The error code that a rule with a status answers."""
    return rule.code or _CODES.get(rule.status or 0, "UnknownError")


class _Armed:
    def __init__(self, number: int, rule: Rule) -> None:
        self.number = number
        self.rule = rule
        self.matched = 0
        self.hits = 0
        self.random = random.Random(rule.seed)  # noqa: S311 - reproducible chance, not secrecy

    def takes(
        self, operation: str, bucket: str | None, index: str | None, keys: Collection[str], payload: bytes
    ) -> bool:
        rule = self.rule
        concerned = (
            rule.operation in {None, operation}
            and rule.bucket in {None, bucket}
            and rule.index in {None, index}
            and (rule.keys is None or not rule.keys.isdisjoint(keys))
            and (rule.key_contains is None or any(rule.key_contains in key for key in keys))
            and (rule.body_contains is None or rule.body_contains.encode() in payload)
        )
        if not concerned:
            return False
        self.matched += 1
        if self.matched <= rule.skip or (rule.count is not None and self.hits >= rule.count):
            return False
        if rule.probability < 1.0 and self.random.random() >= rule.probability:
            return False
        self.hits += 1
        return True


class Faults:
    """The rules in force, in the order they were added; the first that takes a request decides. Used on one thread."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._added = 0

    def add(self, rule: Rule) -> int:
        """Put a rule in force and return its number."""
        self._added += 1
        self._armed.append(_Armed(self._added, rule))
        return self._added

    def clear(self, bucket: str | None = None, number: int | None = None) -> None:
        """Remove all rules, or those of a bucket, or the one of a number."""
        self._armed = [
            armed
            for armed in self._armed
            if (bucket is not None and armed.rule.bucket != bucket) or (number is not None and armed.number != number)
        ]

    def listed(self) -> list[dict[str, object]]:
        """`{"id", "hits", "rule"}` of each."""
        return [{"id": armed.number, "hits": armed.hits, "rule": armed.rule} for armed in self._armed]

    def take(
        self, operation: str, bucket: str | None, index: str | None, keys: Collection[str], payload: bytes = b""
    ) -> Rule | None:
        """The rule that decides over a request, if any; this counts as a hit."""
        for armed in self._armed:
            if armed.takes(operation, bucket, index, keys, payload):
                return armed.rule
        return None


class Limits(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Limits of everything, of one `bucket`, or of one `index` of it; None leaves the wider one in force.

    requests_per_second, vectors_per_second: of PutVectors and DeleteVectors, for each index by itself; 0 is unlimited,
    which is the default. bad_vectors_status: the answer to NaN, Infinity and zeros under cosine, 500 (the default, as
    users report of the service) or 400. max_body_bytes: default 20 MiB. visibility_seconds: how long after a write
    reads still answer what was before, default 0. creating_seconds: how long a new index is `creating` and answers
    writes with 500, default 0.
    """

    bucket: str | None = None
    index: str | None = None
    requests_per_second: float | None = None
    vectors_per_second: float | None = None
    bad_vectors_status: Literal[400, 500] | None = None
    max_body_bytes: int | None = None
    visibility_seconds: float | None = None
    creating_seconds: float | None = None


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """The limits in force for one request."""

    requests_per_second: float = 0.0
    vectors_per_second: float = 0.0
    bad_vectors_status: int = 500
    # Not documented; the API that the service mirrors allows 20 MiB.
    max_body_bytes: int = 20 * 1024 * 1024
    visibility_seconds: float = 0.0
    creating_seconds: float = 0.0


class Adjustments:
    """The limits that tests have set. Used on one thread."""

    def __init__(self) -> None:
        self._set: dict[tuple[str | None, str | None], Limits] = {}
        self._buckets: dict[tuple[object, ...], _TokenBucket] = {}

    def adjust(self, limits: Limits) -> None:
        """Put limits in force on top of the earlier ones of the same scope."""
        earlier = self._set.get((limits.bucket, limits.index), Limits())
        merged = msgspec.structs.asdict(earlier) | {
            name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None
        }
        self._set[limits.bucket, limits.index] = Limits(**merged)

    def clear(self) -> None:
        """Back to the defaults."""
        self._set.clear()
        self._buckets.clear()

    def listed(self) -> list[Limits]:
        """What was set."""
        return list(self._set.values())

    def effective(self, bucket: str | None, index: str | None) -> Effective:
        """The limits for an index, or for a bucket where the index is None."""
        values: dict[str, object] = {}
        for scope in dict.fromkeys(((None, None), (bucket, None), (bucket, index))):
            limits = self._set.get(scope, Limits())
            values |= {
                name: value for name in Effective.__struct_fields__ if (value := getattr(limits, name)) is not None
            }
        return msgspec.convert(values, Effective)

    def spend(self, target: tuple[object, ...], limits: Effective, vectors: int) -> None:
        """Take a request of so many vectors off the target's allowance; raise Refusal (429) when it is used up."""
        for kind, rate, amount in (
            ("requests", limits.requests_per_second, 1),
            ("vectors", limits.vectors_per_second, vectors),
        ):
            bucket = self._buckets.setdefault((*target, kind), _TokenBucket())
            if rate > 0 and not bucket.take(amount, rate, time.monotonic()):
                raise Refusal(429, "QpsLimitExceeded", f"More than {rate:g} {kind} a second.")


class _TokenBucket:
    """Holds the allowance of one second; a larger request passes when it is full, and is paid off afterwards."""

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._at = 0.0

    def take(self, amount: float, rate: float, now: float) -> bool:
        filled = rate if self._tokens is None else min(rate, self._tokens + (now - self._at) * rate)
        self._at = now
        if filled < min(amount, rate):
            self._tokens = filled
            return False
        self._tokens = filled - amount
        return True
