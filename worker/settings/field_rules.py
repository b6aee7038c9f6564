"""Whether the settings of [records], and of [routes.records] over them, fit together: above all whether paths are paths."""

from worker.records.formats.paths import PathError, Source
from worker.records.formats.shape import shape_of
from worker.settings.tables import Records


def record_mistakes(place: str, records: Records) -> list[str]:
    """Return what is wrong with how records are read. `place` is the name of the table in a mistake."""
    fields = records.fields
    try:
        shape = shape_of(fields.key, fields.vector, fields.metadata, fields.delete)
    except PathError as error:
        return [f"{place}.fields.{error}"]
    return [
        f'{place}.fields: {path.text} is an attribute of a CloudEvent, and needs {place}.envelope = "cloudevents"'
        for path in shape.paths
        if path.source is Source.ATTRIBUTE and records.envelope != "cloudevents"
    ]
