"""Real processes for tests: start them, find them, wait for what they do, and end exactly those that were started.

Nothing here knows the program under test beyond the name of its state variable. A process is a pid *and* its start time,
so that a pid which the kernel handed out again is never mistaken for ours; a zombie counts as gone: it only waits for its
parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

POLL_SECONDS: Final = 0.01
GRACE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process for as long as it lives: `start_ticks` is field 22 of proc(5)'s stat."""

    pid: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        return identify(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to this very process; nothing where it is gone. The pidfd closes the gap to a reused pid."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive:
                signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)


# Every process that a test started or took over in this session: the session's last check reads it (tests/conftest.py).
RECORDED: set[Process] = set()


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat after the command name (which may hold spaces and brackets): state first; empty: gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _has_become_its_program(pid: int) -> bool:
    """Whether execve(2) is behind it (field 51 of stat is where its environment ends), or it has ended already."""
    fields = _stat(pid)
    return not fields or fields[0] in "ZX" or fields[48] != "0"


def identify(pid: int) -> Process | None:
    """The process that has this pid now; None where there is none, or only a zombie of it."""
    fields = _stat(pid)
    return None if not fields or fields[0] in "ZX" else Process(pid, int(fields[19]))


def pid_alive(pid: int, start_ticks: int | None = None) -> bool:
    """Whether `pid` runs, and is still the process that started at `start_ticks` where that is given."""
    process = identify(pid)
    return process is not None and start_ticks in (None, process.start_ticks)


def every_pid() -> Iterator[int]:
    """The pids of this moment."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def children_of(pid: int) -> list[int]:
    """The direct children of `pid` that run, in rising order."""
    return sorted(
        child for child in every_pid() if (stat := _stat(child)) and stat[0] not in "ZX" and int(stat[1]) == pid
    )


def argv_of(pid: int) -> list[str]:
    """The command line of `pid`; empty where it is gone."""
    return _strings(pid, "cmdline")


def environ_of(pid: int) -> dict[str, str]:
    """The environment that `pid`, a process of ours, was started with; empty where it is gone."""
    wait_until(lambda: _has_become_its_program(pid), GRACE_SECONDS, f"exec of {pid}")
    return _environ(pid)


def _environ(pid: int) -> dict[str, str]:
    """What is readable of the environment of any process at this moment."""
    return dict(item.split("=", 1) for item in _strings(pid, "environ") if "=" in item)


def _strings(pid: int, name: str) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def processes_of_state(state: Path) -> list[Process]:
    """All that runs for one state directory: named in its environment or as a word or part of its command line.

    A state directory of a test is unique, so whoever names it was started by that test, however far removed. The test
    process itself and its ancestors are never in the list.
    """
    spared = set(_ancestors(os.getpid()))
    found = [identify(pid) for pid in every_pid() if pid not in spared and _names_state(pid, str(state))]
    return [process for process in found if process is not None]


def _names_state(pid: int, state: str) -> bool:
    if _environ(pid).get("OPENCLAW_STATE_DIR") == state:
        return True
    return any(word == state or f"{state}/" in word for word in argv_of(pid))


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        stat = _stat(pid)
        pid = int(stat[1]) if stat else 0


def wait_until(predicate: Callable[[], Any], deadline_seconds: float, what: str) -> Any:
    """Waits for `predicate` to return something true, and returns that.

    Raises:
        AssertionError: it did not within `deadline_seconds`; the text says `what` was awaited and what was seen last.
    """
    end = time.monotonic() + deadline_seconds
    while True:
        if value := predicate():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_seconds:g} s for {what}; last seen: {value!r}")
        time.sleep(POLL_SECONDS)


def end(processes: Sequence[Process], grace_seconds: float = GRACE_SECONDS) -> None:
    """Ends exactly these: SIGTERM, then SIGKILL for what is left after `grace_seconds`; returns when all are gone."""
    for process in processes:
        process.send(signal.SIGTERM)
    limit = time.monotonic() + grace_seconds
    while any(process.alive for process in processes) and time.monotonic() < limit:
        time.sleep(POLL_SECONDS)
    for process in processes:
        process.send(signal.SIGKILL)
    wait_until(lambda: not any(process.alive for process in processes), GRACE_SECONDS, f"the end of {processes}")


class Spawned:
    """A context that owns processes: what was started or taken over in it is ended when it is left, and nothing else."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._started: list[subprocess.Popen[Any]] = []
        self._processes: list[Process] = []

    def __enter__(self) -> Spawned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_all()

    def start(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Starts a program as `subprocess.Popen` does (stdin is empty unless given) and remembers it.

        On return it has become its program in full: the kernel shows its environment only a moment after `Popen` returns.
        """
        options.setdefault("stdin", subprocess.DEVNULL)
        popen = subprocess.Popen([str(part) for part in argv], **options)
        self._started.append(popen)
        self.take(popen.pid)
        wait_until(lambda: _has_become_its_program(popen.pid), GRACE_SECONDS, f"exec of {argv[0]}")
        return popen

    def take(self, pid: int) -> Process | None:
        """Remembers a process that a started one left behind (a keeper, a gateway); None where it is already gone."""
        process = identify(pid)
        if process is not None:
            self._processes.append(process)
            RECORDED.add(process)
        return process

    def end_all(self) -> None:
        """Ends everything remembered, the last started first, and collects what is our own child."""
        for popen in self._started:
            popen.poll()
        end(self._processes[::-1], self._grace_seconds)
        for popen in self._started:
            popen.wait()
            for stream in (popen.stdin, popen.stdout, popen.stderr):
                if stream is not None:
                    stream.close()
        self._started.clear()
        self._processes.clear()


def end_state(state: Path) -> None:
    """Ends all that runs for one state directory; more than one round, because a keeper may just have started a child."""
    for _ in range(3):
        if not (left := processes_of_state(state)):
            return
        RECORDED.update(left)
        end(left)
    if left := processes_of_state(state):
        raise AssertionError(f"processes of {state} that could not be ended: {[(p, argv_of(p.pid)) for p in left]}")


def run(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end with captured text output; 60 seconds are its limit unless `timeout` says otherwise."""
    options.setdefault("timeout", 60)
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("capture_output", True)
    return subprocess.run([str(part) for part in argv], env=env, text=True, check=False, **options)
