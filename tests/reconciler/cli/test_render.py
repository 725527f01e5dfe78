"""What a person reads where there is nothing to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.cli.render.outcome import outcome_json, outcome_text
from reconciler.cli.render.plan import drift_json, drift_text, plan_json, plan_text
from reconciler.cli.render.status import ResourceStatus, status_json, status_text
from reconciler.engine.requests import Outcome
from reconciler.engine.settle import ended_as
from reconciler.model import ABSENT, Action, Because, Blocked, Cause, Consequence, Difference, Key, Note, Plan, Result

WAITING = "service/gateway is not running at this moment: exit code 3; its keeper starts it again in 5 s"


def plan(*notes: Note) -> Plan:
    return Plan(generation=3, document_digest="d", state_digest="s", notes=notes)


@pytest.mark.req("PLAN-1", "PLAN-9", "PLAN-12")
@pytest.mark.parametrize(
    ("note", "planned", "drifted", "applied"),
    [
        (
            Note(code="waiting", message=WAITING),
            "No changes, but nobody is served at this moment (generation 3).\n",
            "No drift, but nobody is served at this moment.\n",
            f"No changes, but {WAITING}\n",
        ),
        (
            Note(code="not_managed", message="section `tunnels` is valid, but not managed by this version"),
            "No changes: the host is as openclaw.yaml declares it (generation 3).\n",
            "No drift: nothing moved on the host since it was applied.\n",
            "No changes: nothing to do.\n",
        ),
    ],
)
def test_that_nothing_is_to_be_done_is_not_told_as_if_all_were_well(
    note: Note, planned: str, drifted: str, applied: str
) -> None:
    found = plan(note)
    assert plan_text(found, document="openclaw.yaml", blocked=(), colour=False) == planned
    assert drift_text(found, (), document="openclaw.yaml", colour=False) == drifted
    outcome = Outcome(run="", result=Result.CONFIRMED, plan=found, generation=3)
    assert (outcome_text(outcome, colour=False), outcome.exit_code) == (applied, 0)
    assert [item["message"] for item in outcome_json(outcome)["notes"]] == [note.message]


@pytest.mark.req("PLAN-1", "PLAN-9")
def test_what_moved_is_shown_where_no_action_can_be_planned() -> None:
    key = Key("gateway-config", "gateway")
    item = Difference(path="gateway.port", desired=2, observed=ABSENT, last_applied=2, cause=Cause.DRIFT)
    found = replace(plan(), blocked=(Blocked(key=key, code="config_is_a_link", message="cannot write"),))
    moved = ((key, (item,)),)
    assert drift_text(found, moved, document="openclaw.yaml", colour=False) == (
        "gateway-config/gateway  (drift)\n"
        "    gateway.port: (absent) -> 2\n"
        "\n"
        "Drift: blocked, so that nothing takes it back.\n"
    )
    data = drift_json(found, moved)
    assert (data["applyable"], data["moved"][0]["differences"][0]["path"]) == (False, "gateway.port")


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize(
    ("result", "told"),
    [
        (Result.CONFIRMED, "Generation 3: confirmed.\n"),
        (Result.VERIFYING, "Generation 3: applied, not confirmed yet.\n"),
        (Result.SUPERSEDED, "Generation 3: applied, and superseded before it was confirmed.\n"),
        (Result.ROLLED_BACK, "Generation 3: not healthy, rolled back.\n"),
    ],
)
def test_a_window_that_was_taken_over_ends_without_a_word_of_actions(result: Result, told: str) -> None:
    """Whoever died has done them, and this one none of them."""
    outcome = Outcome(run="r1", result=result, plan=plan(), generation=3)
    assert outcome_text(outcome, colour=False) == told


@pytest.mark.req("PLAN-12")
def test_what_was_so_before_a_run_or_a_window_is_not_told_at_its_end() -> None:
    outcome = Outcome(run="r1", result=Result.CONFIRMED, plan=plan(Note(code="waiting", message=WAITING)), generation=3)
    assert outcome_json(outcome)["notes"] == []
    assert "not running" not in outcome_text(outcome, colour=False)
    assert ended_as(replace(outcome, run="", result=Result.VERIFYING), None, None).plan.notes == ()


@pytest.mark.req("PLAN-1", "PLAN-8")
@pytest.mark.parametrize(
    ("code", "frees", "tail"),
    [
        ("disk_full", False, "not before there is room on the disk"),
        ("disk_full", True, "`openclaw apply` does it"),
        ("state_not_writable", True, "not before the state directory can be written"),
        ("open_run", False, "`openclaw apply` does it"),
    ],
)
def test_a_plan_that_the_host_has_no_room_for_is_not_called_applyable(code: str, frees: bool, tail: str) -> None:
    freed = (Consequence(what="bytes_freed", text="frees 1 B", amount=1),) if frees else ()
    action = Action(
        id="a",
        key=Key("logs", "gateway"),
        verb="prune",
        cause=Cause.DRIFT,
        because=Because(text="why"),
        consequences=freed,
    )
    found = replace(plan(Note(code=code, message="as it is")), actions=(action,))
    text = plan_text(found, document="openclaw.yaml", blocked=(), colour=False)
    assert text.endswith(f"; {tail}.\n")
    assert plan_json(found, ())["applyable"] is tail.startswith("`")


@pytest.mark.req("PLAN-12", "SVC-7")
def test_an_end_that_nobody_asked_for_is_told_though_no_keeper_started_it_again() -> None:
    ended = {"reason": "unknown (adopted)", "pid": 7, "at": "2026-01-01T00:00:00Z", "asked": False}
    for changes, told in (({}, True), ({"asked": True}, False), ({"asked": True, "restarts": 1}, True)):
        detail = {"state": "ready", "restarts": changes.get("restarts", 0), "last_exit": {**ended, **changes}}
        service = ResourceStatus(key=Key("service", "gateway"), conditions=(), detail=detail)
        text = status_text(1, (service,), (), None, colour=False)
        assert ("last exit: unknown (adopted) (pid 7, 2026-01-01T00:00:00Z)" in text) is told


def test_the_supervisor_is_told_in_words_and_by_its_number() -> None:
    said = [{name: status_json(0, (), (), pid)[name] for name in ("supervisor", "supervisor_pid")} for pid in (None, 7)]
    assert said == [
        {"supervisor": None, "supervisor_pid": None},
        {"supervisor": "supervisor pid 7", "supervisor_pid": 7},
    ]
