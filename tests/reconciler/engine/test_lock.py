"""One writer at a time, by name, and never a lock that outlives its holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from reconciler.engine.lock import WriterLock, died, holder, started
from reconciler.errors import LockedError, NotPermittedError

HOLD = """
import sys
from pathlib import Path
from reconciler.engine.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]), command="openclaw apply", now=lambda: 1_700_000_000.0)
assert lock.acquire_nowait()
lock.describe("r1")
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


def lock_at(path: Path) -> WriterLock:
    return WriterLock(path, command="openclaw plan", now=lambda: 1_700_000_100.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reconciler" / "lock"


@pytest.mark.req("PLAN-6")
async def test_a_second_writer_is_told_who_holds_it_since_when(path: Path) -> None:
    first, second = lock_at(path), lock_at(path)
    await first.acquire()
    first.describe("r7")
    with pytest.raises(LockedError) as caught:
        await second.acquire()
    assert caught.value.exit_code == 75
    assert caught.value.message == (
        f"another writer holds the lock: pid {os.getpid()} (`openclaw plan`, run r7), since 2023-11-14T22:15:00.000Z"
    )
    first.release()
    await second.acquire()
    assert second.held
    second.release()


@pytest.mark.req("PLAN-6")
async def test_a_second_writer_waits_as_long_as_it_may(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    first, second, third = lock_at(path), lock_at(path), lock_at(path)
    await first.acquire()

    async def release_later() -> None:
        await trio.sleep(3)
        first.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release_later)
        begun = trio.current_time()
        with pytest.raises(LockedError):
            await third.acquire(2)
        assert trio.current_time() - begun == pytest.approx(2)
        await second.acquire(60)
        assert trio.current_time() - begun < 4
    second.release()


async def test_a_cancelled_wait_leaves_the_lock_alone(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    first, second = lock_at(path), lock_at(path)
    await first.acquire()
    with trio.move_on_after(1) as scope:
        await second.acquire(60)
    assert scope.cancelled_caught
    first.release()
    assert not second.held
    third = lock_at(path)
    await third.acquire()
    third.release()


async def test_it_is_released_at_the_end_of_a_block_however_that_ends(path: Path) -> None:
    lock = lock_at(path)
    with pytest.raises(RuntimeError, match="cut"):
        async with lock.hold():
            assert holder(path) is not None
            raise RuntimeError("cut")
    assert not lock.held
    assert holder(path) is None
    lock.release()


def test_the_file_is_its_owners(path: Path) -> None:
    lock = lock_at(path)
    assert lock.acquire_nowait()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    lock.release()


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="cannot lock"):
        lock_at(path).acquire_nowait()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"pid": "x"}', '{"pid": 1}', "x" * 10_000])
def test_content_that_names_nobody_is_no_holder_and_no_lock(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    assert holder(path) is None
    lock = lock_at(path)
    assert lock.acquire_nowait()
    with pytest.raises(LockedError, match="pid"):
        trio.run(lock_at(path).acquire)
    lock.release()


def test_content_of_a_dead_or_reused_pid_is_no_holder(path: Path) -> None:
    path.parent.mkdir()
    content = {"pid": os.getpid(), "started": 1, "since": 1.0, "command": "openclaw apply", "run": ""}
    path.write_text(json.dumps(content))
    assert holder(path) is None
    # What it left tells that it ended without giving the lock up.
    last = died(path)
    assert last is not None
    assert (last.pid, last.since) == (os.getpid(), 1.0)
    lock = lock_at(path)
    assert lock.acquire_nowait()
    assert died(path) is None
    lock.release()
    assert died(path) is None


def test_nobody_holds_what_is_not_there(path: Path) -> None:
    assert holder(path) is None
    assert not path.parent.exists()


def test_a_process_has_one_start_time() -> None:
    mine = started(os.getpid())
    assert mine is not None
    assert mine == started(os.getpid())
    assert started(2**22 + 1) is None


@pytest.mark.real
@pytest.mark.req("PLAN-6")
def test_another_process_holds_it_until_it_releases_or_dies(path: Path) -> None:
    for last in ("release", "kill"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            found = holder(path)
            assert found is not None
            assert (found.pid, found.command, found.run) == (process.pid, "openclaw apply", "r1")
            with pytest.raises(LockedError, match=rf"pid {process.pid} \(`openclaw apply`, run r1\), since 2023-11-14"):
                trio.run(lock_at(path).acquire, 0.05)
            if last == "release":
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == "released\n"
            else:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            assert holder(path) is None
            lock = lock_at(path)
            trio.run(lock.acquire, 5)
            lock.release()
            process.kill()


@pytest.mark.real
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_lock_that_may_not_be_opened_is_not_permitted(path: Path) -> None:
    """In a child that has no rights there: root itself is refused nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            lock_at(Path("/root/nowhere/lock")).acquire_nowait()
        except NotPermittedError:
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_lock_knows_whether_its_file_is_still_at_its_place(path: Path) -> None:
    first, second = lock_at(path), lock_at(path)
    seen = [first.in_place]
    assert first.acquire_nowait()
    seen.append(first.in_place)
    path.unlink()
    seen.append(first.in_place)
    # Whoever comes now cannot know of it.
    assert second.acquire_nowait()
    assert [*seen, first.in_place, second.in_place] == [False, True, False, False, True]
    second.release()
    first.release()
