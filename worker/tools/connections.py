"""The connections of the commands' clients: they note a refused login, which kafka-python reports as a time-out."""

from typing import Any

from kafka import errors as kafka_errors

from worker.consumer import receive
from worker.consumer.client_internals import connections
from worker.consumer.client_network import PatientConnections


def make_client(**config: Any) -> Any:
    """Return the network part of a client; its setting `kafka_client` is this function."""
    return connections.make_client(_NotingConnections, **config)


class _NotingConnections(PatientConnections):
    """The connections of one client. `client_config.connected` asks for `login_refused`."""

    def __init__(self, net: Any, **config: Any) -> None:
        self.login_refused: BaseException | None = None
        super().__init__(net, **config)

    def on_transport(self, transport: Any) -> None:
        """Have what came just before the end of a connection read: it says why a login was refused."""
        receive.deliver_last_bytes(transport)

    def on_new_connection(self, connection: Any) -> None:
        """Watch a connection from its first try to its end."""
        connections.watch(connection, opened=_ignore, failed=self._failed, closed=_ignore)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
            self.login_refused = error


def _ignore() -> None:
    """Do nothing."""
