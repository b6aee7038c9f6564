"""Which vectors are suspect, and what a route takes for its usual norm."""

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest

from worker.errors import Reason, RecordError
from worker.records.choices import Envelope
from worker.records.decode import Decoder, Delete, Put
from worker.records.formats.shape import shape_of
from worker.records.suspects import MOST_NORMS, WARM_UP, Suspects, Suspicion
from worker.records.target import Target

DIMENSION = 64
COSINE = Target("docs", DIMENSION, "cosine")
EUCLIDEAN = Target("docs", DIMENSION, "euclidean")


def vectors(norm: float = 1.0, dimension: int = DIMENSION, seed: int = 0) -> Iterator[bytes]:
    """Yield random vectors of one norm, packed."""
    random = np.random.default_rng(seed)
    while True:
        vector = random.normal(size=dimension)
        yield (vector * (norm / np.linalg.norm(vector))).astype("<f4").tobytes()


def packed(norm: float, dimension: int = DIMENSION) -> bytes:
    return next(vectors(norm, dimension, seed=99))


def fed(count: int, norm: float = 1.0, target: Target = COSINE) -> Suspects:
    """Return suspects that have seen so many vectors, none of which was suspect."""
    suspects = Suspects(target)
    assert [suspects.of(vector) for vector, _ in zip(vectors(norm, target.dimension), range(count))] == [None] * count  # noqa: B905 - the vectors have no end
    return suspects


def cause(found: Suspicion | None) -> str | None:
    return found and found.cause


@pytest.mark.parametrize("count", [WARM_UP, MOST_NORMS - 1, MOST_NORMS, 200])
@pytest.mark.parametrize(
    ("factor", "expected"),
    [(0.9e-6, "norm"), (1.1e-6, None), (1e-3, None), (1.0, None), (1e3, None), (0.9e6, None), (1.1e6, "norm"), (1e10, "norm")],
)  # fmt: skip
@pytest.mark.parametrize("usual", [1e-3, 1.0, 500.0])
def test_a_norm_far_from_the_usual_one_is_suspect(
    count: int, factor: float, usual: float, expected: str | None
) -> None:
    assert cause(fed(count, usual).of(packed(usual * factor))) == expected


@pytest.mark.parametrize("dimension", [2, 3, 128, 1536, 4096])
def test_one_wild_number_is_enough_for_a_wild_norm(dimension: int) -> None:
    suspects = fed(100, target=Target("docs", dimension, "cosine"))
    for place in {0, dimension // 2, dimension - 1}:
        numbers = np.frombuffer(packed(1.0, dimension), "<f4").copy()
        numbers[place] = 2e6
        assert cause(suspects.of(numbers.tobytes())) == "norm"
        numbers[place] = 1e5
        assert suspects.of(numbers.tobytes()) is None


def test_the_first_vectors_of_a_route_are_not_judged_by_their_norm() -> None:
    suspects = fed(WARM_UP - 1)
    assert suspects.of(packed(1e-9)) is None
    assert cause(suspects.of(packed(1e-9))) == "norm"


@pytest.mark.parametrize("wild", [1e-9, 1e9])
def test_wild_vectors_at_the_start_do_not_spoil_the_usual_norm(wild: float) -> None:
    suspects = Suspects(COSINE)
    bad, good = vectors(wild), vectors(1.0, seed=1)
    for _ in range(4):
        assert suspects.of(next(bad)) is None
    assert [suspects.of(next(good)) for _ in range(100)] == [None] * 100
    assert cause(suspects.of(next(bad))) == "norm"


def test_vectors_that_are_wrong_for_days_are_suspect_for_days() -> None:
    suspects, bad = fed(20), vectors(1e-9, seed=1)
    assert {cause(suspects.of(next(bad))) for _ in range(1000)} == {"norm"}
    assert suspects.of(packed(1.0)) is None


@pytest.mark.parametrize("target", [COSINE, EUCLIDEAN])
@pytest.mark.parametrize("count", [0, 200])
@pytest.mark.parametrize(
    ("denormal", "expected"), [(DIMENSION, "denormal"), (DIMENSION // 2 + 1, "denormal"), (DIMENSION // 2, None)]
)
def test_most_numbers_denormal_is_suspect_with_any_metric(
    target: Target, count: int, denormal: int, expected: str | None
) -> None:
    suspects = fed(count, target=target)
    numbers = np.frombuffer(packed(1.0), "<f4").copy()
    numbers[:denormal] = struct.unpack("<f", struct.pack("<I", 1234))[0]
    assert cause(suspects.of(numbers.tobytes())) == expected


@pytest.mark.parametrize("target", [COSINE, EUCLIDEAN])
@pytest.mark.parametrize("count", [0, 200])
@pytest.mark.parametrize("number", [1e-13, -1e-20, 1e13, -1e30])
def test_most_numbers_absurd_is_suspect_with_any_metric(target: Target, count: int, number: float) -> None:
    suspects = fed(count, target=target)
    numbers = np.frombuffer(packed(1.0), "<f4").copy()
    numbers[: DIMENSION // 2 + 1] = number
    assert cause(suspects.of(numbers.tobytes())) == "magnitude"


def test_floats_in_the_other_byte_order_are_suspect_from_the_first_on() -> None:
    suspects = Suspects(Target("docs", 1536, "cosine"))
    swapped = (np.frombuffer(vector, ">f4").astype("<f4") for vector in vectors(1.0, 1536))
    finite = (np.where(np.isfinite(numbers), numbers, np.float32(1)).tobytes() for numbers in swapped)
    assert {cause(suspects.of(next(finite))) for _ in range(30)} == {"magnitude"}


@pytest.mark.parametrize("target", [COSINE, EUCLIDEAN])
def test_zeros_and_a_few_small_numbers_are_ordinary(target: Target) -> None:
    suspects = fed(200, target=target)
    sparse = np.zeros(DIMENSION, "<f4")
    sparse[7] = 1.0
    assert suspects.of(sparse.tobytes()) is None
    small = np.frombuffer(packed(1.0), "<f4").copy()
    small[: DIMENSION // 2] = 1e-30
    assert suspects.of(small.tobytes()) is None


def test_all_zeros_are_ordinary_where_the_index_accepts_them() -> None:
    assert Suspects(EUCLIDEAN).of(bytes(4 * DIMENSION)) is None


def test_norms_of_any_size_are_ordinary_where_the_index_measures_them() -> None:
    suspects = fed(200, target=EUCLIDEAN)
    assert (suspects.of(packed(1e-9)), suspects.of(packed(1e9))) == (None, None)


def test_what_is_not_looked_at_number_by_number_is_never_suspect() -> None:
    """The quick look at the first bytes agrees with the whole one, of vectors of all kinds."""
    random = np.random.default_rng(5)
    quick, whole = fed(MOST_NORMS), fed(MOST_NORMS)
    whole._ordinary = b""  # every vector is judged number by number
    for _ in range(3000):
        low, high = sorted((random.uniform(-44, 38), random.uniform(-44, 38)))
        exponents = random.uniform(low, high, DIMENSION)
        numbers = (random.choice([-1, 1], DIMENSION) * 10.0**exponents).astype("<f4")
        numbers[random.random(DIMENSION) < random.random()] = 0
        numbers[0] = numbers[0] or 1
        assert cause(quick.of(numbers.tobytes())) == cause(whole.of(numbers.tobytes()))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (packed(1e-9), "the norm of the vector is 1e-09, the usual one of this route 1; cosine distance hides the difference"),
        (struct.pack("<I", 1234) * DIMENSION, "64 of 64 numbers are denormal, as when bytes of another type or in another order are read as float32"),
        (struct.pack("<f", 1e20) * DIMENSION, "64 of 64 numbers are below 1e-12 or above 1e+12, as when bytes of another type or in another order are read as float32"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_was_found(wrong: bytes, expected: str) -> None:
    found = fed(200).of(wrong)
    assert found is not None
    assert found.what == expected


# -- by the decoder


def record(vector: bytes, key: bytes = b"") -> bytes:
    numbers = b",".join(b"%.9g" % number for number in struct.unpack(f"<{DIMENSION}f", vector))
    return b'{%s"data":{"float32":[%s]}}' % (b'"key":"%s",' % key if key else b"", numbers)


def test_a_suspect_vector_is_written_unless_the_setting_forbids_it() -> None:
    writing = Decoder(COSINE, max_fragment_bytes=1 << 20)
    refusing = Decoder(COSINE, max_fragment_bytes=1 << 20, suspect="dead-letter")
    for vector, _ in zip(vectors(), range(20)):  # noqa: B905 - likewise
        for decoder in (writing, refusing):
            found = decoder.decode(b"k", record(vector), ())
            assert isinstance(found, Put)
            assert found.suspicion is None
    wrong = record(packed(1e-9))
    found = writing.decode(b"k", wrong, ())
    assert isinstance(found, Put)
    assert cause(found.suspicion) == "norm"
    with pytest.raises(RecordError) as raised:
        refusing.decode(b"k", wrong, ())
    assert (raised.value.reason, raised.value.suspect) == (Reason.SUSPECT, "norm")
    assert raised.value.message.endswith('(records.suspect = "dead-letter"; "write" would write it)')


@pytest.mark.parametrize(
    ("kafka_key", "own", "key_format", "expected"),
    [
        (b'"doc-1"', b"", "utf8", "quoted_key"),
        (b'"doc\\n1"', b"", "utf8", "quoted_key"),
        (b'"doc-1"', b"doc-1", "utf8", None),
        (b'"doc-1"', b"", "json", None),
        (b'"a" or "b"', b"", "utf8", None),
        (b'"', b"", "utf8", None),
        (b'"doc-1', b"", "utf8", None),
        (b"doc-1", b"", "utf8", None),
    ],
)
def test_a_kafka_key_with_its_quotes_is_suspect_where_it_names_the_vector(
    kafka_key: bytes, own: bytes, key_format: str, expected: str | None
) -> None:
    decoder = Decoder(COSINE, max_fragment_bytes=1 << 20, key_format=key_format)  # type: ignore[arg-type]  # it is one of them
    found = decoder.decode(kafka_key, record(packed(1.0), own), ())
    assert isinstance(found, Put)
    assert cause(found.suspicion) == expected


@pytest.mark.parametrize("key", ["$kafka.key", "{$kafka.key}/1"])
def test_a_kafka_key_with_its_quotes_is_suspect_where_a_path_leads_to_it(key: str) -> None:
    shape = shape_of(key, "data.float32", "metadata", "")
    decoder = Decoder(COSINE, max_fragment_bytes=1 << 20, shape=shape)
    for kafka_key, expected in ((b'"doc-1"', "quoted_key"), (b"doc-1", None)):
        found = decoder.decode(kafka_key, record(packed(1.0), b""), ())
        assert isinstance(found, Put)
        assert cause(found.suspicion) == expected


@pytest.mark.parametrize("path", ["$header.id", "{$header.none}{$header.id}/1"])
@pytest.mark.parametrize(
    ("header", "expected"),
    [(b'"doc-1"', "quoted_key"), (b"doc-1", None), (b'"doc-1', None), (b'a "doc-1"', None)],
)
def test_a_header_with_its_quotes_is_suspect_where_a_path_leads_to_it(
    path: str, header: bytes, expected: str | None
) -> None:
    decoder = Decoder(COSINE, max_fragment_bytes=1 << 20, shape=shape_of(path, "data.float32", "", "$header.gone"))
    for gone in (b"true", b"false"):
        found = decoder.decode(b'"k"', record(packed(1.0), b""), [("none", b""), ("id", header), ("gone", gone)])
        assert isinstance(found, Delete if gone == b"true" else Put)
        assert cause(found.suspicion) == expected


MAPS: Final = (b'{"id":17}', b'{"schema":{"type":"string"},"payload":"p2"}')


@pytest.mark.parametrize("kafka_key", MAPS)
@pytest.mark.parametrize("envelope", ["none", "cloudevents"])
def test_a_kafka_key_that_is_a_map_is_suspect_where_it_names_the_vector(kafka_key: bytes, envelope: Envelope) -> None:
    headers = [("ce_specversion", b"1.0")]
    for path in ("", "$kafka.key", "{$kafka.key}/1"):
        shape = shape_of(path, "data.float32", "metadata", "")
        writing = Decoder(COSINE, max_fragment_bytes=1 << 20, shape=shape, tombstones="delete", envelope=envelope)
        for value in (record(packed(1.0), b""), None):
            found = writing.decode(kafka_key, value, headers)
            assert isinstance(found, Put | Delete)
            assert cause(found.suspicion) == "map_key"
    own = Decoder(COSINE, max_fragment_bytes=1 << 20, envelope=envelope).decode(
        kafka_key, record(packed(1.0), b"doc-1"), headers
    )
    assert isinstance(own, Put)
    assert own.suspicion is None


@pytest.mark.parametrize("kafka_key", [b"{doc-1}", b'{"id"}', b'{"a', b'[{"id":17}]'])
def test_a_kafka_key_that_is_no_whole_map_is_not_suspect(kafka_key: bytes) -> None:
    found = Decoder(COSINE, max_fragment_bytes=1 << 20).decode(kafka_key, record(packed(1.0), b""), ())
    assert isinstance(found, Put)
    assert found.suspicion is None


def test_a_map_as_kafka_key_is_not_suspect_where_the_envelope_reads_it() -> None:
    made = Decoder(COSINE, max_fragment_bytes=1 << 20, tombstones="delete", envelope="connect", key_values="stringify")
    found = made.decode(MAPS[0], None, ())
    assert found == Delete("17")


BINARY: Final = [struct.pack(">i", 0x01234567), struct.pack(">q", 0x1122334455667708), b"a\x00b", b"a\x7f", b"\xc2\x85"]


@pytest.mark.parametrize("kafka_key", BINARY)
def test_a_kafka_key_with_control_characters_is_suspect_where_it_names_the_vector(kafka_key: bytes) -> None:
    writing = Decoder(COSINE, max_fragment_bytes=1 << 20, tombstones="delete")
    for value in (record(packed(1.0)), None):
        found = writing.decode(kafka_key, value, ())
        assert isinstance(found, Put | Delete)
        assert cause(found.suspicion) == "binary_key"
    own = writing.decode(kafka_key, record(packed(1.0), b"doc-1"), ())
    assert isinstance(own, Put)
    assert own.suspicion is None
    refusing = Decoder(COSINE, max_fragment_bytes=1 << 20, tombstones="delete", suspect="dead-letter")
    for value in (record(packed(1.0)), None):
        with pytest.raises(RecordError) as raised:
            refusing.decode(kafka_key, value, ())
        assert (raised.value.reason, raised.value.suspect) == (Reason.SUSPECT, "binary_key")


@pytest.mark.parametrize("kafka_key", ["a b", "a\tb\n", "\u00e9\u3000\u200d\U0001f469", "\u00a0", "\ufeffa", "\ue000"])
def test_a_kafka_key_that_is_text_is_not_suspect(kafka_key: str) -> None:
    found = Decoder(COSINE, max_fragment_bytes=1 << 20).decode(kafka_key.encode(), record(packed(1.0)), ())
    assert isinstance(found, Put)
    assert found.suspicion is None


def test_a_tombstone_under_a_key_with_its_quotes_deletes_no_vector_that_is_meant() -> None:
    writing = Decoder(COSINE, max_fragment_bytes=1 << 20, tombstones="delete")
    found = writing.decode(b'"doc-1"', None, ())
    assert isinstance(found, Delete)
    assert cause(found.suspicion) == "quoted_key"
    refusing = Decoder(COSINE, max_fragment_bytes=1 << 20, tombstones="delete", suspect="dead-letter")
    with pytest.raises(RecordError) as raised:
        refusing.decode(b'"doc-1"', None, ())
    assert (raised.value.reason, raised.value.suspect) == (Reason.SUSPECT, "quoted_key")


def test_a_record_that_is_refused_for_another_reason_is_not_suspect_and_teaches_nothing() -> None:
    decoder = Decoder(COSINE, max_fragment_bytes=1 << 20, suspect="dead-letter")
    for _ in range(50):
        with pytest.raises(RecordError) as raised:
            decoder.decode(b"k", record(packed(1e-9))[:-1] + b',"metadata":5}', ())
        assert (raised.value.reason, raised.value.suspect) == (Reason.METADATA, "")
    for vector, _ in zip(vectors(), range(20)):  # noqa: B905 - likewise
        decoder.decode(b"k", record(vector), ())
