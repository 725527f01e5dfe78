"""What a plan may not do without a person's word. Pure: the numbers it needs are handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.desired import Policy
from reconciler.model import Action, Blocked, Cause, Impact, Key, Note, Plan

# By which option of the command line a person grants what is forbidden.
_OPTIONS = {
    "approval_missing": "--approve {key}",
    "budget": "--approve {key}",
    "take_over_missing": "--take-over",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """What a person granted for one plan: keys by `--approve`, `--take-over`. `person` is False for watcher, timer, git;
    `way_back` is True for who goes back: that waits for no budget.
    """

    keys: frozenset[Key] = frozenset()
    take_over: bool = False
    person: bool = True
    way_back: bool = False


def check(plan: Plan, policy: Policy, approvals: Approvals, *, restarts_last_hour: int) -> tuple[Blocked, ...]:
    """Everything that forbids to apply `plan` now: what planning found, missing approvals, the restart budget."""
    found = [*plan.blocked]
    for action in plan.actions:
        found += _consents(action, policy, approvals)
    if not approvals.person:
        command = " ".join(("openclaw apply", *lacking(found)))
        found += _withdrawals(plan, approvals, command)
        found += _exposures(plan, approvals, command)
    budget = _budget(plan.actions, policy, restarts_last_hour)
    if budget is not None and not (approvals.way_back or budget.key in approvals.keys):
        found.append(budget)
    return tuple(dict.fromkeys(found))


def lacking(blocked: Sequence[Blocked]) -> tuple[str, ...]:
    """The options that grant every approval for want of which `blocked` forbids a plan."""
    return tuple(dict.fromkeys(_OPTIONS[item.code].format(key=item.key) for item in blocked if item.code in _OPTIONS))


def hint_of(blocked: Sequence[Blocked]) -> str:
    """What helps against all of `blocked`, where approvals are all that is missing; else what helps against the first."""
    options = lacking(blocked)
    return f"say {' '.join(options)}" if len(options) > 1 and lacking(blocked[:1]) else blocked[0].hint


def waits_for_person(plan: Plan, policy: Policy) -> tuple[Note, ...]:
    """What must be told beside a plan that a person may apply as it is, and whoever watches may not."""
    mine = check(plan, policy, Approvals(), restarts_last_hour=0)
    theirs = check(plan, policy, Approvals(person=False), restarts_last_hour=0)
    return tuple(
        Note(code="waits_for_person", message=f"whoever watches waits for a person: {item.message}; {item.hint}")
        for item in theirs
        if item not in mine
    )


def not_applied(blocked: Sequence[Blocked]) -> tuple[Note, ...]:
    """What must be told beside the state of a host of what keeps anybody from leading it to its document."""
    return tuple(
        Note(code="blocked", message="; ".join(filter(None, (f"not applied: {item.message}", item.hint))))
        for item in blocked
    )


def window_seconds(actions: Sequence[Action], policy: Policy) -> float:
    """How long the result of `actions` is watched before it counts as confirmed.

    Nothing to watch where nobody was disturbed; what was started is watched although a start disturbs nobody.
    """
    watched = any(action.impact is not Impact.NONE or action.verb == "start" for action in actions)
    return policy.verify_seconds if watched else 0.0


def _consents(action: Action, policy: Policy, approvals: Approvals) -> list[Blocked]:
    found = []
    if action.impact is Impact.DESTROY and "destroy" in policy.approve and action.key not in approvals.keys:
        found.append(
            Blocked(
                key=action.key,
                code="approval_missing",
                message=f"cannot {action.verb} {action.key} without approval: what it destroys does not come back",
                hint=f"say --approve {action.key}, or put the section back into the document",
            )
        )
    elif action.impact.value in policy.approve and action.key not in approvals.keys:
        found.append(
            Blocked(
                key=action.key,
                code="approval_missing",
                message=f"cannot {action.verb} {action.key} without approval: its impact is {action.impact.value}, and "
                "policy.approve names that",
                hint=f"say --approve {action.key}",
            )
        )
    if "take-over" in action.consents and not approvals.take_over:
        found.append(
            Blocked(
                key=action.key,
                code="take_over_missing",
                message=f"cannot {action.verb} {action.key}: it was there before us and belongs to somebody else",
                hint="say --take-over to manage it from here on (what is there is kept in backups), "
                "or set OPENCLAW_STATE_DIR to a directory of its own",
            )
        )
    return found


def _withdrawals(plan: Plan, approvals: Approvals, command: str) -> list[Blocked]:
    return [
        Blocked(
            key=key,
            code="withdrawal",
            message=f"cannot change {key} by itself: a whole section has gone from the document",
            hint=f"say `{command}`, or put the section back",
        )
        for key in plan.withdrawals
        if key not in approvals.keys
    ]


def _exposures(plan: Plan, approvals: Approvals, command: str) -> list[Blocked]:
    return [
        Blocked(
            key=item.key,
            code="exposure",
            message=f"cannot change {item.key} by itself: what protects it has gone from the document, and then {item.text}",
            hint=f"say `{command}`, put it back, or write that it is meant so",
        )
        for item in plan.exposures
        if item.key not in approvals.keys
    ]


def _budget(actions: Sequence[Action], policy: Policy, restarts_last_hour: int) -> Blocked | None:
    # A cure for drift or a debt is no wish of anybody's, but it uses up the budget like every restart.
    restarts = [action for action in actions if action.impact is Impact.RESTART and action.verb == "restart"]
    if policy.restarts_per_hour is None or not restarts:
        return None
    if restarts_last_hour + len(restarts) <= policy.restarts_per_hour:
        return None
    wished = any(action.cause is Cause.CHANGE for action in restarts)
    return Blocked(
        key=restarts[0].key,
        code="budget",
        message=f"cannot restart {restarts[0].key}: {restarts_last_hour} restarts in the last hour, "
        f"and policy.restarts_per_hour is {policy.restarts_per_hour}",
        hint=f"wait, say --approve {restarts[0].key}, or raise policy.restarts_per_hour in the document"
        if wished
        else "it is tried again later",
    )
