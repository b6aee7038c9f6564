"""Whether the settings of [records], and of [routes.records] over them, fit together: above all whether paths are paths."""

from worker.records.formats.paths import WHOLE_VALUE, PathError, Source
from worker.records.formats.shape import shape_of
from worker.settings.tables import Records, Route


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


def alone_mistakes(place: str, records: Records) -> list[str]:
    """Return what contradicts a value that is a vector alone, which is not parsed. `place` is the name of the table."""
    if records.fields.vector != WHOLE_VALUE.text:
        return []
    contradicting = []
    if records.format != "auto":
        contradicting.append(f'{place}.format = "{records.format}" has to be "auto"')
    if records.envelope != "none":
        contradicting.append(f'{place}.envelope = "{records.envelope}" has to be "none"')
    if records.many != "reject":
        contradicting.append(f'{place}.many = "{records.many}" has to be "reject"')
    return [
        f'{place}.fields.vector = "{WHOLE_VALUE.text}": the value is not parsed, so {what}' for what in contradicting
    ]


def index_by_mistakes(place: str, route: Route, records: Records) -> list[str]:
    """Return where the path in `index_by` leads to what the route's records do not have. `place` is that of the route."""
    kind, _, path = route.index_by.partition(":")
    if kind != "field":
        return []
    is_around = path.startswith((Source.KAFKA_KEY.value, Source.HEADER.value))
    if path.startswith(Source.ATTRIBUTE.value) and records.envelope != "cloudevents":
        why = 'an attribute of a CloudEvent, which needs records.envelope = "cloudevents"'
    elif records.fields.vector == WHOLE_VALUE.text and not is_around:
        why = (
            f'a field of the value, which is not parsed with records.fields.vector = "{WHOLE_VALUE.text}"; '
            'allowed are "key" and "header:NAME"'
        )
    else:
        return []
    return [f'{place}.index_by = "{route.index_by}": {why}']
