"""The way back to a generation has its secrets from where they are referred to, else from what the gateway was started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.cli import runtime as runtimes
from reconciler.cli.runtime import Runtime
from reconciler.document import secrets
from reconciler.document.load import load
from reconciler.errors import DocumentError
from reconciler.files import private_directory
from reconciler.journal import Journal
from reconciler.model import Generation
from resources.service import prepared
from resources.service.keeper import envfile
from resources.testing import make_world
from tests.reconciler.cli.generations import confirmed

pytestmark = pytest.mark.req("PLAN-8", "DOC-4")

VALUE = "canary-0123456789"


@dataclass
class Past:
    """A runtime with one generation whose token lies in `file`."""

    runtime: Runtime
    generation: Generation
    file: Path

    def leave(self, name: str, **values: str) -> None:
        """Leaves an environment file of the gateway below our part of the state directory."""
        path = self.runtime.host.state.ours / name
        private_directory(path.parent)
        path.write_bytes(envfile.render(values))

    def token(self) -> str:
        goal, _notes = self.runtime.goal_back(self.generation)
        assert goal.desired.gateway is not None
        assert goal.desired.gateway.token is not None
        return goal.secrets.reveal(goal.desired.gateway.token)


@pytest.fixture
def past(tmp_path: Path) -> Past:
    host = make_world(tmp_path).host
    (tmp_path / "token").write_text(VALUE)
    document = tmp_path / "openclaw.yaml"
    document.write_text(
        "version: 1\ngateway: {auth: {mode: token, token: {file: token}}}\n"
        "auth: {profiles: {'anthropic:default': {type: api_key, key: {file: profile}}}}\n"
    )
    (tmp_path / "profile").write_text("canary-of-a-profile")
    runtime = Runtime(host=host, document=str(document), kinds=())
    private_directory(host.state.ours)
    return Past(runtime, confirmed(runtime, load(document, {})), tmp_path / "token")


@pytest.mark.parametrize("place", ["run/gateway.env", "backups/gateway.env.run-1"])
def test_a_secret_that_gives_nothing_now_has_the_value_that_it_had_where_that_is_still_here(
    past: Past, place: str
) -> None:
    past.file.unlink()
    past.leave("backups/gateway.env.run-0", OPENCLAW_GATEWAY_TOKEN="another one")
    past.leave(place, A="b", OPENCLAW_GATEWAY_TOKEN=VALUE)
    assert past.token() == VALUE
    (note,) = past.runtime.goal_back(past.generation)[1]
    assert (note.code, note.path) == ("secret_again", ("gateway", "auth", "token"))
    assert VALUE not in note.message
    # A person who goes back is told that it gives nothing, and decides.
    with pytest.raises(DocumentError, match="1 reference to a secret"):
        past.runtime.goal_of(past.generation)


def test_what_was_then_is_looked_up_once_however_many_give_nothing(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, names = past.runtime, "ABC"
    for name in names:
        past.file.with_name(name).write_text(f"canary-of-{name}")
    document = past.file.with_name("many.yaml")
    listed = ", ".join(f"{name}: {{file: {name}}}" for name in names)
    document.write_text(f"version: 1\nservice: {{environment: {{{listed}}}}}\n")
    generation = confirmed(runtime, load(document, {}))
    past.leave("run/gateway.env", **{name: f"canary-of-{name}" for name in names})
    for name in names:
        past.file.with_name(name).unlink()
    reads = []
    real = prepared.former_values
    monkeypatch.setattr(prepared, "former_values", lambda host: reads.append(host) or real(host))  # type: ignore[func-returns-value]
    goal, notes = runtime.goal_back(generation)
    assert (goal.digest, [note.code for note in notes]) == (generation.digest, ["secret_again"] * 3)
    assert len(reads) == 1


def test_a_secret_of_what_is_not_managed_is_in_nobodys_way(past: Past) -> None:
    past.file.with_name("profile").unlink()
    goal, notes = past.runtime.goal_back(past.generation)
    assert (goal.digest, notes) == (past.generation.digest, ())
    with pytest.raises(DocumentError, match="1 reference to a secret"):
        past.runtime.goal_of(past.generation)


def test_where_its_value_is_nowhere_it_cannot_be_gone_back(past: Past) -> None:
    past.file.unlink()
    past.leave("run/gateway.env", OPENCLAW_GATEWAY_TOKEN="another one")
    with pytest.raises(DocumentError, match="1 reference to a secret") as caught:
        past.token()
    assert "another one" not in str(caught.value.problems)


def test_one_that_gives_another_value_now_keeps_that(past: Past) -> None:
    past.file.write_text("rotated")
    past.leave("run/gateway.env", OPENCLAW_GATEWAY_TOKEN=VALUE)
    assert past.token() == "rotated"
    (note,) = past.runtime.goal_back(past.generation)[1]
    assert note.code == "secret_rotated"


def test_one_that_was_rotated_and_is_gone_now_has_the_value_that_it_was_led_to_with_last(past: Past) -> None:
    past.file.write_text("rotated")
    goal, _notes = past.runtime.goal_back(past.generation)
    assert list(goal.given) == ["gateway.auth.token"]
    with Journal.open_writer(past.runtime.host.state.journal, now=2.0) as journal:
        journal.set_given(past.generation.number, goal.given)
    past.file.unlink()
    past.leave("backups/gateway.env.run-0", OPENCLAW_GATEWAY_TOKEN=VALUE)
    past.leave("run/gateway.env", OPENCLAW_GATEWAY_TOKEN="rotated")
    assert past.token() == "rotated"


def test_a_program_that_hangs_is_waited_for_once_on_the_way_to_what_stays_in_force(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for the document itself waits each time: it may be well by now."""
    runtime, asked = past.runtime, []
    good = past.file.with_name("good.yaml")
    good.write_text("version: 1\nservice: {environment: {A: {exec: [tool]}, B: {file: token}}}\n")

    def answers(argv: tuple[str, ...], *_rest: object) -> str:
        asked.append(argv)
        return VALUE

    def hangs(argv: tuple[str, ...], *_rest: object) -> str:
        asked.append(argv)
        raise secrets._Refused("secret_exec_timeout", "wait for it: it took longer than 10 s and was ended")

    monkeypatch.setattr(secrets, "_from_program", answers)
    loaded = load(good, {})
    generation = confirmed(runtime, loaded)
    monkeypatch.setattr(secrets, "_from_program", hangs)
    asked.clear()
    for times in (1, 2):
        with pytest.raises(DocumentError):
            runtime.source(loaded)
        for _ in range(2):
            with pytest.raises(DocumentError) as caught:
                runtime.goal_of(generation)
            assert "it took longer than 10 s" in str(caught.value.problems)
        assert len(asked) == times
    monkeypatch.setattr(secrets, "_from_program", answers)
    runtime.source(loaded)
    assert runtime.goal_of(generation)[0].digest == generation.digest
    monkeypatch.setattr(secrets, "_from_program", hangs)
    with pytest.raises(DocumentError):
        runtime.source(loaded)
    monkeypatch.setattr(secrets, "_from_program", answers)
    monkeypatch.setattr(runtimes, "HANGING_SECONDS", 0.0)
    assert runtime.goal_of(generation)[0].digest == generation.digest
