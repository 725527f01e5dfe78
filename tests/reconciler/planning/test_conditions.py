"""The conditions of a resource: what is seen now, what is kept of earlier runs, and since when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.kinds import Health, Observation
from reconciler.model import ABSENT, Action, Because, Cause, Condition, Difference, Key, Result, Status
from reconciler.planning.conditions import conditions
from reconciler.values import rfc3339

KEY = Key("fake", "a")
DIFFERENCE = Difference(path="v", desired=1, observed=2, last_applied=1, cause=Cause.DRIFT)


def made(**named: Any) -> dict[str, Condition]:
    given: dict[str, Any] = {
        "observation": Observation(key=KEY),
        "differences": (),
        "actions": (),
        "health": Health(ready=True),
        "kept": (),
        "external": False,
        "generation": 3,
        **named,
    }
    found = conditions(**given)
    assert len({item.type for item in found}) == len(found)
    return {item.type: item for item in found}


@pytest.mark.req("PLAN-12")
def test_a_resource_that_is_well_is_ready_and_synced_and_nothing_else() -> None:
    found = made()
    assert found.keys() == {"Ready", "Synced"}
    assert {item.status for item in found.values()} == {Status.TRUE}
    assert {item.observed_generation for item in found.values()} == {3}


@pytest.mark.req("PLAN-9", "PLAN-12")
def test_drift_is_a_condition_of_its_own_and_change_is_not() -> None:
    assert made(differences=(DIFFERENCE,))["Drifted"].message == "v is 2, not 1"
    change = Difference(path="v", desired=1, observed=2, last_applied=ABSENT, cause=Cause.CHANGE)
    found = made(differences=(change,))
    assert "Drifted" not in found
    assert (found["Synced"].status, found["Synced"].message) == (Status.FALSE, "v")


@pytest.mark.req("PLAN-9", "PLAN-12")
def test_what_is_owed_without_a_field_that_says_so_is_drift_as_well() -> None:
    owed = Action(
        id="fake/a:restart", key=KEY, verb="restart", cause=Cause.OWED, because=Because(text="it runs by theirs")
    )
    found = made(actions=(owed,))
    assert (found["Drifted"].reason, found["Drifted"].message) == ("Owed", "restart: it runs by theirs")
    assert (found["Synced"].status, found["Synced"].message) == (Status.FALSE, "restart")
    assert "Drifted" not in made(actions=(replace(owed, cause=Cause.CHANGE),))
    # A field that moved says more, and what follows from that is no second drift.
    assert made(actions=(owed,), differences=(DIFFERENCE,))["Drifted"].reason == "FieldsMoved"


@pytest.mark.req("PLAN-12")
def test_what_cannot_be_observed_is_unknown_and_never_guessed() -> None:
    found = made(observation=Observation(key=KEY, unknown="the door is locked"))
    assert (found["Synced"].status, found["Synced"].message) == (Status.UNKNOWN, "the door is locked")


@pytest.mark.req("PLAN-12")
def test_since_is_kept_as_long_as_status_and_reason_are() -> None:
    kept = (
        Condition(type="Ready", status=Status.TRUE, reason="Ready", message="", since="earlier", observed_generation=1),
    )
    assert (made(kept=kept)["Ready"].since, made(kept=kept)["Ready"].observed_generation) == ("earlier", 1)
    sick = made(kept=kept, health=Health(ready=False, reason="NoAnswer", message="silence"))["Ready"]
    assert (sick.since, sick.observed_generation) == ("", 3)


@pytest.mark.req("PLAN-12", "SVC-7")
@pytest.mark.parametrize(
    ("kept", "health", "since"),
    [
        # The life that was seen ended, and another one serves.
        pytest.param((True, "Ready", 10.0), Health(ready=True, began=19.0, since=20.0), 20.0, id="a later life"),
        pytest.param((True, "Ready", 10.0), Health(ready=True, began=8.0, since=9.0), 10.0, id="the same life"),
        pytest.param((True, "Ready", 10.0), Health(ready=True, began=19.0), None, id="a later life of unknown age"),
        pytest.param((False, "NoAnswer", 10.0), Health(ready=True, began=19.0, since=20.0), 20.0, id="well since then"),
        # It did not answer at 10, and since when it does nobody saw.
        pytest.param(
            (False, "NoAnswer", 10.0), Health(ready=True, began=8.0, since=9.0), None, id="well at some moment"
        ),
        pytest.param(None, Health(ready=True, began=8.0, since=9.0), 9.0, id="never stored"),
        pytest.param((True, "Ready", 10.0), Health(ready=False, reason="NotRunning", since=20.0), 20.0, id="down"),
    ],
)
def test_ready_is_no_older_than_the_life_that_runs(
    kept: tuple[bool, str, float] | None, health: Health, since: float | None
) -> None:
    before = [
        Condition(
            type=type_,
            status=Status.TRUE if kept[0] else Status.FALSE,
            reason=kept[1] if type_ == "Ready" else "Applied",
            message="",
            since=rfc3339(kept[2]),
        )
        for type_ in ("Ready", "Synced")
        if kept is not None
    ]
    found = made(kept=before, health=health)
    assert found["Ready"].since == (rfc3339(since) if since is not None else "")
    if kept is not None and kept[0]:
        # What it was given is as it was, whoever runs by it.
        assert found["Synced"].since == rfc3339(kept[2])


@pytest.mark.req("PLAN-12")
def test_a_rollback_stays_told_and_others_that_are_sick_are_degraded() -> None:
    kept = (Condition(type="RolledBack", status=Status.TRUE, reason="NotHealthy", message="no", since="then"),)
    found = made(kept=kept, external=True, health=Health(ready=False, reason="PeerGone", message="it left"))
    assert found["RolledBack"].since == "then"
    assert found["Degraded"].reason == "PeerGone"


@pytest.mark.req("PLAN-12")
def test_a_lost_history_is_told_on_everything() -> None:
    assert made(history_lost="the disk")["HistoryLost"].message == "the disk"


@pytest.mark.req("PLAN-12")
@pytest.mark.parametrize(
    ("state", "reason"),
    [(Result.APPLYING, "Applying"), (Result.VERIFYING, "Verifying"), (Result.ROLLING_BACK, "RollingBack")],
)
def test_an_open_run_is_progress(state: Result, reason: str) -> None:
    condition = made(run=(state, "run-7"))["Progressing"]
    assert (condition.status, condition.reason, "run-7" in condition.message) == (Status.TRUE, reason, True)
    # Whether anybody is at it the journal does not say: a note of `status` does.
    assert "watched" not in condition.message
