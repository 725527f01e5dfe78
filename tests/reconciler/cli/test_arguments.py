"""What may be typed: what is offered, what the help tells, and arguments that no text can hold, whoever gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from reconciler.cli.main import all_kinds, cli
from reconciler.document.load import load_text
from reconciler.document.secrets import RecordedSecrets, references
from reconciler.document.template import init_text
from reconciler.host import host_from
from tests.reconciler.cli.conftest import Shell


@pytest.mark.parametrize(
    "words",
    [
        ("why", "service/\udcff"),
        ("gateway", "call", "\udcff"),
        ("gateway", "call", "health", "--params", '"\udcff"'),
        ("gateway", "run", "--config", "\udcff"),
        ("apply", "--yes", "--file", "\udcff.yaml"),
        ("plan", "--out", "\udcff"),
        ("\udcff",),
    ],
)
def test_an_argument_that_is_not_utf_8_is_wrong_usage(shell: Shell, words: tuple[str, ...]) -> None:
    shell("init", "--port", "18989")
    said = shell(*words)
    assert (said.code, said.out) == (64, "")
    odd = next(word for word in words if "\udcff" in word).replace("\udcff", "\\udcff")
    assert said.err == f'openclaw: cannot read the argument "{odd}": it is not UTF-8\n'


def test_a_document_whose_path_is_not_utf_8_is_refused(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("init", "--port", "18989")
    (tmp_path / "openclaw.yaml").rename(tmp_path / "\udcff.yaml")
    monkeypatch.setenv("OPENCLAW_FILE", "\udcff.yaml")
    for command in ("validate", "plan", "status", "apply"):
        said = shell(command)
        assert (said.code, said.out) == (64, "")
        assert f'cannot use the document "{tmp_path}/\\udcff.yaml": its path is not UTF-8' in said.err


@pytest.mark.parametrize("params", ['"\\ud800"', "100000000000000000000"])
def test_what_no_message_can_hold_is_wrong_usage(shell: Shell, params: str) -> None:
    said = shell("gateway", "call", "health", "--params", params)
    assert (said.code, said.out) == (64, "")
    assert "cannot send --params: " in said.err


def test_the_help_names_the_variables_that_matter(shell: Shell) -> None:
    said = shell("--help")
    assert said.code == 0
    assert all(name in said.out for name in ("OPENCLAW_FILE", "OPENCLAW_STATE_DIR", "~/.config/openclaw/openclaw.yaml"))


def test_a_shell_is_offered_the_keys_that_a_document_declares() -> None:
    loaded = load_text(init_text("token"), {})
    secrets = RecordedSecrets(dict.fromkeys((each for _path, each in references(loaded.desired.canonical)), ""), b"")
    host = host_from({"HOME": "/h"}, 1000)
    keys = {str(each.key) for kind in all_kinds() for each in kind.declare(loaded.desired, host, secrets)}
    offered = ShellComplete(cli, {}, "openclaw", "_OPENCLAW_COMPLETE").get_completions(["why"], "")
    assert {item.value for item in offered} == keys
    begun = ShellComplete(cli, {}, "openclaw", "_OPENCLAW_COMPLETE").get_completions(["why"], "lo")
    assert [item.value for item in begun] == ["logs/gateway"]
    assert ShellComplete(cli, {}, "openclaw", "_OPENCLAW_COMPLETE").get_completions(["why"], "x") == []


def test_what_was_never_applied_cannot_be_compared(shell: Shell) -> None:
    shell("init", "--port", "18989")
    said = shell("diff", "1")
    assert (said.code, said.out) == (1, "")
    assert "nothing was applied yet" in said.err
