"""What `@uppy/aws-s3` sends to its endpoint and expects of it, in versions 4 to 6, as bare requests."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.integration import test_presigned_s3 as over_s3
from tests.integration.presigned import PATH, Uploads, send, send_form
from tests.integration.test_api_uploads import LIMIT, problem
from tests.integration.test_presigned_s3 import PART, REFUSED, bucket, s3
from tests.integration.tus import assert_arrived, content_of

__all__ = ["bucket", "s3"]

BASE = f"{PATH}/uppy/s3"


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """A problem document, with the member that version 5 shows to the user."""
    body = problem(answer, status, code)
    assert body["message"] == body["detail"]
    return body


class Uppy:
    """The plug-in's requests."""

    def __init__(self, uploads: Uploads) -> None:
        self.uploads, self.client = uploads, uploads.api.client

    def params(self, **query: Any) -> httpx.Response:
        return self.client.get(f"{BASE}/params", params=query)

    def create(self, **body: Any) -> dict[str, Any]:
        answer = self.client.post(f"{BASE}/multipart", json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        assert isinstance(told["key"], str)
        assert isinstance(told["uploadId"], str)
        assert "/" not in told["uploadId"]
        return told

    def ask(self, verb: str, told: dict[str, Any], path: str = "", **more: Any) -> httpx.Response:
        """`key` is echoed in the query."""
        query = {"key": told["key"], **more.pop("params", {})}
        return self.client.request(verb, f"{BASE}/multipart/{told['uploadId']}{path}", params=query, **more)

    def sign(self, told: dict[str, Any], number: int) -> dict[str, Any]:
        answer = self.ask("GET", told, f"/{number}")
        assert answer.status_code == 200, answer.text
        signed: dict[str, Any] = answer.json()
        assert 0 < signed["expires"] <= 7200
        # Version 6 sends no header that it is told of, and a part has no type.
        return {"method": "PUT", "url": signed["url"], "headers": {}}


@pytest.fixture
def uppy(s3: Uploads) -> Uppy:
    return Uppy(s3)


@pytest.fixture
def local(uploads: Uploads) -> Uppy:
    return Uppy(uploads)


def test_one_file_by_a_form(uppy: Uppy) -> None:
    told = uppy.params(**{"filename": "a.txt", "type": "text/plain", "metadata[name]": "a.txt", "metadata[size]": "5"})
    body = told.json()
    assert (body["method"], body["document"]) == ("POST", f"/v1/documents/{body['upload']}")
    fields = {name.lower() for name in body["fields"]}
    # Version 6 throws where it finds one of these, or a key that is a pattern.
    assert not fields & {"file", "redirect", "success_action_redirect"}
    assert "$" not in body["fields"]["key"]
    post = {**body, "file_field": "file"}
    assert send_form(post, b"123456").status_code == 400
    assert send_form(post, b"12345").status_code in (200, 201, 204)
    upload = {"id": body["upload"]}
    assert uppy.uploads.completed(upload)["state"] == "quarantined"
    row = uppy.uploads.row(upload)[0]
    assert (row.name, row.declared_type, row.size) == ("a.txt", "text/plain", 5)
    assert_arrived(body["upload"], b"12345", uppy.uploads.api.services)


@pytest.mark.parametrize("unsaid", ["", "undefined", "null"])
def test_what_the_plug_in_does_not_know(uppy: Uppy, unsaid: str) -> None:
    query = {"filename": "a.txt", "type": unsaid, "metadata[type]": unsaid, "metadata[relativePath]": "null"}
    body = uppy.params(**query, **{"metadata[size]": unsaid}).json()
    assert body["fields"]["Content-Type"] == "application/octet-stream"
    assert send_form({**body, "file_field": "file"}, b"some text").status_code < 300
    assert uppy.uploads.row({"id": body["upload"]})[0].size is None
    told = uppy.create(filename="b.txt", type=unsaid, metadata={"name": "b.txt", "size": None, "relativePath": "null"})
    row = uppy.uploads.row({"id": told["uploadId"]})[0]
    assert (row.name, row.declared_type, row.size) == ("b.txt", None, None)


def test_a_file_in_parts_with_a_pause(uppy: Uppy) -> None:
    content = content_of(2 * PART + 77)
    pieces = [content[at : at + PART] for at in range(0, len(content), PART)]
    told = uppy.create(filename="a.txt", type="text/plain", metadata={"size": str(len(content))})
    assert uppy.ask("GET", told).json() == []
    tags = {}
    for number in (2, 1):
        answer = send(uppy.sign(told, number), pieces[number - 1])
        assert answer.status_code == 200
        tags[number] = answer.headers["etag"]
    listed = uppy.ask("GET", told).json()
    assert listed == [{"PartNumber": n, "Size": PART, "ETag": tags[n]} for n in (1, 2)]
    body = refused(uppy.ask("POST", told, "/complete", json={"parts": listed}), 409, "upload-incomplete")
    assert body["expected_bytes"] == len(content)
    batch = uppy.ask("GET", told, "/batch", params={"partNumbers": "3,4"}).json()["presignedUrls"]
    assert list(batch) == ["3", "4"]
    tags[3] = send({"method": "PUT", "url": batch["3"], "headers": {}}, pieces[2]).headers["etag"]
    # Version 5 gives the tags as they came, version 6 without their quotes; either may be out of order.
    parts = [{"PartNumber": n, "ETag": tag if n == 2 else tag.strip('"')} for n, tag in tags.items()]
    for _ in range(2):
        answer = uppy.ask("POST", told, "/complete", json={"parts": parts})
        assert answer.status_code == 200, answer.text
        done = answer.json()
        assert done["location"] == f"{uppy.uploads.api.services.settings.base_url}/v1/documents/{told['uploadId']}"
        assert done["key"] == told["key"]
    assert_arrived(told["uploadId"], content, uppy.uploads.api.services)


def test_cancelled(uppy: Uppy) -> None:
    told = uppy.create(filename="a.txt", type="text/plain", metadata={})
    part = uppy.sign(told, 1)
    send(part, b"x" * PART)
    answer = uppy.ask("DELETE", told)
    assert (answer.status_code, answer.json()) == (200, {})
    assert uppy.ask("DELETE", told).json() == {}
    uppy.uploads.swept()
    assert over_s3.unfinished(uppy.uploads) == []
    assert send(part, b"y" * PART).status_code in REFUSED
    refused(uppy.ask("GET", told, "/2"), 410, "upload-gone")
    refused(uppy.ask("GET", told), 410, "upload-gone")
    refused(uppy.ask("POST", told, "/complete", json={"parts": []}), 410, "upload-gone")


def test_the_key_is_ours_whatever_comes_back(uppy: Uppy) -> None:
    told, other = (uppy.create(filename="a.txt", type="", metadata={}) for _ in range(2))
    for key in (other["key"], "", "x", told["key"] + "x", f"../{told['key']}", "a" * 1024):
        for verb, path in (
            ("GET", ""), ("GET", "/1"), ("GET", "/batch?partNumbers=1"), ("POST", "/complete"), ("DELETE", ""),
        ):  # fmt: skip
            url = f"{BASE}/multipart/{told['uploadId']}{path}"
            more = {"json": {"parts": []}} if verb == "POST" else {}
            answer = uppy.client.request(
                verb, url, params=httpx.QueryParams(url.partition("?")[2]).set("key", key), **more
            )
            refused(answer, 404, "not-found")
    refused(uppy.client.get(f"{BASE}/multipart/{told['uploadId']}"), 422, "invalid-parameters")
    assert uppy.ask("GET", told).json() == []
    single = uppy.params(filename="a.txt").json()
    refused(uppy.ask("GET", {"uploadId": single["upload"], "key": single["fields"]["key"]}), 404, "not-found")


@pytest.mark.asvs("8.2.2")
def test_another_tenant_finds_nothing(uppy: Uppy) -> None:
    told = uppy.create(filename="a.txt", type="", metadata={})
    theirs = Uppy(Uploads(uppy.uploads.api.as_tenant(f"not-{uppy.uploads.api.tenant}")))
    with theirs.client:
        for upload in (told, {**told, "uploadId": str(uuid4())}):
            for verb, path in (("GET", ""), ("GET", "/1"), ("POST", "/complete"), ("DELETE", "")):
                refused(theirs.ask(verb, upload, path, json={"parts": []}), 404, "not-found")
    with uppy.uploads.api.make_client("") as nobody:
        refused(nobody.get(f"{BASE}/params"), 401, "unauthorized")
        refused(nobody.post(f"{BASE}/multipart", json={}), 401, "unauthorized")


@pytest.mark.parametrize("number", ["0", "10001", "-1", "99999999999999999999", "x", "1.5"])
def test_parts_that_there_are_not(uppy: Uppy, number: str) -> None:
    told = uppy.create(filename="a.txt", type="", metadata={})
    assert uppy.ask("GET", told, f"/{number}").status_code in (400, 404, 422)
    assert uppy.ask("GET", told, "/batch", params={"partNumbers": number}).status_code == 400
    assert uppy.ask("GET", told, "/batch", params={"partNumbers": ",".join(["1"] * 101)}).status_code == 400


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"filename": "a.zip"}, 415, "type-not-allowed"),
        ({"filename": "a.txt", "type": "application/zip"}, 415, "type-not-allowed"),
        ({"filename": "a.txt", "metadata[size]": str(over_s3.LIMIT + 1)}, 413, "too-large"),
        ({"filename": "a.txt", "metadata[size]": "0"}, 400, "empty-file"),
        ({"filename": "a.txt", "metadata[size]": "-1"}, 422, "invalid-parameters"),
        ({"filename": "a.txt", "metadata[size]": "1e3"}, 422, "invalid-parameters"),
        ({"filename": "a.txt", "metadata[sha256]": "abc"}, 422, "invalid-parameters"),
        ({"filename": "x" * 5000}, 422, "invalid-parameters"),
    ],
)
def test_what_could_never_pass(uppy: Uppy, query: dict[str, str], status: int, code: str) -> None:
    refused(uppy.params(**query), status, code)
    metadata = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[")}
    body = {"filename": query["filename"], "type": query.get("type"), "metadata": metadata}
    refused(uppy.client.post(f"{BASE}/multipart", json=body), status, code)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"filename": 5}', b'{"metadata": [1]}', b'{"metadata": {"size": {}}}']
)
def test_bodies_that_are_none(uppy: Uppy, body: bytes) -> None:
    answer = uppy.client.post(f"{BASE}/multipart", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 422), answer.text
    told = uppy.create(filename="a.txt", type="", metadata={})
    assert uppy.ask("POST", told, "/complete", content=body).status_code in (400, 409, 422)


def test_a_store_that_signs_no_forms_gives_a_put(local: Uppy) -> None:
    for query in ({"filename": "a.txt", "metadata[size]": "5"}, {"filename": "a.txt"}):
        body = local.params(**query).json()
        assert body["method"] == "PUT"
        assert body["fields"] == {"key": local.uploads.row({"id": body["upload"]})[0].key}
        assert send(body, b"12345").status_code == 201
        assert_arrived(body["upload"], b"12345", local.uploads.api.services)
    body = refused(local.params(**{"filename": "a.txt", "metadata[size]": str(LIMIT + 1)}), 413, "too-large")
    assert body["limit"]["value"] == LIMIT


def test_a_store_that_takes_no_parts_says_what_to_do(local: Uppy) -> None:
    answer = local.client.post(f"{BASE}/multipart", json={"filename": "a.txt", "metadata": {"size": 5}})
    body = refused(answer, 422, "no-such-way")
    assert "shouldUseMultipart" in body["message"]
    assert body["methods"] == ["put", "tus"]
    refused(local.ask("GET", {"uploadId": str(uuid4()), "key": "x"}), 404, "not-found")
    with local.uploads.api.services.ledger.reading() as tx:
        assert tx.open_uploads(local.uploads.api.tenant) == (0, 0)


def test_its_routes_are_told(local: Uppy) -> None:
    schema = json.dumps(local.client.get("/openapi.json").json()["paths"])
    assert f"{BASE}/multipart/{{upload_id}}/{{number}}" in schema
