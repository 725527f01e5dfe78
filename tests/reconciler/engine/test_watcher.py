"""What must be watched so that no change of a document is missed, and that every change of it is then seen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import trio

from reconciler.engine.watcher import watch_points
from reconciler.watching import watch_directories

pytestmark = pytest.mark.req("PLAN-3", "DOC-9")


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def plain(root: Path) -> Path:
    return write(root / "a/document")


def linked(root: Path) -> Path:
    write(root / "far/real")
    write(root / "a/x")
    (root / "a/document").symlink_to("../far/real")
    return root / "a/document"


def linked_twice(root: Path) -> Path:
    """A link to a link, the second relative to the directory that the first leads to, through a directory that is a link."""
    write(root / "c/v1/real")
    (root / "b").mkdir()
    (root / "b/current").symlink_to("../c/v1")
    (root / "b/second").symlink_to("current/real")
    (root / "a").mkdir()
    (root / "a/document").symlink_to(root / "b/second")
    return root / "a/document"


def missing(root: Path) -> Path:
    (root / "a").mkdir()
    return root / "a/b/c/document"


def write_in_place(path: Path) -> None:
    path.write_text("new")


def replace(path: Path) -> None:
    os.replace(write(path.with_name("new")), path)


def swap_the_link(path: Path) -> None:
    os.symlink("elsewhere", path.with_name("new"))
    os.replace(path.with_name("new"), path)


def swap_the_directory_behind(path: Path) -> None:
    current = path.parent.parent / "b/current"
    current.with_name("new").symlink_to("../c/v2")
    os.replace(current.with_name("new"), current)


def move_the_directory_away(path: Path) -> None:
    os.rename(path.parent, path.parent.with_name("gone"))


def remove_the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def make_the_first_directory(path: Path) -> None:
    path.parent.parent.mkdir()


async def begin(nursery: trio.Nursery, paths: Iterable[str], report: Callable[[set[str]], None]) -> None:
    """Returns once they are watched."""
    ready = trio.Event()
    nursery.start_soon(watch_directories, paths, report, ready.set)
    await ready.wait()


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        (plain, write_in_place),
        (plain, replace),
        (plain, move_the_directory_away),
        (plain, remove_the_directory),
        (linked, write_in_place),
        (linked, swap_the_link),
        (linked, remove_the_directory),
        (linked_twice, write_in_place),
        (linked_twice, swap_the_directory_behind),
        (missing, make_the_first_directory),
    ],
)
async def test_a_change_is_seen(tmp_path: Path, layout: Callable[[Path], Path], change: Callable[[Path], None]) -> None:
    document = layout(tmp_path)
    points = watch_points([str(document)])
    seen = trio.Event()

    def report(paths: set[str]) -> None:
        if not paths.isdisjoint(points.names | points.directories):
            seen.set()

    async with trio.open_nursery() as nursery:
        await begin(nursery, points.directories, report)
        change(document)
        with trio.fail_after(5):
            await seen.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("layout", [plain, linked, linked_twice, missing])
def test_what_others_do_beside_it_is_none_of_our_business(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    points = watch_points([str(layout(tmp_path))])
    for directory in points.directories:
        assert os.path.join(directory, "other") not in points.names
        assert os.path.realpath(directory) == directory


@pytest.mark.parametrize("change", [move_the_directory_away, remove_the_directory])
async def test_a_directory_that_goes_reports_itself_and_the_one_above_it_is_watched(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Its number is no sign: the next directory may well get the same one."""
    document = plain(tmp_path)
    reports: set[str] = set()
    async with trio.open_nursery() as nursery:
        await begin(nursery, watch_points([str(document)]).directories, reports.update)
        change(document)
        with trio.fail_after(5):
            while str(document.parent) not in reports:  # noqa: ASYNC110 - the report is a plain call
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert watch_points([str(document)]).directories == {str(tmp_path)}


def test_names_that_no_file_can_have_and_circles_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    points = watch_points([f"{tmp_path}/a\0b", f"{tmp_path}/\ud800", str(tmp_path / "circle")])
    assert str(tmp_path) in points.directories


async def test_it_begins_before_it_says_so_and_ends_within_a_blink(tmp_path: Path) -> None:
    reports: list[set[str]] = []
    async with trio.open_nursery() as nursery:
        await begin(nursery, [str(tmp_path)], reports.append)
        (tmp_path / "file").touch()
        with trio.fail_after(5):
            while not reports:  # noqa: ASYNC110 - the report is a plain call
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
        began = trio.current_time()
    assert trio.current_time() - began < 1
    assert reports[0] == {str(tmp_path / "file")}


async def test_a_directory_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await watch_directories([str(tmp_path / "none")], lambda _: None)


async def test_a_watch_that_breaks_off_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from watchfiles import _rust_notify

    class Broken:
        def __init__(self, *_arguments: object, **_named: object) -> None: ...

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_exc: object) -> None: ...

        def watch(self, *_arguments: object) -> object:
            raise _rust_notify.WatchfilesRustInternalError("error in underlying watcher: too many events (os error 28)")

    monkeypatch.setattr(_rust_notify, "RustNotify", Broken)
    with pytest.raises(OSError, match="No space left"):
        await watch_directories([str(tmp_path)], lambda _: None)


async def test_a_name_that_cannot_be_said_in_utf_8_is_an_error_of_the_system(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(path)
    with pytest.raises(OSError, match="not UTF-8"):
        await watch_directories([path], lambda _: None)
