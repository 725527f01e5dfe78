"""What `openclaw why` says of the runs behind the actions."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.cli.render.why import why_text
from reconciler.model import Key


def evidence(result: str) -> dict[str, Any]:
    run = {"id": "r1", "cause": "save", "author": None, "commit": None, "result": result, "reason": ""}
    action: dict[str, Any] = {
        "at": "2026-01-01T00:00:00Z",
        "verb": "write",
        "result": "done",
        "cause": "change",
        "because": "openclaw.yaml:1:1: x",
        "differences": [],
        "error": None,
        "note": None,
        "run": run,
    }
    return {"actions": [action], "events": []}


@pytest.mark.req("PLAN-8")
@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("applying", "the run goes on, or its writer died"),
        ("rolling-back", "the run goes on, or its writer died"),
        ("rolled-back", "the run ended rolled-back"),
        ("confirmed", ""),
        ("verifying", ""),
    ],
)
def test_a_run_that_has_not_ended_is_not_said_to_have(result: str, said: str) -> None:
    text = why_text(Key("gateway-config", "gateway"), None, evidence(result), (), colour=False)
    assert (said in text) if said else ("the run " not in text)
