"""Files that are put into a drop folder by what people have: boto3, the AWS command line, google-cloud-storage."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from google.cloud import storage
from google.oauth2 import service_account

from tests.e2e.clients import MIB, came, made
from tests.servers.gcs_double import GCSDouble
from tests.servers.process import missing
from tests.servers.seaweedfs import S3Server
from tests.system import System, until

FOLDER = "drop/acme/2026/11"


def taken(site: System, file: Path) -> str:
    """The id of the document that came of it, by itself."""
    with site.client() as client:

        def found() -> list[str]:
            documents = client.get("/v1/documents").raise_for_status().json()["documents"]
            return [one["id"] for one in documents if one["name"] == file.name]

        (document_id,) = until(found, "what was dropped is taken", 60)
    return str(document_id)


def arrived(site: System, file: Path) -> None:
    """It is served, and gone from where it was dropped."""
    document_id = taken(site, file)
    document = came(site, document_id, file)
    assert document["via"] == "drop"
    until(lambda: not list(site.services.quarantine.list("drop/")), "the folder is empty")


def test_boto3(on_s3: System, s3_server: S3Server, tmp_path: Path) -> None:
    file = made(tmp_path / "by-boto3.csv", 11 * MIB)
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    client.upload_file(str(file), on_s3.services.quarantine.bucket, f"{FOLDER}/{file.name}", Config=parts)
    client.close()
    arrived(on_s3, file)


def test_the_aws_command_line(on_s3: System, s3_server: S3Server, tmp_path: Path) -> None:
    # Debian's comes first: what else is on PATH is one machine's own.
    aws = shutil.which("aws", path=os.pathsep.join(["/usr/bin", os.environ["PATH"]]))
    if aws is None:
        missing("the AWS command line", "apt-get install awscli")
    file = made(tmp_path / "by-aws-s3-cp.csv", 11 * MIB)
    target = f"s3://{on_s3.services.quarantine.bucket}/{FOLDER}/"
    command = [str(aws), "--endpoint-url", s3_server.endpoint, "s3", "cp", "--no-progress", str(file), target]
    done = subprocess.run(command, env={**os.environ, **s3_server.environment()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    arrived(on_s3, file)


def test_google_cloud_storage(on_gcs: System, gcs_server: GCSDouble, tmp_path: Path) -> None:
    file = made(tmp_path / "by-google.csv", 3 * MIB)
    account = service_account.Credentials.from_service_account_file(str(gcs_server.key_file))
    client = storage.Client("tests", account, client_options={"api_endpoint": gcs_server.endpoint})
    blob = client.bucket(on_gcs.services.quarantine.bucket).blob(f"{FOLDER}/{file.name}", chunk_size=MIB)
    blob.upload_from_filename(str(file))
    client.close()
    arrived(on_gcs, file)
