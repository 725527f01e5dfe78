"""What the gateway counts as running by, where that is about to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resources.service import observe
from resources.service.keeper_client import Seen
from resources.service.observe import Child, digest_of, ends_of, fell, waits_text
from resources.testing import make_world


def child(pid: int | None, **record: Any) -> Child:
    return Child(
        seen=Seen(keeper_pid=1, children={}),
        record={"digest": "running", "goal": "up", "spec": {"spec_digest": "told"}, **record},
        pid=pid,
    )


@pytest.mark.req("PLAN-5", "PLAN-13")
@pytest.mark.parametrize(
    ("seen", "digest"),
    [
        (child(7, state="ready"), "running"),
        (child(7, state="starting"), "running"),
        # Whoever asked for the restart may have died before its end: it happens all the same.
        (child(7, state="stopping"), "told"),
        (child(7, state="stopping", goal="down"), "running"),
        (child(None, state="waiting"), None),
    ],
)
def test_a_process_that_is_being_replaced_counts_as_what_replaces_it(
    tmp_path: Path, seen: Child, digest: str | None
) -> None:
    assert digest_of(make_world(tmp_path).host, seen) == digest


EXIT = {"reason": "exit code 3", "asked": False}


@pytest.mark.req("SVC-7", "PLAN-18")
def test_each_end_that_nobody_asked_for_is_told_with_what_its_keeper_does_next() -> None:
    first = {**EXIT, "at": 1.0, "pid": 7}
    exits = [
        first,
        {**first, "asked": True},
        {**first, "at": 2.0, "restart_after": 0.0},
        {**first, "at": 3.0, "restart_after": 0.5},
        {**first, "at": 4.0, "reason": "cannot run it", "pid": None, "restart_after": 2.0},
        {**first, "at": 5.0, "restart_after": None},
    ]
    assert [(end.at, end.text) for end in ends_of(child(None, state="held", next_boot=None, exits=exits))] == [
        (1.0, "exit code 3 (pid 7)"),
        (2.0, "exit code 3 (pid 7); its keeper starts it again at once"),
        (3.0, "exit code 3 (pid 7); its keeper starts it again after 0.5 s"),
        (4.0, "cannot run it; its keeper starts it again after 2 s"),
        (5.0, "exit code 3 (pid 7); it is not started again"),
    ]
    # Whoever cured it was quicker than its keeper.
    started = child(7, state="ready", next_boot=None, exits=[{**first, "restart_after": 5.0}], spawned_at=1.25)
    assert [end.text for end in ends_of(started)] == ["exit code 3 (pid 7); it was started again after 0.2 s"]
    started = child(7, state="ready", next_boot=None, exits=[{**first, "restart_after": 5.0}], spawned_at=6.0)
    assert [end.text for end in ends_of(started)] == ["exit code 3 (pid 7); its keeper starts it again after 5 s"]
    # Whether it is started again hangs on its configuration, which is looked at first.
    assert ends_of(child(None, state="waiting", next_boot=None, exits=[first])) == ()
    assert len(ends_of(child(None, state="waiting", next_boot=9.0, exits=[first]))) == 1


@pytest.mark.req("PLAN-7", "SVC-9")
def test_an_end_that_was_asked_for_is_no_fall() -> None:
    accident, asked = {**EXIT, "at": 1.0, "pid": 7}, {**EXIT, "at": 2.0, "pid": 8, "asked": True}
    assert fell(child(9, state="ready", exits=[])) is None
    assert fell(child(9, state="ready", exits=[asked])) is None
    assert fell(child(9, state="ready", exits=[accident, asked])) == 1.0
    assert fell(child(9, state="ready", exits=[asked, {**accident, "at": 3.0}])) == 3.0


@pytest.mark.req("SVC-12", "PLAN-12")
@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (child(None, state="waiting", next_boot=104.2), "exit code 3; its keeper starts it again in 5 s"),
        # Its time is over, or its configuration is looked at first.
        (child(None, state="waiting", next_boot=99.0), "exit code 3; its keeper starts it again now"),
        (child(None, state="waiting", next_boot=None), "exit code 3; its keeper starts it again now"),
        (child(7, state="ready", next_boot=None), ""),
        (child(None, state="broken", next_boot=104.2), ""),
        (child(None, state="stopped", goal="down", next_boot=None), ""),
        (replace(child(None, state="waiting", next_boot=104.2), seen=Seen(keeper_pid=None, children={})), ""),
    ],
)
def test_why_it_is_down_and_for_how_long_is_told_while_its_keeper_waits(
    seen: Child, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "boot_seconds", lambda: 100.0)
    assert seen.record is not None
    assert waits_text(replace(seen, record={**seen.record, "exits": [EXIT], "hold": None})) == text
