"""Kafka consumer worker that writes vector records to Alibaba Cloud OSS vector buckets."""

from importlib.metadata import version

__version__ = version("oss-vectors-worker")
