"""The evidence on one resource, for people and for programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.cli.render.plan import difference_json
from reconciler.cli.render.status import ResourceStatus, condition_json, exit_text, keeper_text
from reconciler.cli.render.text import paint
from reconciler.journal import Event, Intent, Run
from reconciler.kinds import End
from reconciler.model import Key, Note, Status
from reconciler.values import dump, rfc3339

Evidence = Mapping[str, Sequence[Mapping[str, Any]]]


def action_evidence(run: Run, intent: Intent) -> dict[str, Any]:
    """One action that was once carried out, with the run that wanted it."""
    action = intent.action
    because = f"{action.because.position}: " if action.because.position is not None else ""
    return {
        "at": rfc3339(intent.at),
        "verb": action.verb,
        "result": intent.result or "not recorded",
        "error": intent.error,
        "note": intent.note,
        "cause": action.cause.value,
        "because": f"{because}{action.because.text}",
        "differences": [difference_json(item) for item in action.differences],
        "run": {
            "id": run.id,
            "cause": run.cause,
            "author": run.author,
            "commit": run.commit,
            "result": run.state.value,
            "reason": run.reason,
            "generation": run.generation,
        },
    }


def event_evidence(event: Event) -> dict[str, Any]:
    """One event of the journal."""
    return {"at": rfc3339(event.at), "what": event.what, "text": event.text, "run": event.run_id}


def end_evidence(end: End) -> dict[str, Any]:
    """One end that nobody asked for, as an event."""
    return {"at": rfc3339(end.at), "what": "ended", "text": end.text, "run": None}


def why_json(key: Key, status: ResourceStatus | None, evidence: Evidence, notes: Sequence[Note]) -> dict[str, Any]:
    """What `openclaw why --json` prints (schema `openclaw.why/1`)."""
    return {
        "schema": "openclaw.why/1",
        "key": str(key),
        "conditions": [condition_json(item) for item in status.conditions] if status is not None else [],
        "actions": list(evidence["actions"]),
        "events": list(evidence["events"]),
        "notes": [{"code": note.code, "message": note.message} for note in notes],
    }


def why_text(
    key: Key, status: ResourceStatus | None, evidence: Evidence, notes: Sequence[Note], *, colour: bool
) -> str:
    """What `openclaw why` prints: how it is now, then what was done to it and why, newest first."""
    lines = [paint(str(key), "bold", colour)]
    for item in status.conditions if status is not None else ():
        mark = {Status.TRUE: "is", Status.FALSE: "is not", Status.UNKNOWN: "is perhaps"}[item.status]
        message = f": {item.message}" if item.message else ""
        since = f" since {item.since}" if item.since else ""
        reason = f" ({item.reason})" if item.reason != item.type else ""
        lines.append(f"  {mark} {item.type}{since}{reason}{message}")
    if status is not None and status.detail.get("last_exit"):
        lines.append(f"  last exit: {exit_text(status.detail['last_exit'])}")
    if status is not None and status.detail.get("last_keeper"):
        lines.append(f"  last keeper: {keeper_text(status.detail['last_keeper'])}")
    lines += [f"  note: {note.message}" for note in notes]
    if not evidence["actions"]:
        lines.append("  nothing was done to it yet")
    for action in evidence["actions"]:
        lines += _action(action)
    lines += [f"  {event['at']}  {event['what']}: {event['text']}" for event in evidence["events"]]
    return "\n".join(lines) + "\n"


def _action(action: Mapping[str, Any]) -> list[str]:
    run = action["run"]
    by = f" by {run['author']}" if run["author"] else ""
    commit = f", commit {run['commit']}" if run["commit"] else ""
    lines = [
        f"  {action['at']}  {action['verb']}: {action['result']} ({action['cause']}; run {run['id']}, {run['cause']}{by}{commit})"
    ]
    lines.append(f"      because {action['because']}")
    lines += [
        f"      {item['path']}: {_shown(item['observed'])} -> {_shown(item['desired'])}"
        for item in action["differences"]
    ]
    if action["error"]:
        lines.append(f"      error: {action['error']}")
    if action["note"]:
        lines.append(f"      note: {action['note']}")
    if run["result"] in ("applying", "rolling-back"):
        lines.append("      the run goes on, or its writer died: the next run tells")
    elif run["result"] not in ("confirmed", "verifying"):
        lines.append(f"      the run ended {run['result']}" + (f": {run['reason']}" if run["reason"] else ""))
    return lines


def _shown(value: Any) -> str:
    return "(absent)" if value is None else dump(value)
