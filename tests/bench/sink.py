"""An HTTP sink: reads requests, answers 200 after a given time, and does nothing else. A process of its own."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate

from tests.support.bounded import running

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class _Sink(asyncio.BufferedProtocol):
    """One connection. What it receives goes into the same memory again and again."""

    def __init__(self, seconds: float, dimension: int) -> None:
        self._seconds = seconds
        self._index = json.dumps({"index": {"dimension": dimension, "distanceMetric": "cosine", "status": "enable"}})
        self._body = ""
        self._memory = bytearray(1 << 20)
        self._head = b""
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        if self._missing:
            self._missing -= nbytes
        else:
            self._head += self._memory[:nbytes]
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = b""
            self._body = self._index if b"getVectorIndex" in head else ""
            length = _LENGTH.search(head)
            self._missing = int(length[1]) - len(rest) if length else 0
        if self._missing <= 0:
            self._missing = 0
            asyncio.get_running_loop().call_later(self._seconds, self._answer)

    def _answer(self) -> None:
        date = formatdate(usegmt=True)
        head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nx-oss-request-id: {'0' * 24}\r\nContent-Length: {len(self._body)}\r\n\r\n"
        self._transport.write((head + self._body).encode())


async def _serve(seconds: float, dimension: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Sink(seconds, dimension), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def sink(dimension: int, seconds: float = 0.0) -> Iterator[int]:
    """Run a sink that answers after so many seconds, with an index of that dimension; yields its port."""
    command = [sys.executable, "-m", "tests.bench.sink", str(seconds), str(dimension)]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), int(sys.argv[2])))
