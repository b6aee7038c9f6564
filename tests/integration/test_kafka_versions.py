"""The whole job on brokers of other versions: what managed services run is years older than what one would install."""

import pytest

from tests.support.emulator import Emulator
from tests.support.fronted_broker import fronted_broker
from tests.support.worker import Record, WorkerFactory, versions_of

CODECS = (None, "gzip", "snappy", "lz4", "zstd")
EACH = 40


@pytest.mark.parametrize("version", ["3.9.1", "2.8.2"])
def test_the_job_is_done_on_an_older_broker_and_goes_on_after_a_restart(
    emulator: Emulator, start_worker: WorkerFactory, version: str
) -> None:
    with fronted_broker(emulator, version=version) as front:
        stage = front.new_stage(partitions=3)
        worker = start_worker(stage.settings()).wait_ready()
        for number, codec in enumerate(CODECS):
            stage.publish_versions(versions_of(keys=60, count=EACH, seed=number, first=number * EACH), codec)
        bad = Record(b"bad", b"not JSON", [("origin", b"here")], partition=1)
        stage.publish([bad], "zstd")
        worker.wait_settled(len(CODECS) * EACH + 1)
        stage.wait_committed_to_the_end(worker)
        assert worker.terminate() == 0

        again = start_worker(stage.settings()).wait_ready()
        stage.publish_versions(versions_of(keys=60, count=EACH, seed=9, first=1000))
        now = again.wait_settled(EACH)
        stage.wait_committed_to_the_end(again)

        # Nothing that was committed came again.
        assert now.consumed == EACH
        assert stage.dump() == stage.model()
        (letter,) = stage.dead_letters()
        assert (letter.key, letter.value, dict(letter.headers)["origin"]) == (b"bad", b"not JSON", b"here")
        assert again.terminate() == 0
