"""What a document costs at the store: lines 9 and 10. `python -m benchmarks.stores [--quick]`.

SeaweedFS stands for S3; a forwarder in front of it counts what a worker really asks for.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from benchmarks import servers
from benchmarks.counting import Counts, counting
from benchmarks.measure import MIB, Report, peak, ratio, reset_peak, rounds, seconds
from benchmarks.servers import TENANT, NotHere
from pipeline import flow
from pipeline.documents import NewDocument
from pipeline.services import Services
from pipeline.settings import Settings
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStore
from pipeline.storage.keys import key_of
from tests.servers.clamd import clamd
from tests.servers.redis import redis
from tests.servers.seaweedfs import S3Server, seaweedfs

TEXT = ObjectHeaders("text/plain", 'attachment; filename="a.txt"')


@dataclass(frozen=True)
class Sizes:
    """How much is copied and fetched."""

    rounds: int = 5
    small: tuple[int, int] = (30, 100 << 10)  # so many a round
    large: int = 128 * MIB
    counted: int = 10 * MIB
    memory: tuple[int, int] = (10 * MIB, 1000 * MIB)  # as much as clamd may be told to look at


QUICK = Sizes(3, (5, 100 << 10), 16 * MIB, 1 * MIB, (10 * MIB, 64 * MIB))


def put(store: ObjectStore, key: str, pieces: Iterator[bytes]) -> tuple[ObjectRef, int, str]:
    """Store some pieces; the object, its size and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with store.create(key, TEXT) as writer:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            writer.write(piece)
        return writer.commit(digest.hexdigest()).ref, size, digest.hexdigest()


def random_pieces(size: int) -> Iterator[bytes]:
    """Bytes that nothing can shorten, made as they are asked for."""
    return (os.urandom(min(MIB, size - at)) for at in range(0, size, MIB))


def text_pieces(size: int) -> Iterator[bytes]:
    """Text of so many bytes that no other document has."""
    line = f"{uuid4()} is what every line of this document says\n".encode()
    return repeat((line * (MIB // len(line) + 1))[:MIB], size // MIB)


def promotion(
    report: Report,
    name: str,
    services: Services,
    bare: Callable[[ObjectRef, str], object],
    sizes: Sizes,
    counts: Counts | None,
) -> None:
    """Line 9 on one kind of store."""
    quarantine, serving = services.quarantine, services.serving
    for label, many, size in (("100 KiB", *sizes.small), (f"{sizes.large // MIB} MiB", 1, sizes.large)):
        ref, _, sha256 = put(quarantine, f"standard/{TENANT}/{uuid4()}/original", random_pieces(size))

        def ours(ref: ObjectRef = ref, sha256: str = sha256, many: int = many) -> float:
            keys = [f"standard/{TENANT}/{uuid4()}/original" for _ in range(many)]
            return seconds(lambda: [serving.copy(ref, key, TEXT, sha256=sha256) for key in keys])

        def theirs(ref: ObjectRef = ref, many: int = many) -> float:
            keys = [f"bare-{uuid4()}" for _ in range(many)]
            return seconds(lambda: [bare(ref, key) for key in keys])

        took = rounds({"airlock": ours, "bare": theirs}, sizes.rounds)
        found = ratio(took["airlock"], took["bare"])
        each = [median(took[side]) / many * 1000 for side in ("airlock", "bare")]
        measured = f"{found:.2f} ({each[0]:.1f} against {each[1]:.1f} ms)"
        report.reached("9", f"promotion of {label} on {name} <= 1.15 x a bare copy call", measured, found <= 1.15)
        if counts is not None:
            counts.reset()
            ours()
            passed = (counts.up + counts.down) / many
            report.reached(
                "9",
                f"promotion of {label} on {name} sends no payload through the worker",
                f"{passed:.0f} bytes a copy, {len(counts.requests) / many:.0f} requests",
                passed < 16 << 10,
            )


def bare_local(services: Services, folder: Path) -> Callable[[ObjectRef, str], object]:
    """A file copied and made durable, which is the least that a promotion on local disks can be."""
    root = Path(urlsplit(services.settings.quarantine).path)
    folder.mkdir()

    def copy(ref: ObjectRef, key: str) -> None:
        target = folder / key
        shutil.copyfile(root / ref.key, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    return copy


def bare_s3(services: Services, endpoint: str) -> Callable[[ObjectRef, str], object]:
    """boto3's copy_object and nothing else."""
    import boto3

    client: Any = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    return lambda ref, key: client.copy_object(
        Bucket=services.serving.bucket, Key=key, CopySource={"Bucket": ref.bucket, "Key": ref.key}
    )


def land(services: Services, pieces: Iterator[bytes]) -> UUID:
    """A document in quarantine, as an upload leaves it."""
    document_id = uuid4()
    ref, size, sha256 = put(services.quarantine, key_of("standard", TENANT, document_id), pieces)
    new = NewDocument(
        id=document_id,
        tenant=TENANT,
        source=ref,
        size=size,
        sha256=sha256,
        name="a.txt",
        declared_type="text/plain",
        retention="standard",
        policy_digest=services.policy.digest,
        correlation_id=str(document_id),
    )
    with services.ledger.begin() as tx:
        tx.insert(new)
    return document_id


def fetched(report: Report, services: Services, counts: Counts, sizes: Sizes) -> None:
    """Line 10: how often the object is asked for on its whole way."""
    document_id = land(services, text_pieces(sizes.counted))
    counts.reset()
    state = flow.run(document_id, services)
    times = counts.of("GET", f"/quarantine/standard/{TENANT}/{document_id}")
    checked = counts.of("GET", f"/serving/standard/{TENANT}/{document_id}")
    measured = f"{times} GET ({len(counts.requests)} requests in all, until {state})"
    report.reached("10", "each quarantined object is fetched exactly once", measured, times == 1)
    report.aside("10", "read back from serving, where the store gives no checksum of the copy", f"{checked} GET")


def memory(report: Report, services: Services, variables: dict[str, str], sizes: Sizes) -> None:
    """Line 10: a worker's memory, each document in a process of its own."""
    most: list[float] = []
    states: list[str] = []
    for size in sizes.memory:
        document_id = land(services, text_pieces(size))
        command = [sys.executable, "-m", "benchmarks.stores", "--work", str(document_id)]
        env = {**os.environ, **variables}
        done = subprocess.run(command, check=True, capture_output=True, env=env, cwd=servers.REPOSITORY, text=True)
        most.append(float(done.stdout.split()[-1]))
        states.append(done.stdout.split()[-2])  # log lines come before
    small, large = (size // MIB for size in sizes.memory)
    grown = most[1] - most[0]
    report.reached(
        "10",
        f"worker memory +-16 MiB from {small} MiB to {large} MiB",
        f"{grown:+.1f} MiB (to {most[1]:.0f}; {' and '.join(states)})",
        abs(grown) <= 16,
    )


def work(document_id: UUID) -> None:
    """What one worker does with one document; prints its high-water mark, and that of its largest child, in MiB."""
    services = Services(Settings())
    services.gate.fitness()
    reset_peak(os.getpid())
    state = flow.run(document_id, services)
    mine = peak(os.getpid())
    services.close()
    print(state, max(mine, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))


def run(report: Report, sizes: Sizes) -> None:
    """Both lines."""
    folder = Path(tempfile.mkdtemp(prefix="airlock-bench-"))
    try:
        with servers.installation(servers.environment(folder / "local", AIRLOCK_QUEUE="inline")) as services:
            promotion(report, "a local disk", services, bare_local(services, folder / "bare"), sizes, None)
        (folder / "clamd").mkdir()
        limits: Any = {"MaxScanSize": "1024M", "MaxFileSize": "1023M", "StreamMaxLength": "1024M"}
        with (
            redis(folder) as url,
            clamd(folder / "clamd", **limits) as engine,
            seaweedfs(folder) as s3,
            counting(urlsplit(s3.endpoint).port or 0) as counts,
        ):
            on_s3(report, folder, s3, counts, {"AIRLOCK_BROKER_URL": url, "AIRLOCK_CLAMD_URL": engine.unix}, sizes)
    except NotHere as exc:
        report.none("9", "stores", str(exc))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.none("10", "identical bytes again <= 5 % of the first time", "not built yet: every upload is scanned anew")


def on_s3(report: Report, folder: Path, s3: S3Server, counts: Counts, given: dict[str, str], sizes: Sizes) -> None:
    """The lines' share that needs an object store."""
    door = S3Server(f"http://127.0.0.1:{counts.port}", s3.access_key, s3.secret_key)
    with servers.applied(door.environment()):
        variables = servers.environment(
            folder / "s3",
            AIRLOCK_QUARANTINE_URL=door.url("quarantine"),
            AIRLOCK_SERVING_URL=door.url("serving"),
            **given,
        )
        with servers.installation(variables) as services:
            promotion(report, "SeaweedFS", services, bare_s3(services, door.endpoint), sizes, counts)
            fetched(report, services, counts, sizes)
            memory(report, services, variables, sizes)


if __name__ == "__main__":
    if "--work" in sys.argv:
        work(UUID(sys.argv[-1]))
    else:
        run(Report(), QUICK if "--quick" in sys.argv else Sizes())
