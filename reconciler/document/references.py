"""Finds the references to secrets in a canonical document. Pure, and free of the schema: it must be cheap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from reconciler.desired import SecretRef
from reconciler.document.masking import REFERENCE
from reconciler.model import DocumentPath

_SOURCES: Final = frozenset({"env", "file", "exec"})


def references(canonical: Mapping[str, Any]) -> tuple[tuple[DocumentPath, SecretRef], ...]:
    """Every reference with its path, sorted by path; `${NAME}` in texts of `gateway.settings` is one of source env.

    Free `x-` sections hold none.
    """
    found = [pair for name, value in canonical.items() if not name.startswith("x-") for pair in _typed(value, (name,))]
    return tuple(sorted(found, key=lambda pair: ([str(part) for part in pair[0]], str(pair[1]))))


def _typed(value: Any, path: DocumentPath) -> Iterator[tuple[DocumentPath, SecretRef]]:
    if path == ("gateway", "settings"):
        yield from _settings(value, path)
    elif isinstance(value, Mapping):
        # No section has names of its own that could be taken for a source: the schema is closed.
        if len(value) == 1 and _SOURCES.issuperset(value) and _is_reference(path):
            yield path, SecretRef.from_canonical(value)
            return
        for name, item in value.items():
            yield from _typed(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _typed(item, (*path, number))


def _is_reference(path: DocumentPath) -> bool:
    """False for mappings of free names, where `env` may be the name of an agent, a tunnel or a provider."""
    return path not in {
        ("service", "environment"),
        ("diagnostics", "otel", "headers"),
        ("heartbeats", "agents"),
        ("auth", "profiles"),
        ("auth", "order"),
        ("tunnels",),
        ("notifications", "channels"),
    }


def _settings(value: Any, path: DocumentPath) -> Iterator[tuple[DocumentPath, SecretRef]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _settings(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _settings(item, (*path, number))
    elif isinstance(value, str):
        for match in REFERENCE.finditer(value):
            yield path, SecretRef("env", match[1])
