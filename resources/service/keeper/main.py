"""The keeper's process: holds the lock, listens, and does what it is told; everything is imported at its start.

    python -m resources.service.keeper --state DIR [--socket PATH] [--detach]

It outlives whoever started it. SIGTERM ends the keeper and leaves the children to a successor; the command `shutdown`
ends them first. Peers must be of the same user, or root. An upgrade replaces the program by exec: pid, lock, sockets and
children stay. It is no subreaper: Python has no prctl(2) but through ctypes, which would cost a megabyte; what a child leaves
behind is found by its process group instead.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from resources.service.keeper import adopt, protocol
from resources.service.keeper.child import Child
from resources.service.keeper.commands import Commands
from resources.service.keeper.helper import Helper
from resources.service.keeper.loop import Loop
from resources.service.keeper.process import NOTIFY_NAME
from resources.service.keeper.store import Record, Store

# A log of restarts; two files of it at most.
MAX_LOG_BYTES = 1 << 20
MAX_CONNECTIONS = 64
# An event is a few kilobytes; a subscriber that is this far behind will not catch up.
MAX_UNSENT_BYTES = 4 << 20
_CHECK_SECONDS = 20.0
_ACCEPT_AGAIN_SECONDS = 1.0
_CREDENTIALS = struct.Struct("3i")
_USAGE = "usage: python -m resources.service.keeper --state DIR [--socket PATH] [--detach]"


class Connection:
    """One peer on the socket."""

    def __init__(self, peer: socket.socket, keeper: Keeper) -> None:
        self._peer = peer
        self._keeper = keeper
        self._lines = protocol.Lines()
        self._unsent = bytearray()
        self.version: int | None = None
        self.subscribed = False
        self.closed = False
        keeper.loop.watch(peer, self._on_readable)

    def send(self, message: dict[str, Any]) -> None:
        """Sends now what goes now, the rest when there is room; a peer that reads nothing is dropped."""
        if self.closed:
            return
        self._unsent += protocol.encode(message)
        self._flush()
        if len(self._unsent) > MAX_UNSENT_BYTES:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._keeper.loop.forget(self._peer)
            self._peer.close()
            self._keeper.connections.discard(self)

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._keeper.loop.watch_both(self._peer, self._on_readable, self._flush if self._unsent else None)

    def _on_readable(self) -> None:
        try:
            data = self._peer.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            messages = self._lines.feed(data)
        except protocol.ProtocolError as err:
            self.send({"id": None, **protocol.failure(err.code, str(err), self.version or protocol.VERSION)})
            self.close()
            return
        for message in messages:
            if not self.closed:
                self._keeper.commands.run(self, message)


class Keeper:
    """All that one keeper holds."""

    def __init__(self, state: str, socket_path: str, program: str) -> None:
        self.state = state
        self.program = program
        self.socket_path = socket_path
        self.directory = f"{state}/reconciler/keeper"
        self.notify_path = f"{os.path.dirname(socket_path)}/{NOTIFY_NAME}"
        self.since = time.time()
        # The keeper before this one, where it ended without a word: `{"pid", "at"}`, the moment that its place was taken.
        self.replaced: dict[str, Any] | None = None
        self.loop = Loop(self._check_files)
        _private_directories(f"{self.directory}/children")
        _private_directories(os.path.dirname(socket_path))
        self.store = Store(f"{self.directory}/children")
        self.children: dict[str, Child] = {}
        self.connections: set[Connection] = set()
        self.commands = Commands(self)
        self._lock: int | None = None
        self._lock_identity = (0, 0)
        self._bound = {self.socket_path: (0, 0), self.notify_path: (0, 0)}
        # What it could not mend when it last looked, said once.
        self._unmended = ""
        self._listener: socket.socket | None = None
        self._notify: socket.socket | None = None
        # Made now: without descriptors enough it ends here, before it held anything.
        self._signals, self._wakeup = socket.socketpair()
        self._trial: Helper | None = None
        self._refuse_upgrade: list[Callable[[str], None]] = []

    def hold(self) -> bool:
        """Takes the lock, opens the sockets, takes over what runs; False where another keeper answers.

        Raises:
            adopt.LockError, OSError: it cannot.
        """
        before, _ = adopt.read_holder(f"{self.directory}/lock")
        self._lock = adopt.acquire_lock(f"{self.directory}/lock", self.socket_path)
        if self._lock is None:
            return False
        if before is not None and os.path.lexists(self.socket_path):
            # Whoever ends as it should takes its sockets with it.
            self.replaced = {"pid": before, "at": time.time()}
            self.log(f"keeper {before} ended without a word")
        self._listener = self._new_listener()
        self._notify = self._new_notify()
        self._begin()
        return True

    def hold_inherited(self, lock: int, listener: int, notify: int) -> None:
        """Goes on as the new program of the same process: lock and sockets are open already."""
        for fd in (lock, listener, notify):
            os.set_inheritable(fd, False)
        self._lock = lock
        self._listener = socket.socket(fileno=listener)
        self._notify = socket.socket(fileno=notify)
        for inherited, path in ((self._listener, self.socket_path), (self._notify, self.notify_path)):
            inherited.setblocking(False)
            # Where it is gone, or meant for nobody any more, it is bound anew with the first event.
            with suppress(OSError):
                self._bound[path] = adopt.identity(path)
        self._begin()

    def _begin(self) -> None:
        assert self._listener is not None
        assert self._notify is not None
        assert self._lock is not None
        self._lock_identity = adopt.identity(self._lock)
        self._check_lock()
        self.log(f"keeper {os.getpid()} holds {self.state}")
        records, problems = self.store.load()
        for problem in problems:
            self.log(problem)
        for record in records:
            self.add(record)
        adopt.take_over(list(self.children.values()), self.state, self.notify_path)
        self.loop.watch(self._listener, self._on_connection)
        self.loop.watch(self._notify, self._on_notification)

    def _new_listener(self) -> socket.socket:
        listener = _bound(self.socket_path, socket.SOCK_STREAM)
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
        self._bound[self.socket_path] = adopt.identity(self.socket_path)
        return listener

    def _new_notify(self) -> socket.socket:
        notify = _bound(self.notify_path, socket.SOCK_DGRAM)
        notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        notify.setblocking(False)
        self._bound[self.notify_path] = adopt.identity(self.notify_path)
        return notify

    def _check_files(self) -> None:
        """Sees that it still is the keeper, can be reached, and can write down what it holds: what was deleted is made anew."""
        self._check_lock()
        why = ""
        for mend in (self._mend_sockets, self._mend_records):
            try:
                mend()
            except OSError as err:
                # Tried again at the next event.
                why = f"cannot make anew what was deleted: {err}"
        if why not in ("", self._unmended):
            self.log(why)
        self._unmended = why

    def _mend_sockets(self) -> None:
        """A socket whose path was deleted or exchanged is bound anew.

        Else no command would find it, and no child's READY: each would be ended for not having said it.
        """
        if not adopt.is_at(self.socket_path, self._bound[self.socket_path]):
            self._listener = self._replaced(self._listener, self._new_listener(), self._on_connection)
        if not adopt.is_at(self.notify_path, self._bound[self.notify_path]):
            notify = self._new_notify()
            # What was said before is still in the old one.
            while self._take_notification():
                pass
            self._notify = self._replaced(self._notify, notify, self._on_notification)

    def _mend_records(self) -> None:
        """Without the folder of records no child could be started again."""
        if self.store.make_anew():
            self.log(f"{self.store.directory} was deleted, and is made anew")
            for child in self.children.values():
                child.save()

    def _replaced(self, old: socket.socket | None, new: socket.socket, call: Callable[[], None]) -> socket.socket:
        assert old is not None
        self.log("a socket was deleted or exchanged, and is bound anew")
        if self.loop.watches(old):
            self.loop.forget(old)
        old.close()
        self.loop.watch(new, call)
        return new

    def _check_lock(self) -> None:
        """Lets go where the lock's file was deleted or exchanged: a successor could not know of this keeper, or is here already.

        At once and without a trace: nothing is started, ended, written or removed, because all that may be the other's by now.

        Raises:
            SystemExit: the lock is lost.
        """
        path = f"{self.directory}/lock"
        if not adopt.is_at(path, self._lock_identity):
            self.log(f"keeper {os.getpid()} lets go: {path} is no longer the file that it holds; its children stay")
            raise SystemExit(0)

    def run(self) -> None:
        """Serves until SIGTERM or `shutdown`."""
        self._signals.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.loop.watch(self._signals, self.loop.stop)
        self.loop.run()
        self._flush_all()
        self.log(f"keeper {os.getpid()} ends; its children stay")
        # While the lock is held: a successor's sockets cannot be meant.
        for path in (self.socket_path, self.notify_path):
            _remove(path)
        signal.set_wakeup_fd(-1)

    def add(self, record: Record) -> Child:
        """Holds one more child."""
        child = self.children[record.name] = Child(record, self)
        return child

    def add_new(self, record: Record) -> Child:
        """Holds a child that there is no record of; one that runs all the same, because the record was lost, is taken over."""
        known = {child.record.attempt for child in self.children.values()}
        child = self.add(record)
        # Whoever runs was asked to, and nothing says that this was taken back.
        record.goal = "up"
        if not adopt.hold_unrecorded(child, self.state, self.notify_path, known):
            record.goal = "down"
        return child

    def emit(self, event: str, child: Child) -> None:
        """Tells all subscribers how it is at this moment, once what is being done is done: a start does not wait for them."""
        if any(connection.subscribed for connection in self.connections):
            message = {"event": event, "name": child.record.name, "child": child.record.to_json()}
            self.loop.after(0.0, lambda: self._tell(message))

    def _tell(self, message: dict[str, Any]) -> None:
        for connection in [connection for connection in self.connections if connection.subscribed]:
            connection.send(message)

    def _flush_all(self) -> None:
        for child in self.children.values():
            child.flush()

    def log(self, text: str) -> None:
        """One line in the keeper's log; never what a child says, never an environment."""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n"
        try:
            os.write(2, line.encode("utf-8", "replace"))
            if os.fstat(2).st_size > MAX_LOG_BYTES:
                open_log(self.directory, turn=True)
        except OSError:
            # A full disk takes the log first; the children are worth more.
            pass

    def upgrade(self, argv: list[str], environ: dict[str, str], failed: Callable[[str], None]) -> None:
        """Becomes another program, once a trial run of it succeeded; else `failed(why)`, and all goes on as before.

        `argv` is how that program is started, without its options. Who asks while a trial runs gets the answer of that one.
        """
        self._refuse_upgrade.append(failed)
        if self._trial is not None:
            return
        whole = [
            *argv,
            "--state",
            self.state,
            "--socket",
            self.socket_path,
            "--inherit",
            ",".join(map(str, self._fds())),
        ]

        def done(code: int | None, output: str) -> None:
            self._trial = None
            why = output or "the trial run of the new keeper failed"
            if code == 0:
                why = self._exec(whole, environ)
            waiting, self._refuse_upgrade = self._refuse_upgrade, []
            for refuse in waiting:
                refuse(why)

        self._trial = Helper(
            self.loop,
            # With all its options: one that it does not know must be found before there is no way back.
            [*whole, "--check"],
            environ={os.fsencode(name): os.fsencode(value) for name, value in environ.items()},
            cwd="/",
            output=f"{self.directory}/upgrade.check",
            limit_seconds=_CHECK_SECONDS,
            done=done,
        )

    def _fds(self) -> tuple[int, int, int]:
        """What the next program inherits: with the lock no other keeper can start, with the sockets no word is lost."""
        assert self._lock is not None
        assert self._listener is not None
        assert self._notify is not None
        return self._lock, self._listener.fileno(), self._notify.fileno()

    def _exec(self, argv: list[str], environ: dict[str, str]) -> str:
        """Replaces the program; returns only where that cannot be, with the reason."""
        self.log(f"keeper {os.getpid()} becomes the program {argv[0]}")
        # Nobody would wait for the end of a check: it is begun again by whoever goes on.
        interrupted = [child for child in self.children.values() if child.leave()]
        self._flush_all()
        for fd in self._fds():
            os.set_inheritable(fd, True)
        try:
            os.execve(argv[0], argv, environ)
        except OSError as err:
            for fd in self._fds():
                os.set_inheritable(fd, False)
            for child in interrupted:
                child.resume()
            return f"cannot run {argv[0]}: {err.strerror}"

    def _on_connection(self) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as err:
            # No descriptor is left: the socket stays readable, and looking again at once would be a busy loop.
            self.log(f"cannot accept a connection: {err.strerror}")
            self.loop.forget(self._listener)
            self.loop.after(_ACCEPT_AGAIN_SECONDS, self._accept_again)
            return
        uid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid not in (0, os.getuid()) or len(self.connections) >= MAX_CONNECTIONS:
            self.log(f"refused a connection of user {uid}")
            peer.close()
            return
        peer.setblocking(False)
        self.connections.add(Connection(peer, self))

    def _accept_again(self) -> None:
        if not self.loop.watches(self._listener):
            self.loop.watch(self._listener, self._on_connection)

    def _on_notification(self) -> None:
        self._take_notification()

    def _take_notification(self) -> bool:
        assert self._notify is not None
        try:
            data, ancillary, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except OSError:
            return False
        for level, kind, content in ancillary:
            if (level, kind) != (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) or len(content) < _CREDENTIALS.size:
                continue
            pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
            if b"READY=1" in data.split(b"\n"):
                for child in self.children.values():
                    if child.speaks_for(pid):
                        child.mark_ready()
        return True


def _bound(path: str, kind: socket.SocketKind) -> socket.socket:
    """A socket at `path`, 0600; whatever was there is a dead keeper's, because we hold the lock."""
    _remove(path)
    bound = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o177)
    try:
        bound.bind(path)
    finally:
        os.umask(before)
    return bound


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _private_directories(path: str) -> None:
    """Makes `path` with its parents, 0700; refuses a place that somebody else could exchange.

    Raises:
        PermissionError: it, or the directory it lies in, belongs to another user, or is a link.
    """
    missing = []
    at = path
    while not os.path.isdir(at):
        missing.append(at)
        at = os.path.dirname(at)
    for directory in reversed(missing):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    for directory in (path, os.path.dirname(path)):
        found = os.lstat(directory)
        if found.st_uid not in (0, os.getuid()):
            raise PermissionError(f"cannot use {directory}: it belongs to user {found.st_uid}")
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise PermissionError(f"cannot use {path}: it is a link")
    if os.stat(path).st_mode & 0o077:
        os.chmod(path, 0o700)


def open_log(directory: str, *, turn: bool = False) -> None:
    """Makes keeper.log standard output and error; `turn` moves a full one aside first."""
    path = f"{directory}/keeper.log"
    if turn:
        os.rename(path, f"{path}.1")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


class Starter:
    """The process that waits until the detached keeper serves; without one nothing is said to anybody."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd

    def say(self, text: str) -> None:
        if self._fd is not None:
            os.write(self._fd, text.encode("utf-8", "replace"))
            os.close(self._fd)
            self._fd = None


def _detach(directory: str) -> Starter:
    """Becomes a session of its own without a terminal; the first process ends here, once the keeper serves."""
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(write_end)
        said = b""
        while chunk := os.read(read_end, 4096):
            said += chunk
        word, _, text = said.decode("utf-8", "replace").partition(" ")
        if word not in ("holds", "held"):
            sys.stderr.write(f"{text or 'the keeper ended before it served'}\n")
            raise SystemExit(1)
        raise SystemExit(0)
    os.close(read_end)
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    open_log(directory)
    return Starter(write_end)


def main(argv: list[str], program: str = "") -> int:
    """Runs a keeper, whose digest is `program`.

    Returns the exit code: 0 also where another keeper serves already, 1 where it cannot, 64 for wrong usage.
    """
    options = _options(argv)
    if options is None:
        sys.stderr.write(f"{_USAGE}\n")
        return 64
    if "check" in options:
        return 0
    state = os.path.abspath(options["state"])
    keeper_directory = f"{state}/reconciler/keeper"
    socket_path = os.path.abspath(options.get("socket") or f"{keeper_directory}/keeper.sock")
    os.umask(0o077)
    # Starting a child enters its directory and comes back here.
    os.chdir("/")
    starter = Starter()
    try:
        _private_directories(keeper_directory)
        if "detach" in options:
            starter = _detach(keeper_directory)
        keeper = Keeper(state, socket_path, program)
        if "inherit" in options:
            lock, listener, notify = map(int, options["inherit"].split(","))
            keeper.hold_inherited(lock, listener, notify)
        elif not keeper.hold():
            starter.say("held")
            return 0
    except (adopt.LockError, OSError) as err:
        text = str(err)
        starter.say(f"failed {text}")
        sys.stderr.write(f"{text}\n")
        return 1
    starter.say("holds")
    keeper.run()
    return 0


def _options(argv: list[str]) -> dict[str, str] | None:
    """`--name value` pairs and the two flags; None for anything else. argparse alone would cost half a megabyte."""
    options: dict[str, str] = {}
    rest = list(argv)
    while rest:
        name = rest.pop(0)
        if name in ("--detach", "--check"):
            options[name[2:]] = ""
        elif name in ("--state", "--socket", "--inherit") and rest:
            options[name[2:]] = rest.pop(0)
        else:
            return None
    return options if "state" in options or "check" in options else None
