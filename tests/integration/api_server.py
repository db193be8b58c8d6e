"""The API behind a real uvicorn, on SQLite and local buckets, with a doorbell that only writes down who was rung."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import uvicorn

from ingest_api.app import create_app
from ingest_api.wire import BoundedHttp
from pipeline.api_keys import make_key
from pipeline.documents import Lane
from pipeline.services import Services
from pipeline.settings import Settings
from pipeline.storage.base import Provisionable

POLICY = Path("pipeline/policy.default.toml")


@dataclass
class Bell:
    """A queue that rings nobody."""

    rung: list[UUID] = field(default_factory=list)

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0, bulk: bool = False) -> None:
        self.rung.append(document_id)

    def ping(self) -> None:
        return


@dataclass
class Api:
    """A running API and the services behind it."""

    url: str
    services: Services
    bell: Bell
    key: str
    client: httpx.Client
    tenant: str = "acme"

    def as_tenant(self, tenant: str) -> Api:
        """The same API, as another tenant sees it."""
        key = make_key(self.services.ledger, tenant)
        client = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        return replace(self, key=key, client=client, tenant=tenant)

    def make_client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """A client of its own; with another key, or without one for ''."""
        key = self.key if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def connect(self) -> socket.socket:
        """A bare connection, for what no client library would send."""
        target = httpx.URL(self.url)
        return socket.create_connection((target.host, target.port or 80), timeout=60)

    def objects(self) -> list[str]:
        """The keys of everything that this tenant has in both buckets."""
        stores = (self.services.quarantine, self.services.serving)
        return [stat.ref.key for store in stores for stat in store.list(f"standard/{self.tenant}/")]

    def leftovers(self) -> list[Path]:
        """Every file in the buckets' folders that is not an object or its headers."""
        root = self.services.settings.var_dir / "buckets"
        return list(root.glob("*/.incoming/*"))

    def documents(self) -> list[dict[str, Any]]:
        """What the API lists."""
        found: list[dict[str, Any]] = self.client.get("/v1/documents").json()["documents"]
        return found


def settings_in(folder: Path, **changes: Any) -> Settings:
    """One machine's settings under `folder`, with a small limit."""
    policy = folder / "policy.toml"
    if not policy.exists():
        text = POLICY.read_text().replace('bytes = "256 MiB"', 'bytes = "8 MiB"', 1)
        policy.write_text(text.replace("files = 100 ", "files = 5 ", 1))
    return Settings(**{"var_dir": folder, "policy_file": policy, "clamd_url": f"unix://{folder}/no-clamd", **changes})


@contextlib.contextmanager
def serving(folder: Path, **changes: Any) -> Iterator[Api]:
    """Run the API until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    services = Services(settings_in(folder, port=port, **changes))
    bell = Bell()
    services.__dict__["queue"] = bell
    services.ledger.upgrade()
    for store in (services.quarantine, services.serving):
        assert isinstance(store, Provisionable)
        store.ensure_bucket()
    key = make_key(services.ledger, "acme")
    config = uvicorn.Config(
        create_app(services=services),
        loop="uvloop",
        http=BoundedHttp,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def tell(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = tell  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
    thread.start()
    assert started.wait(60)
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    try:
        yield Api(url, services, bell, key, client)
    finally:
        client.close()
        server.should_exit = True
        thread.join(60)
        listener.close()
        services.close()
