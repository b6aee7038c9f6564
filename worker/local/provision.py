"""Make the vector bucket and the index that a local stack writes to: `python -m worker.local.provision`.

What is there already is left as it is, so it may run at every start. Credentials come from OSS_ACCESS_KEY_ID,
OSS_ACCESS_KEY_SECRET and, if set, OSS_SESSION_TOKEN.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import alibabacloud_oss_v2 as sdk
import alibabacloud_oss_v2.vectors as sdk_vectors
import click

from worker.errors import SettingsError
from worker.local.client import Client
from worker.settings.tables import Oss

READY_SECONDS: Final = 60.0  # for a new index to take writes
_CHECK_SECONDS: Final = 0.2
_TRIES: Final = 5  # of each request that the service or the network fails
_CONFLICT: Final = 409


class ProvisionError(Exception):
    """The bucket or the index cannot be had as asked for; the message says why."""


def provision(
    *,
    endpoint: str,
    region: str,
    account_id: str,
    bucket: str,
    index: str,
    dimension: int,
    distance_metric: str,
    access_key_id: str,
    access_key_secret: str,
    session_token: str = "",
) -> list[str]:
    """Make bucket and index where they are not there, and wait until the index takes writes.

    `endpoint` is `http://host:port`, `dimension` the count of numbers in a vector, `distance_metric` "cosine" or
    "euclidean". Returns what was made: `bucket`, `index`, both or neither. Raises `ProvisionError`, also where an index
    of the name has another dimension or metric.
    """
    credentials = {"OSS_ACCESS_KEY_ID": access_key_id, "OSS_ACCESS_KEY_SECRET": access_key_secret}
    if session_token:
        credentials["OSS_SESSION_TOKEN"] = session_token
    client = _connect(Oss(region=region, bucket=bucket, account_id=account_id, endpoint=endpoint), credentials)
    models = sdk_vectors.models
    new_index = models.PutVectorIndexRequest(
        bucket=bucket, index_name=index, data_type="float32", dimension=dimension, distance_metric=distance_metric
    )
    wanted = models.GetVectorIndexRequest(bucket=bucket, index_name=index)
    try:
        made = []
        if _make(lambda: client.sdk.put_vector_bucket(models.PutVectorBucketRequest(bucket=bucket))):
            made.append("bucket")
        if _make(lambda: client.sdk.put_vector_index(new_index)):
            made.append("index")
        _wait_until_ready(
            lambda: _retried(lambda: client.sdk.get_vector_index(wanted)).index, dimension, distance_metric
        )
    except sdk.exceptions.OperationError as error:
        raise ProvisionError(_reason(error)) from None
    finally:
        client.close()
    return made


def _connect(settings: Oss, credentials: Mapping[str, str]) -> Client:
    try:
        return Client(settings, credentials)
    except SettingsError as error:
        raise ProvisionError("; ".join(error.mistakes)) from None


def _make(request: Callable[[], Any]) -> bool:
    """Send a request that makes something; False where it was there already."""
    try:
        _retried(request)
    except sdk.exceptions.OperationError as error:
        if _status(error) == _CONFLICT:
            return False
        raise
    return True


def _retried(request: Callable[[], Any]) -> Any:
    """Send a request again while the service or the network fails it: the service may be starting beside us."""
    for number in range(1, _TRIES):
        try:
            return request()
        except sdk.exceptions.OperationError as error:
            status = _status(error)
            if status is not None and status < 500 and status != 429:
                raise
            time.sleep(_CHECK_SECONDS * number)
    return request()


def _wait_until_ready(describe: Callable[[], Mapping[str, Any]], dimension: int, distance_metric: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        index = describe()
        found = (int(index["dimension"]), index["distanceMetric"])
        if found != (dimension, distance_metric):
            raise ProvisionError(
                f"the index is there with dimension {found[0]} and metric {found[1]}, "
                f"not with {dimension} and {distance_metric}; choose another name or delete it"
            )
        if index.get("status", "enable") == "enable":
            return
        if time.monotonic() > deadline:
            raise ProvisionError(f"the index is {index['status']!r} after {READY_SECONDS:.0f} s")
        time.sleep(_CHECK_SECONDS)


def _status(error: Any) -> int | None:
    cause = error.unwrap()
    return int(cause.status_code) if isinstance(cause, sdk.exceptions.ServiceError) else None


def _reason(error: Any) -> str:
    cause = error.unwrap()
    if isinstance(cause, sdk.exceptions.ServiceError):
        return f"{cause.status_code} {cause.code}: {cause.message}"
    return " ".join(str(cause).split())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--endpoint", required=True, help="The service, http://host:port.")
@click.option("--region", default="cn-hangzhou", show_default=True)
@click.option("--bucket", required=True)
@click.option("--account-id", required=True, help="The account that owns the bucket.")
@click.option("--index", required=True)
@click.option("--dimension", type=click.IntRange(1, 4096), required=True, help="Numbers in a vector.")
@click.option("--distance-metric", type=click.Choice(["cosine", "euclidean"]), default="cosine", show_default=True)
def main(
    endpoint: str, region: str, bucket: str, account_id: str, index: str, dimension: int, distance_metric: str
) -> None:
    """Make a vector bucket and an index where they are not there."""
    try:
        made = provision(
            endpoint=endpoint,
            region=region,
            account_id=account_id,
            bucket=bucket,
            index=index,
            dimension=dimension,
            distance_metric=distance_metric,
            access_key_id=os.environ.get("OSS_ACCESS_KEY_ID", ""),
            access_key_secret=os.environ.get("OSS_ACCESS_KEY_SECRET", ""),
            session_token=os.environ.get("OSS_SESSION_TOKEN", ""),
        )
    except ProvisionError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(f"bucket {bucket}, index {index}: {' and '.join(made) + ' made' if made else 'there already'}")


if __name__ == "__main__":
    main()
