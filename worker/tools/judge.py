"""Which route a command is about, and what its index is."""

from collections.abc import Mapping

from worker.app.targets import given_target
from worker.errors import FatalError, SinkError
from worker.oss.sink import OssSink
from worker.records.target import Target
from worker.settings.tables import Route, Settings


def route_of(settings: Settings, topic: str | None) -> Route:
    """Return the route of a topic; the only one where none is named. Raises `FatalError` where that is not clear."""
    names = ", ".join(settings.topics)
    if topic is None:
        if len(settings.routes) > 1:
            raise FatalError(f"there are several routes: name one with --topic, of {names}")
        return settings.routes[0]
    found = next((route for route in settings.routes if route.topic == topic), None)
    if found is None:
        raise FatalError(f"no route has the topic {topic}; there are {names}")
    return found


def target_of(route: Route, settings: Settings, environ: Mapping[str, str]) -> Target:
    """Return what the index of a route is: as the route says, or else as the service says.

    Raises `FatalError` where the service does not say it, and `SettingsError` where there are no credentials.
    """
    if (given := given_target(route.index, [route])) is not None:
        return given
    sink = OssSink(settings.oss, environ, max_connections=1)
    try:
        return sink.describe(route.index)
    except SinkError as error:
        raise FatalError(
            f"the service does not say what index {route.index} is, and the route does not either "
            f"(dimension, distance_metric): {error}"
        ) from error
    finally:
        sink.close()
