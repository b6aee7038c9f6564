"""Records of a schema registry on a real broker: Avro and Protobuf are written, an outage blocks, an unknown id is dead-lettered."""

from tests.support.registry import AVRO, OF_RECORD, PROTOBUF, avro, prefix, stand_in
from tests.support.worker import Record, StageFactory, WorkerFactory, vector_record, wait_for


def of_avro(number: int, key: str, x: float) -> Record:
    value = avro(AVRO, {"key": key, "data": {"float32": [x, 1.0, 2.0, 3.0]}, "metadata": {"of": "avro"}})
    return Record(key.encode(), prefix(number) + value)


def of_protobuf(number: int, key: str) -> Record:
    vector = b"\x12\x12\x0a\x10" + bytes.fromhex("0000803f 00000040 00004040 00008040")
    return Record(key.encode(), prefix(number) + OF_RECORD + b"\x0a\x01" + key.encode() + vector)


def test_avro_and_protobuf_are_written_and_an_outage_of_the_registry_only_delays(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    with stand_in() as registry:
        registry.wanted_login = "Bearer sesame"
        one, two = registry.register(AVRO), registry.register(PROTOBUF, "PROTOBUF")
        settings = stage.settings(registry__url=registry.url, delivery__retry_max_seconds=0.5)
        worker = start_worker({**settings, "OSS_VECTORS_REGISTRY__TOKEN": "sesame"}).wait_ready()
        stage.publish([of_avro(one, "a", 5.0), of_protobuf(two, "b"), vector_record("c", [1, 2, 3, 4])])
        worker.wait_settled(3)
        assert {key: [*map(float, vector)] for key, vector in stage.dump().items()} == {
            "a": [5.0, 1.0, 2.0, 3.0],
            "b": [1.0, 2.0, 3.0, 4.0],
            "c": [1.0, 2.0, 3.0, 4.0],
        }

        registry.instead = lambda _path: (503, b"away")
        three = registry.register({**AVRO, "name": "Other"})
        stage.publish([of_avro(three, "a", 6.0), of_avro(one, "a", 7.0), of_avro(one, "d", 8.0)])
        worker.wait_until(lambda now: now.blocks() == {(stage.topic, "registry")}, "the topic is blocked")
        assert float(stage.dump()["a"][0]) == 5.0  # the newer version of "a" waits behind the one that cannot be read
        registry.instead = None
        worker.wait_settled(6)
        wait_for(lambda: not worker.metrics().blocks(), "it is no longer blocked", told=worker.last_words)
        assert float(stage.dump()["a"][0]) == 7.0

        stage.publish([of_avro(77, "e", 1.0), of_avro(one, "f", 9.0)])
        worker.wait_settled(8)
        (letter,) = stage.dead_letters()
        told = {name: value.decode() for name, value in letter.headers}
        assert told["oss-vectors.reason"] == "unsupported_encoding"
        assert "does not know schema id 77" in told["__connect.errors.exception.message"]
        assert worker.metrics().by("schema_requests_total", "result")["unknown"] == 1
        asked = [path for path in registry.asked if path == f"/schemas/ids/{one}"]
        assert (len(asked), set(registry.logins)) == (1, {"Bearer sesame"})
        stage.wait_committed_to_the_end(worker)
        assert worker.terminate() == 0
        assert "sesame" not in worker.text()
