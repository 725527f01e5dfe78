"""Files are opened without waiting and replaced whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.files import open_regular as open_in_gateway
from reconciler.engine.files import directory_lock, replace_text, write_private
from reconciler.errors import LockedError, NotPermittedError, OpenClawError, StaleError
from reconciler.files import open_regular, remedy_of_refusal, replace_file
from tests.beds.users import NOBODY, directory_of_nobody, nobody


def test_a_file_is_replaced_with_exactly_this_mode_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    replace_file(path, b"new", 0o664)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o664)
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_crash_left_is_replaced_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.openclaw.tmp").write_text("half")
    replace_file(path, b"new", 0o600)
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_is_given_up_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    inode = path.stat().st_ino

    def refuse() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_file(path, b"new", 0o600, before_rename=refuse)
    assert (path.read_text(), path.stat().st_ino, os.listdir(tmp_path)) == ("old", inode, ["file"])


def test_a_link_is_replaced_and_what_it_names_is_not(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "file").symlink_to("target")
    replace_file(tmp_path / "file", b"new", 0o600)
    assert (tmp_path / "target").read_text() == "theirs"
    assert not (tmp_path / "file").is_symlink()


def test_two_that_write_at_the_same_moment_do_not_write_into_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def meanwhile() -> None:
        replace_file(path, b"second", 0o600, temporary=tmp_path / "2.tmp")

    replace_file(path, b"first", 0o600, temporary=tmp_path / "1.tmp", before_rename=meanwhile)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"first", ["file"])


def test_an_operators_file_keeps_mode_owner_and_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / "real/file"
    path.write_text("old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65533)
    owner = path.stat().st_uid, path.stat().st_gid
    (tmp_path / "link").symlink_to("real/file")
    replace_text(str(tmp_path / "link"), b"old", "żółć")
    assert path.read_text(encoding="utf-8") == "żółć"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert (path.stat().st_uid, path.stat().st_gid) == owner
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "real") == ["file"]


@pytest.fixture
def strange() -> Iterator[Path]:
    with directory_of_nobody() as made:
        yield made


@pytest.mark.req("PLAN-6")
def test_whoever_may_not_write_is_told_whose_it_is_or_which_mode_is_in_the_way(strange: Path) -> None:
    (strange / "state").mkdir()
    path = strange / "state" / "lock"
    path.touch()
    with nobody():
        if (strange / "state").stat().st_uid == os.geteuid():  # whoever runs this is no root
            (strange / "state").chmod(0o500)
            assert remedy_of_refusal(path) == f'it is yours, and its mode is in the way: chmod u+rwX "{strange}/state"'
            (strange / "state").chmod(0o700)
            return
        assert remedy_of_refusal(path) == f'run as root, who owns "{strange}/state"'
        assert remedy_of_refusal(path, reading=True) == "run as the owner of the state directory"
    for each in (strange / "state", path):
        os.chown(each, NOBODY, NOBODY)
    os.chown(path, 4711_0815, 0)
    with nobody():
        assert remedy_of_refusal(path) == f'run as the user with the number 47110815, who owns "{path}"'
    os.chown(path, NOBODY, 0)
    for culprit, mode, reading in ((path, 0o400, False), (path, 0o200, True), (path.parent, 0o600, True)):
        culprit.chmod(mode)
        with nobody():
            assert f'chmod u+rwX "{culprit}"' in remedy_of_refusal(path, reading=reading)
        culprit.chmod(0o700)


def saved(path: Path) -> None:
    path.write_text("theirs")


def moved_away(path: Path) -> None:
    (path.parent / "real").rename(path.parent / "elsewhere")


def pointed_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("other")


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize("act", [saved, moved_away, pointed_elsewhere])
def test_what_somebody_else_changed_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]
) -> None:
    link = tmp_path / "link"
    link.symlink_to("real")
    for name in ("real", "other"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _descriptor: act(link))
    with pytest.raises(StaleError, match="somebody else has changed it meanwhile"):
        replace_text(str(link), b"old", "ours")
    assert "ours" not in [path.read_text() for path in tmp_path.iterdir() if path.exists()]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_lock_of_a_directory_is_waited_for_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with directory_lock(str(tmp_path), 0):
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            refused = (
                rf'cannot edit in "{tmp_path}": (pid {os.getpid()}|another process) holds the lock .* within 0.05 s'
            )
            with pytest.raises(LockedError, match=refused), directory_lock(str(tmp_path), 0.05):
                pytest.fail("locked twice")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
    with directory_lock(str(tmp_path), 0):
        assert os.listdir(tmp_path) == []


def test_where_a_directory_cannot_be_locked_whoever_writes_in_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with directory_lock(str(tmp_path / "none"), 0):
        pass

    def unsupported(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with directory_lock(str(tmp_path), 0):
        pass


def test_a_file_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(OpenClawError, match=r"cannot write .*: no such file or directory"):
        write_private(str(tmp_path / "none/file"), "")
    with pytest.raises(OpenClawError, match=r"cannot write .*: no such file or directory"):
        replace_text(str(tmp_path / "none"), b"", "")
    with pytest.raises((OpenClawError, NotPermittedError), match="cannot write"):
        write_private("/proc/version", "")


@pytest.mark.parametrize("opener", [open_regular, open_in_gateway])
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, opener: object, put: object) -> None:
    assert callable(opener)
    assert callable(put)
    before = os.listdir("/proc/self/fd")
    put(tmp_path / "it")
    with pytest.raises(OSError, match="not a regular file"):
        opener(tmp_path / "it")
    assert os.listdir("/proc/self/fd") == before


def test_a_link_is_followed_unless_that_is_not_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"text"
    with pytest.raises(OSError, match="symbolic link"):
        open_regular(tmp_path / "link", follow=False)
