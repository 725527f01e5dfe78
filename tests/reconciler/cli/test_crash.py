"""The reports of bugs: how many are kept."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.cli.crash import MAX_REPORTS, write_report


def test_the_newest_reports_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "crash-notes.txt").touch()
    written = []
    for number in range(MAX_REPORTS + 3):
        _, path = write_report(RuntimeError("a bug"), {}, [str(tmp_path)])
        os.utime(path, (number, number))
        written.append(Path(path))
    _, path = write_report(RuntimeError("a bug"), {}, [str(tmp_path)])
    left = set(tmp_path.iterdir())
    assert left == {tmp_path / "crash-notes.txt", Path(path), *written[-MAX_REPORTS + 1 :]}
