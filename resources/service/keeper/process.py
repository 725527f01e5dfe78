"""Starting a child and ending what is left of it. Standard library only; the only place that starts programs.

The child is a session and a process group of its own, its output goes straight to a file, its environment is the
environment file and nothing of ours.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from contextlib import suppress
from typing import Any

from resources.service import proc
from resources.service.keeper import envfile
from resources.service.shortage import is_shortage

ATTEMPT = "OPENCLAW_KEEPER_ATTEMPT"
# Why a process ended that nobody watched, as far as anybody can say.
UNSEEN_EXIT = "ended while no keeper ran"
NOTIFY = "NOTIFY_SOCKET"
# Beside the keeper's own socket.
NOTIFY_NAME = "notify.sock"
DIGEST = "OPENCLAW_SPEC_DIGEST"


class SpawnError(Exception):
    """The child could not be started; the text is for people and holds no secret."""


# A gateway writes its own log; what it prints besides is a few lines a day, unless something is very wrong.
MAX_OUTPUT_BYTES = 16 << 20
_NULL_DEVICE = os.makedev(1, 3)
# A fifo in the place of a file is not waited for, a terminal is not made ours.
_AT_ONCE = os.O_NONBLOCK | os.O_NOCTTY


def read_regular(path: str) -> bytes:
    """The content of a regular file; a fifo or a device in its place is refused, and never waited for.

    Raises:
        OSError: it cannot be read, or is none.
    """
    fd = os.open(path, os.O_RDONLY | _AT_ONCE)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _not_regular(path)
        data = b""
        while chunk := os.read(fd, found.st_size + 1):
            data += chunk
        return data
    finally:
        os.close(fd)


def _not_regular(path: str) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file", path)


def _open_output(path: str | None) -> int:
    """Opens what a child writes to, None for what is discarded; a large file is moved aside first, to the next free `<path>.N`.

    Its directory is made anew, 0700, where it was deleted or lay on what is mounted no longer: a gateway that stays down for
    the want of it is worse than output in another place.

    Raises:
        OSError: it cannot be opened, or is neither a regular file nor /dev/null.
    """
    path = path or os.devnull
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | _AT_ONCE
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            with suppress(FileExistsError):  # a link that leads nowhere: what it leads to is not ours to make
                os.makedirs(os.path.dirname(path), mode=0o700)
            fd = os.open(path, flags, 0o600)
    except OSError as err:
        # What has nobody at its other end: a fifo without a reader, a socket.
        raise (_not_regular(path) if err.errno == errno.ENXIO else err) from None
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        if found.st_size > MAX_OUTPUT_BYTES and _turned(path):
            os.close(fd)
            return _open_output(path)
    elif found.st_rdev != _NULL_DEVICE:
        os.close(fd)
        raise _not_regular(path)
    os.set_blocking(fd, True)
    return fd


def output_size(path: str | None) -> int:
    """Where in `path` a child that is started now begins to write; 0 where there is nothing yet."""
    try:
        return os.stat(path).st_size if path is not None else 0
    except OSError:
        return 0


def output_obstacle(path: str) -> tuple[str, str] | None:
    """What would keep `_open_output` from opening `path`: the place that is in the way, and why; None where nothing is seen to.

    Opens and makes nothing.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return _directory_obstacle(os.path.dirname(path), os.W_OK | os.X_OK)
    except NotADirectoryError:
        return _directory_obstacle(os.path.dirname(path), os.X_OK)
    except OSError as err:
        return path, err.strerror or str(err)
    if not (stat.S_ISREG(found.st_mode) or found.st_rdev == _NULL_DEVICE):
        return path, "it is not a regular file"
    return None if os.access(path, os.W_OK) else (path, "it cannot be written")


def _directory_obstacle(path: str, access: int) -> tuple[str, str] | None:
    """The same for a directory in which something is to be made; where it is not there, for the one in which it is to be made."""
    while not os.path.lexists(path) and (above := os.path.dirname(path)) != path:
        path = above
    if not os.path.exists(path):
        return path, "it is a link that leads nowhere"
    if not os.path.isdir(path):
        return path, "it is no directory"
    return None if os.access(path, access) else (path, "nothing can be made in it")


def _turned(path: str) -> bool:
    number = 1
    while os.path.lexists(f"{path}.{number}"):
        number += 1
    try:
        os.rename(path, f"{path}.{number}")
    except OSError:
        return False
    return True


def environment(spec: dict[str, Any], attempt: str, notify_path: str) -> dict[bytes, bytes]:
    """What the child finds in its environment: its file, read afresh at each start, the attempt, and where to say Ready.

    Raises:
        SpawnError: the file cannot be read.
    """
    values: dict[bytes, bytes] = {}
    path = spec["env_file"]
    if path is not None:
        try:
            values = envfile.parse_bytes(read_regular(path))
        except (OSError, ValueError) as err:
            reason = err.strerror if isinstance(err, OSError) else str(err)
            raise SpawnError(f"cannot read the environment file {path}: {reason}") from err
    values[ATTEMPT.encode()] = attempt.encode()
    if spec["ready"] == "notify":
        values[NOTIFY.encode()] = os.fsencode(notify_path)
    return values


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
    out = ours = None
    try:
        out = _open_output(spec["output"])
        doing = f"enter the directory {spec['cwd']}"
        os.chdir(spec["cwd"])
        doing = f"run {spec['argv'][0]}"
        if (files := spec["limits"].get("files")) is not None:
            ours = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, file_limit(files, ours[1]))
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
        if ours is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, ours)
        if out is not None:
            os.close(out)


def _found(program: bytes, path: bytes) -> bytes:
    """Where the program lies: a name without a slash is looked for in the child's own PATH, not in ours."""
    if b"/" in program:
        return program
    places = (os.path.join(directory, program) for directory in path.split(b":") if directory)
    return next((place for place in places if os.access(place, os.X_OK) and os.path.isfile(place)), program)


def file_limit(files: int, hard: int) -> tuple[int, int]:
    """Soft and hard RLIMIT_NOFILE for a wish of `files`: the hard limit stays, because lowering it cannot be taken back."""
    return (files if hard == resource.RLIM_INFINITY else min(files, hard), hard)


def set_file_limit(pid: int, files: int | None) -> None:
    """Gives a running process another soft limit of open files (prlimit(2)); without a wish the hard one, for which limit it
    would have begun with, and given itself since, nobody knows.

    Raises:
        OSError: the process is gone or not ours.
    """
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard) if files is None else file_limit(files, hard))


def new_attempt(name: str) -> str:
    """Names one start of the child `name`, as no other start of any child is named."""
    return f"{name}.{os.urandom(12).hex()}"


def is_attempt_of(attempt: str, name: str) -> bool:
    """Whether it may be a start of this child; earlier keepers did not say of which child one is."""
    child, dot, _ = attempt.rpartition(".")
    return not dot or child == name


def stands_as_spawned(pid: int) -> bool:
    """Whether it reads and writes where `spawn` leads a child: what a child starts in a session of its own has pipes.

    A tool that outlives its gateway is not taken for it.
    """
    try:
        read, out, err = (os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3))
    except OSError:
        return False
    return read == os.devnull and out == err and out.startswith("/")


def watched(pid: int) -> tuple[int, int | None]:
    """The pidfd and the start time of a process that was just spawned.

    Raises:
        SpawnError: no descriptor is left; the process is ended and reaped.
    """
    try:
        ticks = proc.start_ticks(pid)
        return os.pidfd_open(pid), ticks
    except OSError as err:
        # A child of ours keeps its number until it is waited for.
        sweep_group(pid, None, own=True)
        os.waitpid(pid, 0)
        raise SpawnError(f"cannot watch the process: {err.strerror}") from err


def sweep_group(leader: int, attempt: str | None, *, own: bool) -> None:
    """Kills what is left of the process group of a child whose main process has ended.

    `own`: the main process is our child and not yet reaped, so that its number cannot belong to another group. For an
    adopted one that is not certain, so each member must carry the attempt in its environment.

    Raises:
        OSError: not `own`, and this process lacks what it takes to find them (`is_shortage`).
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
    """SIGKILL to exactly this process; False where it was gone already. Raises OSError as `signal_process` does."""
    return signal_process(pid, ticks, signal.SIGKILL)


def signal_process(pid: int, ticks: int | None, number: signal.Signals) -> bool:
    """A signal to exactly this process, by pidfd; False where it was gone already.

    Raises:
        OSError: this process lacks what it takes to tell (`is_shortage`).
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError as err:
        if is_shortage(err):
            raise
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
