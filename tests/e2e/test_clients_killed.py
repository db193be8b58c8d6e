"""Uploads that are interrupted as hard as can be, and clients that get in each other's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import MIB, TusNode, came, made
from tests.servers.cutting import cutting
from tests.system import System, until


def killed(site: System, file: Path, kills: int, **options: Any) -> None:
    """Send the file by tus, kill the API so many times while it takes a request's bytes, and see what comes of it."""
    marks = [file.stat().st_size * (number + 1) // (kills + 1) for number in range(kills)]

    def held() -> bool:
        with site.services.ledger.reading() as tx:
            return tx.upload(client.upload()).lock_owner is not None

    with cutting(site.port, marks) as way:
        client = TusNode(site, file, port=way.port, **options)
        for _ in marks:
            with way.cut():
                until(held, "a request is taken in")
                site.kill("serve")
                site.start("serve")
        *answers, end = client.done()
    acknowledged, resumed = 0, []
    for each in answers:
        if each["method"] == "HEAD":
            resumed.append(each["offset"])
            assert each["offset"] >= acknowledged, answers
        elif each["status"] == 204:
            acknowledged = each["offset"]
    print(f"{kills} kills; went on from {resumed}; {way.sent} bytes sent for {file.stat().st_size}")
    assert len(resumed) >= kills
    came(site, end["document"], file)


def test_the_api_is_killed_in_mid_request_and_the_client_finishes(on_files: System, tmp_path: Path) -> None:
    killed(on_files, made(tmp_path / "a.csv", 24 * MIB), 3, chunkSize=4 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"chunkSize": 8 * MIB}], ids=["in one request", "in many"])
@pytest.mark.parametrize("kind", ["on_files", "on_s3"])
def test_the_api_is_killed_twenty_times_and_the_client_finishes(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, options: dict[str, int]
) -> None:
    killed(request.getfixturevalue(kind), made(tmp_path / "a.csv", 400 * MIB), 20, **options)
