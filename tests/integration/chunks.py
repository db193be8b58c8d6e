"""A client of chunk sessions for tests, in both dialects that are about."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx

from pipeline import sweeper
from pipeline.documents import Upload, UploadPart
from tests.integration.api_server import Api

PATH = "/api/v1/file"


def cut(content: bytes, size: int) -> list[bytes]:
    """The content in chunks."""
    return [content[at : at + size] for at in range(0, len(content), size)]


class Chunks:
    """One tenant's client of one API."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def init(self, total: int | None = None, name: str | None = "a.txt", **more: Any) -> httpx.Response:
        """POST /upload/init/; headers as `headers`."""
        headers = more.pop("headers", {})
        told = {"fileName": name, "totalChunks": total, **more}
        body = {key: value for key, value in told.items() if value is not None}
        return self.api.client.post(f"{PATH}/upload/init/", json=body, headers=headers)

    def begin(self, total: int | None = None, name: str | None = "a.txt", **more: Any) -> str:
        """A new session's id."""
        answer = self.init(total, name, **more)
        assert answer.status_code == 200, answer.text
        session: str = answer.json()["sessionId"]
        assert answer.json()["data"]["upload_id"] == session
        return session

    def send(self, session: str, index: int | str, content: bytes, **more: Any) -> httpx.Response:
        """POST /upload/chunk/, as a browser's FormData has it."""
        fields = {"sessionId": session, "chunkIndex": str(index)}
        return self.api.client.post(
            f"{PATH}/upload/chunk/", data=fields, files={"chunk": ("blob", content, "application/octet-stream")}, **more
        )

    def sent(self, session: str, index: int, content: bytes) -> None:
        """One that is taken."""
        answer = self.send(session, index, content)
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"] == {"chunk_index": index, "upload_id": session}

    def complete(self, session: str, **more: Any) -> httpx.Response:
        """POST /upload/complete/."""
        return self.api.client.post(f"{PATH}/upload/complete/", json={"sessionId": session, **more})

    def status(self, session: str) -> dict[str, Any]:
        """GET /status/, its data."""
        answer = self.api.client.get(f"{PATH}/status/{session}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        assert (told["status"], told["state"]) == (told["data"]["status"], told["data"]["state"])
        data: dict[str, Any] = told["data"]
        return data

    def row(self, session: str) -> tuple[Upload, list[UploadPart]]:
        """What the ledger knows."""
        with self.api.services.ledger.reading() as tx:
            return tx.upload(UUID(session)), tx.upload_parts(UUID(session))

    def pieces(self, session: str | None = None) -> list[str]:
        """The keys of pieces in quarantine, of one session or of all of the tenant's."""
        return [key for key in self.api.objects() if "/piece-" in key and (session is None or session in key)]

    def swept(self) -> list[str]:
        """The pieces that are left behind a sweep."""
        sweeper.sweep(self.api.services)
        return self.pieces()
