"""A client of `/v1/uploads` for tests: asks what to do, and does it with plain requests and curl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx

from pipeline import sweeper
from pipeline.documents import Upload, UploadPart
from tests.integration.api_server import Api

PATH = "/v1/uploads"


class Uploads:
    """One tenant's client of one API."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def ask(self, size: int | None = None, name: str | None = "a.txt", **more: Any) -> httpx.Response:
        """POST; headers as `headers`."""
        headers = more.pop("headers", {})
        told = {"name": name, "size": size, **more}
        body = {key: value for key, value in told.items() if value is not None}
        return self.api.client.post(PATH, json=body, headers=headers)

    def begin(self, size: int | None = None, *methods: str, **more: Any) -> dict[str, Any]:
        """A new upload, and what to do."""
        answer = self.ask(size, methods=list(methods), **more)
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        assert answer.headers["location"] == told["links"]["self"] == f"{PATH}/{told['id']}"
        assert told["state"] == "open"
        assert not methods or told["method"] in methods
        assert told["method"] in told
        return told

    def get(self, upload: dict[str, Any] | str) -> dict[str, Any]:
        """Where it is."""
        answer = self.api.client.get(f"{PATH}/{id_of(upload)}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def complete(self, upload: dict[str, Any] | str, parts: Sequence[dict[str, Any]] | None = None) -> httpx.Response:
        """POST /complete."""
        body = None if parts is None else {"parts": list(parts)}
        return self.api.client.post(f"{PATH}/{id_of(upload)}/complete", json=body)

    def completed(self, upload: dict[str, Any], parts: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
        """One that is taken: what the answer says of the document."""
        answer = self.complete(upload, parts)
        assert answer.status_code == 202, answer.text
        told: dict[str, Any] = answer.json()
        assert told["state"] == "completed"
        assert told["document"]["id"] == upload["id"]
        assert answer.headers["location"] == told["links"]["document"] == f"/v1/documents/{upload['id']}"
        document: dict[str, Any] = told["document"]
        return document

    def delete(self, upload: dict[str, Any] | str) -> httpx.Response:
        """DELETE."""
        return self.api.client.delete(f"{PATH}/{id_of(upload)}")

    def row(self, upload: dict[str, Any]) -> tuple[Upload, list[UploadPart]]:
        """What the ledger knows."""
        with self.api.services.ledger.reading() as tx:
            return tx.upload(UUID(upload["id"])), tx.upload_parts(UUID(upload["id"]))

    def swept(self) -> dict[str, int]:
        """A whole sweep."""
        return sweeper.once(self.api.services)


def id_of(upload: dict[str, Any] | str) -> str:
    return upload if isinstance(upload, str) else str(upload["id"])


def send(put: dict[str, Any], content: Any, **changed: str | None) -> httpx.Response:
    """Do what `put` says, with a client that knows nothing else. Headers can be changed, or left out (None); their
    names with underscores."""
    headers = dict(put["headers"])
    for name, value in changed.items():
        headers = {key: old for key, old in headers.items() if key.lower() != name.replace("_", "-").lower()}
        if value is not None:
            headers[name.replace("_", "-")] = value
    return httpx.request(put["method"], put["url"], content=content, headers=headers, timeout=60)


def send_form(post: dict[str, Any], content: bytes, **changed: str) -> httpx.Response:
    """Do what `post` says, as a browser's form does."""
    fields = {**post["fields"], **changed}
    return httpx.post(post["url"], data=fields, files={post["file_field"]: ("blob", content)}, timeout=60)


def curl(put: dict[str, Any], content: bytes) -> int:
    """The status that curl gets for what `put` says."""
    headers = [part for name, value in put["headers"].items() for part in ("-H", f"{name}: {value}")]
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", put["method"], *headers]
    ran = subprocess.run(
        [*command, "--data-binary", "@-", put["url"]], input=content, capture_output=True, timeout=60, check=True
    )
    return int(ran.stdout)
