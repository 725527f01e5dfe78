"""A plan for people and for programs. Pure."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from reconciler.cli.render.text import paint, plural, seconds, shown, size
from reconciler.model import Action, Blocked, Consequence, Difference, Impact, Key, Note, Plan
from reconciler.values import public

# The fields that moved by themselves, resource by resource.
Moved: TypeAlias = tuple[tuple[Key, tuple[Difference, ...]], ...]
# Notes that say that nobody is served, though nothing differs and there is nothing for an apply to do.
DOWN: Final = ("suspended", "waiting")
_STYLES = {Impact.NONE: "green", Impact.HOT_RELOAD: "blue", Impact.RESTART: "yellow", Impact.DESTROY: "red"}


def plan_text(
    plan: Plan, *, document: str, blocked: tuple[Blocked, ...], colour: bool, by: str = "openclaw apply"
) -> str:
    """The plan as `openclaw plan` prints it on stdout. Without actions it is one line. `by` is the command that does it."""
    if not plan.actions:
        if plan.unknown:
            return f"No actions planned: {plural(len(plan.unknown), 'resource')} could not be observed.\n"
        if plan.blocked:
            return f"No actions planned: {document} asks for something that cannot be done.\n"
        if unfinished(plan):
            return "No changes planned: a rollback is not finished, and goes on first.\n"
        where = f"generation {plan.generation}" if plan.generation else "nothing to do"
        if down_text(plan):
            return f"No changes, but nobody is served at this moment ({where}).\n"
        return f"No changes: the host is as {document} declares it ({where}).\n"
    lines = []
    for action in plan.actions:
        lines += _action_lines(action, colour)
        lines.append("")
    lines.append(_summary(plan, blocked, colour, by))
    return "\n".join(lines) + "\n"


def drift_text(plan: Plan, moved: Moved, *, document: str, colour: bool) -> str:
    """The same as `openclaw drift` prints it: its actions are those that the system's own moves ask for. `moved` are the fields
    that did, also where no action can be planned.
    """
    cured = {action.key for action in plan.actions}
    lines = []
    for key, differences in moved:
        if key not in cured:
            lines += [f"{paint(str(key), 'bold', colour)}  (drift)", *map(_difference_line, differences), ""]
    if plan.actions:
        return "\n".join([*lines, plan_text(plan, document=document, blocked=plan.blocked, colour=colour)])
    if lines:
        return "\n".join([*lines, f"Drift: {paint('blocked', 'red', colour)}, so that nothing takes it back.\n"])
    if down_text(plan):
        return "No drift, but nobody is served at this moment.\n"
    return "No drift: nothing moved on the host since it was applied.\n"


def unfinished(plan: Plan) -> bool:
    """Whether a way back is still to be finished, whose writer has died."""
    return any(note.code == "way_back" for note in plan.notes)


def hindrance(plan: Plan) -> str:
    """What the host must have before a plan that nothing forbids can be applied; empty where it can."""
    codes = {note.code for note in plan.notes} if plan.actions else set()
    if "state_not_writable" in codes:
        return "the state directory can be written"
    frees = any(item.what == "bytes_freed" for action in plan.actions for item in action.consequences)
    return "there is room on the disk" if "disk_full" in codes and not frees else ""


def down_text(plan: Plan) -> str:
    """What does not serve although nothing differs, in one line; empty where there is nothing of the sort."""
    return "; ".join(note.message for note in plan.notes if note.code in DOWN)


def diagnostics_text(plan: Plan, blocked: tuple[Blocked, ...], *, colour: bool) -> str:
    """What stands beside a plan, for stderr: what could not be observed, what forbids it, notes."""
    lines = [f"{paint('unknown', 'yellow', colour)}: {item.key}: {item.reason}" for item in plan.unknown]
    for item in blocked:
        lines.append(f"{paint('blocked', 'red', colour)}: {item.message}")
        if item.hint:
            lines.append(f"  hint: {item.hint}")
    for note in plan.notes:
        where = f"{note.position}: " if note.position is not None else ""
        lines.append(f"{paint('note', 'dim', colour)}: {where}{note.message}")
    return "".join(f"{line}\n" for line in lines)


def plan_json(plan: Plan, blocked: tuple[Blocked, ...]) -> dict[str, Any]:
    """The plan as `openclaw plan --json` prints it (schema `openclaw.plan/1`)."""
    return {
        "schema": "openclaw.plan/1",
        "generation": plan.generation,
        "complete": plan.complete,
        "applyable": not blocked and not hindrance(plan),
        "actions": [action_json(action) for action in plan.actions],
        "blocked": [
            {"key": str(item.key) if item.key else None, "code": item.code, "message": item.message, "hint": item.hint}
            for item in blocked
        ],
        "unknown": [{"key": str(item.key), "reason": item.reason} for item in plan.unknown],
        "notes": [note_json(note) for note in plan.notes],
    }


def drift_json(plan: Plan, moved: Moved) -> dict[str, Any]:
    """The same as `openclaw drift --json` prints it (schema `openclaw.drift/1`)."""
    fields = [{"key": str(key), "differences": [difference_json(item) for item in items]} for key, items in moved]
    return {**plan_json(plan, plan.blocked), "schema": "openclaw.drift/1", "moved": fields}


def action_json(action: Action) -> dict[str, Any]:
    """One action of `plan --json`."""
    position = action.because.position
    return {
        "id": action.id,
        "key": str(action.key),
        "verb": action.verb,
        "cause": action.cause.value,
        "impact": action.impact.value,
        "because": {
            "file": position.file if position else None,
            "line": position.line if position else None,
            "column": position.column if position else None,
            "text": action.because.text,
        },
        "differences": [difference_json(item) for item in action.differences],
        "consequences": [{"what": item.what, "text": item.text, "amount": item.amount} for item in action.consequences],
        "undo": action.undo.text or action.undo.verb if action.undo is not None else "irreversible",
        "needs": list(action.needs),
    }


def difference_json(item: Difference) -> dict[str, Any]:
    """One difference of `plan --json`; secrets are masks, absent values null."""
    return {
        "path": item.path,
        "desired": public(item.desired),
        "observed": public(item.observed),
        "last_applied": public(item.last_applied),
        "cause": item.cause.value,
    }


def note_json(note: Note) -> dict[str, Any]:
    """One note of `plan --json`."""
    position = note.position
    return {
        "code": note.code,
        "message": note.message,
        "file": position.file if position else None,
        "line": position.line if position else None,
    }


def _action_lines(action: Action, colour: bool) -> list[str]:
    impact = paint(action.impact.value, _STYLES[action.impact], colour)
    undo = "" if action.undo is not None else ", irreversible"
    lines = [f"{paint(f'{action.key} {action.verb}', 'bold', colour)}  (impact {impact}, {action.cause.value}{undo})"]
    position = action.because.position
    where = f"{position}: " if position is not None else ""
    lines.append(f"    because {where}{action.because.text}")
    lines += map(_difference_line, action.differences)
    lines += [f"    then: {_consequence(item)}" for item in action.consequences]
    return lines


def _difference_line(item: Difference) -> str:
    return f"    {item.path}: {shown(item.observed)} -> {shown(item.desired)}"


def _consequence(item: Consequence) -> str:
    return item.text


def _summary(plan: Plan, blocked: tuple[Blocked, ...], colour: bool, by: str) -> str:
    parts = [plural(len(plan.actions), "action"), f"impact {plan.impact.value}"]
    if downtime := _total(plan, "downtime"):
        parts.append(f"expected downtime {seconds(downtime)}")
    if freed := _total(plan, "bytes_freed"):
        parts.append(f"{size(freed)} freed")
    tail = f"`{by}` does it"
    if blocked or (hindered := hindrance(plan)):
        tail = paint("blocked" if blocked else f"not before {hindered}", "red", colour)
    return f"Plan: {', '.join(parts)}; {tail}."


def _total(plan: Plan, what: str) -> float:
    return sum(item.amount or 0.0 for action in plan.actions for item in action.consequences if item.what == what)
