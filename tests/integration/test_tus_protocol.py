"""tus 1.0 as its specification has it: every verb, header and answer, over a real socket."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import google_crc32c
import httpx
import pytest

from pipeline import sweeper
from pipeline.documents import UploadState
from tests.integration.api_server import Api, serving
from tests.integration.test_api_uploads import LIMIT, problem
from tests.integration.tus import CHUNK, PATH, VERSION, Tus, arrived, assert_arrived, content_of, id_of
from tests.world import EICAR


@pytest.fixture
def other(tus: Tus) -> Iterator[Tus]:
    """Somebody else's client."""
    theirs = tus.api.as_tenant(f"not-{tus.api.tenant}")
    with theirs.client:
        yield Tus(theirs)


def tus_problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    """A problem document like any other, and the version in its headers."""
    assert answer.headers["tus-resumable"] == "1.0.0"
    return problem(answer, status, code)


def encoded(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def raw_post(tus: Tus, headers: dict[str, str]) -> httpx.Response:
    """A creation whose headers are not held to ASCII."""
    return tus.api.client.post(PATH, headers=[(name.encode(), value.encode()) for name, value in headers.items()])


def digest(algorithm: str, content: bytes) -> str:
    if algorithm == "crc32c":
        raw = google_crc32c.Checksum(content).digest()  # type: ignore[no-untyped-call]
    else:
        raw = hashlib.new(algorithm, content).digest()
    return f"{algorithm} {base64.b64encode(raw).decode()}"


def test_options_say_what_is_spoken_to_anybody(api: Api) -> None:
    with api.make_client("") as anybody:
        for path in (PATH, f"{PATH}/", f"{PATH}/0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55"):
            answer = anybody.options(path)
            assert answer.status_code == 204
            assert answer.headers["tus-version"] == answer.headers["tus-resumable"] == "1.0.0"
            assert answer.headers["tus-max-size"] == str(LIMIT)
            assert answer.headers["tus-extension"] == (
                "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation"
            )
            assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256,crc32c"


@pytest.mark.parametrize("cuts", [[], [1], [5, 6], [1 << 20, 3 << 20], [(1 << 20) + 1, (4 << 20) - 1]])
def test_an_upload_in_as_many_requests_as_it_takes_becomes_a_document(tus: Tus, cuts: list[int]) -> None:
    content = content_of(4 << 20)
    url = tus.begin(len(content), Upload_Metadata=encoded(filename="a b.txt", filetype="text/plain"))
    assert tus.offset(url) == 0
    ends = [*cuts, len(content)]
    for start, end in zip([0, *cuts], ends, strict=True):
        answer = tus.patch(url, start, content[start:end])
        assert answer.status_code == 204
        assert answer.headers["upload-offset"] == str(end)
        assert tus.offset(url) == end
    assert answer.headers["airlock-document"] == str(id_of(url))
    assert answer.headers["link"] == f'</v1/documents/{id_of(url)}>; rel="related"'
    document = tus.api.client.get(f"/v1/documents/{id_of(url)}").json()
    assert (document["state"], document["via"], document["size"]) == ("received", "tus", len(content))
    assert (document["name"], document["declared_type"]) == ("a b.txt", "text/plain")
    assert tus.api.bell.rung == [id_of(url)]
    assert_arrived(url, content, tus.api.services)
    assert tus.head(url).headers["upload-offset"] == str(len(content))
    assert tus.left() == []


def test_where_an_upload_is_does_not_depend_on_what_the_request_says_of_its_host(tus: Tus) -> None:
    answer = tus.create(5, Host="evil.example", X_Forwarded_Host="evil.example", X_Forwarded_Proto="https")
    assert answer.headers["location"].startswith(f"{PATH}/")
    trailing = tus.api.client.post(f"{PATH}/", headers={**VERSION, "Upload-Length": "5"})
    assert trailing.status_code == 201
    assert trailing.headers["location"].startswith(f"{PATH}/")


def test_behind_a_prefix_that_a_proxy_takes_away(tmp_path: Path) -> None:
    with serving(tmp_path, public_url="https://files.example/airlock/") as api:
        assert Tus(api).begin(5).startswith(f"/airlock{PATH}/")


def test_head_gives_back_what_was_said(tus: Tus) -> None:
    sent = "filename cmVwb3J0LnBkZg==,is_secret,note " + base64.b64encode(b"x" * 100).decode()
    answer = tus.head(tus.begin(7, Upload_Metadata=sent))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["upload-metadata"] == sent
    assert answer.headers["upload-length"] == "7"
    assert "upload-defer-length" not in answer.headers
    expires = parsedate_to_datetime(answer.headers["upload-expires"])
    assert timedelta(hours=23) < expires - datetime.now(UTC) < timedelta(hours=25)
    assert "upload-metadata" not in tus.head(tus.begin(7, Upload_Metadata="")).headers


@pytest.mark.asvs("5.3.2")
@pytest.mark.cwe("CWE-22")
def test_a_name_is_kept_beside_the_bytes_and_never_in_a_key(tus: Tus) -> None:
    url = tus.begin(1, Upload_Metadata=encoded(filename="../../etc/é\u202e'.txt"))
    assert tus.patch(url, 0, b"x").status_code == 204
    document = arrived(url, tus.api.services)
    assert document.name == "é'.txt"
    assert document.source.key == f"standard/{tus.api.tenant}/{id_of(url)}/original"


@pytest.mark.parametrize(
    "sent",
    [
        "filename !!!",
        "filename cmVw,filename cmVw",
        "é cmVw",
        "a YQ==,",
        "a b c",
        "k " + "A" * (16 << 10),
        "sha256 YWJj",
    ],
)
def test_metadata_that_cannot_be_read(tus: Tus, sent: str) -> None:
    answer = tus.api.client.post(
        PATH, headers=[*VERSION.items(), ("Upload-Length", "1"), (b"Upload-Metadata", sent.encode())]
    )  # type: ignore[list-item]
    tus_problem(answer, 400, "malformed-request")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 400, "malformed-request"),
        ({"Upload-Length": "1", "Upload-Defer-Length": "1"}, 400, "malformed-request"),
        ({"Upload-Defer-Length": "2"}, 400, "malformed-request"),
        ({"Upload-Length": "-1"}, 400, "malformed-request"),
        ({"Upload-Length": "1e3"}, 400, "malformed-request"),
        ({"Upload-Length": "9" * 30}, 400, "malformed-request"),
        ({"Upload-Length": "0"}, 400, "empty-file"),
        ({"Upload-Length": str(LIMIT + 1)}, 413, "too-large"),
        ({"Upload-Length": "1", "Upload-Metadata": "type YXBwbGljYXRpb24vemlw"}, 415, "type-not-allowed"),
        ({"Upload-Length": "1", "Upload-Concat": "some"}, 400, "malformed-request"),
        ({"Upload-Length": "1", "Upload-Checksum": "md5 AAAA"}, 400, "malformed-request"),
        ({"Upload-Length": "1", "Idempotency-Key": "é"}, 400, "malformed-request"),
    ],
)
def test_what_could_never_pass_is_refused_before_a_byte_is_sent(
    tus: Tus, headers: dict[str, str], status: int, code: str
) -> None:
    tus_problem(raw_post(tus, {**VERSION, **headers}), status, code)
    with tus.api.services.ledger.reading() as tx:
        assert tx.open_uploads(tus.api.tenant) == (0, 0)


def test_other_versions_are_refused_with_those_that_are_spoken(tus: Tus) -> None:
    url = tus.begin(5)
    for version in ({}, {"Tus-Resumable": "0.2.2"}):
        for method, path in (("POST", PATH), ("HEAD", url), ("PATCH", url), ("DELETE", url)):
            answer = tus.api.client.request(method, path, headers=version)
            assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")
            assert answer.headers["tus-resumable"] == "1.0.0"
    tus_problem(tus.api.client.patch(url), 412, "tus-version")
    assert tus.offset(url) == 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "application/octet-stream"}, 415, "unsupported-content"),
        ({"Content-Type": ""}, 415, "unsupported-content"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported-content"),
        ({"Upload-Offset": "x"}, 400, "malformed-request"),
        ({"Upload-Offset": "-1"}, 400, "malformed-request"),
        ({"Upload-Offset": "1"}, 409, "offset-mismatch"),
        ({"Upload-Offset": "99999"}, 409, "offset-mismatch"),
        ({"Upload-Length": "6"}, 400, "malformed-request"),
        ({"Upload-Checksum": "md5 AAAA"}, 400, "malformed-request"),
        ({"Upload-Checksum": "sha1 AAAA"}, 400, "malformed-request"),
        ({"Upload-Checksum": "sha1 !!"}, 400, "malformed-request"),
        ({"Upload-Checksum": "sha1"}, 400, "malformed-request"),
    ],
)
def test_a_patch_that_is_refused_changes_nothing(tus: Tus, headers: dict[str, str], status: int, code: str) -> None:
    url = tus.begin(5)
    sent = {**VERSION, **CHUNK, "Upload-Offset": "0", **headers}
    body = tus_problem(tus.api.client.patch(url, content=b"hello", headers=sent), status, code)
    assert body.get("offset", 0) == 0
    assert tus.offset(url) == 0
    assert tus.patch(url, 0, b"hello").status_code == 204


def test_a_patch_says_where_its_bytes_belong(tus: Tus) -> None:
    url = tus.begin(5)
    answer = tus.api.client.patch(url, content=b"hello", headers={**VERSION, **CHUNK})
    tus_problem(answer, 400, "malformed-request")


@pytest.mark.asvs("8.2.2")
@pytest.mark.cwe("CWE-639")
def test_nobody_is_told_of_another_tenants_upload(tus: Tus, other: Tus) -> None:
    fresh, half, whole, over = (tus.begin(5) for _ in range(4))
    partial = tus.begin(5, Upload_Concat="partial")
    tus.patch(half, 0, b"he")
    tus.patch(whole, 0, b"hello")
    tus.patch(partial, 0, b"hello")
    tus.delete(over)
    nowhere = f"{PATH}/0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55"
    never = f"{PATH}/not-an-id"
    override = {**VERSION, **CHUNK, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    told = set()
    for url in (fresh, half, whole, partial, over, nowhere, never):
        assert other.head(url).status_code == 404
        for answer in (other.patch(url, 0, b"x"), other.delete(url), other.api.client.post(url, headers=override)):
            told.add(str(tus_problem(answer, 404, "not-found")["detail"]))
    assert told <= {"there is no such upload", "No such thing here"}
    answer = other.api.client.post(PATH, headers={**VERSION, "Upload-Concat": f"final;{partial}"})
    tus_problem(answer, 404, "not-found")
    assert [tus.offset(url) for url in (fresh, half, whole, partial)] == [0, 2, 5, 5]


def test_a_key_is_needed_for_everything_but_options(tus: Tus) -> None:
    url = tus.begin(5)
    with tus.api.make_client("") as anybody:
        for method, path in (("POST", PATH), ("HEAD", url), ("PATCH", url), ("DELETE", url), ("POST", url)):
            answer = anybody.request(method, path, headers=VERSION)
            assert answer.status_code == 401
            assert answer.headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "crc32c"])
@pytest.mark.parametrize("size", [5, (3 << 20) + 1])
def test_a_chunk_with_a_wrong_checksum_is_discarded_whole(tus: Tus, algorithm: str, size: int) -> None:
    content = content_of(2 * size)
    url = tus.begin(len(content))
    assert tus.patch(url, 0, content[:size], Upload_Checksum=digest(algorithm, content[:size])).status_code == 204
    wrong = tus.patch(url, size, b"\0" * size, Upload_Checksum=digest(algorithm, content[size:]))
    tus_problem(wrong, 460, "chunk-mismatch")
    assert tus.offset(url) == size
    assert tus.is_free(url)
    assert tus.patch(url, size, content[size:], Upload_Checksum=digest(algorithm, content[size:])).status_code == 204
    assert_arrived(url, content, tus.api.services)


def test_the_digest_of_the_whole_is_compared_before_it_is_cleared(tus: Tus) -> None:
    for declared, end in (
        (hashlib.sha256(b"hello").hexdigest().upper(), ("available", None)),
        ("0" * 64, ("rejected", "digest_mismatch")),
    ):
        url = tus.begin(5, Upload_Metadata=encoded(sha256=declared, filename="a.txt"))
        tus.patch(url, 0, b"hello")
        document = arrived(url, tus.api.services)
        assert (document.state, document.reason) == end


def test_a_tus_upload_is_scanned_like_any_other(tus: Tus) -> None:
    url = tus.begin(len(EICAR))
    tus.patch(url, 0, EICAR)
    document = arrived(url, tus.api.services)
    assert (document.state, document.reason) == ("rejected", "infected")
    assert document.served is None


def test_the_length_may_come_later_and_then_stands(tus: Tus) -> None:
    url = tus.begin(None)
    assert tus.head(url).headers["upload-defer-length"] == "1"
    assert "upload-length" not in tus.head(url).headers
    assert tus.patch(url, 0, b"hello ").headers["upload-offset"] == "6"
    for length in ("5", "0", str(LIMIT + 1)):
        assert tus.patch(url, 6, b"", Upload_Length=length).status_code in (400, 413)
        assert tus.head(url).headers["upload-defer-length"] == "1"
    assert tus.patch(url, 6, b"wor", Upload_Length="11").status_code == 204
    assert tus.head(url).headers["upload-length"] == "11"
    tus_problem(tus.patch(url, 9, b"l", Upload_Length="10"), 400, "malformed-request")
    assert tus.patch(url, 9, b"ld", Upload_Length="11").status_code == 204
    assert_arrived(url, b"hello world", tus.api.services)


def test_the_length_may_come_behind_the_last_byte(tus: Tus) -> None:
    url = tus.begin(None)
    tus.patch(url, 0, b"hello")
    answer = tus.patch(url, 5, b"", Upload_Length="5")
    assert answer.headers["airlock-document"] == str(id_of(url))
    assert_arrived(url, b"hello", tus.api.services)


@pytest.mark.asvs("5.2.1")
def test_one_of_unknown_length_goes_no_further_than_the_limit(tus: Tus) -> None:
    url = tus.begin(None)
    body = tus_problem(tus.patch(url, 0, iter([content_of(1 << 20)] * 9)), 413, "too-large")
    assert body["limit"] == {"name": "bytes", "value": LIMIT}
    assert tus.offset(url) <= LIMIT
    offset = tus.offset(url)
    tus_problem(tus.patch(url, offset, bytes(LIMIT - offset + 1)), 413, "too-large")
    assert tus.offset(url) == offset


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [5, 3 << 20])
def test_what_goes_beyond_the_length_is_refused_and_completes_nothing(tus: Tus, framing: str, size: int) -> None:
    content = content_of(size)
    url = tus.begin(size)
    longer = content + b"!"
    sent = longer if framing == "length" else iter([longer[at : at + 65536] for at in range(0, len(longer), 65536)])
    body = tus_problem(tus.patch(url, 0, sent), 413, "too-large")
    assert body["limit"] == {"name": "upload_length", "value": size}
    offset = tus.offset(url)
    assert offset < size
    assert tus.api.documents() == []
    assert tus.patch(url, offset, content[offset:]).status_code == 204
    assert_arrived(url, content, tus.api.services)


def test_a_complete_upload_takes_nothing_more(tus: Tus) -> None:
    url = tus.begin(5)
    tus.patch(url, 0, b"hello")
    tus_problem(tus.patch(url, 5, b""), 409, "conflict")
    tus_problem(tus.patch(url, 0, b"HELLO"), 409, "conflict")
    tus_problem(tus.delete(url), 409, "conflict")
    assert_arrived(url, b"hello", tus.api.services)


def test_creation_with_upload(tus: Tus) -> None:
    content = content_of(2_000_000)
    headers = {**VERSION, **CHUNK, "Upload-Length": str(len(content))}
    whole = tus.api.client.post(PATH, content=content, headers=headers)
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, str(len(content)))
    assert whole.headers["airlock-document"] == str(id_of(whole.headers["location"]))
    assert_arrived(whole.headers["location"], content, tus.api.services)
    half = tus.api.client.post(PATH, content=content[:1000], headers=headers)
    assert (half.status_code, half.headers["upload-offset"]) == (201, "1000")
    assert tus.patch(half.headers["location"], 1000, content[1000:]).status_code == 204
    assert_arrived(half.headers["location"], content, tus.api.services)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({**CHUNK, "Upload-Length": "3"}, 413, "too-large"),
        ({**CHUNK, "Upload-Length": "5", "Upload-Checksum": "sha1 " + "A" * 27 + "="}, 460, "chunk-mismatch"),
        ({"Upload-Length": "5"}, 415, "unsupported-content"),
        ({**CHUNK, "Upload-Length": "5", "Content-Encoding": "br"}, 415, "unsupported-content"),
    ],
)
def test_a_creation_whose_bytes_are_refused_leaves_nothing(
    tus: Tus, headers: dict[str, str], status: int, code: str
) -> None:
    tus_problem(tus.api.client.post(PATH, content=b"hello", headers={**VERSION, **headers}), status, code)
    with tus.api.services.ledger.reading() as tx:
        assert tx.open_uploads(tus.api.tenant) == (0, 0)
    assert tus.left() == []


def test_a_creation_sent_again_gives_the_same_upload(tus: Tus, other: Tus) -> None:
    first = tus.create(5, Idempotency_Key="once", Upload_Metadata=encoded(filename="a.txt"))
    tus.patch(first.headers["location"], 0, b"he")
    again = tus.create(5, Idempotency_Key="once", Upload_Metadata=encoded(filename="a.txt"))
    assert again.headers["location"] == first.headers["location"]
    assert (again.headers["idempotency-replayed"], again.headers["upload-offset"]) == ("true", "2")
    changed = tus.create(6, Idempotency_Key="once", Upload_Metadata=encoded(filename="a.txt"))
    tus_problem(changed, 422, "idempotency-conflict")
    foreign = other.create(5, Idempotency_Key="once")
    assert foreign.headers["location"] != first.headers["location"]


def test_an_upload_that_was_given_up_is_gone_and_leaves_nothing(tus: Tus) -> None:
    url = tus.begin(5)
    tus.patch(url, 0, b"he")
    assert tus.delete(url).status_code == 204
    assert tus.head(url).status_code == 410
    tus_problem(tus.patch(url, 2, b"llo"), 410, "upload-gone")
    tus_problem(tus.delete(url), 410, "upload-gone")
    assert tus.left() == tus.api.objects() == tus.api.documents() == []


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Tus]:
    """An API whose uploads are given up at once."""
    with serving(tmp_path, upload_seconds=0.001) as api:
        yield Tus(api)


def test_an_upload_that_nobody_goes_on_with_expires(hurried: Tus) -> None:
    url = hurried.begin(5)
    answer = hurried.patch(url, 0, b"he")
    assert parsedate_to_datetime(answer.headers["upload-expires"]) <= datetime.now(UTC) + timedelta(seconds=1)
    sweeper.sweep(hurried.api.services)
    assert hurried.upload(url).state is UploadState.EXPIRED
    assert hurried.head(url).status_code == 410
    tus_problem(hurried.patch(url, 2, b"llo"), 410, "upload-gone")
    assert hurried.left() == []


def test_another_verb_inside_a_post(tus: Tus) -> None:
    url = tus.begin(5)

    def post(meant: str, content: bytes = b"", **headers: str) -> httpx.Response:
        return tus.api.client.post(
            url, content=content, headers={**VERSION, "X-HTTP-Method-Override": meant, **headers}
        )

    assert post("HEAD").headers["upload-offset"] == "0"
    assert post("PATCH", b"he", **CHUNK, **{"Upload-Offset": "0"}).status_code == 204
    assert tus.offset(url) == 2
    answer = post("PUT")
    assert tus_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "DELETE, HEAD, OPTIONS, PATCH"
    assert post("DELETE").status_code == 204
    assert tus.head(url).status_code == 410
    assert tus.api.client.get(url, headers=VERSION).status_code == 405
