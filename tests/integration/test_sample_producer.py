"""The sample producer as a process, on a real Kafka."""

import signal
import subprocess
import sys

from kafka import KafkaConsumer, TopicPartition

from tests.support.bounded import running
from worker.local.broker import Broker

COMMAND = [sys.executable, "-m", "worker.local.sample_producer"]


def end_offset(bootstrap: str, topic: str) -> int:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    try:
        return int(consumer.end_offsets([TopicPartition(topic, 0)])[TopicPartition(topic, 0)])
    finally:
        consumer.close()


def test_a_signal_ends_it_with_everything_acknowledged(broker: Broker, topic: str) -> None:
    options = ["--bootstrap-servers", broker.bootstrap, "--topic", topic, "--rate", "400", "--broken-share", "0.05"]
    with running([*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while end_offset(broker.bootstrap, topic) < 100 and process.poll() is None:
                pass
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == f"{end_offset(broker.bootstrap, topic)} sent, all acknowledged"


def test_without_a_broker_it_ends_with_one_line() -> None:
    impatient = "from worker.local import sample_producer as s; s.BOOTSTRAP_SECONDS = 0.2; s.main()"
    command = [sys.executable, "-c", impatient, "--bootstrap-servers", "127.0.0.1:1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].startswith("error: KafkaTimeoutError")
