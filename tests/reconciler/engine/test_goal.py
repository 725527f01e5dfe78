"""A goal tells what it will not do, and where in the document everything stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.desired import Desired
from reconciler.document.load import load_text
from reconciler.engine.goal import Goal, gone_sections, located, unmanaged_notes
from reconciler.model import Blocked, Generation, Key, Plan, Result
from resources.testing import FakeSecrets


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


@pytest.mark.req("PLAN-10")
@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ("logging: {retention: {files: 2}}\ngateway: {}\n", "gateway: {}\n", {"logging"}),
        ("service: {}\ngateway: {}\n", "version: 1\n", {"service", "gateway"}),
        # What no resource follows from, a section that came, and a line less in one that stays.
        ("policy: {verify: 1s}\nheartbeats: {agents: {main: {}}}\nx-mine: 1\n", "version: 1\n", set()),
        ("version: 1\n", "gateway: {}\n", set()),
        ("gateway: {port: 1, bind: lan, auth: {mode: token}}\n", "gateway: {port: 1}\n", set()),
    ],
)
def test_a_section_that_has_gone_since_is_named(before: str, after: str, gone: set[str]) -> None:
    def goal(text: str) -> Goal:
        return Goal(
            desired=desired(text if text.startswith("version") else f"version: 1\n{text}"),
            digest="d",
            texts={},
            secrets=FakeSecrets(),
            secret_digests={},
            resources={},
            locate=lambda _path: None,
        )

    present = Generation(
        number=1,
        digest="d",
        at="",
        cause="save",
        author=None,
        commit=None,
        result=Result.CONFIRMED,
        reason="",
        canonical=goal(before).stored,
    )
    assert gone_sections(goal(after), present) == gone


@pytest.mark.req("DOC-2", "PLAN-6")
def test_what_the_document_is_to_blame_for_has_its_place() -> None:
    loaded = load_text("version: 1\ngateway:\n  settings: {bogus: 1}\n", {})
    key = Key("gateway-config", "gateway")
    mine = Blocked(key=key, code="x", message="cannot do it", path=("gateway", "settings", "bogus"))
    plan = located(
        Plan(generation=0, document_digest="d", state_digest="s", blocked=(mine, replace(mine, path=None))),
        loaded.locate,
    )
    assert [item.message for item in plan.blocked] == ["openclaw.yaml:3:14: cannot do it", "cannot do it"]


@pytest.mark.req("PLAN-17")
def test_a_hint_to_declare_otherwise_names_the_variable_that_wins_over_the_document() -> None:
    text = "version: 1\ngateway: {port: 18789}\n"
    held = Blocked(key=None, code="x", message="cannot", hint="declare another", setting=("gateway", "port"))
    plan = Plan(generation=0, document_digest="d", state_digest="s", blocked=(held,))
    (blocked,) = located(plan, load_text(text, {}).locate).blocked
    assert (blocked.message, blocked.hint) == ("cannot", "declare another")
    (blocked,) = located(plan, load_text(text, {"OPENCLAW_GATEWAY_PORT": "18790"}).locate).blocked
    assert blocked.message == "cannot"
    assert blocked.hint == (
        "declare another; "
        "OPENCLAW_GATEWAY_PORT in the environment sets gateway.port and wins over the document: change or unset it"
    )
