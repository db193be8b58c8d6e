"""tus by the clients that people use: tus-js-client in Node and Chromium, Uppy in Chromium, tuspy, curl."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from tusclient.client import TusClient

from tests.e2e.clients import MIB, TusNode, came, curl, last, made
from tests.servers.chromium import Chromium, sending
from tests.system import System


def test_tus_js_client_in_node(anywhere: System, tmp_path: Path) -> None:
    file = made(tmp_path / "Bericht – März.csv", 12 * MIB)
    *answers, end = TusNode(anywhere, file).done()
    assert [(each["method"], each["status"]) for each in answers] == [("POST", 201), ("PATCH", 204)]
    assert end["document"] == last(end["url"])
    assert came(anywhere, end["document"], file)["name"] == file.name


def test_tus_js_client_in_pieces_and_with_its_first_bytes_at_creation(on_files: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 12 * MIB + 1)
    *answers, end = TusNode(on_files, file, chunkSize=5 * MIB, uploadDataDuringCreation=True).done()
    assert [each["offset"] for each in answers] == [5 * MIB, 10 * MIB, 12 * MIB + 1]
    came(on_files, end["document"], file)


def test_tus_js_client_sends_parts_in_parallel_and_has_them_joined(anywhere: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 17 * MIB + 3)
    *answers, end = TusNode(anywhere, file, parallelUploads=3).done()
    assert sorted(each["method"] for each in answers) == ["PATCH"] * 3 + ["POST"] * 4
    came(anywhere, end["document"] or last(end["url"]), file)


def test_tus_js_client_learns_the_length_only_at_the_end(on_files: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 5 * MIB + 7)
    *answers, end = TusNode(on_files, file, uploadLengthDeferred=True, chunkSize=2 * MIB).done()
    assert [each["offset"] for each in answers[1:]] == [2 * MIB, 4 * MIB, 5 * MIB + 7]
    came(on_files, end["document"], file)


def test_tus_js_client_in_chromium_goes_on_after_the_page_was_left(
    anywhere: System, browser: Chromium, tmp_path: Path
) -> None:
    file = made(tmp_path / "a.csv", 9 * MIB)
    options = {"api": f"http://127.0.0.1:{anywhere.port}", "key": anywhere.key, "chunkSize": 2 * MIB}
    left, back = browser.visit("tus.html", sending(file, **options, stopAt=4 * MIB), sending(file, **options))
    assert left["url"] == back["url"]
    assert back["resumed"] == [left["stopped"]]
    came(anywhere, back["document"], file)


def test_tus_js_client_in_chromium_in_parallel(on_files: System, browser: Chromium, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 8 * MIB)
    api = f"http://127.0.0.1:{on_files.port}"
    end = browser.send("tus.html", file, api=api, key=on_files.key, parallelUploads=3)
    came(on_files, end["document"] or last(end["url"]), file)


@pytest.mark.parametrize("version", ["uppy5", "uppy"])
def test_uppy_s_tus_plug_in(on_files: System, browser: Chromium, tmp_path: Path, version: str) -> None:
    files = [made(tmp_path / "a.csv", 7 * MIB), made(tmp_path / "b.csv", 3 * MIB)]
    api = f"http://127.0.0.1:{on_files.port}"
    answer = browser.send("uppy-tus.html", *files, api=api, key=on_files.key, uppy=version, chunkSize=5 * MIB)
    assert answer["failed"] == []
    names = {came(on_files, last(url), file)["name"] for url, file in zip(answer["urls"], files, strict=True)}
    assert names == {"a.csv", "b.csv"}


def test_tuspy(anywhere: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 11 * MIB)
    client = TusClient(f"http://127.0.0.1:{anywhere.port}/v1/uploads/tus")
    client.set_headers({"Authorization": f"Bearer {anywhere.key}"})
    about = {"chunk_size": 4 * MIB, "metadata": {"filename": file.name}, "upload_checksum": True}
    with file.open("rb") as stream:
        begun = client.uploader(file_stream=stream, **about)
        begun.upload_chunk()
        gone_on = client.uploader(file_stream=stream, url=begun.url, **about)  # as another process that has the address
        assert gone_on.offset == 4 * MIB
        gone_on.upload()
    came(anywhere, last(begun.url), file)


def test_curl(on_files: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 6 * MIB)
    headers = ["-H", f"Authorization: Bearer {on_files.key}", "-H", "Tus-Resumable: 1.0.0"]
    base = f"http://127.0.0.1:{on_files.port}"
    name = base64.b64encode(file.name.encode()).decode()
    begin = ["-H", f"Upload-Length: {file.stat().st_size}", "-H", f"Upload-Metadata: filename {name}"]
    where = curl("-X", "POST", *headers, *begin, "-o", "/dev/null", "-w", "%header{location}", f"{base}/v1/uploads/tus")
    where = where if where.startswith("http") else base + where
    append = ["-X", "PATCH", "-H", "Upload-Offset: 0", "-H", "Content-Type: application/offset+octet-stream"]
    curl(*headers, *append, "--data-binary", f"@{file}", where)
    came(on_files, last(where), file)
