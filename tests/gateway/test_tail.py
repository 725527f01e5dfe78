import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.tail import tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "openclaw-2026-11-21.log"
    path.write_bytes(b"one\ntwo\nthree\n")
    return path


def ask(path: Path, cursor: int | None = None, limit: int = 500, max_bytes: int = 250_000) -> dict[str, object]:
    answer = tail(path, cursor=cursor, limit=limit, max_bytes=max_bytes)
    return {key: answer[key] for key in ("lines", "cursor", "truncated", "reset")}


def test_without_a_cursor_it_gives_the_last_whole_lines(log: Path) -> None:
    assert ask(log) == {"lines": ["one", "two", "three"], "cursor": 14, "truncated": False, "reset": False}
    assert ask(log, limit=1)["lines"] == ["three"]
    assert ask(log, max_bytes=8) == {"lines": ["three"], "cursor": 14, "truncated": True, "reset": False}
    assert ask(log, max_bytes=6)["lines"] == ["three"]


def test_a_cursor_goes_on_where_it_stopped_and_an_unfinished_line_comes_whole_later(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"fo")
    assert ask(log, cursor=14) == {"lines": [], "cursor": 14, "truncated": False, "reset": False}
    with log.open("ab") as file:
        file.write(b"ur\nfive\n")
    assert ask(log, cursor=14) == {"lines": ["four", "five"], "cursor": 24, "truncated": False, "reset": False}


def test_a_file_that_became_shorter_or_ran_away_is_begun_anew(log: Path) -> None:
    assert ask(log, cursor=100) == {"lines": ["one", "two", "three"], "cursor": 14, "truncated": False, "reset": True}
    assert ask(log, cursor=0, max_bytes=7) == {"lines": ["three"], "cursor": 14, "truncated": True, "reset": True}


def test_a_missing_file_has_no_lines_unless_an_older_day_stands_in(log: Path) -> None:
    newer = log.with_name("openclaw-2026-11-22.log")
    assert ask(newer)["lines"] == ["one", "two", "three"]
    log.unlink()
    assert ask(newer) == {"lines": [], "cursor": 0, "truncated": False, "reset": False}


@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo])
def test_what_only_has_the_name_of_a_log_is_not_waited_for_and_stands_in_for_nothing(
    log: Path, put: Callable[[Path], None]
) -> None:
    put(log.with_name("openclaw-2026-11-22.log"))
    for day in (22, 23):
        assert ask(log.with_name(f"openclaw-2026-11-{day}.log"))["lines"] == ["one", "two", "three"]
    log.unlink()
    assert ask(log.with_name("openclaw-2026-11-22.log"))["lines"] == []
