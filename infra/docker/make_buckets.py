"""Make the buckets that are named and missing: `make_buckets.py NAME ...`."""

import sys
import time

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError

_WAIT_S = 60.0
_MISSING = ("404", "NoSuchBucket")


def make(s3, bucket: str) -> bool:
    """Whether the bucket had to be made; raises `ClientError` for one that cannot be looked at or made."""
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _MISSING:
            raise
        s3.create_bucket(Bucket=bucket)
        return True
    return False


def main(buckets: list[str]) -> None:
    """Make the buckets; an object store that does not answer yet is waited for, a minute at most."""
    deadline = time.monotonic() + _WAIT_S
    for bucket in buckets:
        while True:
            try:
                print(f"bucket {bucket}: {'made' if make(boto3.client('s3'), bucket) else 'there'}", flush=True)
                break
            except EndpointConnectionError as error:
                if time.monotonic() > deadline:
                    sys.exit(f"error: no object store answers after {_WAIT_S:.0f} s: {error}")
                time.sleep(1)
            except ClientError as error:
                sys.exit(f"error: bucket {bucket}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
