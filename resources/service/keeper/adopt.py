"""Becoming the keeper of a state directory: the lock, the one who held it before, and the processes that he left.

Order is everything: first the lock, then what runs is found and held, and only then anything is started. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Collection

from resources.service import proc
from resources.service.keeper import process, protocol
from resources.service.keeper.child import Child
from resources.service.keeper.policy import History
from resources.service.keeper.store import Record
from resources.service.shortage import is_shortage

# A keeper that does not answer for this long is as good as dead: it holds nothing down and starts nothing again.
ANSWER_SECONDS = 2.0
# A killed holder is gone in milliseconds, unless the machine is as good as dead itself.
_LOCK_SECONDS = 15.0
_LOOK_SECONDS = 0.02


class LockError(Exception):
    """The lock is not to be had; the text says who has it."""


def acquire_lock(path: str, socket_path: str) -> int | None:
    """The descriptor of the lock, held for life; None where another keeper has it and answers.

    A holder that does not answer for `ANSWER_SECONDS` is killed, after its pid and start time were checked. One that is only
    stopped (SIGSTOP, a debugger that left) is continued first: it has lost nothing and knows how its children end.

    Raises:
        LockError: nobody answers, and nobody could be found to kill.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    limit = time.monotonic() + _LOCK_SECONDS
    continued: int | None = None
    while True:
        locked = _try_lock(fd)
        if not is_at(path, identity(fd)):
            # Deleted, or exchanged, since it was opened: whoever comes next looks at another file.
            os.close(fd)
            return acquire_lock(path, socket_path)
        if locked:
            break
        if answers(socket_path, ANSWER_SECONDS, give_up=lambda: _is_free(fd)):
            os.close(fd)
            return None
        pid, ticks = read_holder(path)
        if pid is not None and not _is_free(fd):
            if (
                pid != continued
                and proc.process_state(pid) == "T"
                and process.signal_process(pid, ticks, signal.SIGCONT)
            ):
                continued = pid
                continue
            process.kill_process(pid, ticks)
        if time.monotonic() > limit:
            os.close(fd)
            raise LockError(f"cannot take the keeper's lock {path}: process {pid} has it and does not answer")
        time.sleep(_LOOK_SECONDS)
    _write_holder(fd)
    return fd


def identity(file: int | str) -> tuple[int, int]:
    """What tells a file, by descriptor or path, from any other: no other gets its number while it is open."""
    found = os.stat(file)
    return found.st_dev, found.st_ino


def is_at(path: str, held: tuple[int, int]) -> bool:
    """Whether the file at `path` is the one with this identity. What cannot be looked at counts as the same."""
    try:
        return identity(path) == held
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(fd: int) -> bool:
    """Whether the lock could be had now; it is given back at once."""
    if not _try_lock(fd):
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def _write_holder(fd: int) -> None:
    pid = os.getpid()
    holder = {"pid": pid, "start_ticks": proc.start_ticks(pid), "boot": proc.boot_id()}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(holder).encode(), 0)


def read_holder(path: str) -> tuple[int | None, int | None]:
    """Pid and start time that the lock's last holder wrote; None where they cannot be known or are of another boot.

    Raises:
        OSError: it is only this process that lacks something.
    """
    try:
        with open(path, "rb") as file:
            holder = json.loads(file.read(4096))
        if holder["boot"] == proc.boot_id():
            return holder["pid"], holder["start_ticks"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        if is_shortage(err):
            raise
    return None, None


def answers(socket_path: str, seconds: float, give_up: Callable[[], bool]) -> bool:
    """Whether a keeper says hello on the socket within `seconds`; one that is just starting gets the whole time.

    `give_up` ends the waiting early by returning True: there is nobody left to wait for.
    """
    limit = time.monotonic() + seconds
    while (left := limit - time.monotonic()) > 0:
        if _hello(socket_path, left):
            return True
        if give_up():
            return False
        time.sleep(_LOOK_SECONDS)
    return False


def _hello(socket_path: str, seconds: float) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(max(seconds, 0.001))
        try:
            connection.connect(socket_path)
            connection.sendall(protocol.encode({"id": 0, "command": "hello", "versions": list(protocol.VERSIONS)}))
            return bool(connection.recv(1))
        except OSError:
            return False


def take_over(children: list[Child], state: str, notify_path: str) -> None:
    """Finds what runs of `children` and holds it; then starts what is due.

    Raises:
        OSError: it cannot be found out what runs: then nothing more is started.
    """
    boot = proc.boot_id()
    unheld = []
    for child in children:
        record = child.record
        if record.boot != boot:
            _forget_process(record)
        found = find_process(record)
        if found is not None:
            child.adopt(found, proc.start_ticks(found) or 0, own=_is_own(found))
        else:
            unheld.append(child)
    known = {child.record.attempt for child in children}
    for child in unheld:
        record = child.record
        if hold_unrecorded(child, state, notify_path, known):
            continue
        if record.pid is None:
            child.resume()
        else:
            child.exited_unseen(*_status_of_own(record.pid))


def find_process(record: Record) -> int | None:
    """The process of a record that runs: the recorded one, else the one that carries its attempt; copies are ended."""
    if record.attempt is None:
        return None
    known = record.pid if proc.is_alive(record.pid, record.start_ticks) else None
    if known is None and record.pid is not None:
        # It ended. What still carries the attempt are its own children; their group is swept.
        return None
    leaders = _oldest_first(
        [pid for pid in proc.processes_with(process.ATTEMPT, record.attempt) if proc.process_group(pid) == pid]
    )
    candidates = _main_processes(leaders if known is None else [known, *(pid for pid in leaders if pid != known)])
    return _one_of(candidates, record.spec["port"]) if candidates else None


def hold_unrecorded(child: Child, state: str, notify_path: str, known: Collection[str | None]) -> bool:
    """Holds the process that runs of a child whose record says nothing of it: the file was lost, damaged or an old one.

    Others of that kind are ended. False where there is none: then it may be started. A walk through /proc, so never on the way
    from an exit to the next start.
    """
    candidates = unrecorded(child.record.name, state, notify_path, known)
    if not candidates:
        return False
    pid = _one_of(candidates, child.record.spec["port"])
    attempt, ticks = proc.environ_value(pid, process.ATTEMPT), proc.start_ticks(pid)
    if attempt is None or ticks is None:
        # It ended this instant.
        return False
    child.adopt_unrecorded(pid, ticks, attempt, own=_is_own(pid))
    return True


def unrecorded(name: str, state: str, notify_path: str, known: Collection[str | None]) -> list[int]:
    """The main processes that a keeper of this state directory started for the child `name`, the oldest first.

    `known` are the attempts that are in records: processes of those are not looked for.
    """
    found: dict[str, list[int]] = {}
    own = os.getuid()
    for pid in proc.every_pid():
        if proc.user_id(pid) != own or proc.process_group(pid) != pid:
            continue
        attempt = proc.environ_value(pid, process.ATTEMPT)
        if (
            attempt
            and attempt not in known
            and process.is_attempt_of(attempt, name)
            and proc.start_ticks(pid) is not None
            and _names_state(pid, state, notify_path)
            and process.stands_as_spawned(pid)
        ):
            found.setdefault(attempt, []).append(pid)
    candidates = [pid for leaders in found.values() for pid in _main_processes(_oldest_first(leaders))]
    return _oldest_first(candidates)


def _names_state(pid: int, state: str, notify_path: str) -> bool:
    """Whether it was started for this state directory; what it starts for another one has our socket, not our state."""
    carried = proc.environ_value(pid, "OPENCLAW_STATE_DIR")
    return carried == state if carried is not None else proc.environ_value(pid, process.NOTIFY) == notify_path


def _oldest_first(pids: list[int]) -> list[int]:
    return sorted(pids, key=lambda pid: proc.start_ticks(pid) or 0)


def _main_processes(leaders: list[int]) -> list[int]:
    """Of the group leaders of one attempt the first, from which all others have their environment, and copies of it."""
    return [pid for pid in leaders if pid == leaders[0] or _is_copy(pid, leaders[0])]


def _is_copy(pid: int, main: int) -> bool:
    """A second process of the same program with the same words, that is no descendant of the first."""
    if proc.read_text(f"/proc/{pid}/cmdline") != proc.read_text(f"/proc/{main}/cmdline"):
        return False
    parent = pid
    while parent > 1:
        fields = proc.stat_fields(parent)
        parent = int(fields[1]) if fields else 0
        if parent == main:
            return False
    return True


def _one_of(candidates: list[int], port: int | None) -> int:
    """The one that stays (`choose`); the others are killed with their groups."""
    chosen = choose(candidates, port)
    for pid in candidates:
        if pid != chosen:
            for member in proc.group_members(pid):
                process.kill_process(member, proc.start_ticks(member))
    return chosen


def choose(candidates: list[int], port: int | None) -> int:
    """Of several main processes of one child the one to keep: the owner of the port, else the first."""
    if len(candidates) > 1 and port is not None:
        return next((pid for pid in candidates if proc.group_owns_port(pid, port)), candidates[0])
    return candidates[0]


def _forget_process(record: Record) -> None:
    """The machine was started again since: no process, and no moment of the old clock means anything."""
    record.pid = record.start_ticks = record.attempt = record.digest = None
    record.spawned_boot = record.ready_boot = record.next_boot = None
    record.history = History()
    if record.state != "held":
        record.state = "stopped"


def _is_own(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _status_of_own(pid: int) -> tuple[int | None, int | None]:
    """Exit code and signal of a process that ended, where it was our child (an upgrade by exec); else nothing is known."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None, None
    if ended is None:
        return None, None
    if ended.si_code == os.CLD_EXITED:
        return ended.si_status, None
    return None, ended.si_status
