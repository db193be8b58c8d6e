"""The API's memory while files of any size go through it, by every way that takes more than one request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.measure import peak, reset_peak
from benchmarks.servers import POLICY
from tests.e2e.clients import MIB, SENDERS, digest
from tests.servers.clamd import clamd
from tests.system import System, until

MOST = 32  # MiB of growth, whatever the size


@contextlib.contextmanager
def api(tmp: Path, request: pytest.FixtureRequest, kind: str, *parts: str) -> Iterator[System]:
    """An Airlock of which only these parts run."""
    tmp.mkdir()
    policy = tmp / "policy.toml"
    text = POLICY.format(ocr="off", required='"mime", "structure", "clamav"')
    policy.write_text(text.replace("rejected_days = 7", "rejected_days = 0"))  # not to fill the disk
    environment = {"AIRLOCK_POLICY_FILE": str(policy)}
    environment["AIRLOCK_BROKER_URL"] = f"{request.getfixturevalue('redis_url').rpartition('/')[0]}/9"
    if kind == "s3":
        server = request.getfixturevalue("s3_server")
        environment |= server.environment()
        for role in ("quarantine", "serving"):
            environment[f"AIRLOCK_{role.upper()}_URL"] = server.url(f"memory-{role}")
    with clamd(tmp / "clamd") as engine:
        made = System(tmp, environment | {"AIRLOCK_CLAMD_URL": engine.unix})
        try:
            for part in parts:
                made.start(part)
            yield made
        finally:
            made.stop()


def most(site: System, way: str, file: Path) -> tuple[float, str]:
    """The API's high-water mark in MiB while the file is sent, and the document that came of it."""
    pid = site.processes["serve"].pid
    reset_peak(pid)
    document_id = SENDERS[way](site, file)
    return peak(pid), document_id


def sparse(path: Path, size: int) -> Path:
    """A file that takes no room."""
    with path.open("wb") as out:
        out.truncate(size)
    return path


@pytest.mark.parametrize(("kind", "ways"), [("files", ("tus", "chunks")), ("s3", ("tus",))])
def test_memory_does_not_grow_with_the_file(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, ways: tuple[str, ...]
) -> None:
    small, large = (sparse(tmp_path / f"{size}.csv", size * MIB) for size in (64, 512))
    with api(tmp_path / "site", request, kind, "serve") as site:
        for way in ways:
            most(site, way, small)  # what is loaded on first use is not growth
            first, second = (most(site, way, file)[0] for file in (small, large))
            print(f"{way} on {kind}: {first:.0f} MiB for 64 MiB, {second:.0f} MiB for 512 MiB")
            assert second - first <= MOST


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), [("files", "tus"), ("s3", "tus"), ("files", "chunks"), ("s3", "multipart")])
def test_five_gibibytes_arrive_whole_in_flat_memory(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, way: str
) -> None:
    small, large = sparse(tmp_path / "small.csv", 64 * MIB), sparse(tmp_path / "large.csv", 5 << 30)
    with large.open("r+b") as out:
        out.seek((4 << 30) + 5)  # behind what 32 bits count
        out.write(b"here")
    with api(tmp_path / "site", request, kind, "serve", "worker", "beat") as site:
        most(site, way, small)
        first, _ = most(site, way, small)
        second, document_id = most(site, way, large)
        print(f"{way} on {kind}: {first:.0f} MiB for 64 MiB, {second:.0f} MiB for 5 GiB")
        assert second - first <= MOST
        # clamd looks at no file of this size, so it is not served; that it is whole, its digest says.
        document = site.settled([document_id])[document_id]
        print({name: document[name] for name in ("state", "reason", "detail", "timings")})
        assert (document["size"], document["sha256"]) == (5 << 30, digest(large)), document
        until(lambda: document_id not in str(list(site.services.quarantine.list())), "its bytes are gone")
