"""The document's JSON Schema (2020-12) for editors, made from the models, so that it cannot lag behind them."""

from __future__ import annotations

from typing import Any


def document_schema() -> dict[str, Any]:
    """The schema with descriptions, defaults and examples; the same bytes on every run."""
    from reconciler.document.schema import Document

    schema: dict[str, Any] = _closed(Document.model_json_schema(mode="validation"))
    for section in schema["properties"].values():
        # A section that is absent is left alone; null is none.
        if {"type": "null"} in section.get("anyOf", ()):
            section["anyOf"] = [choice for choice in section["anyOf"] if choice != {"type": "null"}]
            del section["default"]
    schema["patternProperties"] = {"^x-": {"description": "Free data; no part of the desired state."}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "openclaw.schema.json",
        **schema,
        "title": "openclaw.yaml",
    }


def _closed(value: Any) -> Any:
    """Without pydantic's titles, which only repeat the names, and with defaults that are sections left out."""
    if isinstance(value, dict):
        return {
            name: _named(item) if name in {"properties", "$defs"} else _closed(item)
            for name, item in value.items()
            if name != "title"
        }
    if isinstance(value, list):
        return [_closed(item) for item in value]
    return value


def _named(value: dict[str, Any]) -> dict[str, Any]:
    return {name: _closed(item) for name, item in value.items()}
