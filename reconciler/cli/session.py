"""One invocation: where it was called, for whom it prints, and how its work is run. Light: imports neither Trio nor click.

A command hands its asynchronous part to `Session.run`. In a process of its own that runs it; inside the supervisor it is kept,
and the supervisor awaits it in its own loop.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from reconciler import paths
from reconciler.cli.console import Console
from reconciler.errors import DocumentError, OpenClawError, UsageError

if TYPE_CHECKING:
    import trio

    from reconciler.cli.runtime import Runtime
    from reconciler.document.load import Loaded
    from reconciler.engine.engine import Engine
    from reconciler.engine.requests import Report
    from reconciler.engine.window import Window
    from reconciler.host import Host
    from reconciler.journal import Journal
    from reconciler.kinds import Kind
    from reconciler.model import Generation


def _is_gone(path: str) -> bool:
    """Whether surely nothing lies there; of a directory that may not be searched nobody can tell."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        pass
    return False


class WindowKeeper(Protocol):
    """Watches the windows of runs whose command did not wait, and tells of what commands do."""

    def watch_window(self, window: Window) -> None:
        """Watches `window` to its end."""

    async def tell_runs(self) -> None:
        """Tells how the runs stand that were not told of yet."""


Work = Callable[..., Awaitable[int]]


@dataclass
class Session:
    """One invocation of the command line.

    Attributes:
        environ: the environment of whoever calls.
        directory: the absolute directory from which it was called.
        console: where it prints.
        kinds: makes the resource kinds; called only by commands that observe.
        file: what `--file` names.
        serving: the runtime of the supervisor inside which this runs, None in a process of its own.
        supervisor: who watches windows on and tells of runs, inside a supervisor.
        interrupted: set when the far client wants to stop, inside a supervisor.
        pending: the work that a command left for the supervisor's loop.
        stopped_by: the signal by which the wish to stop came.
    """

    environ: Mapping[str, str]
    directory: str
    console: Console
    kinds: Callable[[], tuple[Kind, ...]]
    file: str | None = None
    serving: Runtime | None = None
    supervisor: WindowKeeper | None = None
    interrupted: trio.Event | None = None
    pending: Callable[[], Awaitable[int]] | None = None
    stopped_by: int = 2

    @property
    def document(self) -> str:
        """The absolute path of the document of this invocation; it need not exist."""
        return paths.document_path(self.file, self.environ, self._home, self.directory, os.path.lexists)

    @property
    def _home(self) -> str:
        return self.environ.get("HOME") or "/"

    @property
    def named(self) -> str:
        """The document as a person would name it from here."""
        relative = os.path.relpath(self.document, self.directory)
        return relative if not relative.startswith("..") else self.document

    def host(self) -> Host:
        """The host that this environment describes."""
        from reconciler.host import host_from

        return self.serving.host if self.serving is not None else host_from(self.environ, os.getuid())

    def load(self) -> Loaded:
        """The document, validated. One that is gone is the one of the state directory, where its place is a usual one from here.

        Raises:
            DocumentError: it is not valid.
            UsageError: its path cannot be written down.
        """
        from reconciler.document.load import load

        if self._is_missing and (place := self._usual_place_of_owner()) is not None:
            self.file = place
        if odd := paths.not_utf8(self.document):
            raise UsageError(f'cannot use the document "{odd}": its path is not UTF-8')
        try:
            return load(self.document, self.environ, cache=self.host().state.cache, name=self.named)
        except DocumentError as err:
            if _is_gone(self.document):
                err.hint = self._where_else()
            raise

    @property
    def _unnamed(self) -> bool:
        return not (self.file or self.environ.get("OPENCLAW_FILE"))

    @property
    def _is_missing(self) -> bool:
        """Nobody named one, and none lies in its usual places."""
        return self._unnamed and not os.path.lexists(self.document)

    def _usual_place_of_owner(self) -> str | None:
        from reconciler.files import place_of

        if (owner := self._owner()) is None:
            return None
        places = paths.usual_documents(self.environ, self._home, self.directory)
        return next((place for place in places if place_of(place) == place_of(owner)), None)

    def _where_else(self) -> str:
        """What to do where there is no document."""
        from reconciler.files import place_of

        owner, root = self._owner(), self.host().state.root
        if owner is not None and place_of(owner) == place_of(self.document):
            return (
                f'the state directory "{root}" belongs to it, and what was applied last stays in force until it is back'
            )
        if owner is not None and self._unnamed:
            return f'the state directory "{root}" belongs to {owner}: name it by --file'
        here = "there is no ./openclaw.yaml either; " if self._unnamed else ""
        return f"{here}`openclaw init` writes a first document, --file names another"

    def _owner(self) -> str | None:
        """The document that the state directory belongs to, as far as that can be told."""
        try:
            journal = self.reader()
        except OpenClawError:
            return None
        if journal is None:
            return None
        with journal:
            return journal.document

    def settle(self) -> None:
        """Takes the document that the state directory belongs to, where nobody named one and none lies in its usual places.

        For commands about what was applied: they tell and do what they can from any directory, and when it is gone.
        """
        if self._is_missing:
            self.file = self._owner()

    def check_owner(self) -> None:
        """Called before anything is done, and before secrets are looked for in the directory of the wrong document.

        Raises:
            BlockedError: this state directory belongs to another document.
        """
        if (journal := self.own_reader()) is not None:
            journal.close()

    def in_force(self) -> Generation | None:
        """The generation that the host is kept at, None where there is none."""
        if (journal := self.reader()) is None:
            return None
        with journal:
            return journal.in_force()

    def reader(self) -> Journal | None:
        """The journal for reading, None where nothing was ever applied."""
        from reconciler.journal import Journal

        return Journal.open_reader(self.host().state.journal)

    def own_reader(self) -> Journal | None:
        """The same for commands that compare the host with the document.

        Raises:
            BlockedError: this state directory belongs to another document.
        """
        from reconciler.engine.engine import refuse_stranger

        if (journal := self.reader()) is not None:
            refuse_stranger(journal, self.document, self.host().state.root)
        return journal

    def journal(self) -> Journal:
        """The journal for reading.

        Raises:
            OpenClawError: nothing was ever applied here.
        """
        journal = self.reader()
        if journal is None:
            raise OpenClawError(
                f'cannot read the history: nothing was applied yet in "{self.host().state.root}"',
                hint="say `openclaw apply` first",
            )
        return journal

    def runtime(self) -> Runtime:
        """What observes, plans and applies: the supervisor's own inside it, else one of this process."""
        from reconciler.cli.runtime import Runtime

        if self.serving is not None:
            return self.serving
        return Runtime(host=self.host(), document=self.document, kinds=self.kinds())

    def engine(self, report: Report, command: str) -> Engine:
        """An engine for one command; `leave` it afterwards. Inside a supervisor the file lock keeps it apart from the loop's."""
        return self.runtime().engine(report, command)

    def leave(self, engine: Engine) -> None:
        """Gives up what `engine` holds open."""
        engine.close()

    def hand_over(self, window: Window) -> None:
        """Leaves the window of a run to the supervisor, where there is one; else to the next writer."""
        if self.supervisor is not None:
            self.supervisor.watch_window(window)

    async def tell_runs(self) -> None:
        """Has the supervisor, where there is one, tell of the run that goes on here or has ended."""
        if self.supervisor is not None:
            await self.supervisor.tell_runs()

    @asynccontextmanager
    async def stoppable(self, engine: Engine) -> AsyncIterator[None]:
        """Within it the first wish to stop sets `engine.stopping`, which lets the step finish; a second one ends everything.

        The wish is SIGINT or SIGTERM; inside a supervisor, whose signals those are, it is that of the far client.
        """
        import trio

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, engine, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()

    async def _listen(self, engine: Engine, scope: trio.CancelScope) -> None:
        if self.interrupted is not None:
            await self.interrupted.wait()
            engine.stopping.set()
            return
        import signal

        import trio

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if engine.stopping.is_set():
                    raise SystemExit(128 + number)
                self.stopped_by = number
                if not engine.watching.here:
                    self.console.err("stopping after the present step; once more ends at once\n")
                engine.stopping.set()

    def run(self, work: Work, **options: Any) -> int:
        """Runs the asynchronous part of a command and returns its exit code; inside a supervisor it is left for its loop."""
        call = partial(work, self, **options)
        if self.serving is not None:
            self.pending = call
            return 0
        import trio

        return trio.run(call)
