"""The codecs: what Java reads is read, what unpacks to too much is refused before it is in memory."""

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import lz4.frame
import pytest
import snappy
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode

from worker.consumer.unpack import GZIP, LZ4, SNAPPY, ZSTD, UnpackError, unpack

ENCODERS: dict[int, Callable[[bytes], bytes]] = {
    GZIP: gzip_encode,
    SNAPPY: snappy_encode,
    LZ4: lz4_encode,
    ZSTD: zstd_encode,
}
XERIAL = snappy_encode(b"x")[:16]
SKIPPED_FRAME = struct.pack("<II", 0x184D2A50, 3) + b"abc"


def xerial(*blocks: bytes) -> bytes:
    """A stream of xerial's with these blocks."""
    stream: bytes = XERIAL
    for block in blocks:
        packed = snappy.compress(block)
        stream += struct.pack(">i", len(packed)) + packed
    return stream


@given(st.sampled_from([GZIP, SNAPPY, LZ4, ZSTD]), st.binary(max_size=200), st.integers(1, 2000))
def test_what_the_client_packs_is_unpacked(codec: int, data: bytes, times: int) -> None:
    assert unpack(codec, memoryview(ENCODERS[codec](data * times))) == data * times


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_what_is_larger_than_a_piece_is_whole(codec: int) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB
    assert unpack(codec, memoryview(ENCODERS[codec](data))) == data


@pytest.mark.parametrize(
    ("codec", "packed"),
    [
        pytest.param(GZIP, gzip.compress(b"abc") + b"garbage that is no member", id="gzip, bytes behind it"),
        pytest.param(GZIP, gzip.compress(b"abc") + b"\x1f\x8b\x08garbage", id="gzip, too little for a member"),
        pytest.param(GZIP, gzip.compress(b"abc") + bytes(400), id="gzip, zeros behind it"),
        pytest.param(GZIP, gzip.compress(b"a") + gzip.compress(b"b") + gzip.compress(b"c"), id="gzip, members"),
        pytest.param(GZIP, gzip.compress(b"") + gzip.compress(b"abc"), id="gzip, an empty member"),
        pytest.param(SNAPPY, snappy.compress(b"abc"), id="snappy, a bare block"),
        pytest.param(SNAPPY, xerial(b"ab") + xerial(b"c"), id="snappy, a second header"),
        pytest.param(SNAPPY, XERIAL + xerial(b"abc"), id="snappy, a header at once again"),
        pytest.param(SNAPPY, xerial(b"a", b"", b"bc"), id="snappy, an empty block"),
        pytest.param(SNAPPY, xerial(b"abc") + b"\x00\x00\x01", id="snappy, less than a length behind it"),
        pytest.param(LZ4, lz4_encode(b"abc") + b"garbage", id="lz4, bytes behind it"),
        pytest.param(LZ4, lz4_encode(b"abc") + lz4_encode(b"d"), id="lz4, a second frame is not read"),
        pytest.param(ZSTD, zstd_encode(b"ab") + zstd_encode(b"c"), id="zstd, frames"),
        pytest.param(ZSTD, zstd_encode(b"ab") + SKIPPED_FRAME + zstd_encode(b"c"), id="zstd, a frame to skip"),
    ],
)
def test_what_java_reads_is_read(codec: int, packed: bytes) -> None:
    assert unpack(codec, memoryview(packed)) == b"abc"


@pytest.mark.parametrize(
    ("codec", "packed"),
    [
        *[pytest.param(codec, b"", id=f"{codec}, nothing") for codec in (GZIP, SNAPPY, LZ4)],
        *[pytest.param(codec, b"garbage" * 9, id=f"{codec}, garbage") for codec in ENCODERS],
        pytest.param(GZIP, gzip.compress(b"abc" * 99)[:-1], id="gzip, cut short"),
        pytest.param(GZIP, gzip.compress(b"a") + gzip.compress(b"b" * 999)[:-1], id="gzip, a second member cut short"),
        pytest.param(GZIP, gzip.compress(b"abc")[:-8] + bytes(8), id="gzip, a wrong checksum"),
        pytest.param(GZIP, zlib.compress(b"abc"), id="gzip, zlib's own head"),
        pytest.param(SNAPPY, xerial(b"abc")[:-1], id="snappy, cut short"),
        pytest.param(SNAPPY, XERIAL + struct.pack(">i", -5) + b"abc", id="snappy, a length below zero"),
        pytest.param(SNAPPY, XERIAL + struct.pack(">i", 0), id="snappy, a block of nothing"),
        pytest.param(LZ4, lz4_encode(b"abc" * 99)[:-5], id="lz4, cut short"),
        pytest.param(ZSTD, zstd_encode(b"abc") + b"garbage", id="zstd, bytes behind it"),
    ],
)
def test_what_java_refuses_is_refused(codec: int, packed: bytes) -> None:
    with pytest.raises(UnpackError):
        unpack(codec, memoryview(packed))


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_the_limit_is_the_last_that_is_unpacked(codec: int) -> None:
    packed = memoryview(ENCODERS[codec](bytes(100_000)))
    assert len(unpack(codec, packed, 100_000)) == 100_000
    with pytest.raises(UnpackError, match="more bytes than one batch may have"):
        unpack(codec, packed, 99_999)


BOMBS: dict[int, Callable[[bytes], bytes]] = {
    GZIP: lambda data: gzip.compress(data, compresslevel=1),
    LZ4: lambda data: lz4.frame.compress(data, block_linked=False),
    ZSTD: zstandard.ZstdCompressor(write_content_size=False).compress,
    SNAPPY: lambda data: xerial(*[data[:1_000_000]] * 200),
}


@pytest.mark.parametrize("codec", BOMBS)
def test_a_bomb_is_given_up_before_it_is_in_memory(codec: int) -> None:
    bomb = memoryview(BOMBS[codec](bytes(200_000_000)))
    tracemalloc.start()
    with pytest.raises(UnpackError, match="more bytes"):
        unpack(codec, bomb, 10_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000


def test_a_snappy_block_that_lies_about_its_size_costs_nothing() -> None:
    tracemalloc.start()
    with pytest.raises(UnpackError):
        unpack(SNAPPY, memoryview(b"\xff\xff\xff\xff\x0fabc"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_many_gzip_members_cost_as_many_bytes_as_they_have() -> None:
    """Each hands back what is behind it: were that all the rest, a megabyte of members would be copied for each."""
    packed = memoryview(gzip.compress(b"") * 50_000)
    copied = 0
    real = zlib.decompressobj

    class Counted:
        def __init__(self, wbits: int) -> None:
            self._real = real(wbits)

        def decompress(self, chunk: memoryview, most: int) -> bytes:
            nonlocal copied
            piece = self._real.decompress(chunk, most)
            copied += len(self._real.unused_data)
            return piece

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zlib, "decompressobj", Counted)
        assert unpack(GZIP, packed) == b""
    assert copied < 50_000 * 65_536
