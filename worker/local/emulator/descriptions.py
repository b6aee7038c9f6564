"""How the service describes vectors, indexes and buckets in its answers."""

import datetime as dt
import time

from worker.local.emulator import rules
from worker.local.emulator.faults import Effective
from worker.local.emulator.store import Bucket, metadata_of, numbers_of


def vector(key: str, row: rules.Row, body: rules.GetVectors | rules.ListVectors) -> dict[str, object]:
    """Return a vector as far as the request asks for it."""
    found: dict[str, object] = {"key": key}
    if body.return_data:
        found["data"] = {"float32": numbers_of(row)}
    if body.return_metadata and row.metadata is not None:
        found["metadata"] = metadata_of(row)
    return found


def is_creating(index: rules.IndexConfig, limits: Effective) -> bool:
    """Return whether the index is still being made."""
    return time.time() < index.created + limits.creating_seconds


def index_description(index: rules.IndexConfig, limits: Effective) -> dict[str, object]:
    """Return an index as GetVectorIndex and ListVectorIndexes describe it."""
    description: dict[str, object] = {
        "createTime": _timestamp(index.created),
        "dataType": "float32",
        "dimension": index.dimension,
        "distanceMetric": index.distance_metric,
        "indexName": index.name,
        "status": "creating" if is_creating(index, limits) else "enable",
    }
    if index.non_filterable:
        description["metadata"] = {"nonFilterableMetadataKeys": list(index.non_filterable)}
    return description


def bucket_description(bucket: Bucket) -> dict[str, str]:
    """Return a bucket as GetVectorBucket and ListVectorBuckets describe it."""
    return {
        "CreationDate": _timestamp(bucket.created),
        "ExtranetEndpoint": f"{bucket.region}.oss-vectors.aliyuncs.com",
        "IntranetEndpoint": f"{bucket.region}-internal.oss-vectors.aliyuncs.com",
        "Location": f"oss-{bucket.region}",
        "Name": f"acs:ossvector:{bucket.region}:{bucket.account}:{bucket.name}",
        "Region": bucket.region,
        "ResourceGroupId": "",
    }


def _timestamp(seconds: float) -> str:
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
