"""Probes, numbers and public pages: what an operator and a passer-by see."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pipeline.errors import LedgerUnavailable, Misconfigured, QueueUnavailable
from pipeline.ledger.session import Ledger
from pipeline.settings import Environment
from tests.integration.api_server import Api, serving
from tests.servers.clamd import clamd


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API beside a real clamd that has only test signatures."""
    with (
        clamd(tmp_path_factory.mktemp("clamd")) as server,
        serving(tmp_path_factory.mktemp("scanned"), clamd_url=server.unix, environment=Environment.DEVELOPMENT) as api,
    ):
        yield api


def test_only_test_signatures_is_said_loudly(scanned: Api) -> None:
    ready = scanned.client.get("/readyz")
    assert ready.status_code == 200
    scanner = ready.json()["parts"]["scanner"]
    assert scanner["ok"], scanner
    assert any("test signatures" in warning for warning in scanner["warnings"])
    assert any("test signatures" in warning for warning in ready.json()["warnings"])
    page = scanned.client.get("/")
    assert 'class="alarm"' in page.text
    assert "test signatures" in page.text
    assert 'airlock_scanner_fit{scanner="clamav"} 1.0' in scanned.client.get("/metrics").text


def test_a_scanner_that_is_away_degrades_and_everything_asked_for_is_unready(api: Api) -> None:
    ready = api.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["parts"]["scanner"]["problem"]
    assert api.client.get("/readyz", params={"all": True}).status_code == 503
    assert "Uploads are kept, and wait" in api.client.get("/").text


def test_without_its_ledger_it_is_alive_but_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise LedgerUnavailable("The database cannot be reached.")

    with serving(tmp_path) as api:
        monkeypatch.setattr(Ledger, "ping", fail)
        ready = api.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "unready")
        assert ready.json()["parts"]["ledger"] == {
            "ok": False, "problem": "The database cannot be reached.", "warnings": [],
        }  # fmt: skip
        monkeypatch.setattr(Ledger, "reading", fail)
        numbers = api.client.get("/metrics")
        assert "airlock_ledger_up 0.0" in numbers.text
        assert "airlock_documents{" not in numbers.text
        assert api.client.get("/livez").status_code == 200


def test_a_queue_that_is_away_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise QueueUnavailable("Redis does not answer.")

    with serving(tmp_path) as api:
        monkeypatch.setattr(api.bell, "ping", fail)
        monkeypatch.setattr(api.bell, "ring", fail)
        assert api.client.post("/v1/documents", content=b"x").status_code == 202
        ready = api.client.get("/readyz").json()
        assert (ready["status"], ready["parts"]["queue"]["problem"]) == ("degraded", "Redis does not answer.")


def test_numbers_name_routes_and_states_and_nobody(api: Api) -> None:
    answer = api.client.post("/v1/documents", content=b"x" * 1000, params={"name": "secret-name.pdf"})
    api.client.get(answer.headers["location"])
    api.client.get("/v1/secret-path")
    text = api.client.get("/metrics").text
    assert 'airlock_http_requests_total{method="POST",route="/v1/documents",status="202"}' in text
    assert 'route="/v1/documents/{document_id}"' in text
    assert 'airlock_documents{state="quarantined"}' in text
    assert "airlock_oldest_waiting_seconds" in text
    assert "airlock_upload_bytes_total" in text
    assert "secret-" not in text
    assert answer.json()["id"] not in text


@pytest.mark.asvs("14.2.1")
@pytest.mark.cwe("CWE-532")
def test_no_name_key_or_signature_reaches_a_log_line(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = structlog.make_filtering_bound_logger(logging.DEBUG)
    monkeypatch.setattr(structlog._config._CONFIG, "default_wrapper_class", loud)
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as entries:
        api.client.post("/v1/documents", content=b"x", params={"name": "raw-secret.pdf"})
        api.client.post("/v1/documents", files={"file-secret": ("form-secret.pdf", b"x")})
        api.client.get("/v1/objects/serving/path-secret?sig=signature-secret")
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    ours += [str(entry) for entry in entries]
    lines = [line for line in ours if "request" in line]
    assert lines
    assert "/v1/documents" in "".join(lines)
    assert "secret" not in "".join(ours)
    assert api.key not in "".join(ours)


def test_public_pages_need_no_key_and_run_nothing(api: Api) -> None:
    with api.make_client("") as nobody:
        page = nobody.get("/")
        assert "script" not in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert page.headers["x-content-type-options"] == "nosniff"
        policy = nobody.get("/v1/policy").json()
        assert policy["digest"] == api.services.policy.digest
        assert policy["policy"]["limits"]["bytes"] == 8 << 20
        (key,) = nobody.get("/.well-known/airlock-receipt-keys.json").json()["keys"]
        assert (key["kty"], key["crv"], "d" in key) == ("OKP", "Ed25519", False)
        assert "Nothing was kept" in nobody.get("/problems/too-large").text
        assert json.loads(nobody.get("/openapi.json").text)["info"]["title"] == "Airlock"


def test_a_process_that_scans_nothing_says_nothing_of_scanners(tmp_path: Path) -> None:
    with serving(tmp_path, clamd_url="none") as own, own.make_client("") as client:
        ready = client.get("/readyz", params={"all": "true"})
        assert (ready.status_code, "scanner" in ready.json()["parts"]) == (200, False)
        assert "airlock_scanner" not in client.get("/metrics").text
        assert "Uploads are kept, and wait" not in client.get("/").text
        with pytest.raises(Misconfigured, match="scans nothing"):
            _ = own.services.gate
