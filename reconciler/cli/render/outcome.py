"""How an apply went, for people and for programs. Pure."""

from __future__ import annotations

from typing import Any

from reconciler.cli.render.plan import down_text, note_json
from reconciler.cli.render.text import paint, plural, seconds
from reconciler.engine.requests import Outcome, Progress
from reconciler.model import Result

_WORDS = {
    Result.CONFIRMED: "confirmed",
    Result.VERIFYING: "applied, not confirmed yet",
    Result.UNCONFIRMED: "applied, not confirmed",
    Result.SUPERSEDED: "applied, and superseded before it was confirmed",
    Result.PARTIAL: "partly applied",
    Result.FAILED: "failed",
    Result.ROLLED_BACK: "not healthy, rolled back",
    Result.ROLLBACK_FAILED: "not healthy, and not rolled back: a person is needed",
}


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """What `openclaw apply --json` prints (schema `openclaw.apply/1`)."""
    return {
        "schema": "openclaw.apply/1",
        "run": outcome.run or None,
        "result": outcome.result.value,
        "generation": outcome.generation,
        "actions": [
            {
                "id": step.action.id,
                "key": str(step.action.key),
                "verb": step.action.verb,
                "result": step.result,
                "seconds": round(step.seconds, 3),
                "error": step.error,
                "note": step.note,
            }
            for step in outcome.steps
        ],
        "rolled_back_to": outcome.rolled_back_to,
        "reason": outcome.reason,
        # What a run found before its first step may be so no longer.
        "notes": [note_json(note) for note in outcome.plan.notes] if not outcome.run else [],
    }


def outcome_text(outcome: Outcome, *, colour: bool) -> str:
    """The closing line of `openclaw apply`."""
    elsewhere = not outcome.run and outcome.result in (Result.ROLLED_BACK, Result.ROLLBACK_FAILED)
    if not outcome.run and not elsewhere:
        return _nothing_text(outcome)
    if outcome.result is Result.INTERRUPTED:
        stays = f"; generation {outcome.generation} stays in force" if outcome.generation else ""
        return f"Stopped before the first step: nothing was done{stays}.\n"
    done = sum(step.result == "done" for step in outcome.steps)
    good = outcome.exit_code == 0
    words = _WORDS.get(outcome.result, outcome.result.value)
    if outcome.result is Result.VERIFYING and done < len(outcome.steps):
        words = f"partly {words}"
    word = paint(words, "green" if good else "red", colour)
    did = "; by another writer" if elsewhere else ""
    if outcome.steps:
        did = f"; {done} of {plural(len(outcome.steps), 'action')} done"
    if outcome.result is Result.CONFIRMED and done < len(outcome.steps):
        did += ", and what failed at first is as declared by now"
    # Of a window that another process left, its steps were told by that one.
    text = f"Generation {outcome.generation}: {word}{did}.\n"
    if outcome.reason:
        text += f"  reason: {outcome.reason}\n"
    if outcome.stopped:
        text += "  stopped: the next run, or a supervisor that watches, confirms it or goes back\n"
    if outcome.rolled_back_to is not None:
        back = f"generation {outcome.rolled_back_to}" if outcome.rolled_back_to else "what was there before"
        text += f"  in force again: {back}; the document is left as it is, and is tried again once it changes\n"
    return text


def _nothing_text(outcome: Outcome) -> str:
    """Where no action was needed."""
    if outcome.reason:
        return f"No changes, but not confirmed: {outcome.reason}\n"
    if outcome.result is Result.CONFIRMED and outcome.generation != outcome.plan.generation:
        return f"Generation {outcome.generation}: confirmed; nothing had to be changed.\n"
    if down := down_text(outcome.plan):
        return f"No changes, but {down}\n"
    return "No changes: nothing to do.\n"


def progress_text(progress: Progress, *, colour: bool) -> str | None:
    """A line of progress for stderr, None where there is nothing to say."""
    step = progress.step
    if progress.what == "step_ended" and step is not None:
        word = paint(step.result, "green" if step.result == "done" else "red", colour)
        text = f"  {step.action.key} {step.action.verb}: {word} ({seconds(step.seconds)})\n"
        if step.error:
            text += f"    {step.error}\n"
        if step.note:
            text += f"    note: {step.note}\n"
        if step.hint:
            text += f"    hint: {step.hint}\n"
        return text
    if progress.what == "verifying":
        left = float(progress.text)
        return f"  watching the result for {seconds(left)}\n" if left else None
    if progress.what == "rolling_back":
        return f"  {paint('not healthy', 'red', colour)}: {progress.text}\n"
    if progress.what == "note":
        return f"  note: {progress.text}\n"
    return None
