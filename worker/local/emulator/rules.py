"""Request bodies, and the service's limits on them.

The limits are those of the service's documentation of each operation, unless the comment beside one says otherwise.
Every check raises Refusal. None of them changes anything, so a request that is refused leaves no trace.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.local.emulator import filters
from worker.local.emulator.errors import Refusal, invalid, missing

BUCKET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,30})[a-z0-9]")
INDEX_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
NON_FILTERABLE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
MAX_DIMENSION = 4096
MAX_INDEXES_OF_A_BUCKET = 100
MAX_NON_FILTERABLE_KEYS = 10
MAX_VECTORS_PUT = 500
MAX_KEYS_DELETED = 500
MAX_KEYS_GOT = 100
MAX_KEY_CHARACTERS = 1024
MAX_METADATA_BYTES = 40 * 1024
MAX_FILTERABLE_BYTES = 2 * 1024
MAX_FILTERABLE_KEYS = 10
MAX_RESULTS = 1000
DEFAULT_RESULTS = 500
MAX_TOP_K = 100
MAX_FILTER_BYTES = 64 * 1024
# Not documented; the API that the service mirrors has it.
MAX_SEGMENTS = 16


class Float32(msgspec.Struct):
    """The numbers of a vector."""

    float32: list[float] | None = None


class Vector(msgspec.Struct):
    """One record of PutVectors."""

    key: str | None = None
    data: Float32 | None = None
    metadata: dict[str, str | list[str]] | None = None


class Body(msgspec.Struct, rename="camel"):
    """What every operation on an index is sent."""

    index_name: str | None = None


class PutVectors(Body, rename="camel"):
    """Body of PutVectors."""

    vectors: list[Vector] | None = None


class DeleteVectors(Body, rename="camel"):
    """Body of DeleteVectors."""

    keys: list[str] | None = None


class GetVectors(Body, rename="camel"):
    """Body of GetVectors."""

    keys: list[str] | None = None
    return_data: bool = False
    return_metadata: bool = False


class ListVectors(Body, rename="camel"):
    """Body of ListVectors."""

    max_results: int = DEFAULT_RESULTS
    next_token: str | None = None
    return_data: bool = False
    return_metadata: bool = False
    segment_count: int | None = None
    segment_index: int | None = None


class QueryVectors(Body, rename="camel"):
    """Body of QueryVectors."""

    query_vector: Float32 | None = None
    top_k: int | None = None
    filter: dict[str, Any] | None = None
    return_distance: bool = False
    return_metadata: bool = False


class IndexMetadata(msgspec.Struct, rename="camel"):
    """Metadata configuration of an index."""

    non_filterable_metadata_keys: list[str] | None = None


class PutVectorIndex(Body, rename="camel"):
    """Body of PutVectorIndex."""

    data_type: str | None = None
    dimension: int | None = None
    distance_metric: str | None = None
    metadata: IndexMetadata | None = None


class ListVectorIndexes(msgspec.Struct, rename="camel"):
    """Body of ListVectorIndexes."""

    max_results: int = DEFAULT_RESULTS
    next_token: str | None = None
    prefix: str = ""


@dataclass(frozen=True)
class IndexConfig:
    """An index as it was created; `created` in seconds since the epoch."""

    name: str
    dimension: int
    distance_metric: str
    non_filterable: tuple[str, ...]
    created: float


class Row(NamedTuple):
    """A stored vector: little-endian float32 numbers, and its metadata as JSON, if any."""

    data: bytes
    metadata: bytes | None


B = TypeVar("B", bound=msgspec.Struct)


def decode(body: bytes, shape: type[B]) -> tuple[B, bool]:
    """Read a JSON body; the second value says that it contained NaN or Infinity (read as 0).

    Those words are no JSON, but Python's `json` and other encoders write them, and the service does not answer them as
    malformed.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=shape), False
    except msgspec.ValidationError as error:
        raise invalid(f"{error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_leniently(body, shape)


def _decode_leniently(body: bytes, shape: type[B]) -> tuple[B, bool]:
    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return 0.0

    try:
        tree = json.loads(body, parse_constant=constant)
        json.dumps(tree, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "MalformedJson", f"The body is not well-formed JSON: {error}.") from None
    try:
        return msgspec.convert(tree, shape), bool(constants)
    except msgspec.ValidationError as error:
        raise invalid(f"{error}.") from None


def check_bucket_name(bucket: str) -> None:
    """3 to 32 of a-z, 0-9 and `-`, and no - at either end."""
    if not BUCKET_NAME.fullmatch(bucket):
        message = "A bucket name has 3 to 32 of a-z, 0-9 and '-', and no - at either end."
        raise Refusal(400, "InvalidBucketName", message)


def check_index_name(name: str | None) -> str:
    """1 to 63 letters and digits, a letter first."""
    if name is None:
        raise missing("indexName")
    if not INDEX_NAME.fullmatch(name):
        raise invalid("indexName: expected 1 to 63 letters and digits, a letter first.")
    return name


def check_index(body: PutVectorIndex, now: float) -> IndexConfig:
    """The index that PutVectorIndex asks for; `now` in seconds since the epoch."""
    name = check_index_name(body.index_name)
    for value, parameter in (
        (body.data_type, "dataType"),
        (body.dimension, "dimension"),
        (body.distance_metric, "distanceMetric"),
    ):
        if value is None:
            raise missing(parameter)
    if body.data_type != "float32":
        raise invalid("dataType: expected float32.")
    dimension = body.dimension or 0
    if not 1 <= dimension <= MAX_DIMENSION:
        raise invalid(f"dimension: expected 1 to {MAX_DIMENSION}, got {dimension}.")
    metric = body.distance_metric or ""
    if metric not in {"euclidean", "cosine"}:
        raise invalid("distanceMetric: expected euclidean or cosine.")
    keys = body.metadata.non_filterable_metadata_keys if body.metadata is not None else None
    return IndexConfig(name, dimension, metric, _check_non_filterable(keys), now)


def _check_non_filterable(keys: list[str] | None) -> tuple[str, ...]:
    if keys is None:
        return ()
    if not 1 <= len(keys) <= MAX_NON_FILTERABLE_KEYS or len(set(keys)) != len(keys):
        raise invalid(f"nonFilterableMetadataKeys: expected 1 to {MAX_NON_FILTERABLE_KEYS} different keys.")
    for key in keys:
        if not NON_FILTERABLE_KEY.fullmatch(key):
            raise invalid(f"nonFilterableMetadataKeys: {key!r} is no name of 1 to 63 letters, digits and '_'.")
    return tuple(keys)


def check_put(body: PutVectors, non_finite: bool, index: IndexConfig, bad_vectors_status: int) -> dict[str, Row]:
    """The rows by key that a PutVectors writes.

    `bad_vectors_status` (500 or 400) answers NaN, Infinity, and zeros alone under cosine.
    """
    if body.vectors is None:
        raise missing("vectors")
    if not 1 <= len(body.vectors) <= MAX_VECTORS_PUT:
        raise invalid(f"vectors: expected 1 to {MAX_VECTORS_PUT}, got {len(body.vectors)}.")
    keys = [_check_key(vector.key, f"vectors[{position}].key") for position, vector in enumerate(body.vectors)]
    if len(set(keys)) != len(keys):
        raise invalid("vectors: the same key occurs more than once in the request.")
    numbers = [_check_length(vector.data, index, f"vectors[{n}].data") for n, vector in enumerate(body.vectors)]
    metadata = [_check_metadata(vector.metadata, index, f"vectors[{n}]") for n, vector in enumerate(body.vectors)]
    matrix = _check_numbers(numbers, non_finite, index, bad_vectors_status)
    return {key: Row(data.tobytes(), meta) for key, data, meta in zip(keys, matrix, metadata, strict=True)}


def _check_key(key: str | None, where: str) -> str:
    if key is None:
        raise missing(where)
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        raise invalid(f"{where}: expected 1 to {MAX_KEY_CHARACTERS} characters, got {len(key)}.")
    return key


def _check_length(data: Float32 | None, index: IndexConfig, where: str) -> list[float]:
    if data is None or data.float32 is None:
        raise missing(f"{where}.float32")
    if len(data.float32) != index.dimension:
        raise invalid(f"{where}.float32: expected {index.dimension} numbers, got {len(data.float32)}.")
    return data.float32


def _check_metadata(metadata: dict[str, str | list[str]] | None, index: IndexConfig, where: str) -> bytes | None:
    """The metadata as compact JSON, whose UTF-8 bytes are what the limits count (the unit is not documented)."""
    if metadata is None:
        return None
    encoded = msgspec.json.encode(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        raise invalid(f"{where}.metadata: {len(encoded)} bytes are more than {MAX_METADATA_BYTES}.")
    filterable = {key: value for key, value in metadata.items() if key not in index.non_filterable}
    if len(filterable) > MAX_FILTERABLE_KEYS:
        raise invalid(f"{where}.metadata: {len(filterable)} filterable keys are more than {MAX_FILTERABLE_KEYS}.")
    size = len(msgspec.json.encode(filterable))
    if size > MAX_FILTERABLE_BYTES:
        raise invalid(f"{where}.metadata: {size} bytes of filterable metadata are more than {MAX_FILTERABLE_BYTES}.")
    return encoded


def _check_numbers(
    numbers: list[list[float]], non_finite: bool, index: IndexConfig, bad_vectors_status: int
) -> NDArray[np.float32]:
    """A matrix of shape (vectors, dimension)."""
    if non_finite:
        raise _bad_vectors(bad_vectors_status, "float32: NaN and Infinity are no vector components.")
    with np.errstate(over="ignore"):
        matrix = np.array(numbers, dtype=np.float64).astype("<f4")
    if not np.isfinite(matrix).all():
        raise invalid("float32: a number is beyond the range of float32.")
    if index.distance_metric == "cosine" and not matrix.any(axis=1).all():
        raise _bad_vectors(bad_vectors_status, "float32: a vector of zeros has no direction under cosine.")
    return matrix


def _bad_vectors(status: int, message: str) -> Refusal:
    if status == 500:
        return Refusal(500, "InternalError", "We encountered an internal error. Please try again.")
    return Refusal(status, "VectorIndexParameterInvalid", message)


def check_delete(body: DeleteVectors) -> list[str]:
    """1 to 500 different keys."""
    keys = _check_keys(body.keys, MAX_KEYS_DELETED)
    if len(set(keys)) != len(keys):
        raise invalid("keys: the same key occurs more than once in the request.")
    return keys


def check_get(body: GetVectors) -> list[str]:
    """1 to 100 keys."""
    return _check_keys(body.keys, MAX_KEYS_GOT)


def _check_keys(keys: list[str] | None, most: int) -> list[str]:
    if keys is None:
        raise missing("keys")
    if not 1 <= len(keys) <= most:
        raise invalid(f"keys: expected 1 to {most}, got {len(keys)}.")
    return [_check_key(key, f"keys[{position}]") for position, key in enumerate(keys)]


def check_max_results(value: int) -> int:
    """1 to 1,000."""
    if not 1 <= value <= MAX_RESULTS:
        raise invalid(f"maxResults: expected 1 to {MAX_RESULTS}, got {value}.")
    return value


def check_segment(body: ListVectors) -> tuple[int, int]:
    """(segments, number of the one wanted, from 0)."""
    if (body.segment_count is None) != (body.segment_index is None):
        raise missing("segmentIndex" if body.segment_index is None else "segmentCount")
    count, index = body.segment_count, body.segment_index
    if count is None or index is None:
        return 1, 0
    if not 1 <= count <= MAX_SEGMENTS or not 0 <= index < count:
        raise invalid(f"segmentCount: expected 1 to {MAX_SEGMENTS}, and segmentIndex from 0 to segmentCount - 1.")
    return count, index


def check_query(
    body: QueryVectors, non_finite: bool, index: IndexConfig, bad_vectors_status: int
) -> tuple[NDArray[np.float32], int, filters.Predicate | None]:
    """(query vector of shape (dimension,), how many neighbours, the filter or None)."""
    if body.query_vector is None:
        raise missing("queryVector")
    if body.top_k is None:
        raise missing("topK")
    if not 1 <= body.top_k <= MAX_TOP_K:
        raise invalid(f"topK: expected 1 to {MAX_TOP_K}, got {body.top_k}.")
    numbers = _check_length(body.query_vector, index, "queryVector")
    vector = _check_numbers([numbers], non_finite, index, bad_vectors_status)[0]
    if body.filter is None:
        return vector, body.top_k, None
    if len(msgspec.json.encode(body.filter)) > MAX_FILTER_BYTES:
        raise invalid(f"filter: longer than {MAX_FILTER_BYTES} bytes.")
    return vector, body.top_k, filters.compile_filter(body.filter, index.non_filterable)
