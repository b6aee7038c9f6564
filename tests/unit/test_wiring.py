"""What the composition root puts together."""

import pytest

from tests.support.app import settings
from worker import __version__
from worker.app import wiring
from worker.settings.tables import Kafka, Route
from worker.telemetry.traces import NO_TRACES


def test_each_topic_is_exported_with_the_indexes_that_its_records_go_to() -> None:
    routes = (Route(topic="vectors", index=("docs1", "docs2"), index_by="key"), Route(topic="images", index="pictures"))
    core = wiring._core(settings(routes=routes), NO_TRACES)
    (found,) = (one for one in core.metrics.registry.collect() if one.name == "oss_vectors_route_info")
    assert {(one.labels["topic"], one.labels["index"], one.value) for one in found.samples} == {
        ("vectors", "docs1", 1.0),
        ("vectors", "docs2", 1.0),
        ("images", "pictures", 1.0),
    }


@pytest.mark.parametrize("instance_id", ["", "docs-0"])
def test_a_worker_exports_its_names_in_kafka(instance_id: str) -> None:
    kafka = Kafka(group_id="docs", client_id="docs-writer", group_instance_id=instance_id)
    core = wiring._core(settings(kafka=kafka), NO_TRACES)
    (found,) = (one for one in core.metrics.registry.collect() if one.name == "oss_vectors_worker_info")
    ((labels, value),) = ((one.labels, one.value) for one in found.samples)
    names = {"group_id": "docs", "client_id": "docs-writer", "group_instance_id": instance_id}
    assert (labels, value) == ({"version": __version__} | names, 1.0)
