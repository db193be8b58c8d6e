"""What every test of a client asks in the end: is it available, and is it the same?"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import httpx

from tests.servers.node import CLIENTS, node
from tests.system import System, until

MIB = 1 << 20


def made(path: Path, size: int) -> Path:
    """A table of so many bytes, of which no two pieces are alike."""
    row = 64  # bytes
    with path.open("wb") as out:
        for at in range(0, size, MIB):
            digits = os.urandom(MIB // 2).hex().encode()
            rows = [
                digits[start : start + 31] + b"," + digits[start + 32 : start + row - 1] for start in range(0, MIB, row)
            ]
            out.write((b"\n".join(rows) + b"\n")[: size - at])
    return path


def digest(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def came(site: System, document_id: str, file: Path) -> dict[str, Any]:
    """Wait for the document, and compare what is served with the file, byte for byte."""
    document = site.settled([str(UUID(document_id))])[document_id]
    assert document["state"] == "available", document
    assert (document["size"], document["sha256"]) == (file.stat().st_size, digest(file))
    served = hashlib.sha256()
    with site.client() as client:
        target = client.get(f"/v1/documents/{document_id}/content")
        assert target.status_code == 307
    with httpx.stream("GET", target.headers["Location"], timeout=60) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_bytes():
            served.update(piece)
    assert served.hexdigest() == digest(file)
    return document


def last(url: str) -> str:
    """The id at the end of an upload's address: its document's, too."""
    return url.rstrip("/").rpartition("/")[2]


class TusNode:
    """tus-js-client in Node, while it runs."""

    def __init__(self, site: System, file: Path, *, port: int | None = None, **options: Any) -> None:
        endpoint = f"http://127.0.0.1:{port or site.port}/v1/uploads/tus"
        self.said: list[dict[str, Any]] = []  # a line for each answer that it got, and one at its end
        with file.open("rb") as stdin:
            self._process = subprocess.Popen(
                [node(), str(CLIENTS / "tus.mjs"), endpoint, str(file), "text/csv", json.dumps(options)],
                env={**os.environ, "AIRLOCK_API_KEY": site.key},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            self.said.extend(map(json.loads, lines))

    def upload(self) -> UUID:
        """The upload's id, once it has one."""
        return UUID(last(until(lambda: [each["url"] for each in self.said if each["url"]], "it is created")[0]))

    def done(self, patience: float = 240) -> list[dict[str, Any]]:
        """Wait for its end, which must be a good one; what it said."""
        with self:
            assert self._process.wait(patience) == 0
        return self.said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._process.kill()  # where it runs on
        self._process.wait()
        self._listener.join()
        stderr = self._process.stderr
        if stderr is None or stderr.closed:  # it was left before
            return
        with stderr:
            if error is not None:
                error.add_note(f"the client said: {self.said[-10:]} {stderr.read()}")


def curl(*arguments: str, patience: float = 240) -> str:
    """What curl prints; it must succeed."""
    command = ["curl", "--silent", "--show-error", "--fail-with-body", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    assert ran.returncode == 0, (ran.stdout[-2000:], ran.stderr[-2000:])
    return ran.stdout


def by_tus(site: System, file: Path) -> str:
    """tus-js-client, in one request."""
    document: str = TusNode(site, file).done(1200)[-1]["document"]
    return document


def by_chunks(site: System, file: Path, chunk: int = 8 * MIB) -> str:
    """A chunk session, as a script writes it."""
    base, size = "/api/v1/file/upload", file.stat().st_size
    with site.client() as client, file.open("rb") as content:
        about = {"fileName": file.name, "totalChunks": -(-size // chunk)}
        session = client.post(f"{base}/init/", json=about).raise_for_status().json()["sessionId"]
        for index in range(about["totalChunks"]):
            form = {"sessionId": session, "chunkIndex": str(index)}
            client.post(f"{base}/chunk/", data=form, files={"chunk": content.read(chunk)}).raise_for_status()
        client.post(f"{base}/complete/", json={"sessionId": session}).raise_for_status()
    return str(session)


def by_parts(site: System, file: Path) -> str:
    """A presigned multipart upload, as a script writes it."""
    about = {"name": file.name, "size": file.stat().st_size, "methods": ["multipart"]}
    with site.client() as client, httpx.Client(timeout=60) as bucket, file.open("rb") as content:
        upload = client.post("/v1/uploads", json=about).raise_for_status().json()
        page, size, tags = upload["multipart"], upload["multipart"]["part_size"], []
        while page:
            for part in page["parts"]:
                answer = bucket.put(part["url"], headers=part["headers"], content=content.read(size))
                tags.append({"number": part["number"], "etag": answer.raise_for_status().headers["ETag"]})
            page = client.get(page["next"]).raise_for_status().json() if "next" in page else None
        client.post(upload["links"]["complete"], json={"parts": tags}).raise_for_status()
    return str(upload["id"])


SENDERS: dict[str, Callable[[System, Path], str]] = {"tus": by_tus, "chunks": by_chunks, "multipart": by_parts}
