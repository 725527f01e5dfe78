"""Pruning and compressing log files by the real command: what is shown is what goes, and nothing else is ever touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.beds.processes import Spawned, wait_until
from tests.beds.site import OPENCLAW, Site

pytestmark = pytest.mark.real

DAY = 86_400
RETENTION = "\n  retention: {age: 1d, total: null, files: null, compress_after: null}"
# A document without a service: what is pruned needs none, and what is not running is not in the way.
ALONE = "version: 1\nlogging:\n  level: info" + RETENTION + "\n"


@pytest.fixture
def logs(site: Site) -> Path:
    """The log directory of a host on which only logs are managed."""
    site.write(ALONE)
    directory = site.state / "logs"
    directory.mkdir(mode=0o700)
    return directory


def put(directory: Path, name: str, *, age: float, data: bytes = b"x" * 1000) -> Path:
    """A log file of that age in seconds."""
    path = directory / name
    path.write_bytes(data)
    at = time.time() - age
    os.utime(path, (at, at))
    return path


def today(directory: Path, age: float = 0) -> Path:
    """The file that is written to now, by its name."""
    return put(directory, time.strftime("openclaw-%Y-%m-%d.log"), age=age)


def prune_of(planned: Any) -> Any:
    return next((action for action in planned["actions"] if action["verb"] == "prune"), None)


def tree(directory: Path) -> dict[str, bytes | str]:
    """Every name below `directory` with what is there: bytes, or where a link leads."""
    return {
        str(path.relative_to(directory)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.req("LOG-2", "LOG-3", "PLAN-16")
def test_the_plan_names_files_and_bytes_and_the_apply_deletes_exactly_these(site: Site, logs: Path) -> None:
    for number in (1, 2, 3):
        put(logs, f"openclaw-2025-01-0{number}.log", age=2 * DAY, data=b"x" * 1000 * number)
    young = put(logs, "openclaw-2025-01-04.log", age=DAY / 2)
    current = today(logs)
    prune = prune_of(site.plan())
    assert (prune["impact"], prune["undo"], prune["because"]["line"]) == ("none", "irreversible", 4)
    told = {item["what"]: item for item in prune["consequences"]}
    assert told["files_deleted"]["amount"] == 3
    assert all(f"openclaw-2025-01-0{number}.log" in told["files_deleted"]["text"] for number in (1, 2, 3))
    assert told["bytes_freed"]["amount"] == 6000
    text = site.run("plan").out
    assert "irreversible" in text
    assert "then: deletes 3 files: openclaw-2025-01-01.log, openclaw-2025-01-02.log, openclaw-2025-01-03.log" in text
    assert "then: frees 5.9 KiB" in text
    assert len(list(logs.iterdir())) == 5
    done = site.apply()
    assert done["actions"][-1]["result"] == "done"
    assert set(logs.iterdir()) == {young, current}
    assert site.plan()["actions"] == []


@pytest.mark.req("LOG-3", "PLAN-16")
def test_without_a_declared_retention_nothing_is_ever_deleted(site: Site, logs: Path) -> None:
    old = put(logs, "openclaw-2025-01-01.log", age=400 * DAY)
    today(logs)
    site.write(ALONE.replace(RETENTION, ""))
    assert prune_of(site.plan()) is None
    site.apply()
    assert old.exists()


@pytest.mark.req("LOG-2")
@pytest.mark.parametrize(("limit", "kept"), [("files: 2", 2), ("total: 2500B", 2), ("age: 36h", 1)])
def test_each_limit_alone_takes_the_oldest(site: Site, logs: Path, limit: str, kept: int) -> None:
    site.write(
        ALONE.replace(
            "age: 1d, total: null, files: null",
            ", ".join(limit if name == limit.split(":")[0] else f"{name}: null" for name in ("age", "total", "files")),
        )
    )
    names = [f"openclaw-2025-01-0{number}.log" for number in (1, 2, 3, 4)]
    for place, name in enumerate(reversed(names)):
        put(logs, name, age=(place + 1) * DAY)
    site.apply()
    assert sorted(path.name for path in logs.iterdir()) == names[-kept:]


@pytest.mark.req("LOG-3")
def test_what_is_not_plainly_ours_is_never_touched(site: Site, logs: Path, spawned: Spawned) -> None:
    outside = site.home / "outside"
    outside.mkdir()
    put(outside, "openclaw-2025-01-09.log", age=9 * DAY)
    os.link(outside / "openclaw-2025-01-09.log", logs / "openclaw-2025-01-02.log")
    (logs / "openclaw-2025-01-03.log").symlink_to(outside / "openclaw-2025-01-09.log")
    (logs / "openclaw-2025-01-04.log").symlink_to("/nowhere")
    (logs / "openclaw-2025-01-05.log").mkdir()
    put(logs / "openclaw-2025-01-05.log", "openclaw-2025-01-05.log", age=9 * DAY)
    os.mkfifo(logs / "openclaw-2025-01-06.log")
    for name in (
        "notes.txt", "openclaw.log", "openclaw-2025-13-01.log", "openclaw-2025-01-01.log.bak", "openclaw-2025-01-01.LOG",
        "xopenclaw-2025-01-01.log", "openclaw-2025-01-01.log\n", ".openclaw-2025-01-01.log", "gateway.out.log",
    ):  # fmt: skip
        put(logs, name, age=9 * DAY)
    held = put(logs, "openclaw-2025-01-07.log", age=9 * DAY)
    reader = spawned.start(["sh", "-c", f"exec 9<{held}; printf x; exec sleep infinity"], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.read(1) == b"x"
    current = today(logs, age=9 * DAY)
    newest = put(logs, "openclaw-2025-01-08.log", age=8 * DAY)
    mine = put(logs, "openclaw-2025-01-01.log", age=9 * DAY)
    before = tree(site.home) | tree(logs)
    names = sorted(path.name for path in logs.iterdir())
    site.apply()
    assert not mine.exists()
    assert sorted([*(path.name for path in logs.iterdir()), mine.name]) == names
    after = tree(site.home) | tree(logs)
    assert after == {name: content for name, content in before.items() if name != mine.name}
    assert current.exists()
    # The newest is kept whatever its age: it may be all that tells of the end.
    assert newest.exists()
    # Once nobody has it open any more it goes like the others.
    spawned.end_all()
    site.apply()
    assert not held.exists()


@pytest.mark.req("LOG-3", "PLAN-2")
def test_a_kept_plan_deletes_what_it_lists_and_no_file_that_fell_due_since(site: Site, logs: Path) -> None:
    listed = put(logs, "openclaw-2025-01-01.log", age=2 * DAY)
    written = put(logs, "openclaw-2025-01-02.log", age=2 * DAY)
    later = put(logs, "openclaw-2025-01-03.log", age=DAY / 2)
    today(logs)
    assert site.run("plan", "--out", "p.json").code == 0
    os.utime(later, (time.time() - 2 * DAY,) * 2)
    written.write_bytes(b"somebody wrote to it")
    done = site.run("apply", "p.json", "--json")
    assert done.code == 0, done.err
    assert not listed.exists()
    assert later.exists()
    assert written.read_bytes() == b"somebody wrote to it"
    prune = prune_of(json.loads(done.out))
    told = f"1 file stays as it is, opened or changed since the plan: {written.name}"
    assert (prune["result"], prune["error"], prune["note"]) == ("done", None, told)
    assert f"note: {told}" in site.run("why", prune["key"]).out
    # What fell due since is another plan.
    assert later.name in prune_of(site.plan())["consequences"][0]["text"]


def swap_for_a_link(logs: Path, target: Path) -> None:
    """Puts a link to `target` in the place of the log directory; what was there lies beside it."""
    logs.rename(logs.with_name("logs.was"))
    logs.symlink_to(target)


@pytest.fixture
def stranger(site: Site) -> Path:
    """A directory outside of the tree with files of the very names, sizes and times that a plan may list."""
    directory = site.home / "stranger"
    directory.mkdir()
    return directory


@pytest.mark.req("LOG-3", "PLAN-2", "PLAN-17")
@pytest.mark.parametrize("link", [True, False], ids=["link", "other directory"])
def test_a_directory_that_was_swapped_since_the_kept_plan_is_left_alone(
    site: Site, logs: Path, stranger: Path, link: bool
) -> None:
    put(logs, "openclaw-2025-01-01.log", age=2 * DAY)
    today(logs)
    for path in logs.iterdir():
        shutil.copy2(path, stranger)
    before = tree(stranger)
    assert site.run("plan", "--out", "p.json").code == 0
    if link:
        swap_for_a_link(logs, stranger)
    else:
        logs.rename(logs.with_name("logs.was"))
        stranger.rename(logs)
        stranger = logs
    answer = site.run("apply", "p.json")
    assert answer.code == 4, (answer.out, answer.err)
    assert "log" in answer.err
    assert tree(stranger) == before
    assert (logs.with_name("logs.was") / "openclaw-2025-01-01.log").exists()


@contextmanager
def journal_held(site: Site) -> Iterator[None]:
    """Keeps every writer of the journal waiting for as long as it lasts (SQLite waits 5 s)."""
    with closing(sqlite3.connect(site.state / "reconciler" / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def waits_for_the_journal(pid: int) -> bool:
    """Whether a thread of the process sleeps in SQLite's busy handler: nothing else of the command ever calls nanosleep."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            if (task / "wchan").read_text() == "hrtimer_nanosleep":
                return True
        except OSError:
            continue
    return False


@pytest.mark.req("LOG-3", "PLAN-17")
def test_a_directory_swapped_for_a_link_between_plan_and_effect_is_left_alone(
    site: Site, logs: Path, stranger: Path, spawned: Spawned
) -> None:
    site.apply()
    put(logs, "openclaw-2025-01-01.log", age=2 * DAY)
    today(logs)
    for path in logs.iterdir():
        shutil.copy2(path, stranger)
    before = tree(stranger)
    with journal_held(site):
        apply = spawned.start(
            [OPENCLAW, "apply", "--yes"], cwd=site.home, env=site.environ, stderr=subprocess.PIPE, text=True
        )
        # It has planned, and is about to write down what it is going to do.
        wait_until(lambda: waits_for_the_journal(apply.pid), 4, "the apply waits for the journal")
        swap_for_a_link(logs, stranger)
    assert apply.stderr is not None
    said = apply.stderr.read()
    assert apply.wait(30) == 4, said
    assert tree(stranger) == before
    assert (logs.with_name("logs.was") / "openclaw-2025-01-01.log").exists()


@pytest.mark.req("LOG-3")
def test_a_directory_that_is_swapped_to_and_fro_all_the_time_never_leads_outside(
    site: Site, logs: Path, stranger: Path, spawned: Spawned
) -> None:
    site.apply()
    today(logs)
    swapper = (
        "import os, sys\n"
        "real, link = sys.argv[1:]\n"
        "os.symlink(link, real + '.link')\n"
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "while True:\n"
        "    libc.renameat2(-100, (real + '.link').encode(), -100, real.encode(), 2)\n"  # RENAME_EXCHANGE
    )
    names = [f"openclaw-2025-02-{day:02}.log" for day in range(1, 29)]
    for name in names:
        put(stranger, name, age=2 * DAY)
        shutil.copy2(stranger / name, logs)
    before = tree(stranger)
    swapping = spawned.start([sys.executable, "-c", swapper, logs, stranger])
    for _ in range(8):
        answer = site.run("apply", "--yes")
        assert answer.code in (0, 1, 4), (answer.code, answer.out, answer.err)
        assert "bug" not in answer.err
        assert tree(stranger) == before
    swapping.send_signal(signal.SIGKILL)
    swapping.wait()


@pytest.mark.req("LOG-2", "LOG-3")
@pytest.mark.parametrize("how", ["poke", "hang up"])
def test_a_supervisor_prunes_by_itself_what_expires(site: Site, logs: Path, how: str) -> None:
    old = put(logs, "openclaw-2025-01-01.log", age=DAY / 2)
    today(logs)
    supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.generations() != [], 10, "a generation in force")
    os.utime(old, (time.time() - 2 * DAY,) * 2)
    assert old.exists()
    if how == "poke":
        socket = site.state / "reconciler" / "control.sock"
        poked = subprocess.run(
            ["curl", "--silent", "--fail", "-X", "POST", "--unix-socket", socket, "http://localhost/v1/reconcile"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert poked.returncode == 0, poked.stdout + poked.stderr
    else:
        supervisor.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not old.exists(), 10, "the expired file is gone")
    step = supervisor.wait_event(lambda event: event["event"] == "step" and event["verb"] == "prune", "it says so")
    assert step["result"] == "done"
    assert supervisor.process.poll() is None
    why = site.run("why", "logs/gateway").out
    assert "prune: done" in why
    assert "past the age" in why


@pytest.mark.req("LOG-2")
def test_compression_keeps_content_mode_and_time(site: Site, logs: Path) -> None:
    site.write(ALONE.replace("compress_after: null", "compress_after: 1h"))
    content = b"".join(b'{"0":"a line","time":%d}\n' % number for number in range(50_000))
    plain = put(logs, "openclaw-2025-01-02.log", age=7200, data=content)
    plain.chmod(0o640)
    before = plain.stat()
    empty = put(logs, "openclaw-2025-01-03.log", age=7200, data=b"")
    gone = put(logs, "openclaw-2025-01-01.log", age=2 * DAY)
    today(logs)
    compress = next(action for action in site.plan()["actions"] if action["verb"] == "compress")
    assert compress["undo"] != "irreversible"
    assert plain.name in compress["consequences"][0]["text"]
    site.apply()
    assert not plain.exists()
    assert not empty.exists()
    assert not gone.exists()
    packed = logs / f"{plain.name}.zst"
    told = subprocess.run(["zstd", "-dc", packed], capture_output=True, check=False) if shutil.which("zstd") else None
    unpacked = (
        told.stdout if told is not None else zstandard.ZstdDecompressor().stream_reader(packed.read_bytes()).read()
    )
    assert unpacked == content
    after = packed.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)
    assert after.st_size < len(content) / 5
    assert not [path for path in logs.iterdir() if path.name.startswith(".")]
    assert site.plan()["actions"] == []


@pytest.mark.req("LOG-2", "PLAN-5")
def test_a_compression_killed_in_the_middle_loses_nothing_and_is_finished_by_the_next_run(
    site: Site, logs: Path, spawned: Spawned
) -> None:
    site.apply()
    site.write(ALONE.replace("compress_after: null", "compress_after: 1h"))
    content = os.urandom(1 << 20) * 64
    plain = put(logs, "openclaw-2025-01-02.log", age=7200, data=content)
    today(logs)
    apply = spawned.start([OPENCLAW, "apply", "--yes"], cwd=site.home, env=site.environ, stderr=subprocess.DEVNULL)
    half = logs / f".{plain.name}.zst.tmp"
    wait_until(half.exists, 20, "the compression has begun")
    apply.kill()
    apply.wait()
    assert plain.read_bytes() == content
    site.apply()
    packed = logs / f"{plain.name}.zst"
    assert zstandard.ZstdDecompressor().stream_reader(packed.read_bytes()).read() == content
    assert not plain.exists()
    assert not half.exists()
