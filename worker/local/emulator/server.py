"""The emulator's process: its socket, signals and connection resets."""

import asyncio
import os
import signal
import socket
import sqlite3
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.local.emulator.control import Control, Journal
from worker.local.emulator.disk import Disk
from worker.local.emulator.faults import Adjustments, Faults
from worker.local.emulator.service import Service
from worker.local.emulator.signature import AccessKeys, KeyPair
from worker.local.emulator.store import Store

ADDRESS = "127.0.0.1"


def run(port: int, data: Path | None, environment: Mapping[str, str] = os.environ) -> None:
    """Serve on 127.0.0.1:`port` (0: a free one) until SIGTERM or SIGINT.

    It prints `OSS vector emulator on http://127.0.0.1:PORT` once connections are accepted. What is
    written is kept in the directory `data`, or in memory when that is None. The access key comes from
    OSS_EMULATOR_ACCESS_KEY_ID and OSS_EMULATOR_ACCESS_KEY_SECRET of `environment`, both `test` by default, and another
    IPv4 address to listen on from OSS_EMULATOR_HOST: in a container 0.0.0.0, since its port is reached from outside.
    SystemExit with a message (exit code 1) when the port is in use or the directory cannot be used.
    """
    key = KeyPair(
        environment.get("OSS_EMULATOR_ACCESS_KEY_ID", "test"), environment.get("OSS_EMULATOR_ACCESS_KEY_SECRET", "test")
    )
    with _listen(environment.get("OSS_EMULATOR_HOST", ADDRESS), port) as listener:
        store = _open_store(data)
        # The server gives the signal to the handler that was there before it, once it has ended: this one.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ignore)
        try:
            asyncio.run(_serve(listener, store, key))
        finally:
            store.close()


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket()
    # A port is free again at once after an emulator that had connections.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        message = f"The emulator cannot listen on {address}:{port}: {error.strerror}. Choose another with --port."
        raise SystemExit(message) from None
    return listener


def _open_store(data: Path | None) -> Store:
    try:
        return Store(Disk(data) if data is not None else None)
    except (OSError, sqlite3.Error) as error:
        message = f"The emulator cannot keep its data in {data}: {error}. Is another emulator using it?"
        raise SystemExit(message) from None


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Leave the exit code 0 after a signal."""


async def _serve(listener: socket.socket, store: Store, key: KeyPair) -> None:
    faults, adjustments, journal = Faults(), Adjustments(), Journal()
    keys = AccessKeys(key)
    service = Service(store, faults, adjustments, journal, keys)
    control = Control(store, faults, adjustments, journal, keys)
    application = Starlette(
        routes=[Mount("/_emulator", routes=control.routes()), Route("/{path:path}", endpoint=service)]
    )
    config = uvicorn.Config(
        application,
        http=_Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("Server", "AliyunOSS")],
        timeout_graceful_shutdown=1,
    )
    await _Server(config, service, key).serve(sockets=[listener])
    service.close()


class _Server(uvicorn.Server):
    """Tells when it serves, and ends requests that wait when it stops."""

    def __init__(self, config: uvicorn.Config, service: Service, key: KeyPair) -> None:
        super().__init__(config)
        self._service = service
        self._key = key

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        address, port = sockets[0].getsockname() if sockets else (ADDRESS, 0)
        print(f"OSS vector emulator on http://{address}:{port}", flush=True)  # noqa: T201 - what the caller waits for
        help_text = f"endpoint http://localhost:{port}, access key id {self._key.access_key_id}; hosts are"
        print(f"{help_text} {{bucket}}-{{accountId}}.localhost:{port}", file=sys.stderr)  # noqa: T201 - for people

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stop()
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """Gives each request the means to reset its connection, and to write to it: `reset`, `write` in the scope's state."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower, as its base
        super().connection_made(transport)

        def reset() -> None:
            if transport.is_closing():
                return
            # Without lingering, closing sends RST rather than FIN.
            connection: Any = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

        def write(data: bytes) -> None:
            if not transport.is_closing():
                transport.write(data)

        self.app_state = {**self.app_state, "reset": reset, "write": write}
