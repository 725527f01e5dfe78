"""The JSON Schemas of everything that `--json` prints, published by `openclaw schema NAME`. Data only.

Tests hold every output against its schema. An output changes compatibly by new keys alone; anything else is a new number.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_MAYBE_TEXT: Final[Schema] = {"type": ["string", "null"]}
_WHOLE: Final[Schema] = {"type": "integer"}
_MAYBE_WHOLE: Final[Schema] = {"type": ["integer", "null"]}
_NUMBER: Final[Schema] = {"type": "number"}
_YES: Final[Schema] = {"type": "boolean"}
_ANY: Final[Schema] = {}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _output(name: str, title: str, **properties: Schema) -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **_object(schema={"const": f"openclaw.{name}/1"}, **properties),
    }


_CAUSE: Final[Schema] = {"enum": ["change", "drift", "owed", "upgrade", "operator"]}
_IMPACT: Final[Schema] = {"enum": ["none", "hot-reload", "restart", "destroy"]}
_RESULT: Final[Schema] = {
    "enum": [
        "applying",
        "verifying",
        "confirmed",
        "unconfirmed",
        "partial",
        "failed",
        "rolling-back",
        "rolled-back",
        "rollback-failed",
        "interrupted",
        "superseded",
    ]
}
_KEY: Final[Schema] = {"type": "string", "pattern": "^[^/]+/.+$"}
_DIFFERENCE: Final[Schema] = _object(path=_TEXT, desired=_ANY, observed=_ANY, last_applied=_ANY, cause=_CAUSE)
_ACTION: Final[Schema] = _object(
    id=_TEXT,
    key=_KEY,
    verb=_TEXT,
    cause=_CAUSE,
    impact=_IMPACT,
    because=_object(
        file=_MAYBE_TEXT,
        line={"type": ["integer", "null"]},
        column={"type": ["integer", "null"]},
        text=_TEXT,
    ),
    differences=_list(_DIFFERENCE),
    consequences=_list(_object(what=_TEXT, text=_TEXT, amount={"type": ["number", "null"]})),
    undo=_TEXT,
    needs=_list(_TEXT),
)
_PLAN: Final[Schema] = {
    "generation": _WHOLE,
    "complete": _YES,
    "applyable": _YES,
    "actions": _list(_ACTION),
    "blocked": _list(_object(key={"type": ["string", "null"]}, code=_TEXT, message=_TEXT, hint=_TEXT)),
    "unknown": _list(_object(key=_KEY, reason=_TEXT)),
    "notes": _list(_object(code=_TEXT, message=_TEXT, file=_MAYBE_TEXT, line=_MAYBE_WHOLE)),
}
_CONDITION: Final[Schema] = _object(
    type=_TEXT,
    status={"enum": ["True", "False", "Unknown"]},
    reason=_TEXT,
    message=_TEXT,
    since=_MAYBE_TEXT,
    observed_generation=_WHOLE,
)
_NOTES: Final[Schema] = _list(_object(code=_TEXT, message=_TEXT))

OUTPUTS: Final[dict[str, Schema]] = {
    "plan": _output("plan", "What an apply would do", **_PLAN),
    "drift": _output(
        "drift", "What moved on the host", **_PLAN, moved=_list(_object(key=_KEY, differences=_list(_DIFFERENCE)))
    ),
    "apply": _output(
        "apply",
        "How an apply went",
        run=_MAYBE_TEXT,
        result=_RESULT,
        generation=_WHOLE,
        actions=_list(
            _object(
                id=_TEXT,
                key=_KEY,
                verb=_TEXT,
                result={"enum": ["done", "failed", "skipped", "stopped"]},
                seconds=_NUMBER,
                error=_MAYBE_TEXT,
                note=_MAYBE_TEXT,
            )
        ),
        rolled_back_to={"type": ["integer", "null"]},
        reason=_TEXT,
        notes=_PLAN["notes"],
    ),
    "status": _output(
        "status",
        "Every resource and its conditions",
        generation=_WHOLE,
        supervisor=_MAYBE_TEXT,
        supervisor_pid=_MAYBE_WHOLE,
        resources=_list(_object(key=_KEY, conditions=_list(_CONDITION), detail={"type": "object"})),
        notes=_NOTES,
    ),
    "why": _output(
        "why",
        "The evidence on one resource",
        key=_KEY,
        conditions=_list(_CONDITION),
        actions=_list(
            _object(
                at=_TEXT,
                verb=_TEXT,
                result=_TEXT,
                error=_MAYBE_TEXT,
                note=_MAYBE_TEXT,
                cause=_CAUSE,
                because=_TEXT,
                differences=_list(_DIFFERENCE),
                run=_object(
                    id=_TEXT,
                    cause=_TEXT,
                    author=_MAYBE_TEXT,
                    commit=_MAYBE_TEXT,
                    result=_RESULT,
                    reason=_TEXT,
                    generation=_MAYBE_WHOLE,
                ),
            )
        ),
        events=_list(_object(at=_TEXT, what=_TEXT, text=_TEXT, run=_MAYBE_TEXT)),
        notes=_NOTES,
    ),
    "history": _output(
        "history",
        "The generations that were in force, newest first, and the number of the one that is",
        in_force=_MAYBE_WHOLE,
        generations=_list(
            _object(
                number=_WHOLE,
                digest=_TEXT,
                at=_TEXT,
                cause=_TEXT,
                author=_MAYBE_TEXT,
                commit=_MAYBE_TEXT,
                result=_RESULT,
                reason=_TEXT,
            )
        ),
    ),
    "diff": _output(
        "diff",
        "What lies between two generations",
        **{"from": _TEXT},
        to=_TEXT,
        differences=_list(_object(path=_TEXT, **{"from": _ANY}, to=_ANY)),
    ),
    "validate": _output(
        "validate",
        "What is wrong with the document",
        problems=_list(
            _object(
                file=_TEXT,
                line=_WHOLE,
                column=_WHOLE,
                path=_TEXT,
                code=_TEXT,
                message=_TEXT,
                expected=_TEXT,
                hint=_TEXT,
            )
        ),
    ),
    "service-status": _output(
        "service-status",
        "The service",
        manager=_TEXT,
        runtime=_TEXT,
        state=_TEXT,
        pid={"type": ["integer", "null"]},
        restarts={"type": ["integer", "null"]},
        last_exit=_ANY,
        since=_MAYBE_TEXT,
        limits={"type": "object"},
        keeper=_MAYBE_WHOLE,
        last_keeper={"type": ["object", "null"]},
        port=_MAYBE_WHOLE,
        hold={"type": ["object", "null"]},
        drift={"type": ["array", "null"], "items": _TEXT},
    ),
    "gateway-health": _output(
        "gateway-health", "What the gateway says of its health; all of it with the secret only", status=_TEXT
    ),
    "config-get": _output("config-get", "One setting", path=_TEXT, value=_ANY),
    "config-explain": _output(
        "config-explain", "Where one setting comes from", path=_TEXT, value=_ANY, origin=_TEXT, condition=_TEXT
    ),
}
