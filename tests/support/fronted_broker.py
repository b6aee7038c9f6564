"""A broker for tests that break it, with a proxy before it for those that break the network."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient

from tests.support.broker import create_topic
from tests.support.emulator import Emulator
from tests.support.proxy import KafkaProxy
from tests.support.worker import Stage, free_port
from worker.local.broker import Broker
from worker.local.broker.server import VERSION

NO_CONFIG: Mapping[str, str] = {}


class BriefAdmin:
    """An administrator that connects for each call: one that stays would try all the while a broker is down."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with closing(KafkaAdminClient(bootstrap_servers=self._bootstrap)) as client:
                return getattr(client, name)(*args, **options)

        return call


@dataclass
class FrontedBroker:
    """Clients reach the broker through the proxy alone, since that is the address that it tells them."""

    broker: Broker
    proxy: KafkaProxy
    emulator: Emulator
    admin: Any

    def new_stage(self, partitions: int = 2, **topic_config: str) -> Stage:
        """A stage that no other test has; in `topic_config`, `cleanup_policy` means `cleanup.policy`."""
        bucket, index = self.emulator.new_index(4)
        topic = create_topic(self.admin, partitions, **topic_config)
        group = f"group-{uuid.uuid4().hex[:12]}"
        dead_letters = create_topic(self.admin)
        return Stage(self.broker, self.emulator, self.admin, topic, dead_letters, group, bucket, index, partitions)


@contextmanager
def fronted_broker(
    emulator: Emulator, config: Mapping[str, str] = NO_CONFIG, version: str = VERSION
) -> Iterator[FrontedBroker]:
    """Run a broker of one's own with its proxy."""
    with ExitStack() as stack:
        port = free_port()
        proxy = stack.enter_context(KafkaProxy(port))
        told = {"advertised.listeners": f"CLIENTS://127.0.0.1:{proxy.port}", **config}
        broker = stack.enter_context(Broker.start(port=port, config=told, version=version))
        yield FrontedBroker(broker, proxy, emulator, BriefAdmin(broker.bootstrap))
