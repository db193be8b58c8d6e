"""What one tenant may have at once, asked by many requests at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.documents import UploadMethod
from pipeline.errors import QuotaExceeded
from pipeline.states import State
from pipeline.uploads import give_up, new_upload, record
from tests.integration.api_server import POLICY, Api, serving


def policy_in(folder: Path, quota: str) -> Path:
    path = folder / "quota.toml"
    path.write_text(POLICY.read_text() + f"\n[quota]\n{quota}\n")
    return path


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    policy = policy_in(tmp_path, "open_uploads = 7\ndocuments = 9\nbytes = 5000")
    with serving(tmp_path, policy_file=policy) as server:
        yield server


def open_one(api: Api, size: int | None = 10) -> object:
    upload = new_upload(
        api.services,
        api.tenant,
        UploadMethod.TUS,
        name="a.pdf",
        declared_type="application/pdf",
        size=size,
        correlation_id="test",
    )
    return record(upload, api.services)


@pytest.mark.asvs("5.2.4")
def test_a_hundred_uploads_at_once_never_pass_the_quota(api: Api) -> None:
    def send(number: int) -> int:
        with api.make_client() as client:
            return client.post("/v1/documents", content=f"text {number}\n", params={"name": "a.txt"}).status_code

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(100)))
    assert sorted(set(answers)) == [202, 429]
    assert answers.count(202) == 9
    assert len(api.documents()) == 9
    assert len(api.objects()) == 9  # what was refused left nothing


@pytest.mark.asvs("5.2.4")
def test_uploads_that_are_open_count_and_are_given_back_when_they_end(api: Api) -> None:
    def attempt(_: int) -> object:
        try:
            return open_one(api)
        except QuotaExceeded as exc:
            return exc

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(attempt, range(50)))
    opened = [one for one in found if not isinstance(one, QuotaExceeded)]
    assert len(opened) == 7
    assert give_up(opened[0], api.services)  # type: ignore[arg-type]
    assert not give_up(opened[0], api.services)  # type: ignore[arg-type]  # once
    open_one(api)
    with pytest.raises(QuotaExceeded):
        open_one(api)


def test_announced_bytes_count_like_stored_ones(api: Api) -> None:
    open_one(api, 4900)
    answer = api.client.post("/v1/documents", content=b"x" * 200, params={"name": "a.txt"})
    assert answer.status_code == 429
    problem = answer.json()
    assert problem["type"] == "/problems/quota-exceeded"
    assert problem["limit"] == {"name": "bytes", "value": 5000}
    assert answer.headers["Retry-After"] == "60"
    assert api.client.post("/v1/documents", content=b"x" * 50, params={"name": "a.txt"}).status_code == 202


@pytest.mark.asvs("5.2.4")
def test_bytes_of_an_upload_that_says_no_length_count_as_they_come(api: Api) -> None:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Defer-Length": "1"}
    chunk = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    urls = [api.client.post("/v1/uploads/tus", headers=headers).headers["Location"] for _ in range(3)]

    def send(url: str, offset: int, size: int) -> int:
        return api.client.patch(url, content=b"x" * size, headers=chunk | {"Upload-Offset": str(offset)}).status_code

    assert [send(url, 0, 2000) for url in urls] == [204, 204, 429]
    assert api.client.head(urls[2], headers=headers).headers["Upload-Offset"] == "0"
    assert [send(urls[0], 2000, 1000), send(urls[0], 3000, 1)] == [204, 429]
    assert api.client.delete(urls[1], headers=headers).status_code == 204
    assert send(urls[2], 0, 2000) == 204


def test_another_tenant_has_a_quota_of_its_own(api: Api) -> None:
    for _ in range(9):
        api.client.post("/v1/documents", content=b"text\n", params={"name": "a.txt"})
    assert api.client.post("/v1/documents", content=b"text\n").status_code == 429
    other = api.as_tenant("other")
    assert other.client.post("/v1/documents", content=b"text\n").status_code == 202
    other.client.close()


def test_what_is_deleted_counts_no_more(api: Api) -> None:
    for _ in range(9):
        api.client.post("/v1/documents", content=b"text\n", params={"name": "a.txt"})
    first = api.documents()[0]["id"]
    assert api.client.delete(f"/v1/documents/{first}").status_code == 204
    assert api.client.post("/v1/documents", content=b"text\n").status_code == 202
    assert sum(one["state"] != State.DELETED for one in api.documents()) == 9


def test_an_upload_that_fills_the_quota_can_be_finished(api: Api) -> None:
    for _ in range(8):
        assert api.client.post("/v1/documents", content=b"text\n", params={"name": "a.txt"}).status_code == 202
    tus = {"Tus-Resumable": "1.0.0"}
    begun = api.client.post("/v1/uploads/tus", headers={**tus, "Upload-Length": "10"})
    assert begun.status_code == 201
    assert api.client.post("/v1/documents", content=b"text\n").status_code == 429
    sent = {**tus, "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    answer = api.client.patch(begun.headers["Location"], headers=sent, content=b"some,text\n")
    assert answer.status_code == 204, answer.text
    assert "Airlock-Document" in answer.headers
