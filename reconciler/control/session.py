"""A command that runs for a client: what it prints waits here until the client takes it."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

# What may wait for a slow client before it counts as gone: a plan of ten thousand resources prints about 4 MB.
MAX_PENDING_CHARACTERS: Final = 16 << 20
# One line of the stream; the client refuses longer ones than its own limit, and progress should not wait behind a wall of text.
LINE_CHARACTERS: Final = 64 << 10


class Question:
    """One line asked of a client's stdin."""

    def __init__(self) -> None:
        self.answer: str | None = None
        self.answered = trio.Event()


class StreamSession:
    """The `Session` of one command. `questions` is shared with the route that brings the answers."""

    def __init__(self, questions: dict[str, Question]) -> None:
        self._interrupted = trio.Event()
        self._questions = questions
        self._lines: deque[bytes] = deque()
        self._pending = 0
        self._wake = trio.Event()
        self._finished = False
        self._gone = False
        self.has_printed = False
        # Set when nothing is left to send, because all was sent or nobody takes it.
        self.written = trio.Event()
        # Whether it was all sent.
        self.complete = False

    @property
    def interrupted(self) -> trio.Event:
        """Set once, when nobody wants more."""
        return self._interrupted

    def out(self, text: str) -> None:
        """Prints on the client's stdout."""
        self._print("out", text)

    def err(self, text: str) -> None:
        """Prints on the client's stderr."""
        self._print("err", text)

    async def ask(self) -> str | None:
        """The next line of the client's stdin, None where there is none any more."""
        name, question = secrets.token_hex(8), Question()
        self._questions[name] = question
        try:
            self._put({"ask": name})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_first_of, self._interrupted.wait, nursery.cancel_scope)
                await question.answered.wait()
                nursery.cancel_scope.cancel()
        finally:
            del self._questions[name]
        return question.answer

    def give_back(self, reason: str) -> None:
        """Says that the client is to do it itself, and why; what follows is for one that does not know this."""
        self._put({"unable": reason})

    def finish(self, code: int) -> None:
        """Says how the command ended; nothing may be printed afterwards."""
        self._finished = True
        self._put({"exit": code})
        self._wake.set()

    def leave(self) -> None:
        """The client went away, or does not read: nothing more is kept for it."""
        self._gone = True
        self._lines.clear()
        self._interrupted.set()
        self._wake.set()
        self.written.set()

    async def write_all(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Hands every line to `send` until the command is finished or the client gone."""
        while not self._gone:
            while self._lines:
                line = self._lines.popleft()
                self._pending -= len(line)
                await send(line)
            if self._finished:
                self.complete = True
                break
            self._wake = trio.Event()
            await self._wake.wait()
        self.written.set()

    def _print(self, stream: str, text: str) -> None:
        self.has_printed = self.has_printed or bool(text)
        for start in range(0, len(text), LINE_CHARACTERS):
            self._put({stream: text[start : start + LINE_CHARACTERS]})

    def _put(self, message: dict[str, Any]) -> None:
        if self._gone:
            return
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._lines.append(line)
        self._pending += len(line)
        if self._pending > MAX_PENDING_CHARACTERS:
            self.leave()
        self._wake.set()


async def _first_of(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()
