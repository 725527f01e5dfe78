"""A goal tells what it will not do, and where in the document everything stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.desired import Desired
from reconciler.document.load import load_text
from reconciler.engine.goal import unmanaged_notes


def desired(text: str) -> Desired:
    return load_text(text, {}).desired


@pytest.mark.req("DOC-1")
def test_what_this_version_does_not_act_upon_is_said_by_name() -> None:
    text = "version: 1\nheartbeats: {agents: {main: {}}}\npolicy: {windows: []}\n"
    assert [(note.path, note.code) for note in unmanaged_notes(desired(text))] == [
        (("heartbeats",), "not_managed"),
        (("policy", "windows"), "not_managed"),
    ]


@pytest.mark.req("DOC-1")
def test_what_is_managed_or_not_declared_is_not_mentioned() -> None:
    managed = desired("version: 1\nservice: {}\ngateway: {}\nlogging: {}\npolicy: {verify: 1s}\n")
    assert unmanaged_notes(managed) == ()
    assert unmanaged_notes(replace(managed, extra={"x-mine": {}})) == ()
