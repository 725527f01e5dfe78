"""Plans, actions and conditions as plain JSON data and back, without loss: for the journal and for plan files. Pure.

What people and other programs are shown (`plan --json`) is another form, made by the command line: there secrets are
masks and an absent value is null. Here both survive the way back. Values pass through `values.encode`, so that a secret is
stored as its salted digest; `arguments` are plain JSON data by contract and pass as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.model import (
    Action,
    Because,
    Blocked,
    Cause,
    Condition,
    Consequence,
    Difference,
    DocumentPath,
    Exposure,
    Impact,
    Key,
    Note,
    Plan,
    Position,
    Status,
    Undo,
    Unknown,
)
from reconciler.values import decode, digest, encode

Data = Mapping[str, Any]


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON data: the body of a plan file."""
    return {
        "generation": plan.generation,
        "document_digest": plan.document_digest,
        "state_digest": plan.state_digest,
        "states": dict(plan.states),
        "actions": [action_to_json(action) for action in plan.actions],
        "blocked": [
            {
                "key": str(item.key) if item.key is not None else None,
                "code": item.code,
                "message": item.message,
                "hint": item.hint,
            }
            for item in plan.blocked
        ],
        "notes": [
            {
                "code": item.code,
                "message": item.message,
                "path": _path_to_json(item.path),
                "position": _position_to_json(item.position),
            }
            for item in plan.notes
        ],
        "unknown": [{"key": str(item.key), "reason": item.reason} for item in plan.unknown],
        "withdrawals": [str(key) for key in plan.withdrawals],
        "exposures": [{"key": str(item.key), "text": item.text} for item in plan.exposures],
    }


def plan_digest(plan: Plan) -> str:
    """What a plan is known by: the digest of all that `plan_to_json` keeps."""
    return digest(plan_to_json(plan))


def plan_from_json(data: Any) -> Plan:
    """The plan that `plan_to_json` made `data` from.

    Raises:
        ValueError: it is not the data of a plan (a file that was edited, or comes from another version).
    """
    try:
        return _plan(data)
    except (KeyError, TypeError, AttributeError, ValueError) as err:
        raise ValueError(f"not a plan: {type(err).__name__}: {err}") from err


def _plan(data: Data) -> Plan:
    return Plan(
        generation=data["generation"],
        document_digest=data["document_digest"],
        state_digest=data["state_digest"],
        states=dict(data["states"]),
        actions=tuple(_action(item) for item in data["actions"]),
        blocked=tuple(
            Blocked(
                key=Key.parse(item["key"]) if item["key"] is not None else None,
                code=item["code"],
                message=item["message"],
                hint=item["hint"],
            )
            for item in data["blocked"]
        ),
        notes=tuple(
            Note(
                code=item["code"],
                message=item["message"],
                path=_path(item["path"]),
                position=_position(item["position"]),
            )
            for item in data["notes"]
        ),
        unknown=tuple(Unknown(key=Key.parse(item["key"]), reason=item["reason"]) for item in data["unknown"]),
        withdrawals=tuple(Key.parse(key) for key in data["withdrawals"]),
        exposures=tuple(Exposure(key=Key.parse(item["key"]), text=item["text"]) for item in data["exposures"]),
    )


def action_to_json(action: Action) -> dict[str, Any]:
    """The action as plain JSON data."""
    return {
        "id": action.id,
        "key": str(action.key),
        "verb": action.verb,
        "cause": action.cause.value,
        "because": {
            "text": action.because.text,
            "path": _path_to_json(action.because.path),
            "position": _position_to_json(action.because.position),
        },
        "differences": [difference_to_json(item) for item in action.differences],
        "impact": action.impact.value,
        "consequences": [{"what": item.what, "text": item.text, "amount": item.amount} for item in action.consequences],
        "precondition": action.precondition,
        "undo": _undo_to_json(action.undo),
        "needs": list(action.needs),
        "deadline_seconds": action.deadline_seconds,
        "arguments": dict(action.arguments),
        "consents": list(action.consents),
    }


def action_from_json(data: Any) -> Action:
    """The action that `action_to_json` made `data` from.

    Raises:
        ValueError: it is not the data of an action.
    """
    try:
        return _action(data)
    except (KeyError, TypeError, AttributeError, ValueError) as err:
        raise ValueError(f"not an action: {type(err).__name__}: {err}") from err


def _action(data: Data) -> Action:
    because, undo = data["because"], data["undo"]
    return Action(
        id=data["id"],
        key=Key.parse(data["key"]),
        verb=data["verb"],
        cause=Cause(data["cause"]),
        because=Because(text=because["text"], path=_path(because["path"]), position=_position(because["position"])),
        differences=tuple(difference_from_json(item) for item in data["differences"]),
        impact=Impact(data["impact"]),
        consequences=tuple(
            Consequence(what=item["what"], text=item["text"], amount=item["amount"]) for item in data["consequences"]
        ),
        precondition=data["precondition"],
        undo=_undo(undo) if undo else None,
        needs=tuple(data["needs"]),
        deadline_seconds=data["deadline_seconds"],
        arguments=dict(data["arguments"]),
        consents=tuple(data["consents"]),
    )


def difference_to_json(difference: Difference) -> dict[str, Any]:
    """The difference as plain JSON data."""
    return {
        "path": difference.path,
        "desired": encode(difference.desired),
        "observed": encode(difference.observed),
        "last_applied": encode(difference.last_applied),
        "cause": difference.cause.value,
    }


def difference_from_json(data: Data) -> Difference:
    """The difference that `difference_to_json` made `data` from; KeyError or ValueError where it is none."""
    return Difference(
        path=data["path"],
        desired=decode(data["desired"]),
        observed=decode(data["observed"]),
        last_applied=decode(data["last_applied"]),
        cause=Cause(data["cause"]),
    )


def condition_to_json(condition: Condition) -> dict[str, Any]:
    """The condition as plain JSON data."""
    return {
        "type": condition.type,
        "status": condition.status.value,
        "reason": condition.reason,
        "message": condition.message,
        "since": condition.since,
        "observed_generation": condition.observed_generation,
    }


def condition_from_json(data: Data) -> Condition:
    """The condition that `condition_to_json` made `data` from; KeyError or ValueError where it is none."""
    return Condition(
        type=data["type"],
        status=Status(data["status"]),
        reason=data["reason"],
        message=data["message"],
        since=data["since"],
        observed_generation=data["observed_generation"],
    )


def _undo_to_json(undo: Undo | None) -> dict[str, Any] | None:
    if undo is None:
        return None
    follows = {"follows": True} if undo.follows else {}
    return {"verb": undo.verb, "arguments": dict(undo.arguments), "text": undo.text, **follows}


def _undo(data: Data) -> Undo:
    return Undo(
        verb=data["verb"],
        arguments=dict(data["arguments"]),
        text=data["text"],
        follows=bool(data.get("follows", False)),
    )


def _path_to_json(path: DocumentPath | None) -> list[str | int] | None:
    return None if path is None else list(path)


def _path(data: list[str | int] | None) -> DocumentPath | None:
    return None if data is None else tuple(data)


def _position_to_json(position: Position | None) -> dict[str, Any] | None:
    if position is None:
        return None
    return {"file": position.file, "line": position.line, "column": position.column, "text": position.text}


def _position(data: Data | None) -> Position | None:
    if data is None:
        return None
    return Position(file=data["file"], line=data["line"], column=data["column"], text=data["text"])
