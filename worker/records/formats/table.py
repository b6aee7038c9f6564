"""The formats, one line each: what `records.format` may be, and what makes the format of a route."""

from collections.abc import Callable
from typing import Final

from worker.records.formats.by_schema import BySchema, Schemas
from worker.records.formats.cloud_events import CloudEvents, Events
from worker.records.formats.contract import Format, Options
from worker.records.formats.first_byte import ByFirstByte
from worker.records.formats.json import JsonFields, JsonFormat
from worker.records.formats.msgpack import MsgpackFormat
from worker.records.formats.registry import RegistryFormat
from worker.records.formats.vector_alone import VectorAlone


def _auto(options: Options) -> Format:
    json = JsonFormat(options)
    return ByFirstByte("auto", "a JSON or MessagePack map", [json, MsgpackFormat(options), RegistryFormat(json)])


def _json(options: Options) -> Format:
    json = JsonFormat(options)
    return ByFirstByte("json", "a JSON map", [json, RegistryFormat(json)])


def _msgpack(options: Options) -> Format:
    return ByFirstByte("msgpack", "a MessagePack map", [MsgpackFormat(options), RegistryFormat(JsonFormat(options))])


FORMATS: Final[dict[str, Callable[[Options], Format]]] = {
    "auto": _auto,
    "json": _json,
    "msgpack": _msgpack,
}


def format_of(name: str, options: Options, schemas: Schemas | None = None) -> Format:
    """Return the format of a route.

    With the schemas of a registry it reads by them what names one. Where CloudEvents come, it reads their data, which may be
    in any of these. A value that is a vector alone is read in no format.
    """
    if options.shape.is_vector_alone:
        return VectorAlone(options)
    made = FORMATS[name](options)
    if schemas is not None:
        made = BySchema(schemas, json=JsonFormat(options), msgpack=MsgpackFormat(options), without=made)
    if options.envelope != "cloudevents":
        return made
    return CloudEvents(Events(JsonFields(options.metadata_values), options.shape.attributes), made)
