"""The stack on one machine: Apache Kafka, the OSS vector service's emulator, and the demo that runs them.

Nothing here is needed in production; it installs with the extra `demo`.
"""
