"""Files that go to the bucket itself, by what people have: Uppy, a page without a library, curl, Google's library."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from google.cloud.storage._media.requests import ResumableUpload

from pipeline.storage.keys import parse
from tests.e2e.clients import MIB, came, curl, made
from tests.servers.chromium import Chromium
from tests.system import System, until


def address(site: System) -> str:
    return f"http://127.0.0.1:{site.port}"


def begin(site: System, file: Path, method: str) -> dict[str, Any]:
    """What is to be done, by curl."""
    about = {"name": file.name, "size": file.stat().st_size, "type": "text/csv", "methods": [method]}
    asked = ["-H", f"Authorization: Bearer {site.key}", "-H", "Content-Type: application/json"]
    upload: dict[str, Any] = json.loads(curl(*asked, "-d", json.dumps(about), f"{address(site)}/v1/uploads"))
    assert upload["method"] == method
    return upload


def complete(site: System, upload: dict[str, Any]) -> str:
    auth = ["-H", f"Authorization: Bearer {site.key}"]
    told = json.loads(curl("-X", "POST", *auth, f"{address(site)}{upload['links']['complete']}"))
    assert told["document"]["id"] == upload["id"]
    return str(upload["id"])


@pytest.mark.parametrize(("size", "parts"), [(2 * MIB, 0), (12 * MIB, 3)], ids=["in one request", "in parts"])
@pytest.mark.parametrize("version", ["uppy5", "uppy"])
def test_uppy_s_aws_s3_plug_in(
    on_s3: System, browser: Chromium, tmp_path: Path, version: str, size: int, parts: int
) -> None:
    file = made(tmp_path / "a.csv", size)
    options = {"api": address(on_s3), "key": on_s3.key, "uppy": version, "multipart": 5 * MIB}
    answer = browser.send("uppy-s3.html", file, **options)
    assert answer["failed"] == []
    assert answer["parts"] == parts or (parts, version) == (0, "uppy5")  # which calls a single request a part
    (upload,) = answer["uploads"]
    place = parse(upload["body"]["key"])
    assert place is not None
    assert came(on_s3, str(place.document_id), file)["name"] == file.name


@pytest.mark.parametrize("version", ["uppy5", "uppy"])
def test_what_is_cancelled_in_uppy_is_gone_from_the_bucket(
    on_s3: System, browser: Chromium, tmp_path: Path, version: str
) -> None:
    file = made(tmp_path / "a.csv", 40 * MIB)
    options = {"api": address(on_s3), "key": on_s3.key, "uppy": version, "multipart": 5 * MIB}
    answer = browser.send("uppy-s3.html", file, **options, cancelAt=6 * MIB)
    assert answer["uploads"] == []
    store = on_s3.services.quarantine
    until(lambda: "Uploads" not in store.client.list_multipart_uploads(Bucket=store.bucket), "nothing is left")  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["put", "post", "multipart"])
def test_a_page_without_a_library(on_s3: System, browser: Chromium, tmp_path: Path, method: str) -> None:
    file = made(tmp_path / "a.csv", 18 * MIB)
    answer = browser.send("presigned.html", file, api=address(on_s3), key=on_s3.key, methods=[method])
    assert (answer["method"], answer["parts"] > 1) == (method, method == "multipart")
    came(on_s3, answer["id"], file)


def test_a_page_without_a_library_on_local_files(on_files: System, browser: Chromium, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 2 * MIB)
    answer = browser.send("presigned.html", file, api=address(on_files), key=on_files.key, methods=["put"])
    came(on_files, answer["id"], file)


def test_curl_puts_and_a_second_time_changes_nothing_that_is_served(anywhere: System, tmp_path: Path) -> None:
    file, other = made(tmp_path / "a.csv", 2 * MIB), made(tmp_path / "b.csv", 2 * MIB)
    upload = begin(anywhere, file, "put")
    put = ["-X", upload["put"]["method"], "-T", "{}", upload["put"]["url"]]
    for name, value in upload["put"]["headers"].items():
        put += ["-H", f"{name}: {value}"]
    curl(*(str(file) if one == "{}" else one for one in put))
    came(anywhere, complete(anywhere, upload), file)
    with contextlib.suppress(AssertionError):  # where the object is gone already, S3 takes another one; nobody reads it
        curl(*(str(other) if one == "{}" else one for one in put))
    came(anywhere, upload["id"], file)


def test_curl_posts_a_form_and_a_second_time_changes_nothing_that_is_served(on_s3: System, tmp_path: Path) -> None:
    file, other = made(tmp_path / "a.csv", 2 * MIB), made(tmp_path / "b.csv", 2 * MIB)
    upload = begin(on_s3, file, "post")
    fields = [part for name, value in upload["post"]["fields"].items() for part in ("-F", f"{name}={value}")]
    curl(*fields, "-F", f"file=@{file}", upload["post"]["url"])
    came(on_s3, complete(on_s3, upload), file)
    curl(*fields, "-F", f"file=@{other}", upload["post"]["url"])  # a form cannot be signed create-only
    came(on_s3, upload["id"], file)


def test_curl_sends_parts(on_s3: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 18 * MIB)
    upload = begin(on_s3, file, "multipart")
    size, content = upload["multipart"]["part_size"], file.read_bytes()
    for part in reversed(upload["multipart"]["parts"]):
        piece = tmp_path / f"{part['number']}.part"
        piece.write_bytes(content[(part["number"] - 1) * size : part["number"] * size])
        curl("-T", str(piece), part["url"])
    came(on_s3, complete(on_s3, upload), file)


def test_google_s_library_sends_to_a_session(on_gcs: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 3 * MIB)
    upload = begin(on_gcs, file, "session")
    with file.open("rb") as stream, requests.Session() as plain:  # the URL is enough: no credentials of Google's
        sending = ResumableUpload(upload["session"]["url"], MIB)
        # What `initiate` would have set: the library has no public way to take up a session that another one began.
        sending._resumable_url, sending._stream, sending._total_bytes = sending.upload_url, stream, file.stat().st_size
        while not sending.finished:
            sending.transmit_next_chunk(plain)
    came(on_gcs, complete(on_gcs, upload), file)
