"""The formats, one line each: what `records.format` may be, and what makes the format of a route."""

from collections.abc import Callable
from typing import Final

from worker.records.formats.cloud_events import CloudEvents, Events
from worker.records.formats.contract import Format, Options
from worker.records.formats.first_byte import ByFirstByte
from worker.records.formats.json import JsonFields, JsonFormat
from worker.records.formats.msgpack import MsgpackFormat
from worker.records.formats.paths import Source
from worker.records.formats.registry import RegistryFormat


def _auto(options: Options) -> Format:
    json = JsonFormat(options)
    return ByFirstByte("auto", "a JSON or MessagePack map", [json, MsgpackFormat(options), RegistryFormat(json)])


def _json(options: Options) -> Format:
    json = JsonFormat(options)
    return ByFirstByte("json", "a JSON map", [json, RegistryFormat(json)])


def _msgpack(options: Options) -> Format:
    return ByFirstByte("msgpack", "a MessagePack map", [MsgpackFormat(options), RegistryFormat(JsonFormat(options))])


def _in_events(make: Callable[[Options], Format]) -> Callable[[Options], Format]:
    """Return what makes a format that reads the data of CloudEvents too, where the settings say that these come."""

    def made(options: Options) -> Format:
        inner = make(options)
        if options.envelope != "cloudevents":
            return inner
        names = [path.name for path in options.shape.paths if path.source is Source.ATTRIBUTE]
        return CloudEvents(Events(JsonFields(options.metadata_values), names), inner)

    return made


FORMATS: Final[dict[str, Callable[[Options], Format]]] = {
    "auto": _in_events(_auto),
    "json": _in_events(_json),
    "msgpack": _in_events(_msgpack),
}
