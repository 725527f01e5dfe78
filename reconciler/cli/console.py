"""What a command prints to and asks: this terminal, or the far end of a supervisor's socket. Knows no command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol

from reconciler.streams import failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """The terminal for which a command prints: whether each stream is one, its width in columns, whether colour is wanted."""

    stdin: bool
    stdout: bool
    stderr: bool
    width: int
    colour: bool


class Console(Protocol):
    """Where results (`out`), diagnostics and progress (`err`) go, and who answers questions."""

    terminal: Terminal

    def out(self, text: str) -> None:
        """Writes to stdout, as it is."""

    def err(self, text: str) -> None:
        """Writes to stderr, as it is."""

    def deaf(self) -> bool:
        """True once what is written to stdout no longer arrives: then there is nothing to go on for."""

    async def ask(self, question: str) -> str | None:
        """The answer of the person at the terminal, None at the end of input or where the person cannot have seen what it is
        about.
        """


class Local:
    """The terminal of this process."""

    def __init__(self, terminal: dict[str, Any]) -> None:
        self.terminal = Terminal(**terminal)

    def out(self, text: str) -> None:
        """Writes to stdout, as it is."""
        sys.stdout.write(text)

    def err(self, text: str) -> None:
        """Writes to stderr at once, after what stdout holds."""
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()

    def deaf(self) -> bool:
        """True once what is written to stdout no longer arrives."""
        sys.stdout.flush()
        return failure(sys.stdout) is not None

    async def ask(self, question: str) -> str | None:
        """Asks on stderr and reads a line of stdin; Ctrl-C ends the wait."""
        import trio

        if self.deaf():
            return None
        self.err(question)
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        return line.rstrip("\n") if line else None
