"""How the bytes of a socket become records: the places where the worker's own receive path takes over.

The client's transport reads the socket, its parser makes responses of the bytes, its fetcher makes records of them. Each
has one place that can be replaced in an instance.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from kafka.consumer.fetcher import Fetcher
from kafka.record.util import calc_crc32c

checksum: Callable[[bytes | memoryview], int] = calc_crc32c
"""Return the CRC-32C of bytes, by the fastest library that is installed."""


def deliver_last_bytes(transport: Any) -> None:
    """Let a transport hand over what came just before the end of its connection, which the client drops."""
    receive = transport._sock_recv

    def data_first() -> tuple[bytes, Exception | None]:
        data, error = receive()
        return data, None if data else error  # the end comes again, with nothing before it

    transport._sock_recv = data_first


class Receiver(Protocol):
    """Replaces two methods of the client, which it calls one after the other."""

    def receive(self) -> tuple[Any, Exception | None]:
        """Read what there is. Return something as long as what was read, and the error that ends the connection."""

    def responses(self, received: Any) -> list[Any]:
        """Return the responses that are complete, decoded, each with its correlation id."""

    def close(self) -> None:
        """The connection has ended."""


def receive_by(connection: Any, make: Callable[[Any, Callable[[Any], Any], Callable[[int], None]], Receiver]) -> None:
    """Let a connection receive by another receiver, from the next response on.

    `make(sock, decode, check_size)` makes it: `decode(frame)` decodes a response, `check_size(bytes)` raises the client's
    error where no response has that size.
    """
    parser = connection.parser
    receiver = make(connection.transport._sock, parser._process_response, parser._validate_frame_size)
    connection.transport._sock_recv = receiver.receive
    parser.receive_bytes = receiver.responses
    connection.close_future.add_both(lambda _: receiver.close())


def read_records_by(consumer: Any, make: Callable[..., "FetchedRecords"]) -> None:
    """Let a consumer make the records of a partition in a response by `make`, which is called like the class below.

    Null in place of the records is none of them, as Apache Kafka's own consumer reads it. To the client it is an error.
    """
    fetcher = consumer._fetcher
    begin = fetcher._parse_fetched_data

    def begin_without_null(response: Any) -> Any:
        if response.partition_data.records is None:
            response.partition_data.records = b""
        return begin(response)

    fetcher._parse_fetched_data, fetcher.PartitionRecords = begin_without_null, make


class FetchedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python ships no types
    """The records of a partition in a response, as the fetcher asks for them."""

    def records_of(self, data: bytes) -> Iterator[Any]:
        """Return the records in the partition's bytes. To be defined below this class."""
        raise NotImplementedError

    def _unpack_records(self, _tp: Any, records: Any, *_deserializers: object) -> Iterator[Any]:
        return self.records_of(records._buffer)

    def is_before_the_fetch(self, record: Any) -> bool:
        """Return whether a record is before the offset that was asked for, of whose batch it is."""
        return bool(self._maybe_skip_record(record))

    def is_aborted(self, batch: Any, last_offset: int) -> bool:
        """Return whether a batch is of a transaction that was aborted; to be asked for each batch in order."""
        self._consume_aborted_transactions_up_to(last_offset)
        return bool(self._is_batch_aborted(batch))
