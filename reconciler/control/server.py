"""The control API's socket: who may bind it, who may speak, and one crash boundary for each connection.

The socket lies in a directory of mode 0700, has mode 0600, and the kernel says who connects (SO_PEERCRED, unix(7)): the same
user or root. What is said is the business of `connection`, what is done that of the `Handlers` passed in.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import trio

from reconciler.control.calls import Handlers
from reconciler.control.connection import Connection
from reconciler.control.session import Question
from reconciler.errors import LockedError, NotPermittedError, OpenClawError
from reconciler.files import identity, is_at

# More at once are no people; each costs a task and a buffer.
MAX_CONNECTIONS: Final = 64
# How long a supervisor that holds the socket may take to accept before its socket counts as dead.
PROBE_SECONDS: Final = 2.0


class Server:
    """The control API on the Unix socket `path`.

    Args:
        handlers: who answers.
        path: where it listens.
        crashed: is told of each bug that ended a request and returns the id under which it can be found.
    """

    def __init__(self, handlers: Handlers, path: Path, *, crashed: Callable[[Exception], str]) -> None:
        self._path = path
        self._doorman = _Doorman(handlers, crashed)
        # What the present socket holds, undone when it is closed, and the files that make it reachable.
        self._held = ExitStack()
        self._files: dict[Path, tuple[int, int]] = {}
        self._listener: trio.SocketListener | None = None
        self._tasks: trio.Nursery | None = None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled; started once it listens. On cancellation running commands are cancelled, connections closed
        and the socket removed.

        Raises:
            LockedError: another supervisor serves there.
            NotPermittedError: the directory belongs to another user, or something else than a socket lies there.
        """
        await self._bind()
        try:
            async with trio.open_nursery() as self._tasks:
                await self._tasks.start(self._accept)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._held.close()

    @property
    def in_place(self) -> bool:
        """Whether the socket and its claim are still the files at their paths, so that clients come here."""
        return all(is_at(path, held) for path, held in self._files.items())

    async def bind_anew(self) -> None:
        """Listens at its place again, by a new socket; conversations over the former one go on. Only while it serves.

        Raises:
            OSError, and as `serve`: then nobody is listened to until a later call succeeds.
        """
        assert self._tasks is not None
        if self._listener is not None:
            await self._listener.aclose()
        self._held.close()
        await self._bind()
        await self._tasks.start(self._accept)

    async def _bind(self) -> None:
        with ExitStack() as held:
            sock, self._files = await trio.to_thread.run_sync(_bind, self._path, held)
            self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            self._held = held.pop_all()

    async def _accept(self, task_status: trio.TaskStatus[object]) -> None:  # noqa: ASYNC128 - `serve_listeners` starts it
        assert self._listener is not None
        try:
            await trio.serve_listeners(
                self._doorman.admit, [self._listener], handler_nursery=self._tasks, task_status=task_status
            )
        except* trio.ClosedResourceError:
            pass  # it is bound anew


class _Doorman:
    """Decides who is let in, and holds what connections share."""

    def __init__(self, handlers: Handlers, crashed: Callable[[Exception], str]) -> None:
        self._handlers = handlers
        self._crashed = crashed
        self._questions: dict[str, Question] = {}
        self._count = 0

    async def admit(self, stream: trio.SocketStream) -> None:
        """One connection from its first byte to its close; nothing that happens in it concerns another."""
        self._count += 1
        try:
            async with stream:
                await self._converse(stream)
        except Exception as err:
            self._crashed(err)
        finally:
            self._count -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        uid = peer_uid(stream.socket)
        connection = Connection(stream, self._handlers, self._questions, self._crashed, uid=uid)
        # The client that does not listen or goes away has only itself to tell.
        with suppress(trio.BrokenResourceError, trio.TooSlowError):
            if self._count > MAX_CONNECTIONS:
                await connection.refuse_crowd()
            elif uid not in (os.getuid(), 0):
                await connection.refuse_peer()
            else:
                await connection.converse()


def peer_uid(sock: trio.socket.SocketType) -> int:
    """The user that connected, as the kernel knows it."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", data)
    return int(uid)


def _bind(path: Path, held: ExitStack) -> tuple[socket.socket, dict[Path, tuple[int, int]]]:
    """A listening socket at `path`, and the files that it needs there; what must be undone at the end is put on `held`.

    May block for PROBE_SECONDS.
    """
    _private_directory(path.parent)
    handle = _claim(path)
    held.callback(os.close, handle)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    held.callback(sock.close)
    sock.bind(str(path))
    bound = identity(path)
    held.callback(_remove, path, bound)
    # Until now the directory alone kept others out.
    path.chmod(0o600)
    sock.listen(MAX_CONNECTIONS)
    return sock, {path: bound, _claim_path(path): identity(handle)}


def _private_directory(path: Path) -> None:
    """Makes `path` 0700, and what is missing above it. Raises NotPermittedError where others may write or own it."""
    for directory in (*reversed(path.parents), path):
        if not directory.is_dir():
            directory.mkdir(mode=0o700, exist_ok=True)
    # In /tmp anybody may have made the directory before us, with our name on it.
    checked = [path, path.parent] if path.parent.name.startswith("openclaw-run-") else [path]
    for directory in checked:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise NotPermittedError(f'cannot serve in "{directory}": it belongs to another user')
        if found.st_mode & 0o077:
            directory.chmod(0o700)


def _claim_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _claim(path: Path) -> int:
    """A lock that the kernel drops with us: of two supervisors that find a dead socket only one may replace it."""
    handle = os.open(_claim_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise LockedError(f'cannot serve on "{path}": another supervisor does') from None
    return handle


def _remove_stale(path: Path) -> None:
    """Removes a socket on which nobody answers."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise NotPermittedError(f'cannot serve on "{path}": something else than a socket lies there')
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            pass  # it holds the socket and is busy: alive
        except OSError as err:
            raise OpenClawError(f'cannot serve on "{path}": {err.strerror}') from err
    raise LockedError(f'cannot serve on "{path}": another process does')


def _remove(path: Path, bound: tuple[int, int]) -> None:
    with suppress(OSError):
        if identity(path) == bound:
            path.unlink()
