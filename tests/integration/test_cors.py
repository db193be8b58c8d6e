"""Web pages of other origins: those that are named may use the API, others may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.api_server import Api, serving

PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("cors"), cors_origins=frozenset({PAGE})) as server:
        yield server


def preflight(api: Api, origin: str, headers: str, method: str = "POST") -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    with api.make_client("") as client:
        answer = client.options("/v1/documents", headers=asked)
    return {name.lower(): value for name, value in answer.headers.items()} | {":status": str(answer.status_code)}


def test_a_page_that_is_named_may_send_what_clients_send(api: Api) -> None:
    answer = preflight(api, PAGE, "authorization,tus-resumable,upload-offset,upload-metadata,uppy-versions", "PATCH")
    assert answer[":status"] == "200"
    assert answer["access-control-allow-origin"] == PAGE
    assert "PATCH" in answer["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer


def test_a_page_that_is_not_named_is_told_nothing(api: Api) -> None:
    assert "access-control-allow-origin" not in preflight(api, "https://evil.example", "authorization")
    listing = api.client.get("/v1/documents", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in listing.headers


def test_errors_can_be_read_by_the_page_too(api: Api) -> None:
    answer = api.client.post("/v1/documents", content=b"", headers={"Origin": PAGE})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "Upload-Offset" in answer.headers["access-control-expose-headers"]


def test_without_a_setting_no_page_may(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("no-cors")) as closed:
        answer = closed.client.get("/v1/documents", headers={"Origin": PAGE})
        assert "access-control-allow-origin" not in answer.headers
