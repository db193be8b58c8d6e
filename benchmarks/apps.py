"""What Airlock is compared with: the ways to take an upload that somebody would write instead.

Each is an ASGI application for uvicorn (`python -m benchmarks.apps NAME PORT FOLDER`), with the server's own settings
the same as Airlock's. None makes anything durable, none writes a row: they are the fastest that each way can be.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, UploadFile

PIECE = 1 << 20


def sink(folder: Path, *, hashed: bool, durable: bool) -> Any:
    """A bare ASGI handler: what comes is written as it comes, and hashed if asked for, all in the event loop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        digest = hashlib.sha256()
        name = folder / uuid4().hex
        with name.open("wb") as file:
            while True:
                message = await receive()
                body = message.get("body", b"")
                file.write(body)
                if hashed:
                    digest.update(body)
                if not message.get("more_body"):
                    break
            if durable:
                file.flush()
                os.fsync(file.fileno())
        answer = digest.hexdigest().encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        name.unlink()

    return app


def form(folder: Path) -> Any:
    """FastAPI's UploadFile written to disk and hashed, as its documentation would have it."""
    app = FastAPI()

    @app.post("/")
    async def upload(file: UploadFile) -> dict[str, str]:
        digest = hashlib.sha256()
        name = folder / uuid4().hex
        with name.open("wb") as out:
            while piece := await file.read(PIECE):
                digest.update(piece)
                await asyncio.to_thread(out.write, piece)
        name.unlink()
        return {"sha256": digest.hexdigest()}

    return app


def main() -> None:
    """Serve one of them."""
    name, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    match name:
        case "sink":
            app = sink(folder, hashed=False, durable=False)
        case "hashing-sink":
            app = sink(folder, hashed=True, durable=False)
        case "durable-sink":
            app = sink(folder, hashed=True, durable=True)
        case "uploadfile":
            app = form(folder)
        case _:
            raise SystemExit(f"there is no {name}")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off")


if __name__ == "__main__":
    main()
