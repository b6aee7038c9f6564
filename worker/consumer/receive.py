"""The worker's own receive path: from the socket to messages, with two copies of each byte. The client makes ten.

kafka-python reads a response in chunks of 4 KiB, joins them, copies them into a frame, the frame into bytes, a record batch
into an array, and each value twice out of that. For large records this is most of the cost of reading. Here a response is
received into the buffer in which it stays, and a value is copied out of it once. The client decides everything else, such as
when to fetch, and which records an aborted transaction hides.

If the client lacks the private parts that are replaced here, its own receive path is used, with a warning.
"""

import functools
import logging
import sys
from collections.abc import Callable, Sequence
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any, Final

import numpy as np
from kafka import errors as kafka_errors

from worker.consumer import client_check, client_config
from worker.consumer.client_internals import PartitionStates

log = logging.getLogger("worker.wire")

_LENGTH_BYTES: Final = 4  # of the length before each frame
_KEPT_BYTES: Final = client_config.FETCH_MAX_BYTES + 64 * 1024  # a full fetch, and what is around it


def deliver_last_bytes(transport: Any) -> None:
    """Let a transport hand over what came just before the end of its connection, which the client drops."""
    if client_check.has_receive_path():
        from worker.consumer.client_internals import receiving  # noqa: PLC0415 - the client may not have what it is made of

        receiving.deliver_last_bytes(transport)


def receive_without_copies(connection: Any) -> None:
    """Let a connection receive its responses without copying them, from the next one on."""
    if client_check.has_receive_path():
        from worker.consumer.client_internals import receiving  # noqa: PLC0415 - likewise

        receiving.receive_by(connection, _Frames)


def read_without_copies(consumer: Any) -> None:
    """Let a consumer copy messages out of responses at once."""
    if not client_check.has_receive_path():
        log.warning(
            "another kafka-python than was tested: its own receive path is used, which costs more",
            extra={"missing": client_check.missing_of_receive_path(), "version": client_check.version()},
        )
        return
    from worker.consumer.client_internals import receiving  # noqa: PLC0415 - likewise
    from worker.consumer.partition_records import Known, PartitionRecords  # noqa: PLC0415 - likewise

    known = Known(PartitionStates(consumer))
    receiving.read_records_by(consumer, functools.partial(PartitionRecords, known=known))


class _Frames:
    """The responses of one connection, from the socket to the client's parser of them.

    `receive` and `responses` replace two methods that the client calls one after the other.
    """

    def __init__(self, sock: Any, decode: "Callable[[_Frame], Any]", check_size: Callable[[int], None]) -> None:
        self._recv_into: Callable[[memoryview], int] = sock.recv_into
        # No selector reports what TLS has decrypted already.
        self._pending: Callable[[], int] = getattr(sock, "pending", lambda: 0)
        self._decode = decode
        self._check_size = check_size
        self._memory = np.empty(0, np.uint8)
        self._length = bytearray(_LENGTH_BYTES)
        self._frame: memoryview | None = None  # None while its length is read
        self._missing = memoryview(self._length)  # what is still to be filled
        self._complete: list[memoryview] = []

    def receive(self) -> tuple[Sequence[int], Exception | None]:
        """Read what there is, up to the end of a response.

        Returns something as long as what was read, which the client counts, and the error that ends the connection.
        """
        count = 0
        try:
            while not self._complete or self._pending():
                received = self._recv_into(self._missing)
                if not received and count:
                    break  # what came before the end is read first; the end comes again
                if not received:
                    return b"", kafka_errors.KafkaConnectionError("socket disconnected")
                count += received
                self._missing = self._missing[received:]
                if not self._missing:
                    self._advance()
        except (BlockingIOError, InterruptedError, SSLWantReadError, SSLWantWriteError):
            pass
        except kafka_errors.KafkaProtocolError as error:
            return b"", error
        except Exception as error:  # whatever it is, the connection ends, and another one is made
            return b"", kafka_errors.KafkaConnectionError(error)
        return range(count), None

    def _advance(self) -> None:
        """Continue with the response whose length is known now, or with the length of the next one."""
        if self._frame is None:
            size = int.from_bytes(self._length, "big", signed=True)
            self._check_size(size)
            self._frame = self._missing = self._room(size)
        if not self._missing:
            self._complete.append(self._frame)
            self._frame, self._missing = None, memoryview(self._length)

    def _room(self, size: int) -> memoryview:
        """Return memory for a response: that of the one before, once nothing refers to it any more."""
        if size > len(self._memory) or sys.getrefcount(self._memory) > 2:
            fresh = np.empty(size, np.uint8)
            if size > _KEPT_BYTES:
                return fresh.data
            self._memory = fresh
        return self._memory.data[:size]

    def responses(self, _received: object) -> list[Any]:
        """Return the responses that are complete, decoded, each with its correlation id."""
        complete, self._complete = self._complete, []
        return [self._decode(_Frame(frame)) for frame in complete]

    def close(self) -> None:
        """Release the memory: parser and frames refer to each other, and wait for the garbage collector."""
        self._memory = np.empty(0, np.uint8)
        self._frame, self._missing = None, memoryview(self._length)
        self._complete = []


class _Frame:
    """A response as the client's parser reads it, without copies."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, count: int | None = None) -> bytes | memoryview:
        """Return the next `count` bytes, or where that is None all that is left, as a view."""
        if count is None:
            begin, self._at = self._at, len(self._view)
            return self._view[begin:]
        begin, self._at = self._at, min(self._at + count, len(self._view))
        return bytes(self._view[begin : self._at])

    def seek(self, at: int) -> None:
        self._at = at

    def tell(self) -> int:
        return self._at
