"""Arguments that no text can hold: wrong usage, whichever command they are given to."""

from __future__ import annotations

from pathlib import Path

import pytest

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
