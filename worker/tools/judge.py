"""Which route a command is about, what its indexes are, and how its records choose among them."""

from collections.abc import Mapping, Sequence
from contextlib import closing

import msgspec

from worker.app.routers import Router, agreement, router_of, with_route_keys
from worker.app.schemas import asking_book
from worker.app.targets import given_target
from worker.errors import FatalError, SinkError
from worker.oss.sink import OssSink
from worker.records.choices import Format
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


def targets_of(route: Route, settings: Settings, environ: Mapping[str, str]) -> list[Target]:
    """Return what each index of a route is: as the routes say, or else as the service says.

    Raises `FatalError` where the service does not say it, or shards of one index differ; and `SettingsError` where there are
    no credentials.
    """
    given = [given_target(index, _routes_to(index, settings)) for index in route.index_names]
    known = [target for target in given if target is not None]
    if len(known) == len(given):
        return known
    with closing(OssSink(settings.oss, environ, max_connections=1)) as sink:
        found = [
            target or _described(index, settings, sink) for index, target in zip(route.index_names, given, strict=True)
        ]
    if route.is_sharded and (problem := agreement(found[0], {one.index: one for one in found[1:]})):
        raise FatalError(problem)
    return found


def _described(index: str, settings: Settings, sink: OssSink) -> Target:
    try:
        return with_route_keys(sink.describe(index), _routes_to(index, settings))
    except SinkError as error:
        raise FatalError(
            f"the service does not say what index {index} is, and the route does not either "
            f"(dimension, distance_metric): {error}"
        ) from error


def _routes_to(index: str, settings: Settings) -> tuple[Route, ...]:
    return tuple(route for route in settings.routes if index in route.index_names)


def writing_suspects(settings: Settings) -> Settings:
    """Return the settings with suspects accepted, for who must know what the worker wrote.

    Which vectors are suspect depends on those that the worker saw before. Which of them it refused, their dead letters say.
    """
    routes = tuple(
        msgspec.structs.replace(route, records={**route.records, "suspect": "write"}) for route in settings.routes
    )
    return msgspec.structs.replace(settings, routes=routes)


def router_for(
    route: Route, targets: Sequence[Target], settings: Settings, *, record_format: Format | None = None
) -> Router:
    """Return the router of a route whose indexes are these; `record_format` replaces the setting's."""
    router = router_of(route, settings, record_format=record_format, schemas=asking_book(settings))
    for target in targets:
        router.add(target)
    return router
