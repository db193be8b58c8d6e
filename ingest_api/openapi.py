"""The OpenAPI document, as the framework makes it, with what it cannot know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from ingest_api.problems import InvalidParameters, Problem, documented
from ingest_api.schemas import DocumentList, DocumentOut


def describe(app: FastAPI) -> None:
    """Have `app.openapi()` tell of our problem documents instead of the framework's own errors."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        made = app.openapi_schema is None
        schema = generate()
        if made:
            _add_schemas(schema)
            for verbs in schema["paths"].values():
                for operation in verbs.values():
                    _mend_validation(operation)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_schemas(schema: dict[str, Any]) -> None:
    """The ones that are named by hand: answers that are written without a response model."""
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for model in (Problem, DocumentOut, DocumentList):
        described = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        for name, inner in described.pop("$defs", {}).items():
            schemas.setdefault(name, inner)
        schemas.setdefault(model.__name__, described)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _mend_validation(operation: dict[str, Any]) -> None:
    found = operation["responses"].get("422")
    if found is None or "HTTPValidationError" not in str(found):
        return
    del operation["responses"]["422"]
    # A path that cannot be is answered 404.
    if any(parameter["in"] != "path" for parameter in operation.get("parameters", ())):
        operation["responses"]["422"] = documented(InvalidParameters)[422]
