"""Every error has one shape, an explanation, and tells nothing of what is inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingest_api.app import create_app
from ingest_api.explanations import EXPLANATIONS
from ingest_api.problems import catalogue, render
from pipeline.errors import BadRequest, Misconfigured, StoreError, TooMany, Unauthorized
from pipeline.settings import Settings


def test_every_kind_of_problem_is_explained() -> None:
    assert set(EXPLANATIONS) == set(catalogue())


@pytest.mark.parametrize("kind", [Misconfigured, StoreError])
@pytest.mark.cwe("CWE-209")
def test_of_a_fault_of_ours_nothing_is_told(kind: type[Misconfigured]) -> None:
    body = json.loads(bytes(render(kind("secret at /var/lib", path="/var/lib"), "c1").body))
    assert "/var/lib" not in json.dumps(body)
    assert body["correlation_id"] == "c1"
    assert body["type"] == f"/problems/{kind.code}"


def test_headers_that_belong_to_a_problem() -> None:
    assert render(Unauthorized(), "").headers["www-authenticate"] == 'Bearer realm="airlock"'
    assert render(TooMany("slow down", retry_after=9), "").headers["retry-after"] == "9"
    answer = render(BadRequest("no", _headers={"Allow": "GET"}), "")
    assert answer.headers["allow"] == "GET"
    assert "_headers" not in json.loads(bytes(answer.body))


def test_openapi_describes_bodies_problems_and_every_schema_it_names(tmp_path: Path) -> None:
    schema = create_app(Settings(var_dir=tmp_path)).openapi()
    upload = schema["paths"]["/v1/documents"]["post"]
    assert set(upload["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert {"202", "400", "401", "413", "422", "503"} <= set(upload["responses"])
    assert upload["security"] == [{"API key": []}]
    text = json.dumps(schema)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(schema["components"]["schemas"])
    for path, verbs in schema["paths"].items():
        for verb, operation in verbs.items():
            assert operation.get("summary"), (verb, path)
    assert "HTTPValidationError" not in text
