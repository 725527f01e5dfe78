"""A journal in a directory of its own, and an action to put into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.journal import Journal
from reconciler.model import ABSENT, Action, Because, Cause, Consequence, Difference, Key, Secret, Undo


def action(verb: str = "write", key: Key | None = None) -> Action:
    """An action with something in every field that the journal must keep."""
    key = key or Key("gateway-config", "gateway")
    return Action(
        id=f"{key}:{verb}",
        key=key,
        verb=verb,
        cause=Cause.CHANGE,
        because=Because(text="declared", path=("gateway", "auth", "token")),
        differences=(
            Difference(
                path="gateway.auth.token",
                desired=Secret("new"),
                observed=Secret("old"),
                last_applied=ABSENT,
                cause=Cause.CHANGE,
            ),
        ),
        consequences=(Consequence(what="downtime", text="about 1 s", amount=1.0),),
        undo=Undo(verb="restore", arguments={"from": ["backup"]}),
        arguments={"path": "/x", "list": [1, 2]},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "reconciler" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open_writer(path, now=0.0) as opened:
        yield opened
