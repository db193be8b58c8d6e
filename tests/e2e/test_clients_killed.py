"""Uploads that are interrupted as hard as can be, and clients that get in each other's way."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.e2e.clients import MIB, TusNode, came, last, made
from tests.servers.cutting import cutting
from tests.system import System, until


def holder(site: System, upload_id: UUID) -> str | None:
    """Which process is taking bytes of the upload."""
    with site.services.ledger.reading() as tx:
        owner = tx.upload(upload_id).lock_owner
    return owner and owner.rpartition(":")[0]


def killed(site: System, file: Path, kills: int, *, rate: float, after: int, **options: Any) -> None:
    """Send the file by tus, at most `rate` bytes a second, kill the API so many times while it takes a request's bytes,
    each time when another `after` bytes have come, and see what comes of it."""
    dead: set[str | None] = {None}
    with cutting(site.port, rate) as way, TusNode(site, file, port=way.port, **options) as client:
        taken = lambda: holder(site, client.upload()) not in dead  # noqa: E731
        for _ in range(kills):
            until(taken, "a request is taken in")
            with way.cut(after):
                until(taken, "it goes on")
                site.kill("serve")
                dead.add(holder(site, client.upload()))
                site.start("serve")
        *answers, end = client.done()
    acknowledged, resumed = 0, []
    for each in answers:
        if each["method"] == "HEAD":
            assert each["offset"] >= acknowledged, answers
            acknowledged = each["offset"]
            resumed.append(acknowledged)
        elif each["status"] == 204:
            acknowledged = each["offset"]
    print(f"{kills} kills; went on from {resumed}; {way.sent} bytes sent for {file.stat().st_size}")
    assert len(resumed) >= kills
    came(site, end["document"], file)


def test_the_api_is_killed_in_mid_request_and_the_client_finishes(on_files: System, tmp_path: Path) -> None:
    soon = [0, *[500] * 20]  # the long runs have it wait as long as it does by itself
    file = made(tmp_path / "a.csv", 24 * MIB)
    killed(on_files, file, 3, rate=16 * MIB, after=6 * MIB, chunkSize=4 * MIB, retryDelays=soon)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"chunkSize": 8 * MIB}], ids=["in one request", "in many"])
@pytest.mark.parametrize("kind", ["on_files", "on_s3"])
def test_the_api_is_killed_twenty_times_and_the_client_finishes(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, options: dict[str, int]
) -> None:
    # So slow that some of it is noted between two kills: a client that gets no further gives up at some time.
    file = made(tmp_path / "a.csv", 400 * MIB)
    killed(request.getfixturevalue(kind), file, 20, rate=4 * MIB, after=14 * MIB, **options)


def test_two_clients_that_send_one_upload_at_once_both_finish_and_it_is_whole(on_files: System, tmp_path: Path) -> None:
    file = made(tmp_path / "a.csv", 32 * MIB)
    base = f"http://127.0.0.1:{on_files.port}"
    with on_files.client() as client:
        asked = {"Tus-Resumable": "1.0.0", "Upload-Length": str(file.stat().st_size)}
        location = client.post("/v1/uploads/tus", headers=asked).headers["Location"]
    options = {"uploadUrl": base + location, "chunkSize": 4 * MIB}
    with cutting(on_files.port) as way:
        proxied = {**options, "uploadUrl": f"http://127.0.0.1:{way.port}{location}"}
        with TusNode(on_files, file, **proxied) as first, contextlib.ExitStack() as stack:
            with way.cut(6 * MIB):
                until(lambda: holder(on_files, UUID(last(location))), "the first one's second request is taken in")
                # The next one need not wait for one that has fallen silent.
                second = stack.enter_context(TusNode(on_files, file, **options))
                until(lambda: any(each.get("status") == 204 for each in second.said), "the second one goes on")
            answers = [each for one in (first, second) for each in one.done() if "status" in each]
    taken = [each["offset"] for each in answers if each["status"] == 204]
    assert len(taken) == len(set(taken)), answers  # no byte was acknowledged to both
    came(on_files, last(location), file)
