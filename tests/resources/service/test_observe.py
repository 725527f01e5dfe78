"""What the gateway counts as running by, where that is about to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resources.service.keeper_client import Seen
from resources.service.observe import Child, digest_of
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
