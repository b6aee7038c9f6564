"""Write the lock file of a Kafka version: `python -m worker.local.broker.lock 4.3.1`. For whoever changes the version."""

import sys

from jgo.env import LockFile

from worker.local.broker import jars

COORDINATES = {
    # The server alone brings no logging backend, and a failed start would say nothing. The mark `!` keeps the backend's
    # own bill of materials from choosing an older Kafka client.
    "4.3.1": ["org.apache.kafka:kafka_2.13:4.3.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!"],
    "3.9.1": ["org.apache.kafka:kafka_2.13:3.9.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!"],
    "2.8.2": ["org.apache.kafka:kafka_2.13:2.8.2", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!"],
}
"""Kafka version: what its lock file is resolved from."""


def main(version: str) -> None:
    """Resolve this version's jars, download them, and write their names and SHA-256s beside this module."""
    maven = jars.context()
    chosen, needed = maven.resolver.resolve([maven.create_dependency(name) for name in COORDINATES[version]])
    runtime = [dep for dep in needed if dep.scope in {"compile", "runtime"}]
    # A jar that two of the coordinates need is listed twice.
    found = {dep.artifact.key: dep for dep in [*chosen, *runtime]}
    LockFile.from_resolved_dependencies(list(found.values())).save(jars.lock_path(version))


if __name__ == "__main__":
    main(sys.argv[1])
