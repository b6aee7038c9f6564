"""What the composition root puts together."""

from tests.support.app import settings
from worker.app import wiring
from worker.settings.tables import Route
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
