"""The account that a run leaves in the journal: what is ours, what is healthy, what must stay healthy. Synchronous.

Called from threads, under the writer lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.engine.execute import StepResult
from reconciler.engine.goal import Goal
from reconciler.engine.requests import Request
from reconciler.journal import UNDECIDED, Journal
from reconciler.kinds import Applied, AppliedField, Observation, Resource, Wanted
from reconciler.model import ABSENT, Condition, Impact, Key, Result, Status
from reconciler.planning.differences import differences
from reconciler.planning.policy import window_seconds
from reconciler.values import same

if TYPE_CHECKING:
    from reconciler.engine.verify import Verdict

# Why a generation, or a run in its window, was superseded; the second where both lead to the same document.
BY_DOCUMENT = "another document took its place"
BY_RUN = "another run took its place"


def record_applied(
    journal: Journal,
    goal: Goal,
    wanted: Mapping[Key, Wanted],
    observations: Mapping[Key, Observation],
    results: Sequence[StepResult],
) -> None:
    """Makes everything that is as declared ours, so that a later withdrawal knows what to give back, and drops what is
    neither declared nor to be given back any more. Writes only what is new.
    """
    unfinished = {step.action.key for step in results if step.result != "done"}
    before = journal.applied()
    for key, item in wanted.items():
        observation = observations[key]
        if key in unfinished or observation.unknown is not None:
            continue
        mine = before.get(key, {})
        fields = _owned(goal.resources.get(key), observation, mine)
        stale = tuple(path for path in mine if path not in fields and not _pending(path, item, observation))
        changed = {path: owned for path, owned in fields.items() if mine.get(path) != owned}
        if changed or stale:
            journal.set_applied(key, changed, forgotten=stale)


def outdated(wanted: Mapping[Key, Wanted], observations: Mapping[Key, Observation]) -> bool:
    """Whether the account still holds what is neither declared nor to be given back any more.

    Left there, it would be taken for ours when somebody else happens to write the same value again.
    """
    return any(
        path not in (item.resource.fields if item.resource is not None else {})
        and not _pending(path, item, observations[key])
        for key, item in wanted.items()
        if observations[key].unknown is None
        for path in item.applied
    )


def unaccounted(wanted: Mapping[Key, Wanted], observations: Mapping[Key, Observation]) -> bool:
    """Whether something of ours is as declared by no run of this journal, which knows another value of it: the journal may be
    that of an earlier day, put back, and what runs was never seen to serve.
    """
    return any(
        not same(item.applied[path].value, value) and same(observations[key].fields.get(path, ABSENT), value)
        for key, item in wanted.items()
        if item.resource is not None and observations[key].unknown is None
        for path, value in item.resource.fields.items()
        if path in item.applied
    )


def disturbed(touched: Iterable[StepResult]) -> set[Key]:
    """What these steps could have brought down, or were to bring up."""
    return {step.action.key for step in touched if step.action.impact is not Impact.NONE or step.action.verb == "start"}


def gates(journal: Journal, goal: Goal, touched: Sequence[StepResult]) -> dict[Key, Resource]:
    """The resources that must be ready at the window's end: those that this run disturbed or started, and those that
    were ready before it. A run that disturbs nobody answers for nobody but itself; one that touched nothing has its window to
    see what is in force, and so has any while the history is lost: what was ready before it is not known then.
    """
    if not touched or journal.history_lost is not None:
        return dict(goal.resources)
    keys = disturbed(touched)
    if not keys:
        return {
            key: goal.resources[key] for key in sorted({step.action.key for step in touched} & goal.resources.keys())
        }
    keys |= {
        key
        for key, conditions in journal.conditions().items()
        if any(item.type == "Ready" and item.status is Status.TRUE for item in conditions)
    }
    return {key: goal.resources[key] for key in sorted(keys) if key in goal.resources}


def window_of(
    journal: Journal, goal: Goal, touched: Sequence[StepResult], *, whole: bool
) -> tuple[dict[Key, Resource], float]:
    """What is watched after `touched`, and for how many seconds. `whole`: all there is for the whole window, however little was
    done, because it is to confirm what was before it as well.
    """
    seconds = window_seconds([step.action for step in touched], goal.desired.policy)
    if whole:
        return dict(goal.resources), max(seconds, goal.desired.policy.verify_seconds)
    return gates(journal, goal, touched), seconds


def record_health(journal: Journal, steps: Sequence[StepResult], verdict: Verdict, generation: int, at: float) -> None:
    """Stores the Ready and Synced conditions of the gates, as a window of `generation` showed them; nothing else stays."""
    failed = {step.action.key: step.error or "" for step in steps if step.result != "done"}
    # In one commit, and so one flush, however many they are.
    with journal.transaction():
        for key, health in verdict.health.items():
            journal.set_conditions(
                key,
                (
                    Condition(
                        type="Ready",
                        status=Status.TRUE if health.ready else Status.FALSE,
                        reason=health.reason,
                        message=health.message,
                        observed_generation=generation,
                    ),
                    Condition(
                        type="Synced",
                        status=Status.FALSE if key in failed else Status.TRUE,
                        reason="ApplyFailed" if key in failed else "Applied",
                        message=failed.get(key, ""),
                        observed_generation=generation,
                    ),
                ),
                at,
            )


def end_loss(journal: Journal, keys: Iterable[Key], number: int, run: str, at: float) -> None:
    """Ends that the history is lost, by generation `number`, which is confirmed: there, and of each of `keys`, it stays told."""
    lost = journal.history_lost
    if lost is None:
        return
    text = f"the history before it is lost: {lost}"
    with journal.transaction():
        for key in keys:
            journal.record_event(at, key, "history_lost", text, run_id=run or None)
        journal.set_generation_result(number, Result.CONFIRMED, text)
        journal.set_history_lost(None)


def restarts_since(journal: Journal, since: float) -> int:
    """How many restarts were done since `since` (seconds since the epoch)."""
    return sum(
        intent.action.verb == "restart" and intent.result == "done" and intent.at >= since
        for run in journal.runs(limit=200)
        if run.changed_at >= since
        for intent in journal.actions_of(run.id)
    )


def _owned(resource: Resource | None, observation: Observation, mine: Applied) -> dict[str, AppliedField]:
    if resource is None:
        return {}
    return {
        path: AppliedField(
            value=desired,
            former=mine[path].former if path in mine else observation.fields.get(path, ABSENT),
            defaulted=path in resource.defaulted,
        )
        for path, desired in resource.fields.items()
    }


def _pending(path: str, item: Wanted, observation: Observation) -> bool:
    """True while a withdrawn field still waits to be given back."""
    return any(found.path == path for found in differences(item.resource, observation, item.applied)) and not same(
        observation.fields.get(path, ABSENT), item.applied[path].former
    )


def record_generation(
    journal: Journal, goal: Goal, request: Request, result: Result, reason: str = "", *, at: float
) -> int:
    """Records what a run made of a document, as another try of the newest generation where it is the same; returns its number."""
    newest = journal.last_generation()
    tried = newest is not None and newest.result in UNDECIDED and newest.digest == goal.digest
    if newest is not None and tried and newest.texts == goal.texts:
        # Another try of the same: a failure that lasts must not push what was good out of the history.
        journal.set_generation_result(newest.number, result, reason)
        return newest.number
    if newest is not None and newest.result is Result.VERIFYING:
        # Whoever watches it may be dead; whoever lives says the same once more.
        journal.set_generation_result(newest.number, Result.SUPERSEDED, BY_DOCUMENT)
    return journal.record_generation(
        digest=goal.digest,
        at=at,
        cause=request.cause,
        author=request.author,
        commit=request.commit,
        result=result,
        reason=reason,
        texts=goal.texts,
        canonical=goal.stored,
        secrets=goal.secret_digests,
    )
