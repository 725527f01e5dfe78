"""The supervisor: the loop, the control API and the signals of one process, composed. `openclaw run` is a shell around it."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from reconciler.cli.allocator import empty_free_lists
from reconciler.cli.console import Terminal

# At the start already: where descriptors ran out, the report of a crash can no more be imported than anything else.
from reconciler.cli.crash import write_report
from reconciler.cli.session import Session
from reconciler.control.calls import ApplyCall, CommandCall, Data, Identity, StopCall
from reconciler.control.calls import Session as FarSession
from reconciler.control.routes import LOOKING
from reconciler.control.server import Server
from reconciler.engine.lock import WriterLock
from reconciler.engine.loop import EVERYTHING, Found, Loop
from reconciler.errors import LockedError, OpenClawError, UsageError, innermost, lacking
from reconciler.model import Key
from reconciler.version import version
from resources.service.control import keep

if TYPE_CHECKING:
    from reconciler.cli.runtime import Runtime
    from reconciler.document.load import Loaded
    from reconciler.engine.window import Window

# What a slow listener may miss before it is told how many.
MAX_EVENTS = 256
# Within it the same signal is one and the same wish: a key that bounces, a child signalled beside its group (`timeout`).
ONE_WISH_SECONDS = 0.5
# How long a newcomer may hold the lock who ends by itself, because the control socket is ours: its start takes a second.
NEWCOMER_SECONDS = 5.0
# Variables beside those of the document by which a command line could mean something else.
ALWAYS = ("HOME", "OPENCLAW_STATE_DIR", "OPENCLAW_PROFILE")


class FarConsole:
    """The console of a client at the far end of the socket."""

    def __init__(self, far: FarSession, terminal: Terminal) -> None:
        self.terminal = terminal
        self._far = far

    def out(self, text: str) -> None:
        """Writes to the client's stdout."""
        self._far.out(text)

    def err(self, text: str) -> None:
        """Writes to the client's stderr."""
        self._far.err(text)

    def deaf(self) -> bool:
        """Never known here; the client looks after its own stdout."""
        return False

    async def ask(self, question: str) -> str | None:
        """Asks the person at the client's terminal."""
        self._far.err(question)
        return await self._far.ask()


class Silent:
    """A console that keeps what is printed, for answers that are data, and beside it what went wrong."""

    terminal = Terminal(stdin=False, stdout=False, stderr=False, width=80, colour=False)

    def __init__(self) -> None:
        self.text = ""
        self.wrong = ""

    def out(self, text: str) -> None:
        """Keeps it."""
        self.text += text

    def err(self, text: str) -> None:
        """Keeps it apart: data goes to stdout."""
        self.wrong += text

    def deaf(self) -> bool:
        """What is kept arrives."""
        return False

    async def ask(self, question: str) -> str | None:
        """Nobody is there."""
        return None


class Supervisor:
    """Everything that one `openclaw run` is; also the answers of its control API."""

    def __init__(self, session: Session, runtime: Runtime, log: Any) -> None:
        # Where it lies is decided once: one that is gone comes back to its place, and no other is taken instead.
        self._session = replace(session, file=session.document, serving=runtime, supervisor=self)
        self._runtime = runtime
        self._log = log
        self._listeners: list[deque[Mapping[str, Any]]] = []
        self._news = trio.Event()
        self._names: tuple[str, ...] = ()
        self._identity: Identity | None = None
        self.stopped = trio.Event()
        self.on_exit: str | None = None
        self.signal: int | None = None
        self._signalled_at = 0.0
        # What a second wish to end cuts short, and the signal that it was.
        self.patience = trio.CancelScope()
        self.cut_short_by: int | None = None
        # Who took the place of this one, as the error with which it ends.
        self.ousted: LockedError | None = None
        self._lacking = ""
        self.engine = runtime.engine(command="openclaw run")
        self.lock = WriterLock(runtime.host.state.ours / "supervisor.lock", command="openclaw run", now=self.engine.now)
        self.server = Server(self, runtime.host.socket_path("control.sock"), crashed=self.crashed)
        self.loop = Loop(
            engine=self.engine,
            load=self._load,
            files=(session.document,),
            log=log,
            tell=self._tell,
            crashed=self.crashed,
            idle=empty_free_lists,
            keep=partial(keep, self.engine.host),
            look_around=self.look_around,
        )

    def watch_window(self, window: Window) -> None:
        """Watches on what a command with `--no-wait` began."""
        self.loop.watch_window(window)

    async def tell_runs(self) -> None:
        """Tells of what a command does, as of what the loop does."""
        await self.loop.tell_runs()

    async def listen_to_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """SIGINT and SIGTERM end the supervisor after the present step, a second one at once; SIGHUP reads the document anew.

        Listens until cancelled, which is when there is nothing left that could be ended.
        """
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    if not self.stopped.is_set():
                        self._log.info("reload", cause="SIGHUP")
                        self.loop.poke()
                elif self.signal is None:
                    self.signal, self._signalled_at = number, trio.current_time()
                    self.engine.stopping.set()
                    self.stopped.set()
                elif number != self.signal or trio.current_time() >= self._signalled_at + ONE_WISH_SECONDS:
                    self.cut_short_by = self.cut_short_by or number
                    self.patience.cancel()

    async def look_around(self) -> None:
        """Sees that it still is the one supervisor here and can be reached: what was deleted or exchanged of its lock and its
        control socket is made anew. Where another one took its place meanwhile, its end begins.
        """
        if await trio.to_thread.run_sync(lambda: self.lock.in_place and self.server.in_place):
            return
        try:
            await self._take_place()
        except (OpenClawError, OSError) as err:
            if isinstance(err, LockedError) and not self.lock.held:
                self._give_way(err)
            # Tried again at the next look.
            elif self._lacking != (text := str(err)):
                self._lacking = text
                self._log.warning("not_reachable", reason=text)
        else:
            self._lacking = ""

    async def _take_place(self) -> None:
        lost = "was deleted or exchanged, and is made anew"
        if not self.lock.in_place:
            self.lock.release()
            await self.lock.acquire(NEWCOMER_SECONDS)
            self._log.warning("lock_taken_anew", reason=f"{self.lock.path} {lost}")
        if not self.server.in_place:
            await self.server.bind_anew()
            self._log.warning("socket_bound_anew", reason=f"the control socket, or its lock, {lost}")

    def _give_way(self, err: LockedError) -> None:
        text = f"{self.lock.path} was deleted or exchanged, and another supervisor holds the new one"
        self.ousted = LockedError(
            f"cannot go on watching: {text}", hint="`openclaw status` names it; the service goes on"
        )
        self._log.warning("ousted", reason=text, by=err.message)
        self.engine.stopping.set()
        self.stopped.set()

    def crashed(self, err: Exception) -> str:
        """Keeps the trace of a bug that ended a request; returns the id under which it can be found."""
        host = self._runtime.host
        places = (str(host.state.ours), str(host.runtime_directory))
        name, where = write_report(err, self._session.environ, places, ["run"])
        self._log.warning("bug", id=name, trace=where)
        return name

    # The document

    async def _load(self) -> Found:
        return await trio.to_thread.run_sync(self._load_now)

    def _load_now(self) -> Found:
        from reconciler.document.secrets import secret_files

        loaded = self._session.load()
        self._names = loaded.names
        source = self._runtime.source(loaded)
        mark = f"{loaded.digest}:{source(b'mark').digest}"
        files = (*loaded.files, *secret_files(loaded, self._runtime.host.environ))
        return Found(source=source, mark=mark, files=files, remember=lambda: self._remember(loaded))

    def _remember(self, loaded: Loaded) -> None:
        from reconciler.document.load import write_cache

        write_cache(self._session.host().state.cache, loaded, self._session.environ)

    # The control API (reconciler.control.calls.Handlers)

    def identity(self) -> Identity:
        """Who serves. The salt stays as long as the names do: a client digests with the one that it was told a moment ago."""
        names = tuple(sorted({*ALWAYS, *self._names}))
        if self._identity is None or self._identity.names != names:
            self._identity = Identity.of(self._session.document, version(), names, self._session.environ)
        return self._identity

    async def run_command(self, call: CommandCall, session: FarSession) -> int:
        """Carries out a command line as a process of its own would."""
        terminal = call.terminal
        console = FarConsole(
            session,
            Terminal(
                stdin=terminal.stdin,
                stdout=terminal.stdout,
                stderr=terminal.stderr,
                width=terminal.width,
                colour=terminal.colour,
            ),
        )
        mine = replace(
            self._session, directory=call.directory, console=console, interrupted=session.interrupted, pending=None
        )
        return await self._invoke(mine, list(call.argv), looking=call.command in LOOKING)

    async def apply(self, call: ApplyCall) -> Data:
        """Applies the document as it is saved now."""
        argv = ["apply", "--yes", "--json", *(f"--approve={key}" for key in call.approve)]
        argv += ["--take-over"] if call.take_over else []
        argv += [] if call.wait else ["--no-wait"]
        argv += [f"--author={call.author}"] if call.author else []
        argv += [f"--commit={call.commit}"] if call.commit else []
        return await self._data(argv)

    async def status(self, deep: bool) -> Data:
        """The form of `status --json`."""
        return await self._data(["status", "--json"])

    async def history(self, limit: int | None) -> Data:
        """The form of `history --json`."""
        return await self._data(["history", "--json", *([] if limit is None else [f"--limit={limit}"])])

    async def reconcile(self, key: Key | None) -> Data:
        """Puts one key, or every one, in the queue and resets its backoff.

        Raises:
            UsageError: there is no such key.
        """
        known = await trio.to_thread.run_sync(self._keys)
        if key is not None and known and key not in known:
            raise UsageError(f"cannot look at {key}: there is none", hint=f"there is {', '.join(map(str, known))}")
        self.loop.poke(key or EVERYTHING)
        return {"queued": str(key) if key is not None else "everything"}

    def _keys(self) -> tuple[Key, ...]:
        """What is declared and what is ours already; nothing while that is not known, or changes at this moment."""
        source = self.loop.kept
        if source is None or not self.engine.is_open:
            return ()
        journal = self.engine.journal()
        try:
            return tuple(sorted({*source(journal.salt).resources, *journal.applied()}))
        except OpenClawError:
            return ()

    async def reload(self) -> Data:
        """Reads the document anew, like SIGHUP."""
        await trio.lowlevel.checkpoint()
        self.loop.poke()
        return {"queued": "everything"}

    async def stop(self, call: StopCall) -> Data:
        """Begins the end of the supervisor."""
        await trio.lowlevel.checkpoint()
        self.on_exit = call.on_exit
        self.engine.stopping.set()
        self.stopped.set()
        return {"stopping": True}

    async def events(self, send: Callable[[Data], Awaitable[None]]) -> None:
        """Sends what happens until cancelled; a slow receiver loses the oldest ones."""
        mine: deque[Mapping[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._listeners.append(mine)
        try:
            while True:
                while mine:
                    await send(mine.popleft())
                await self._news.wait()
        finally:
            self._listeners.remove(mine)

    def _tell(self, event: Mapping[str, Any]) -> None:
        for listener in self._listeners:
            listener.append(event)
        news, self._news = self._news, trio.Event()
        news.set()

    async def _data(self, argv: list[str]) -> Data:
        import json

        from reconciler.cli.main import invoke

        console = Silent()
        session = replace(self._session, console=console, pending=None)
        code, failure = invoke(session, argv), None
        if session.pending is not None:
            try:
                await session.pending()
            except* OpenClawError as group:
                failure = innermost(group)
        elif code:
            failure = OpenClawError(console.wrong.removeprefix("openclaw: ").partition("\n")[0])
            failure.exit_code = code
        if failure is not None:
            raise failure
        data: Data = json.loads(console.text)
        return data

    async def _invoke(self, session: Session, argv: list[str], *, looking: bool) -> int:
        from reconciler.cli.main import explain, invoke

        code = invoke(session, argv)
        if session.pending is None:
            return code
        try:
            return await session.pending()
        except* OpenClawError as group:
            if looking and (short := lacking(innermost(group))) is not None:
                # Whatever it could not look at: the client may have the means.
                raise short from None
            code = explain(session.console, group)
        return code


def on_exit_by_default(received: int | None) -> str:
    """What becomes of the service when the supervisor ends: `stop` on Ctrl-C and in a container, else `leave`."""
    if received == signal.SIGINT:
        return "stop"
    return "stop" if os.getpid() == 1 or _only_child_of_init() else "leave"


def _only_child_of_init() -> bool:
    """True below a small init of a container: our parent is PID 1, and we are its one child."""
    if os.getppid() != 1:
        return False
    try:
        with open("/proc/1/task/1/children", encoding="ascii") as file:
            return file.read().split() == [str(os.getpid())]
    except OSError:
        return False
