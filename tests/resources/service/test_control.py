"""What is said of the service when nobody watches it any more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from resources.service import control
from resources.service.keeper_client import Seen
from resources.service.observe import Child
from resources.testing import make_world
from tests.resources.service.test_observe import child

GOES_ON = "the service goes on; `openclaw service stop` ends it"


@pytest.mark.req("SVC-9")
@pytest.mark.parametrize(
    ("found", "text"),
    [
        (child(7, state="ready"), GOES_ON),
        (child(7, state="stopping"), GOES_ON),
        (child(7, state="stopping", goal="down"), "the service is being ended by its keeper; "),
        # Without a keeper nobody ends it.
        (replace(child(7, state="stopping", goal="down"), seen=Seen(keeper_pid=None, children={})), GOES_ON),
        (Child(seen=Seen(keeper_pid=None, children={}), record=None, pid=7, unrecorded=True), GOES_ON),
        (child(None, state="waiting", next_boot=1.0), GOES_ON),
        (child(None, state="stopped", goal="down"), ""),
        (child(None, state="held"), ""),
        (Child(seen=Seen(keeper_pid=None, children={}), record=None, pid=None), ""),
    ],
)
async def test_what_goes_on_running_is_said_with_how_to_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Child, text: str
) -> None:
    async def child_of(host: object) -> Child:
        return found

    monkeypatch.setattr(control, "child_of", child_of)
    said = await control.going_on(make_world(tmp_path).host)
    assert said.startswith(text)
    assert bool(said) == bool(text)
