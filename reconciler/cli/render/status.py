"""Every resource with its conditions, for people and for programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.cli.render.text import paint
from reconciler.kinds import End
from reconciler.model import Condition, Key, Note, Status

_GOOD = {"Ready": Status.TRUE, "Synced": Status.TRUE}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStatus:
    """One resource as `status` shows it; `detail` is what its kind says of it, plain JSON data, `ends` what ended by itself."""

    key: Key
    conditions: tuple[Condition, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)
    ends: tuple[End, ...] = ()


def status_json(
    generation: int, resources: Sequence[ResourceStatus], notes: Sequence[Note], supervisor: int | None
) -> dict[str, Any]:
    """What `openclaw status --json` prints (schema `openclaw.status/1`)."""
    return {
        "schema": "openclaw.status/1",
        "generation": generation,
        "supervisor": supervisor_text(supervisor),
        "supervisor_pid": supervisor,
        "resources": [
            {
                "key": str(item.key),
                "conditions": [condition_json(condition) for condition in item.conditions],
                "detail": dict(item.detail),
            }
            for item in resources
        ],
        "notes": [{"code": note.code, "message": note.message} for note in notes],
    }


def supervisor_text(pid: int | None) -> str | None:
    """The supervisor as people call it."""
    return f"supervisor pid {pid}" if pid is not None else None


def status_text(
    generation: int,
    resources: Sequence[ResourceStatus],
    notes: Sequence[Note],
    supervisor: int | None,
    *,
    colour: bool,
) -> str:
    """What `openclaw status` prints: one line for each resource, and one for each condition that is not as it should be."""
    lines = [f"generation {generation}, {supervisor_text(supervisor) or 'no supervisor watches'}"]
    width = max((len(str(item.key)) for item in resources), default=0)
    for item in resources:
        by_type = {condition.type: condition for condition in item.conditions}
        words = [_word(by_type[name], colour) for name in ("Ready", "Synced") if name in by_type]
        detail = _detail(item.detail)
        lines.append(f"{item.key!s:<{width}}  {', '.join(words)}{detail}")
        for condition in item.conditions:
            if condition.status is not _GOOD.get(condition.type, Status.FALSE) and condition.message:
                lines.append(f"    {condition.type}: {condition.reason}: {condition.message}")
    lines += [f"note: {note.message}" for note in notes]
    return "\n".join(lines) + "\n"


def _word(condition: Condition, colour: bool) -> str:
    good = condition.status is _GOOD[condition.type]
    word = condition.type.lower() if good else f"not {condition.type.lower()}"
    if condition.status is Status.UNKNOWN:
        word = f"{condition.type.lower()} unknown"
    return paint(word, "green" if good else "red", colour)


def _detail(detail: Mapping[str, Any]) -> str:
    shown = [
        f"{name} {detail[name]}"
        for name in ("state", "pid", "restarts", "files", "bytes")
        if detail.get(name) is not None
    ]
    ended = detail.get("last_exit")
    # One that nobody asked for is told also where it was no restart, because what started it again was no keeper.
    if ended and (detail.get("restarts") or not ended["asked"]):
        shown.append(f"last exit: {exit_text(ended)}")
    if detail.get("last_keeper"):
        shown.append(f"last keeper: {keeper_text(detail['last_keeper'])}")
    return f"  ({', '.join(shown)})" if shown else ""


def exit_text(last: Mapping[str, Any] | str) -> str:
    """When a process ended and why; of an adopted one no more is known than that it is gone."""
    if isinstance(last, str):
        return last
    at = last["at"] or "nobody saw when"
    if last["at"] and last.get("unseen"):
        at = f"noticed {at}"
    return f"{last['reason']} (pid {last['pid']}, {at})"


def keeper_text(last: Mapping[str, Any]) -> str:
    """How the keeper before this one ended, and since when this one has its place."""
    return f"{last['reason']} (pid {last['pid']}, replaced {last['replaced_at']})"


def condition_json(condition: Condition) -> dict[str, Any]:
    """One condition of `status --json`."""
    return {
        "type": condition.type,
        "status": condition.status.value,
        "reason": condition.reason,
        "message": condition.message,
        "since": condition.since or None,
        "observed_generation": condition.observed_generation,
    }
