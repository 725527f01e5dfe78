"""The ballast takes real room, is given up when the disk is full, and comes back when there is room."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.engine.ballast import SIZE_BYTES, Ballast
from reconciler.journal import JournalFullError

pytestmark = pytest.mark.req("LOG-3")


@pytest.fixture
def ballast(tmp_path: Path) -> Ballast:
    return Ballast(tmp_path / "ballast")


def full_until(freed: Callable[[], bool]) -> Callable[[], str]:
    """A write that fails for want of room until `freed`."""

    def write() -> str:
        if not freed():
            raise JournalFullError("cannot write the journal: the disk is full")
        return "written"

    return write


def test_it_takes_real_room_of_its_owner_alone(ballast: Ballast) -> None:
    assert ballast.wanting
    assert ballast.take_on()
    status = ballast.path.stat()
    assert (status.st_size, status.st_mode & 0o777) == (SIZE_BYTES, 0o600)
    assert status.st_blocks * 512 >= SIZE_BYTES
    assert not ballast.wanting


def test_a_whole_one_is_left_alone(ballast: Ballast) -> None:
    ballast.take_on()
    before = ballast.path.stat()
    assert ballast.take_on()
    assert ballast.path.stat() == before


def test_one_that_was_cut_off_is_made_anew(ballast: Ballast) -> None:
    ballast.path.write_bytes(b"x" * 100)
    assert ballast.wanting
    assert ballast.take_on()
    assert ballast.path.stat().st_size == SIZE_BYTES


def test_it_is_spent_on_what_finds_the_disk_full_and_on_nothing_else(ballast: Ballast) -> None:
    ballast.take_on()
    assert ballast.spend_on(lambda: "written") == "written"
    assert ballast.path.exists()
    assert ballast.spend_on(full_until(lambda: not ballast.path.exists())) == "written"
    assert (ballast.path.exists(), ballast.spent) == (False, True)
    assert ballast.take_on()
    assert not ballast.spent


def test_without_one_the_failure_passes(ballast: Ballast) -> None:
    calls = []

    def write() -> None:
        calls.append(1)
        raise JournalFullError("cannot write the journal: the disk is full")

    with pytest.raises(JournalFullError):
        ballast.spend_on(write)
    assert len(calls) == 1


def test_it_gives_way_to_others_where_there_is_little_room(ballast: Ballast) -> None:
    free = os.statvfs(ballast.path.parent)
    assert not ballast.take_on(spare_bytes=free.f_bavail * free.f_frsize * 2)
    assert not ballast.path.exists()


def test_a_directory_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "gone" / "ballast")
    assert not ballast.wanting
    assert not ballast.take_on()
    assert not ballast.give_up()
