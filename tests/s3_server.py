"""An S3-compatible server on this machine, with one empty bucket."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def bucket(name: str = "bucket") -> Iterator[str]:
    """The URI of a bucket, as users write it for a server that is not Amazon's."""
    from moto.server import ThreadedMotoServer

    os.environ.update(ACCOUNT)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).read()
        urlopen(Request(f"http://{host}:{port}/{name}", method="PUT")).read()
        yield f"s3://{name}/runs?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    finally:
        server.stop()
