"""Starting a child and ending what is left of it. Standard library only; the only place that starts programs.

The child is a session and a process group of its own, its output goes straight to a file, its environment is the
environment file and nothing of ours.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resources.service import proc
from resources.service.keeper import envfile

ATTEMPT = "OPENCLAW_KEEPER_ATTEMPT"
NOTIFY = "NOTIFY_SOCKET"


class SpawnError(Exception):
    """The child could not be started; the text is for people and holds no secret."""


# A gateway writes its own log; what it prints besides is a few lines a day, unless something is very wrong.
MAX_OUTPUT_BYTES = 16 << 20


def turn_output(path: str | None) -> None:
    """Moves a large output file aside, to the next free `<path>.N`, before a child that appends to it is started."""
    try:
        if path is None or os.stat(path).st_size <= MAX_OUTPUT_BYTES:
            return
        number = 1
        while os.path.lexists(f"{path}.{number}"):
            number += 1
        os.rename(path, f"{path}.{number}")
    except OSError:
        # Not there yet; or not to be had, and then opening it says why.
        pass


def environment(spec: dict[str, Any], attempt: str, notify_path: str) -> dict[bytes, bytes]:
    """What the child finds in its environment: its file, read afresh at each start, the attempt, and where to say Ready.

    Raises:
        SpawnError: the file cannot be read.
    """
    values: dict[str, str] = {}
    path = spec["env_file"]
    if path is not None:
        try:
            with open(path, "rb") as file:
                values = envfile.parse(file.read())
        except (OSError, ValueError) as err:
            reason = err.strerror if isinstance(err, OSError) else str(err)
            raise SpawnError(f"cannot read the environment file {path}: {reason}") from err
    values[ATTEMPT] = attempt
    if spec["ready"] == "notify":
        values[NOTIFY] = notify_path
    return {os.fsencode(name): os.fsencode(value) for name, value in values.items()}


# Python ignores the first two; a program that inherits that would write into closed pipes for ever.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


def spawn(spec: dict[str, Any], environ: dict[bytes, bytes]) -> int:
    """Starts the child and returns its pid once the program runs (exec has succeeded).

    posix_spawn(3), which is three times as fast as a fork of this process. What it cannot set for the child is set here
    and set back: nobody else runs in this process meanwhile.

    Raises:
        SpawnError: the directory, the output file or the program is not to be had; no process is left.
    """
    argv = [os.fsencode(word) for word in spec["argv"]]
    doing = f"open the output file {spec['output']}"
    out = None
    try:
        out = os.open(spec["output"] or "/dev/null", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        doing = f"enter the directory {spec['cwd']}"
        os.chdir(spec["cwd"])
        doing = f"run {spec['argv'][0]}"
        with _files_limited(spec["limits"].get("files")):
            return os.posix_spawn(
                _found(argv[0], environ.get(b"PATH", _DEFAULT_PATH)),
                argv,
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, b"/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, out, 1),
                    (os.POSIX_SPAWN_DUP2, out, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
    except OSError as err:
        raise SpawnError(f"cannot {doing}: {err.strerror}") from err
    finally:
        os.chdir("/")
        if out is not None:
            os.close(out)


def _found(program: bytes, path: bytes) -> bytes:
    """Where the program lies: a name without a slash is looked for in the child's own PATH, not in ours."""
    if b"/" in program:
        return program
    places = (os.path.join(directory, program) for directory in path.split(b":") if directory)
    return next((place for place in places if os.access(place, os.X_OK) and os.path.isfile(place)), program)


@contextmanager
def _files_limited(files: int | None) -> Iterator[None]:
    if files is None:
        yield
        return
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, file_limit(files, ours[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, ours)


def file_limit(files: int, hard: int) -> tuple[int, int]:
    """Soft and hard RLIMIT_NOFILE for a wish of `files`: the hard limit stays, because lowering it cannot be taken back."""
    return (files if hard == resource.RLIM_INFINITY else min(files, hard), hard)


def set_file_limit(pid: int, files: int) -> None:
    """Gives a running process another soft limit of open files (prlimit(2)).

    Raises:
        OSError: the process is gone or not ours.
    """
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, file_limit(files, hard))


def sweep_group(leader: int, attempt: str | None, *, own: bool) -> None:
    """Kills what is left of the process group of a child whose main process has ended.

    `own`: the main process is our child and not yet reaped, so that its number cannot belong to another group. For an
    adopted one that is not certain, so each member must carry the attempt in its environment.
    """
    if own:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        return
    for pid in proc.group_members(leader):
        if attempt is not None and proc.environ_value(pid, ATTEMPT) == attempt:
            kill_process(pid, proc.start_ticks(pid))


def kill_process(pid: int, ticks: int | None) -> bool:
    """SIGKILL to exactly this process; False where it was gone already."""
    return signal_process(pid, ticks, signal.SIGKILL)


def signal_process(pid: int, ticks: int | None, number: signal.Signals) -> bool:
    """A signal to exactly this process, by pidfd; False where it was gone already."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not proc.is_alive(pid, ticks):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
