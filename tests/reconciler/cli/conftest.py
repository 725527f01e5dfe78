"""The command line as a person has it, without a process for each call."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.cli.main import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str


class Shell:
    """Runs command lines in this process, in an empty directory and with an empty state."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Said:
        code = main(list(words))
        said = self._capsys.readouterr()
        return Said(code=code, out=said.out, err=said.err)


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str],
    clean_env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    for name in set(os.environ) - set(clean_env):
        monkeypatch.delenv(name)
    for name, value in clean_env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return Shell(capsys)
