"""The helpers themselves, against real processes: a helper that sees nothing would make every test that uses it green."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.needs import needs_programs
from tests.beds.processes import (
    Spawned,
    children_of,
    end_state,
    environ_of,
    identify,
    pid_alive,
    processes_of_state,
    wait_until,
)
from tests.beds.strace import changes_in, strace_writes

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_wait_until_returns_what_it_waited_for_and_names_what_never_came() -> None:
    assert wait_until(lambda: 7, 1, "seven") == 7
    with pytest.raises(AssertionError, match=r"waited 0\.02 s for the impossible; last seen: 0"):
        wait_until(lambda: 0, 0.02, "the impossible")


@pytest.mark.real
def test_a_zombie_and_a_reused_pid_count_as_gone(spawned: Spawned) -> None:
    popen = spawned.start(SLEEP)
    process = identify(popen.pid)
    assert process is not None
    assert pid_alive(popen.pid)
    assert not pid_alive(popen.pid, process.start_ticks + 1)
    os.kill(popen.pid, signal.SIGKILL)
    wait_until(lambda: not process.alive, 5, "the end of the child")
    os.kill(popen.pid, 0)  # nobody has waited for it: the kernel still knows the pid
    assert not pid_alive(popen.pid)


@pytest.mark.real
def test_spawned_ends_its_own_processes_and_no_others(spawned: Spawned) -> None:
    stranger = spawned.start(SLEEP)
    with Spawned(grace_seconds=0.3) as inner:
        mine = inner.start(SLEEP)
        deaf = inner.start(["sh", "-c", "trap '' TERM; sleep 60 & wait; wait"], start_new_session=True)
        wait_until(lambda: children_of(deaf.pid), 5, "the grandchild")
        grandchild = children_of(deaf.pid)[0]
        assert inner.take(grandchild) is not None
    assert not pid_alive(mine.pid)
    assert not pid_alive(deaf.pid)
    assert not pid_alive(grandchild)
    assert pid_alive(stranger.pid)


@pytest.mark.real
def test_whoever_names_a_state_directory_is_found_and_ended(state: Path, spawned: Spawned) -> None:
    by_environment = spawned.start(SLEEP, env={"OPENCLAW_STATE_DIR": str(state)})
    by_argument = spawned.start([*SLEEP, f"{state}/reconciler/keeper"])
    stranger = spawned.start([*SLEEP, f"{state}-other"], env={"OPENCLAW_STATE_DIR": f"{state}-other"})
    assert "OPENCLAW_STATE_DIR" in environ_of(stranger.pid)
    assert {process.pid for process in processes_of_state(state)} == {by_environment.pid, by_argument.pid}
    end_state(state)
    assert processes_of_state(state) == []
    assert pid_alive(stranger.pid)


def test_ports_are_never_given_twice_and_lie_below_the_ephemeral_range(free_port: Callable[[], int]) -> None:
    given = [free_port() for _ in range(50)]
    assert len(set(given)) == 50
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < lowest for port in given)
    with socket.create_server(("127.0.0.1", given[0])):
        pass


def test_the_clean_environment_hides_the_machine(clean_env: dict[str, str], state: Path) -> None:
    assert {name for name in clean_env if name.startswith("OPENCLAW_")} == {"OPENCLAW_STATE_DIR"}
    assert clean_env["OPENCLAW_STATE_DIR"] == str(state)
    assert len(str(state)) < 20
    assert clean_env["HOME"] != os.environ.get("HOME")


@pytest.mark.real
def test_strace_sees_every_sort_of_change(tmp_path: Path) -> None:
    needs_programs("strace")
    script = f"""
import os, signal
os.chdir({str(tmp_path)!r})
open("new", "w").write("text")
os.rename("new", "newer")
os.unlink("newer")
os.kill(os.getpid(), signal.SIGCONT)
os.kill(os.getpid(), 0)
if os.fork() == 0:
    os.mkdir("by-a-child")
    os._exit(0)
os.wait()
print("done")
"""
    traced = strace_writes([sys.executable, "-c", script])
    assert (traced.returncode, traced.stdout) == (0, "done\n")
    assert [call.name for call in traced.changes] == ["openat", "write", "rename", "unlink", "kill", "mkdir"]


@pytest.mark.real
def test_strace_allows_output_pipes_sockets_and_sqlite_side_files(tmp_path: Path) -> None:
    needs_programs("strace")
    journal = tmp_path / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table t(x)")
    script = f"""
import os, socket, sqlite3, sys
a, b = socket.socketpair()
a.send(b"x"); os.write(b.fileno(), b"y")
r, w = os.pipe(); os.write(w, b"z")
print("out"); print("err", file=sys.stderr)
open("/dev/null", "w").write("gone")
connection = sqlite3.connect("file:{journal}?mode=ro", uri=True)
connection.execute("select * from t").fetchall()
"""
    traced = strace_writes([sys.executable, "-c", script])
    assert (traced.returncode, traced.stdout, traced.stderr) == (0, "out\n", "err\n")
    assert traced.changes == ()


def test_a_call_cut_in_two_is_joined_and_a_failed_one_is_no_change() -> None:
    log = [
        '10 unlink("/a" <unfinished ...>',
        '11 write(1<pipe:[5]>, "x", 1) = 1',
        "10 <... unlink resumed>) = 0",
        '11 mkdir("/b", 0777) = -1 EEXIST (File exists)',
        '11 rename("/c", "/d" <unfinished ...>',
    ]
    assert [(call.pid, call.name) for call in changes_in(log)] == [(10, "unlink"), (11, "rename")]


@pytest.mark.real
@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 failed"), ("", "1 skipped")])
def test_in_ci_a_skipped_test_of_a_real_component_fails(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.real\ndef test_it():\n    pytest.skip('no such component')\n"
    )
    said = pytest_of(tmp_path, CI=ci)
    assert outcome in said
    assert "no such component" in said


@pytest.mark.real
def test_what_tests_start_ignores_no_signal_that_their_own_shell_ignores(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import signal, subprocess\n"
        "def test_it():\n"
        "    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):\n"
        "        child = subprocess.Popen(['sleep', '60'])\n"
        "        child.send_signal(number)\n"
        "        assert child.wait(10) == -number\n"
    )
    assert "1 passed" in pytest_of(tmp_path, "sh", "-c", 'trap "" INT QUIT HUP; exec "$@"', "sh")


def pytest_of(tests: Path, *before: str, **environ: str) -> str:
    """What pytest says of the tests in a directory, with the rules of this project; `before` is a command that runs it."""
    root = Path(__file__).parents[2]
    rules: list[str | Path] = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", root / "pyproject.toml"]
    done = subprocess.run(
        [*before, sys.executable, "-m", "pytest", "-q", *rules, tests],
        cwd=root,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout
