"""The codecs of record batches: they read what Java's client and Apache Kafka's broker read, up to a limit.

A few kilobytes can unpack to gigabytes, and in most codecs Java accepts bytes after the end of a compressed stream.
Python's libraries differ in both.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

import lz4.frame
import snappy
import zstandard

MAX_BYTES: Final = 128 * 1024 * 1024
"""The most that one record batch may unpack to.

Brokers bound the packed size alone (`max.message.bytes`, 1 MiB by default). Vectors pack by a factor of 2 to 10, so this
is 10 to 50 times what a raised limit of 1 to 5 MiB brings, and little enough for a container of 1 GiB.
"""

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
"""The numbers of the codecs, as a record batch gives them."""

_GZIP_CHUNK_BYTES: Final = 64 * 1024  # what follows the end of a member is copied once for each member
_CHUNK_BYTES: Final = 4 * 1024 * 1024
_GZIP_START: Final = b"\x1f\x8b\x08"
_GZIP_LEAST: Final = 18  # bytes of a member's header and trailer; Java looks for no other member in fewer
_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16  # the magic, a version, and the oldest compatible one
_SNAPPY_LENGTH_BYTES: Final = 5  # at most, of the number of unpacked bytes before a block


class UnpackError(Exception):
    """The bytes are not what their codec writes, or unpack to more than the limit."""


def unpack(codec: int, packed: memoryview, limit: int = MAX_BYTES) -> bytes:
    """Return what `packed` unpacks to: `limit` bytes at most. Raises `UnpackError`."""
    try:
        return CODECS[codec](packed, limit)
    except (zlib.error, snappy.UncompressError, zstandard.ZstdError, RuntimeError, ValueError) as error:
        raise UnpackError(f"cannot be unpacked: {error or type(error).__name__}") from None


def _gzip(packed: memoryview, limit: int) -> bytes:
    """Unpack every member of a gzip stream. As in Java, what follows the last one and is no member is ignored."""
    unpacked: list[bytes] = []
    at = size = 0
    while True:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            chunk = packed[at : at + _GZIP_CHUNK_BYTES]
            if not chunk:
                raise UnpackError("cannot be unpacked: the gzip stream is cut short")
            found = member.decompress(chunk, limit + 1 - size)
            at += len(chunk) - len(member.unused_data) - len(member.unconsumed_tail)
            size += len(found)
            _check(size, limit)
            unpacked.append(found)
        if len(packed) - at <= _GZIP_LEAST or not _begins_with(_GZIP_START, packed, at):
            return b"".join(unpacked)


def _snappy(packed: memoryview, limit: int) -> bytes:
    """Unpack one bare block, or blocks behind the header of xerial's stream, which may come again before any block."""
    if not _begins_with(_XERIAL_MAGIC, packed, 0):
        return _snappy_block(packed, limit)
    blocks: list[bytes] = []
    at, size = _XERIAL_HEADER_BYTES, 0
    while at + 4 <= len(packed):
        if _begins_with(_XERIAL_MAGIC, packed, at):
            at += _XERIAL_HEADER_BYTES
            continue
        length = int.from_bytes(packed[at : at + 4], "big", signed=True)
        begin, at = at + 4, at + 4 + length
        if length < 0 or at > len(packed):
            raise UnpackError(f"cannot be unpacked: a snappy block of {length} bytes")
        blocks.append(_snappy_block(packed[begin:at], limit - size))
        size += len(blocks[-1])
    return b"".join(blocks)


def _snappy_block(packed: memoryview, limit: int) -> bytes:
    size = 0
    for place, byte in enumerate(packed[:_SNAPPY_LENGTH_BYTES]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    _check(size, limit)
    unpacked: bytes = snappy.decompress(bytes(packed))
    return unpacked


def _lz4(packed: memoryview, limit: int) -> bytes:
    """Unpack one frame. Java reads no more than the first, and ignores what follows it."""
    frame = lz4.frame.LZ4FrameDecompressor()

    def chunks() -> Iterator[bytes]:
        left = bytes(packed)
        while not frame.eof:
            chunk = frame.decompress(left, max_length=_CHUNK_BYTES)
            if not chunk and frame.needs_input and not frame.eof:
                raise UnpackError("cannot be unpacked: the lz4 frame is cut short")
            left = b""
            yield chunk

    return _joined(chunks(), limit)


def _zstd(packed: memoryview, limit: int) -> bytes:
    """Unpack all frames; there may be others between them, which are skipped."""
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
        return _joined(iter(lambda: reader.read(_CHUNK_BYTES), b""), limit)


def _joined(chunks: Iterator[bytes], limit: int) -> bytes:
    kept: list[bytes] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        _check(size, limit)
        kept.append(chunk)
    return b"".join(kept)


def _begins_with(start: bytes, packed: memoryview, at: int) -> bool:
    return bytes(packed[at : at + len(start)]) == start


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise UnpackError("unpacks to more bytes than one batch may have")


CODECS: Final[dict[int, Callable[[memoryview, int], bytes]]] = {GZIP: _gzip, SNAPPY: _snappy, LZ4: _lz4, ZSTD: _zstd}
