"""The keeper as the adapter sees it: start one where none answers, command it, follow its events, read its files without it.

A Trio client of the socket (`keeper/protocol.py`). A call that is cancelled leaves its connection unusable; the keeper goes on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import trio

from reconciler.errors import NotPermittedError, TemporaryError, TerminalError, shortage
from reconciler.files import remedy_of_refusal
from reconciler.host import Host
from resources.service import proc
from resources.service.keeper import program, protocol
from resources.service.keeper.adopt import ANSWER_SECONDS, choose, read_holder, unrecorded
from resources.service.keeper.process import NOTIFY_NAME
from resources.service.keeper.store import Record, load_records

SOCKET = "keeper/keeper.sock"
_CHUNK_BYTES = 65536
_CREDENTIALS = struct.Struct("3i")
# Python starts in a fifth of a second on a slow machine; a holder that hangs is waited for and killed before (adopt).
_START_SECONDS = 20.0
# A command is answered at once, after a few writes to a disk that may be busy. A keeper that is stopped never answers.
_COMMAND_SECONDS = 10.0
_SLOW = {"wait": inf, "shutdown": inf, "upgrade": inf}
# What the keeper itself may find in its environment: nothing that could be a secret.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "TMPDIR")


class KeeperGone(TemporaryError):
    """No keeper answers: none runs, it hangs, or it ended in the middle of a call."""


class KeeperRefused(TerminalError):
    """The keeper answered, and said no; `code` is its word for why."""

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class KeeperClient:
    """One connection; commands one after the other. Made by `connect`.

    `pid` and `program` (its digest, None: it does not tell) are those of the keeper.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lines = protocol.Lines()
        self._received: list[dict[str, Any]] = []
        self._count = 0
        self.pid = 0
        self.program: str | None = None

    async def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Sends one command and returns its answer.

        Raises:
            KeeperGone: the connection broke, or it did not answer in time.
            KeeperRefused: the keeper said no.
        """
        # How long the others take is their caller's to say.
        with trio.move_on_after(_SLOW.get(command, _COMMAND_SECONDS)):
            return await self._call(command, **arguments)
        raise KeeperGone(f"cannot {command}: the keeper does not answer")

    async def _call(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._count += 1
        await self._send({"id": self._count, "command": command, **arguments})
        while True:
            message = await self._next()
            if "event" in message:
                continue
            if message.get("ok"):
                return message
            error = message.get("error")
            if isinstance(error, Mapping):
                raise KeeperRefused(str(error.get("code")), f"cannot {command}: {error.get('message')}")
            raise KeeperRefused("refused", f"cannot {command}: {error}")

    async def child(self, command: str, name: str, **arguments: Any) -> dict[str, Any]:
        """`call` for a command that answers with a child; returns that."""
        answer: dict[str, Any] = (await self.call(command, name=name, **arguments))["child"]
        return answer

    async def event(self, seconds: float) -> dict[str, Any] | None:
        """The next message after `subscribe`; None where there was none for `seconds`, and the keeper answers all the same.

        Raises:
            KeeperGone: it ended the connection, or does not answer.
        """
        with trio.move_on_after(seconds):
            return await self._next()
        with trio.move_on_after(ANSWER_SECONDS):
            await self._send({"id": 0, "command": "status"})
            # Whatever comes shows that it lives. The answer itself is no event.
            message = await self._next()
            return message if "event" in message else None
        raise KeeperGone("the keeper does not answer")

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._stream.send_all(protocol.encode(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            raise KeeperGone("the keeper ended the connection") from err

    async def _next(self) -> dict[str, Any]:
        while not self._received:
            try:
                data = await self._stream.receive_some(_CHUNK_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
                raise KeeperGone("the keeper ended the connection") from err
            if not data:
                raise KeeperGone("the keeper ended the connection")
            try:
                self._received = self._lines.feed(bytes(data))
            except protocol.ProtocolError as err:
                raise KeeperGone(f"cannot understand the keeper: {err}") from err
        return self._received.pop(0)


@asynccontextmanager
async def connect(host: Host) -> AsyncIterator[KeeperClient]:
    """A connection to the keeper of this state directory.

    Raises:
        KeeperGone: none answers within `ANSWER_SECONDS`.
        TemporaryError: this process lacks what it takes to ask, which says nothing about the keeper.
        NotPermittedError: its socket is not for this user.
        KeeperRefused: it speaks other versions of the protocol; the hint says what to do.
    """
    path = host.socket_path(SOCKET)
    try:
        with trio.fail_after(ANSWER_SECONDS):
            stream = await _open(os.fspath(path))
    except (OSError, trio.TooSlowError) as err:
        if what := shortage(err):
            raise TemporaryError(f"cannot ask the keeper: {what}") from err
        if isinstance(err, PermissionError):
            # Whether one is there nobody can tell.
            raise NotPermittedError(
                f"cannot ask the keeper on {path}: {err.strerror}", hint=remedy_of_refusal(path)
            ) from err
        raise KeeperGone(f"no keeper answers on {path}") from err
    async with stream:
        client = KeeperClient(stream)
        try:
            with trio.fail_after(ANSWER_SECONDS):
                hello = await client.call("hello", versions=list(protocol.VERSIONS))
            client.pid, client.program = hello["pid"], hello.get("program")
        except trio.TooSlowError as err:
            raise KeeperGone(f"the keeper on {path} does not answer") from err
        except KeeperRefused as err:
            if err.code != "version":
                raise
            raise _no_common_version(err, _peer(stream)) from err
        yield client


def _peer(stream: trio.SocketStream) -> int:
    """The process that listens at the other end (unix(7), SO_PEERCRED)."""
    credentials = stream.socket.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


def _no_common_version(err: KeeperRefused, pid: int) -> KeeperRefused:
    """With a keeper that shares no version nothing can be said but by a signal; it takes no child with it."""
    return KeeperRefused(
        err.code,
        f"cannot command the keeper: {err.message.partition(': ')[2]}",
        hint=f"end it with `kill {pid}`, then run `openclaw apply`: the gateway runs on, and a keeper of this version "
        "takes it over",
    )


async def _open(path: str) -> trio.SocketStream:
    # Not trio.open_unix_socket: it checks only for the path, and this way a refused connection closes the socket at once.
    connection = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(connection)


async def answers(host: Host) -> bool:
    """Whether a keeper answers."""
    try:
        async with connect(host):
            return True
    except KeeperGone:
        return False


async def ensure_keeper(host: Host) -> None:
    """Starts a keeper where none answers, and returns when one does. One that hangs is ended and succeeded.

    The new one is a session of its own with its own log, holds no descriptor of ours, and is nobody's child that we would have
    to wait for.

    Raises:
        TerminalError: it cannot be started; the text is the keeper's own.
        TemporaryError: it did not answer in time, or there are no more descriptors or memory to start it with.
    """
    if await answers(host):
        return
    argv = [*_argv(host), "--detach"]
    argv += ["--state", os.fspath(host.state.root), "--socket", os.fspath(host.socket_path(SOCKET))]
    try:
        with trio.fail_after(_START_SECONDS):
            # What is started here is only the first process, which ends once the keeper serves.
            done = await trio.run_process(
                argv, capture_stdout=True, capture_stderr=True, check=False, cwd="/", env=_environment(host.environ)
            )
    except trio.TooSlowError as err:
        raise TemporaryError(f"cannot start the keeper: it did not answer within {_START_SECONDS:g} s") from err
    except OSError as err:
        kind = TemporaryError if shortage(err) else TerminalError
        raise kind(f"cannot start the keeper: cannot run {host.python}: {err.strerror}") from err
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise TerminalError(f"cannot start the keeper: {lines[-1] if lines else f'exit code {done.returncode}'}")


async def upgrade_keeper(host: Host) -> None:
    """Makes the running keeper the program that is installed now, its children kept; returns when that one answers.

    Raises:
        KeeperGone: none runs, or it ended on the way; its child runs on.
        KeeperRefused: the installed program does not start; the old one goes on.
        TerminalError: what came is not the installed program: somebody else exchanges it too.
        TemporaryError: it did not answer in time.
    """
    wanted = await trio.to_thread.run_sync(program.digest)
    try:
        with trio.fail_after(_START_SECONDS):
            async with connect(host) as keeper:
                if keeper.program == wanted:
                    return
                try:
                    await keeper.call("upgrade", argv=_argv(host), environ=_environment(host.environ))
                except KeeperGone:
                    # By exec the old program's connections end. The listening socket stays, so the next call waits in its queue.
                    pass
            found = await _program_after(host)
    except trio.TooSlowError as err:
        raise TemporaryError(f"cannot upgrade the keeper: it did not answer within {_START_SECONDS:g} s") from err
    if found != wanted:
        raise TerminalError(f"cannot upgrade the keeper: it became program {found}, and {wanted} is installed")


async def _program_after(host: Host) -> str | None:
    """What answers after an exec. On a busy machine Python takes longer to start than a keeper takes to answer."""
    path = os.fspath(host.state.keeper / "lock")
    while True:
        try:
            async with connect(host) as keeper:
                return keeper.program
        except KeeperGone as err:
            gone = err
        pid, ticks = await trio.to_thread.run_sync(read_holder, path)
        if not proc.is_alive(pid, ticks):
            raise gone


def _argv(host: Host) -> list[str]:
    return [host.python, "-P", "-m", "resources.service.keeper"]


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in _PASSED_ON if name in environ}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of the keeper and its children at one moment, with or without its help.

    `keeper_pid` None: no keeper answers, and `children` come from its files, so that a child whose process ended since still
    looks as it was last written; `alive` tells. `silent` is then the process that has the keeper's lock and says nothing,
    where there is one. `program` is the digest of the keeper that answers, None where it does not tell; `replaced` tells of
    the one before it, where that ended without a word: its `pid`, and when its place was taken (`at`, seconds since the epoch).
    """

    keeper_pid: int | None
    children: Mapping[str, Mapping[str, Any]]
    program: str | None = None
    silent: int | None = None
    replaced: Mapping[str, Any] | None = None

    def child(self, name: str) -> Mapping[str, Any] | None:
        return self.children.get(name)


def alive(child: Mapping[str, Any] | None) -> bool:
    """Whether the recorded process of a child runs."""
    return child is not None and proc.is_alive(child["pid"], child["start_ticks"]) and child["boot"] == proc.boot_id()


async def look(host: Host) -> Seen:
    """Asks the keeper; where none answers reads what it left. Changes nothing.

    Raises:
        TemporaryError: a keeper answers, but not in words that this version understands; or this process lacks what it takes to
            look.
    """
    try:
        with trio.fail_after(ANSWER_SECONDS):
            async with connect(host) as client:
                answer = await client.call("status")
        # One of an earlier version does not tell.
        replaced = answer["keeper"].get("replaced")
        return Seen(keeper_pid=client.pid, children=answer["children"], program=client.program, replaced=replaced)
    except (KeeperGone, trio.TooSlowError):
        try:
            records = await trio.to_thread.run_sync(read_children, host)
            silent = await trio.to_thread.run_sync(_silent_holder, host)
        except OSError as err:
            if what := shortage(err):
                raise TemporaryError(f"cannot read what the keeper left: {what}") from err
            raise
        return Seen(keeper_pid=None, children={record.name: record.to_json() for record in records}, silent=silent)
    except KeeperRefused as err:
        raise TemporaryError(err.message, hint=err.hint) from err


def unrecorded_process(host: Host, seen: Seen, name: str, port: int | None) -> int | None:
    """The process of a child that runs and of which no record tells: the one that the next keeper will hold. Blocking.

    Raises:
        OSError: /proc cannot be read.
    """
    notify = os.fspath(host.socket_path(SOCKET).with_name(NOTIFY_NAME))
    known = {child["attempt"] for child in seen.children.values()}
    found = unrecorded(name, os.fspath(host.state.root), notify, known)
    return choose(found, port) if found else None


def _silent_holder(host: Host) -> int | None:
    pid, ticks = read_holder(os.fspath(host.state.keeper / "lock"))
    return pid if proc.is_alive(pid, ticks) else None


def read_children(host: Host) -> list[Record]:
    """The newest records, for when no keeper answers; what cannot be read is left out, the next keeper says so.

    Raises:
        OSError: this process lacks what it takes to read them.
    """
    records, _ = load_records(os.fspath(host.state.keeper / "children"))
    return records
