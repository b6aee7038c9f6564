"""Several nodes of Kafka: the first one is the controller as well, and stays."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.worker import free_port
from worker.local.broker import Broker


@contextmanager
def running_cluster(
    folder: Path, nodes: int, config: Mapping[str, str], advertised: Mapping[int, int] | None = None
) -> Iterator[Sequence[Broker]]:
    """Run nodes 1 to `nodes`, with their data in `folder`.

    `advertised` has the port that clients get for a node, if that is not its own (`Broker.port`).
    """
    with ExitStack() as stack:
        first = stack.enter_context(Broker.start(data=folder / "1", config=config))
        settings = (first.data / "server.properties").read_text()
        voters = re.search(r"^controller.quorum.voters=(.*)$", settings, re.MULTILINE)
        known = (first.data / "records" / "meta.properties").read_text()
        cluster_id = re.search(r"^cluster.id=(.*)$", known, re.MULTILINE)
        assert voters is not None
        assert cluster_id is not None
        running = [first]
        for number in range(2, nodes + 1):
            port, data = free_port(), folder / str(number)
            (data / "records").mkdir(parents=True)
            meta = f"version=1\ncluster.id={cluster_id[1]}\nnode.id={number}\n"
            (data / "records" / "meta.properties").write_text(meta)
            told = (advertised or {}).get(number, port)
            own = {
                "process.roles": "broker",
                "node.id": str(number),
                "controller.quorum.voters": voters[1],
                "listeners": f"CLIENTS://127.0.0.1:{port}",
                "advertised.listeners": f"CLIENTS://127.0.0.1:{told}",
            }
            running.append(stack.enter_context(Broker.start(data=data, port=port, config={**config, **own})))
        yield running
