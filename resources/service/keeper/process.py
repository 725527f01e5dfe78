"""Starting a child and ending what is left of it. Standard library only; the only place that forks and signals.

The child is a session and a process group of its own, its output goes straight to a file, its environment is the
environment file and nothing of ours. Between fork and exec only plain system calls run.
"""

from __future__ import annotations

import os
import resource
import signal
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


def spawn(spec: dict[str, Any], environ: dict[bytes, bytes]) -> int:
    """Starts the child and returns its pid once the program runs (exec has succeeded).

    Raises:
        SpawnError: the directory, the output file or the program is not to be had; no process is left.
    """
    argv = [os.fsencode(word) for word in spec["argv"]]
    read_end, write_end = os.pipe()
    # The child keeps the write end until exec closes it: end of file means that the program runs.
    pid = os.fork()
    if pid == 0:
        _become(spec, argv, environ, write_end)
    os.close(write_end)
    complaint = b""
    try:
        while chunk := os.read(read_end, 1024):
            complaint += chunk
    finally:
        os.close(read_end)
    if complaint:
        os.waitpid(pid, 0)
        raise SpawnError(complaint.decode("utf-8", "replace"))
    return pid


def _become(spec: dict[str, Any], argv: list[bytes], environ: dict[bytes, bytes], write_end: int) -> None:
    doing = "start a session"
    try:
        os.setsid()
        # Python ignores these two; a program that inherits that would write into closed pipes for ever.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(0o077)
        doing = f"open the output file {spec['output']}"
        _redirect(spec["output"])
        doing = f"enter the directory {spec['cwd']}"
        os.chdir(spec["cwd"])
        doing = "set the limit of open files"
        if (files := spec["limits"].get("files")) is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, file_limit(files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        doing = f"run {spec['argv'][0]}"
        os.execvpe(argv[0], argv, environ)
    except OSError as err:
        os.write(write_end, f"cannot {doing}: {err.strerror}".encode("utf-8", "replace"))
    except BaseException as err:
        os.write(write_end, f"cannot {doing}: {type(err).__name__}".encode())
    finally:
        os._exit(127)


def _redirect(output: str | None) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    out = null if output is None else os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)


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
    """SIGKILL to exactly this process, by pidfd; False where it was gone already."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not proc.is_alive(pid, ticks):
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
