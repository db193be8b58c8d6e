"""Chunk sessions by the loops that people have for them: in a page, in a script, by curl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.clients import MIB, by_chunks, came, curl, digest, made
from tests.servers.chromium import Chromium
from tests.system import System


@pytest.mark.parametrize("options", [{"chunkSize": 3 * MIB}, {}], ids=["in JSON", "in forms"])
def test_a_page_sends_slices_and_waits_until_it_can_fetch_the_file(
    on_files: System, browser: Chromium, tmp_path: Path, options: dict[str, int]
) -> None:
    file = made(tmp_path / "a.csv", 11 * MIB + 1)
    answer = browser.send("chunks.html", file, api=f"http://127.0.0.1:{on_files.port}", key=on_files.key, **options)
    assert answer["totalChunks"] == (4 if options else 2)
    assert answer["sha256"] == digest(file)
    came(on_files, answer["id"], file)


def test_a_script(on_s3: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 9 * MIB)
    came(on_s3, by_chunks(on_s3, file, 4 * MIB), file)


def test_curl(on_files: System, tmp_path: Path) -> None:
    file, base = made(tmp_path / "a.csv", 2 * MIB), f"http://127.0.0.1:{on_files.port}/api/v1/file/upload"
    chunks = [file.read_bytes()[:MIB], file.read_bytes()[MIB:]]
    auth, as_json = ["-H", f"Authorization: Bearer {on_files.key}"], ["-H", "Content-Type: application/json", "-d"]
    about = json.dumps({"fileName": file.name, "totalChunks": 2})
    session = json.loads(curl(*auth, *as_json, about, f"{base}/init/"))["sessionId"]
    for index in (1, 0):
        piece = tmp_path / f"{index}.part"
        piece.write_bytes(chunks[index])
        curl(
            *auth, "-F", f"sessionId={session}", "-F", f"chunkIndex={index}", "-F", f"chunk=@{piece}", f"{base}/chunk/"
        )
    curl(*auth, *as_json, json.dumps({"sessionId": session}), f"{base}/complete/")
    came(on_files, session, file)
