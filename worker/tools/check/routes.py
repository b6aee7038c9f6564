"""What the settings say by themselves, beyond what is a mistake."""

from collections.abc import Iterator

from worker.app.decoders import shape_of
from worker.records.formats.paths import Source
from worker.settings.load import Loaded
from worker.settings.tables import ENV_PREFIX, Records
from worker.tools.check.report import Finding, ok, warning


def routes(loaded: Loaded) -> Iterator[Finding]:
    """Say where the settings came from, and look at what single settings do not show."""
    settings = loaded.settings
    yield ok("settings", "read", f"routes of {', '.join(settings.topics)}; {_sources(loaded)}")
    for route in settings.routes:
        if route.index_by:
            told = f"{len(route.index_names)} indexes, chosen by {route.index_by}: {', '.join(route.index_names)}"
            yield ok("settings.routes", route.topic, told)
    for index in settings.indexes:
        topics = [route.topic for route in settings.routes if index in route.index_names]
        if len(topics) > 1:
            told = f"the topics {', '.join(topics)} share this index"
            advice = "make sure that they share no keys: only records of one partition keep their order"
            yield warning("settings.routes", index, told, advice)
    for topic in settings.topics:
        yield from _tombstones(topic, settings.records_of(topic))
    if settings.kafka.auto_offset_reset == "latest":
        told = "is latest: what was published before a partition's first commit is not written"
        yield warning("settings.reset", "kafka.auto_offset_reset", told, "set it to earliest, unless that is wanted")
    if not settings.dead_letter.topic:
        told = "is empty: the first bad record blocks its partition"
        yield warning("settings.dead_letter", "dead_letter.topic", told, "name a topic, unless that is wanted")
    elif settings.dead_letter.limit_min >= settings.dead_letter.limit_window:  # so many are never before a record in it
        told = f"is not less than dead_letter.limit_window = {settings.dead_letter.limit_window}: limit_ratio blocks no topic"
        yield warning("settings.dead_letter", "dead_letter.limit_min", told, "make it smaller, unless that is wanted")


def _tombstones(topic: str, records: Records) -> Iterator[Finding]:
    """Look whether a tombstone can name the key of a vector: it names the whole Kafka key, whatever `records.fields.key` is."""
    shape = shape_of(records)
    key = shape.key
    if records.tombstones != "delete" or records.envelope == "debezium" or key is None:
        return
    if shape.is_kafka_key(is_enveloped=records.envelope == "connect"):
        return
    sources = {path.source for path in key.paths}
    makes = "makes another key of it" if Source.KAFKA_KEY in sources else "may make another key"
    told = (
        'records.tombstones = "delete" deletes the vector whose key is the whole Kafka key, and '
        f'records.fields.key = "{key.text}" {makes}: then nothing is deleted, and it is counted as deleted'
    )
    advice = 'delete by records.fields.delete, or set records.tombstones to "dead-letter"'
    if Source.KAFKA_KEY not in sources:
        advice += "; it is right if the producer's Kafka key is exactly the vector's key"
    yield warning("settings.tombstones", topic, told, advice)


def _sources(loaded: Loaded) -> str:
    given = set(loaded.origins.values()) - {"default"}
    variables = {origin for origin in given if origin.startswith(ENV_PREFIX)}
    files = [f"the file {origin}" for origin in sorted(given - variables)]
    return " and ".join([*files, *([f"{len(variables)} environment variables"] if variables else [])])
