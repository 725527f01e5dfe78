"""Standard output and standard error that a full disk cannot break. Only the language itself is imported (see `paths`).

An exception in the middle of a `write` would cut off whatever was going on, an apply for one. So a stream here takes what the
system refuses and remembers the refusal; whoever ends the process, asks a question or goes on for ever looks at `failure`.
"""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer


class Sink(io.FileIO):
    """A descriptor that is written to and never raises. `failure` is the first thing that the system said against it."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes as much as the system takes, all of it as far as the caller can tell once it takes nothing more."""
        try:
            return super().write(data)
        except OSError as err:
            self.failure = self.failure or err
            return len(memoryview(data))


def open_sink(number: int, like: TextIO) -> TextIO:
    """The text stream on descriptor `number`, with every line at once where `like`, whose place it takes, does not gather them.

    The same bytes in every locale, and no text that cannot be printed: not a file's name in another encoding either.
    """
    return io.TextIOWrapper(
        io.BufferedWriter(Sink(number, "w", closefd=False)),
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        line_buffering=getattr(like, "line_buffering", True) or getattr(like, "write_through", True),
    )


def failure(stream: TextIO | None) -> OSError | None:
    """Why something that was written to `stream` did not arrive; None where all did, or where nobody can tell."""
    found = getattr(getattr(getattr(stream, "buffer", None), "raw", None), "failure", None)
    return found if isinstance(found, OSError) else None
