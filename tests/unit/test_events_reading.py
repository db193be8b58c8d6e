"""What each kind of message says: real shapes, and everything that is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.events import cloudevents, gcs, s3, webhook
from pipeline.events.landed import Ignored, ObjectLanded, Read, Unreadable
from tests.messages import (
    GENERATION,
    VERSION,
    ceph,
    event_bridge,
    eventarc_headers,
    gcs_attributes,
    minio,
    pushed,
    resource,
    s3_event,
    s3_record,
    s3_test_event,
    seaweedfs,
    sns,
    structured,
)

BUCKET = "quarantine"
KEY = "drop/acme/Rechnung März + 100 %25.pdf"
AT = datetime(2026, 3, 1, 12, 30, 45, 678000, UTC)


def one(read: Read, body: bytes, attributes: Mapping[str, str] | None = None) -> Any:
    """The only result."""
    [result] = read(body, attributes or {})
    return result


def places(read: Read, body: bytes, attributes: Mapping[str, str] | None = None) -> list[tuple[str, str, str | None]]:
    """Where to look, for each result, all of which must be of use."""
    results = read(body, attributes or {})
    assert all(isinstance(result, ObjectLanded) for result in results), results
    return [(each.bucket, each.key, each.version) for each in results if isinstance(each, ObjectLanded)]


# --- S3 -----------------------------------------------------------------------------------------------------------


def test_s3_itself() -> None:
    assert one(s3.read, s3_event(BUCKET, KEY, version=VERSION)) == ObjectLanded(
        BUCKET, KEY, VERSION, 1024, AT, "0055AED6DCD90281E5", "s3"
    )


@pytest.mark.parametrize("version", ["null", "", None, 7])
def test_a_bucket_without_versions(version: Any) -> None:
    assert places(s3.read, s3_event(BUCKET, KEY, version=version)) == [(BUCKET, KEY, None)]


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("red+flower.jpg", "red flower.jpg"),
        ("red%2Bflower.jpg", "red+flower.jpg"),
        ("a%2Fb/c", "a/b/c"),
        ("100%25", "100%"),
        ("100%", "100%"),
        ("%E4%BD%A0%E5%A5%BD", "你好"),
        ("f%C3%BCr", "für"),
        ("für", "für"),
        ("a%0Ab", "a\nb"),
        ("..%2F..%2Fetc", "../../etc"),
    ],
)
def test_keys_are_decoded(written: str, key: str) -> None:
    assert places(s3.read, s3_event(BUCKET, "", details={"key": written})) == [(BUCKET, key, None)]


@pytest.mark.parametrize("wrap", [lambda body: body, sns, lambda body: sns(sns(body))])
def test_envelopes(wrap: Callable[[bytes], bytes]) -> None:
    assert places(s3.read, wrap(s3_event(BUCKET, KEY))) == [(BUCKET, KEY, None)]
    assert places(s3.read, wrap(event_bridge(BUCKET, KEY, version=VERSION))) == [(BUCKET, KEY, VERSION)]
    assert isinstance(one(s3.read, wrap(s3_test_event())), Ignored)


def test_an_envelope_without_end_is_not_followed() -> None:
    body = s3_event(BUCKET, KEY)
    for _ in range(6):
        body = sns(body)
    assert isinstance(one(s3.read, body), Unreadable)


def test_event_bridge_has_raw_keys() -> None:
    assert one(s3.read, event_bridge(BUCKET, KEY, version=VERSION)) == ObjectLanded(
        BUCKET, KEY, VERSION, 5, AT.replace(microsecond=0), "617f08299329d189", "eventbridge"
    )


@pytest.mark.parametrize(
    "body",
    [
        *(
            s3_event(BUCKET, KEY, eventName=name)
            for name in (
                "ObjectRemoved:Delete",
                "ObjectRemoved:DeleteMarkerCreated",
                "s3:ObjectRemoved:Delete",
                "ObjectRestore:Completed",
                "LifecycleExpiration:Delete",
                "ObjectTagging:Put",
                "ObjectAcl:Put",
                "ReducedRedundancyLostObject",
                "s3:ObjectCreated:PutRetention",
                "s3:ObjectCreated:PutTagging",
                "ObjectSynced:Delete",
            )
        ),
        event_bridge(BUCKET, KEY, **{"detail-type": "Object Deleted"}),
        event_bridge(BUCKET, KEY, **{"detail-type": "Object Tags Added"}),
        event_bridge(BUCKET, KEY, source="aws.ec2"),
        s3_test_event(),
        s3_event(BUCKET, "drop/acme/folder/", details={"size": 0}),
        event_bridge(BUCKET, "drop/", detail={"bucket": {"name": BUCKET}, "object": {"key": "drop/", "size": 0}}),
        json.dumps({"Type": "SubscriptionConfirmation", "Token": "x", "Message": "You have chosen"}).encode(),
    ],
)
def test_what_asks_for_nothing(body: bytes) -> None:
    assert isinstance(one(s3.read, body), Ignored)


@pytest.mark.parametrize("kind", ["Put", "Post", "Copy", "CompleteMultipartUpload"])
def test_every_way_an_object_is_made(kind: str) -> None:
    assert places(s3.read, s3_event(BUCKET, KEY, eventName=f"ObjectCreated:{kind}"))


def test_a_key_that_ends_like_a_folder_but_has_bytes_is_an_object() -> None:
    assert places(s3.read, s3_event(BUCKET, "odd/")) == [(BUCKET, "odd/", None)]


def test_records_are_read_each_by_itself() -> None:
    records = [
        s3_record(BUCKET, "a"),
        s3_record(BUCKET, "b", eventName="ObjectRemoved:Delete"),
        "nonsense",
        s3_record("other", "c"),
        s3_record(BUCKET, "", details={"key": "%ff"}),
    ]
    results = s3.read(json.dumps({"Records": records}).encode(), {})
    kinds = [type(result) for result in results]
    assert kinds == [ObjectLanded, Ignored, Unreadable, ObjectLanded, Unreadable]


UNREADABLE: list[object] = [
    {},
    [],
    None,
    7,
    "text",
    {"Records": []},
    {"Records": {}},
    {"Records": [s3_record(BUCKET, "k")] * 1001},
    {"Records": [{**s3_record(BUCKET, "k"), "eventName": None}]},
    {"Records": [{**s3_record(BUCKET, "k"), "s3": []}]},
    {"Records": [s3_record(BUCKET, "k" * 1025)]},
    {"Records": [s3_record("b" * 300, "k")]},
    {"Records": [s3_record(BUCKET, "k", version="v" * 1025)]},
    {"Records": [s3_record(BUCKET, "a\0b")]},
    {"Records": [s3_record(BUCKET, "", details={"key": "\ud800"})]},
    {"Records": [s3_record(BUCKET, "", details={"key": ""})]},
    {"Records": [s3_record(BUCKET, "", details={"key": ["k"]})]},
    {"Type": "Notification"},
    {"Type": "Notification", "Message": "plain words"},
    {"Type": "Notification", "Message": 7},
    {"detail-type": "Object Created", "source": "aws.s3"},
    {"detail-type": "Object Created", "source": "aws.s3", "detail": {"bucket": {"name": BUCKET}, "object": {}}},
]


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_nobody_can_read(value: object) -> None:
    results = s3.read(json.dumps(value).encode(), {})
    assert results
    assert all(isinstance(result, Unreadable) for result in results)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"NaN",
        b"[" * 200_000,
        b'{"Records":' * 100_000,
        b'{"Records": [{"eventName": ' + b"9" * 10_000 + b"}]}",
        s3_event(BUCKET, KEY) + b" " * (1 << 20),
    ],
)
def test_bytes_that_are_no_message(body: bytes) -> None:
    assert isinstance(one(s3.read, body), Unreadable)


@pytest.mark.parametrize(
    ("field", "value"), [("size", -1), ("size", 1 << 63), ("size", 1.5), ("size", True), ("size", [])]
)
def test_a_hint_that_is_none_is_left_out(field: str, value: Any) -> None:
    assert one(s3.read, s3_event(BUCKET, KEY, details={field: value})).size is None


@pytest.mark.parametrize("at", ["yesterday", "2026-03-01T12:30:45", "0001-01-01T00:00:00+23:59", 7, "2" * 100])
def test_a_time_that_is_none_is_left_out(at: Any) -> None:
    assert one(s3.read, s3_event(BUCKET, KEY, eventTime=at)).at is None


# --- Cloud Storage by way of Pub/Sub ------------------------------------------------------------------------------

RESOURCE = json.dumps(resource(BUCKET, KEY)).encode()
ATTRIBUTES = gcs_attributes(BUCKET, KEY)
LANDED = ObjectLanded(BUCKET, KEY, GENERATION, 352, AT.replace(microsecond=678901), None, "gcs")


def test_cloud_storage_itself() -> None:
    assert one(gcs.read, RESOURCE, ATTRIBUTES) == LANDED


def test_cloud_storage_without_payload() -> None:
    found = one(gcs.read, b"", gcs_attributes(BUCKET, KEY, payloadFormat="NONE"))
    assert (found.bucket, found.key, found.version, found.size) == (BUCKET, KEY, GENERATION, None)


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b'"x"'])
def test_the_attributes_are_enough(data: bytes) -> None:
    assert places(gcs.read, data, ATTRIBUTES) == [(BUCKET, KEY, GENERATION)]


@pytest.mark.parametrize("kind", ["OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE", "", "anything"])
def test_other_things_that_happen_to_objects(kind: str) -> None:
    assert isinstance(one(gcs.read, RESOURCE, gcs_attributes(BUCKET, KEY, eventType=kind)), Ignored)


def test_a_push_with_and_without_its_wrapper() -> None:
    assert one(gcs.read_push, pushed(RESOURCE, ATTRIBUTES)) == LANDED
    assert one(gcs.read_push, pushed(b"", ATTRIBUTES)).key == KEY
    headers = {name.lower(): value for name, value in ATTRIBUTES.items()}
    assert one(gcs.read_push, RESOURCE, headers) == LANDED
    assert one(gcs.read_push, b"", headers).key == KEY
    # Without metadata only the object's resource is left: the store will know whether it is there.
    assert places(gcs.read_push, RESOURCE) == [(BUCKET, KEY, GENERATION)]


@pytest.mark.parametrize(
    ("data", "attributes"),
    [
        (b"", {}),
        (b"{}", {}),
        (b"hello", {}),
        (b"", {"eventType": "OBJECT_FINALIZE"}),
        (b"{}", {"eventType": "OBJECT_FINALIZE", "bucketId": BUCKET}),
        (b"", gcs_attributes(BUCKET, "\ud800")),
    ],
)
def test_pubsub_messages_that_nobody_can_read(data: bytes, attributes: dict[str, str]) -> None:
    assert isinstance(one(gcs.read, data, attributes), Unreadable)
    if "\ud800" not in str(attributes):
        assert isinstance(one(gcs.read_push, pushed(data, attributes)), Unreadable)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"message": 7}',
        b'{"message": {"data": "%%%"}}',
        b'{"message": {"data": 7}}',
        b'{"message": {"attributes": [1]}}',
        '{"message": {"data": "ü"}}'.encode(),
    ],
)
def test_pushes_that_nobody_can_read(body: bytes) -> None:
    assert isinstance(one(gcs.read_push, body), Unreadable)


# --- CloudEvents --------------------------------------------------------------------------------------------------

JSON = {"content-type": "application/cloudevents+json; charset=utf-8"}


def test_eventarc_in_binary_mode() -> None:
    assert one(cloudevents.read, RESOURCE, eventarc_headers(BUCKET, KEY)) == LANDED


def test_eventarc_in_structured_mode() -> None:
    assert one(cloudevents.read, structured(BUCKET, KEY), JSON) == LANDED
    packed = structured(BUCKET, KEY, data=None, data_base64=base64.b64encode(RESOURCE).decode())
    assert one(cloudevents.read, packed, JSON) == LANDED
    assert one(cloudevents.read, structured(BUCKET, KEY, data=RESOURCE.decode())) == LANDED


def test_a_batch_of_events() -> None:
    batch = [json.loads(structured(BUCKET, key)) for key in ("a", "b")]
    body = json.dumps([*batch, 7]).encode()
    results = cloudevents.read(body, {"content-type": "application/cloudevents-batch+json"})
    assert [type(result) for result in results] == [ObjectLanded, ObjectLanded, Unreadable]
    assert isinstance(one(cloudevents.read, b"[]", {"content-type": "application/cloudevents-batch+json"}), Ignored)


def test_an_event_without_data_has_its_subject() -> None:
    assert places(cloudevents.read, b"", eventarc_headers(BUCKET, "a.pdf")) == [(BUCKET, "a.pdf", None)]


def test_a_pubsub_trigger() -> None:
    headers = eventarc_headers(BUCKET, KEY, **{"ce-type": "google.cloud.pubsub.topic.v1.messagePublished"})
    assert one(cloudevents.read, pushed(RESOURCE, ATTRIBUTES), headers) == LANDED


@pytest.mark.parametrize(
    "kind",
    [
        "google.cloud.storage.object.v1.deleted",
        "google.cloud.storage.object.v1.archived",
        "google.cloud.storage.object.v1.metadataUpdated",
        "google.cloud.audit.log.v1.written",
        "com.example.anything",
    ],
)
def test_other_events(kind: str) -> None:
    assert isinstance(one(cloudevents.read, b"{}", eventarc_headers(BUCKET, KEY, **{"ce-type": kind})), Ignored)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"{}", JSON),
        (b"[]", JSON),
        (b"{", JSON),
        (b"{}", {"content-type": "application/cloudevents-batch+json"}),
        (b"[7]", {"content-type": "application/cloudevents-batch+json"}),
        (b"not json", eventarc_headers(BUCKET, KEY)),
        (b"[]", eventarc_headers(BUCKET, KEY)),
        (b"{}", eventarc_headers(BUCKET, "x", **{"ce-subject": "x"})),
        (structured(BUCKET, KEY, data=None, data_base64="%"), JSON),
        (structured(BUCKET, KEY, data="{"), JSON),
        (structured(BUCKET, KEY, specversion=1), JSON),
    ],
)
def test_events_that_nobody_can_read(body: bytes, headers: dict[str, str]) -> None:
    assert isinstance(one(cloudevents.read, body, headers), Unreadable)


# --- Webhooks of one's own servers --------------------------------------------------------------------------------


def test_minio() -> None:
    assert places(webhook.read, minio(BUCKET, KEY, version=VERSION)) == [(BUCKET, KEY, VERSION)]
    assert isinstance(one(webhook.read, minio(BUCKET, KEY).replace(b"ObjectCreated", b"ObjectRemoved")), Ignored)


def test_ceph_sends_raw_keys() -> None:
    assert places(webhook.read, ceph(BUCKET, "a/b.pdf", version=VERSION)) == [(BUCKET, "a/b.pdf", VERSION)]
    # Should some version encode them after all, the other name is tried too.
    assert places(webhook.read, ceph(BUCKET, "a+b%20c")) == [(BUCKET, "a+b%20c", None), (BUCKET, "a b c", None)]


def test_event_bridge_by_an_api_destination() -> None:
    assert places(webhook.read, event_bridge(BUCKET, KEY)) == [(BUCKET, KEY, None)]


def test_seaweedfs() -> None:
    found = one(webhook.read, seaweedfs(f"/buckets/{BUCKET}/{KEY}"))
    assert found == ObjectLanded(BUCKET, KEY, None, 5, None, None, "seaweedfs")
    path = f"/buckets/{BUCKET}/k/v.txt.versions/v_6714161bff184582"
    assert places(webhook.read, seaweedfs(path, version="6714161bff184582")) == [
        (BUCKET, "k/v.txt", "6714161bff184582")
    ]
    # A renamed file lies in its new folder; somebody's own folder may be named as those of versions are.
    moved = json.loads(seaweedfs(f"/buckets/{BUCKET}/new/a"))
    moved |= {"key": f"/buckets/{BUCKET}/old/a", "event_type": "rename"}
    assert places(webhook.read, json.dumps(moved).encode()) == [(BUCKET, "new/a", None)]
    assert places(webhook.read, seaweedfs(f"/buckets/{BUCKET}/x.versions/v_1")) == [(BUCKET, "x.versions/v_1", None)]


@pytest.mark.parametrize(
    "body",
    [
        seaweedfs(f"/buckets/{BUCKET}/.uploads/841e_dec/0001_f0.part"),
        seaweedfs("/buckets/.system/owners/admin"),
        seaweedfs("/etc/seaweedfs/filer.conf"),
        seaweedfs("/buckets/plain"),
        seaweedfs(f"/buckets/{BUCKET}/folder", new_entry={"name": "folder", "is_directory": True}),
        seaweedfs(f"/buckets/{BUCKET}/gone", new_entry=None, old_entry={"name": "gone"}),
        seaweedfs(
            f"/buckets/{BUCKET}/k.versions/v_1",
            new_entry={"name": "v_1", "extended": {"Seaweed-X-Amz-Delete-Marker": "dHJ1ZQ=="}},
        ),
    ],
)
def test_what_the_filer_tells_that_is_no_object(body: bytes) -> None:
    assert isinstance(one(webhook.read, body), Ignored)


@pytest.mark.parametrize(
    "body",
    [
        b'{"event_type": "create", "message": {"new_entry": {}}}',
        b'{"event_type": "create", "message": []}',
        b'{"event_type": "create", "message": {"new_entry": 7}}',
        b'{"event_type": "create", "message": {"new_entry": {"extended": 7}}}',
        b'{"event_type": "create", "message": {"new_entry": {"attributes": 7}}, "key": "/buckets/a/b"}',
        b"{}",
    ],
)
def test_filer_messages_that_nobody_can_read(body: bytes) -> None:
    assert isinstance(one(webhook.read, body), Unreadable)


# --- Anything at all ----------------------------------------------------------------------------------------------

READERS: dict[str, Read] = {
    "s3": s3.read,
    "gcs": gcs.read,
    "push": gcs.read_push,
    "cloudevents": cloudevents.read,
    "webhook": webhook.read,
}
REAL = [
    s3_event(BUCKET, KEY, version=VERSION),
    sns(s3_event(BUCKET, KEY)),
    event_bridge(BUCKET, KEY),
    pushed(RESOURCE, ATTRIBUTES),
    RESOURCE,
    structured(BUCKET, KEY),
    minio(BUCKET, KEY),
    ceph(BUCKET, KEY),
    seaweedfs(f"/buckets/{BUCKET}/k.versions/v_1", version="1"),
]
HEADERS = [{}, ATTRIBUTES, eventarc_headers(BUCKET, KEY), JSON]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["null", "%ff", "a\0b"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def check(body: bytes, attributes: Mapping[str, str]) -> None:
    """Whatever comes in, something of use comes out: never an exception, never nothing."""
    for name, read in READERS.items():
        results = read(body, attributes)
        assert results, name
        for result in results:
            if isinstance(result, ObjectLanded):
                assert 0 < len(result.key.encode()) <= 1024
                assert "\0" not in result.bucket + result.key + (result.version or "")
                assert result.at is None or result.at.tzinfo is UTC
            else:
                assert isinstance(result, Ignored | Unreadable)
                assert result.why


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from(HEADERS) | st.dictionaries(st.text(), st.text()))
@example(b"", {})
def test_any_bytes(body: bytes, attributes: Mapping[str, str]) -> None:
    check(body, attributes)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from(HEADERS))
def test_any_json(value: object, attributes: Mapping[str, str]) -> None:
    check(json.dumps(value).encode("utf-8", "surrogatepass"), attributes)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from paths_of(inner, (*path, name))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real message with one part of it replaced or taken out."""
    value = json.loads(draw(st.sampled_from(REAL)))
    path = draw(st.sampled_from(sorted(paths_of(value), key=str)))
    new = draw(VALUES)
    if not path:
        return json.dumps(new).encode()
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    if draw(st.booleans()):
        inner[path[-1]] = new
    else:
        del inner[path[-1]]
    return json.dumps(value).encode()


@settings(max_examples=300, deadline=None)
@given(mutated(), st.sampled_from(HEADERS))
def test_real_messages_with_a_part_that_is_wrong(body: bytes, attributes: Mapping[str, str]) -> None:
    check(body, attributes)


@settings(max_examples=100, deadline=None)
@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(lambda k: "\0" not in k)
)
def test_every_key_comes_through_every_way(key: str) -> None:
    if len(key.encode()) > 1024 or key.endswith("/"):
        return
    wanted = (BUCKET, key, None)
    for body in (s3_event(BUCKET, key), sns(s3_event(BUCKET, key)), event_bridge(BUCKET, key), minio(BUCKET, key)):
        assert places(webhook.read, body) == [wanted]
    assert wanted in places(webhook.read, ceph(BUCKET, key))
    generation = (BUCKET, key, GENERATION)
    assert places(gcs.read_push, pushed(b"", gcs_attributes(BUCKET, key))) == [generation]
    assert places(cloudevents.read, structured(BUCKET, key), JSON) == [generation]
