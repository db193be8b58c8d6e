"""Messages about objects as the real services send them, with what tests need to change left open."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

GUIDE = Path("docs/events.md")
AT = "2026-03-01T12:30:45.678Z"
VERSION = "3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY"
GENERATION = "1700000000123456"


def guide(name: str) -> str:
    """A file that the guide shows."""
    found = re.search(
        rf"^<!-- file: {re.escape(name)} -->\n```\w+\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None, name
    return found[1]


def s3_record(bucket: str, key: str, **changes: Any) -> dict[str, Any]:
    """One record of Amazon S3, MinIO or Ceph."""
    details: dict[str, Any] = {
        "key": quote_plus(key, safe="/"),
        "size": 1024,
        "eTag": "d41d8cd98f00b204e9800998ecf8427e",
        "sequencer": "0055AED6DCD90281E5",
    }
    if "version" in changes:
        details["versionId"] = changes.pop("version")
    details |= changes.pop("details", {})
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-1",
        "eventTime": AT,
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "AWS:AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "airlock",
            "bucket": {
                "name": bucket,
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": f"arn:aws:s3:::{bucket}",
            },
            "object": details,
        },
        **changes,
    }


def s3_event(bucket: str, key: str, **changes: Any) -> bytes:
    """What S3 sends to a queue."""
    return json.dumps({"Records": [s3_record(bucket, key, **changes)]}).encode()


def s3_test_event(bucket: str = "quarantine") -> bytes:
    """What S3 sends when a notification is set up."""
    return json.dumps(
        {
            "Service": "Amazon S3",
            "Event": "s3:TestEvent",
            "Time": AT,
            "Bucket": bucket,
            "RequestId": "5582815E1AEA5ADF",
            "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
        }
    ).encode()


def sns(message: bytes, **changes: Any) -> bytes:
    """SNS's envelope, as SQS gets it without raw delivery."""
    envelope = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:eu-west-1:123456789012:landed",
        "Subject": "Amazon S3 Notification",
        "Message": message.decode(),
        "Timestamp": AT,
        "SignatureVersion": "1",
        "Signature": "EXAMPLEw6JRN...",
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
        "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        **changes,
    }
    return json.dumps(envelope).encode()


def event_bridge(bucket: str, key: str, **changes: Any) -> bytes:
    """EventBridge's event: here the key is raw."""
    details: dict[str, Any] = {
        "key": key,
        "size": 5,
        "etag": "b57f9512698f4b09e608f4f2a65852e5",
        "sequencer": "617f08299329d189",
    }
    if "version" in changes:
        details["version-id"] = changes.pop("version")
    event = {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "111122223333",
        "time": "2026-03-01T12:30:45Z",
        "region": "eu-west-1",
        "resources": [f"arn:aws:s3:::{bucket}"],
        "detail": {
            "version": "0",
            "bucket": {"name": bucket},
            "object": details,
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "source-ip-address": "1.2.3.4",
            "reason": "PutObject",
        },
        **changes,
    }
    return json.dumps(event).encode()


def resource(bucket: str, key: str, generation: str = GENERATION) -> dict[str, Any]:
    """An object resource of Cloud Storage's JSON API."""
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{key}/{generation}",
        "selfLink": f"https://www.googleapis.com/storage/v1/b/{bucket}/o/x",
        "name": key,
        "bucket": bucket,
        "generation": generation,
        "metageneration": "1",
        "contentType": "text/plain",
        "timeCreated": AT,
        "updated": AT,
        "storageClass": "STANDARD",
        "size": "352",
        "md5Hash": "B3kK+bNSGVMrOZwvGxrSmg==",
        "crc32c": "b7a8+g==",
        "etag": "CLDb4NTr8/sCEAE=",
    }


def gcs_attributes(bucket: str, key: str, *, generation: str = GENERATION, **changes: str) -> dict[str, str]:
    """The attributes of a notification."""
    return {
        "notificationConfig": f"projects/_/buckets/{bucket}/notificationConfigs/3",
        "eventType": "OBJECT_FINALIZE",
        "payloadFormat": "JSON_API_V1",
        "bucketId": bucket,
        "objectId": key,
        "objectGeneration": generation,
        "eventTime": "2026-03-01T12:30:45.678901Z",
        **changes,
    }


def pushed(data: bytes, attributes: dict[str, str]) -> bytes:
    """What Pub/Sub posts, wrapped."""
    return json.dumps(
        {
            "message": {
                "attributes": attributes,
                "data": base64.b64encode(data).decode(),
                "messageId": "2070443601311540",
                "message_id": "2070443601311540",
                "publishTime": AT,
                "publish_time": AT,
            },
            "subscription": "projects/acme/subscriptions/airlock",
        }
    ).encode()


def eventarc_headers(bucket: str, key: str, **changes: str) -> dict[str, str]:
    """The headers of a CloudEvent in binary mode, as Eventarc sends it for Cloud Storage."""
    return {
        "content-type": "application/json",
        "ce-id": "9897969",
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{bucket}",
        "ce-specversion": "1.0",
        "ce-type": "google.cloud.storage.object.v1.finalized",
        "ce-subject": f"objects/{key}",
        "ce-bucket": bucket,
        "ce-time": "2026-03-01T12:30:45.678901Z",
        "ce-methodname": "",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }


def structured(bucket: str, key: str, **changes: Any) -> bytes:
    """The same in structured mode."""
    event = {name.removeprefix("ce-"): value for name, value in eventarc_headers(bucket, key).items() if "ce-" in name}
    event |= {"datacontenttype": "application/json", "data": resource(bucket, key), **changes}
    return json.dumps(event).encode()


def minio(bucket: str, key: str, **changes: Any) -> bytes:
    """What MinIO posts: slashes are encoded too."""
    record = s3_record(bucket, key, eventSource="minio:s3", eventName="s3:ObjectCreated:Put", **changes)
    record["s3"]["object"]["key"] = quote_plus(key)
    record["source"] = {"host": "127.0.0.1", "port": "", "userAgent": "MinIO (linux; amd64) minio-go/v7.0.9"}
    return json.dumps({"EventName": record["eventName"], "Key": f"{bucket}/{key}", "Records": [record]}).encode()


def ceph(bucket: str, key: str, **changes: Any) -> bytes:
    """What Ceph's gateway posts: the key is raw."""
    record = s3_record(bucket, key, eventSource="ceph:s3", **changes)
    record["s3"]["object"]["key"] = key
    record["s3"]["object"] |= {"metadata": [], "tags": []}
    return json.dumps({"Records": [{**record, "eventId": "1583420054.38.d41d8", "opaqueData": ""}]}).encode()


def seaweedfs(path: str, *, version: str | None = None, **changes: Any) -> bytes:
    """What SeaweedFS's filer (4.48) posts for a file that came to be."""
    parent, _, name = path.rpartition("/")
    extended = {"Seaweed-X-Amz-ETag": "NWQ0MTQwMmFiYzRiMmE3NmI5NzE5ZDkxMTAxN2M1OTI=", "Seaweed-X-Amz-Owner": "YWRtaW4="}
    if version is not None:
        extended["Seaweed-X-Amz-Version-Id"] = base64.b64encode(version.encode()).decode()
    message = {
        "new_entry": {
            "name": name,
            "chunks": [{"size": 5, "e_tag": "XUFAKrxLKna5cZ2REBfFkg==", "fid": {"volume_id": 2, "file_key": 1}}],
            "attributes": {"file_size": 5, "mtime": 1795786041, "file_mode": 432, "crtime": 1795786041},
            "extended": extended,
        },
        "delete_chunks": True,
        "new_parent_path": parent,
        "signatures": [1299119732],
        **changes,
    }
    return json.dumps({"key": path, "event_type": "create", "message": message}).encode()
