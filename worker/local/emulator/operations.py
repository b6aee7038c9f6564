"""What a request asks for: its account and bucket, its operation, its body, and the index and keys in that."""

import base64
import hashlib
import re
from collections.abc import Mapping

import msgspec

from worker.local.emulator import rules
from worker.local.emulator.errors import Refusal

_HOST = re.compile(r"(?P<bucket>[^.:]*)-(?P<account>[A-Za-z0-9]+)\.[^:]+(?::\d+)?")

# By query parameter: the operation and its body. All are sent by POST to the root of the bucket's host.
_INDEX_OPERATIONS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "putVectors": ("PutVectors", rules.PutVectors),
    "deleteVectors": ("DeleteVectors", rules.DeleteVectors),
    "getVectors": ("GetVectors", rules.GetVectors),
    "listVectors": ("ListVectors", rules.ListVectors),
    "queryVectors": ("QueryVectors", rules.QueryVectors),
    "putVectorIndex": ("PutVectorIndex", rules.PutVectorIndex),
    "getVectorIndex": ("GetVectorIndex", rules.Body),
    "listVectorIndexes": ("ListVectorIndexes", rules.ListVectorIndexes),
    "deleteVectorIndex": ("DeleteVectorIndex", rules.Body),
}


def target_of(host: str) -> tuple[str | None, str | None]:
    """Return the account and the bucket of a Host header, None for both when it names no bucket."""
    match = _HOST.fullmatch(host)
    return (match["account"], match["bucket"]) if match else (None, None)


def operation_of(
    method: str, path: str, query: Mapping[str, str], bucket: str | None
) -> tuple[str, type[msgspec.Struct] | None]:
    """Return the operation's name and the type of its body, None if it has none. Raises `Refusal`."""
    if path != "/":
        raise Refusal(400, "InvalidArgument", f"The path must be /, not {path}.")
    named = [name for name in query if name in _INDEX_OPERATIONS]
    if bucket is None:
        if method == "GET" and not named and "bucketInfo" not in query:
            return "ListVectorBuckets", None
        message = "The Host must read {bucket}-{accountId}.{anything}, such as demo-1234.localhost:9000."
        raise Refusal(400, "InvalidArgument", message)
    if len(named) == 1:
        if method != "POST":
            raise Refusal(405, "MethodNotAllowed", f"{named[0]} is sent by POST.")
        return _INDEX_OPERATIONS[named[0]]
    simple = {"PUT": "PutVectorBucket", "DELETE": "DeleteVectorBucket"}
    if method == "GET" and "bucketInfo" in query:
        return "GetVectorBucket", None
    if method in simple and not query:
        return simple[method], None
    raise Refusal(400, "InvalidArgument", "The method and the query name no operation of this emulator.")


def decode(
    md5: str | None, payload: bytes, shape: type[msgspec.Struct] | None
) -> tuple[msgspec.Struct | None, bool] | Refusal:
    """Return the decoded body and whether it has numbers that are not finite, or why it cannot be decoded.

    The latter is a value and not raised, because a fault may come first.
    """
    if md5 is not None:
        expected = base64.b64encode(hashlib.md5(payload, usedforsecurity=False).digest()).decode()
        if md5 != expected:
            return Refusal(400, "InvalidDigest", "The Content-MD5 you specified is not that of the body.")
    try:
        return (None, False) if shape is None else rules.decode(payload, shape)
    except Refusal as refusal:
        return refusal


def names_of(body: msgspec.Struct | None) -> tuple[str | None, list[str]]:
    """Return the index and the keys that a body names."""
    index = body.index_name if isinstance(body, rules.Body) else None
    if isinstance(body, rules.PutVectors):
        return index, [vector.key for vector in body.vectors or () if vector.key is not None]
    if isinstance(body, rules.DeleteVectors | rules.GetVectors):
        return index, body.keys or []
    return index, []
