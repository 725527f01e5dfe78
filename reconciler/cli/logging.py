"""The supervisor's own log: structlog on stderr, for people on a terminal and as JSON lines elsewhere."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from reconciler.cli.console import Terminal

# What a reader who stands still finds once he goes on; some hundred bytes each.
MAX_LINES: Final = 1000
# How long the end of the program waits for him.
DRAIN_SECONDS: Final = 1.0


class Writer:
    """A stream whose writes return at once; a thread of its own does them.

    Whoever reads may stand still (Ctrl-S, a hung session, a full pipe), and a watch that waited for him would watch no more. Of
    what he does not take the newest lines wait; `on_lost` is told how many did not.
    """

    def __init__(self, descriptor: int, on_lost: Callable[[int], object] = lambda _lines: None) -> None:
        self.on_lost = on_lost
        self._descriptor = descriptor
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._at_work = False
        self._changed = threading.Condition()
        # A daemon: the program ends although the thread hangs in a write.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Hands a text over, never waiting."""
        with self._changed:
            if len(self._waiting) >= MAX_LINES:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(text)
            self._changed.notify_all()

    def flush(self) -> None:
        """What is written is on its way already."""

    def drain(self, seconds: float) -> bool:
        """Waits until all is written, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._at_work, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._at_work = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                text, lost = self._waiting.popleft(), self._lost
                self._lost, self._at_work = 0, True
            if lost:
                self.on_lost(lost)
            self._put(text.encode("utf-8", "backslashreplace"))

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                # Somebody who shares it has made it so.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                # Closed, or full: nobody is left to tell.
                return


@contextmanager
def logging(terminal: Terminal) -> Iterator[Any]:
    """A logger that hands each record with one `write` to stderr, and waits at the end a moment for who reads there."""
    writer = Writer(sys.stderr.fileno())
    log = _make_log(terminal, writer)
    writer.on_lost = lambda lines: log.warning("log_lines_lost", lines=lines)
    try:
        yield log
    finally:
        writer.drain(DRAIN_SECONDS)


def _make_log(terminal: Terminal, stream: Writer) -> Any:
    # structlog imports rich where it is installed, for tracebacks that this program never prints: 85 ms and 10 MB.
    hidden = {name: sys.modules.get(name) for name in ("rich",)}
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    renderer: Any
    if terminal.stderr:
        renderer = structlog.dev.ConsoleRenderer(colors=terminal.colour, pad_event_to=18, sort_keys=False)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger()
