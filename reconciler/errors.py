"""Errors, one class for each way in which a caller must act differently. Pure; knows no library.

Each carries the exit code that the command line ends with (docs/reference/exit-codes.md), so that no layer above
has to translate a class into a number.
"""

from __future__ import annotations

import errno

# Whoever meets these did nothing wrong: descriptors of this process, those of the system, memory.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# A disk without room, or a user who has had his share of it.
FULL = (errno.ENOSPC, errno.EDQUOT)


class OpenClawError(Exception):
    """The root. Its text is for people: lower case, "cannot X: why", and what to do where that is known."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class TemporaryError(OpenClawError):
    """It may work later by itself: the resource is tried again, after `delay_seconds` where that is known."""

    def __init__(self, message: str, *, hint: str | None = None, delay_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.delay_seconds = delay_seconds


class TerminalError(OpenClawError):
    """Trying again changes nothing: a condition is set and the resource waits for another document."""


class BlockedError(OpenClawError):
    """Blocked before the first write: by a collision, a missing approval or take-over, the restart budget, or a question that
    was not answered with yes. `plan` ends with it as well, where `apply` would.
    """

    exit_code = 3


class StaleError(OpenClawError):
    """The plan no longer fits the world, or what an action expected moved under it; nothing of it was done."""

    exit_code = 4


class RolledBackError(OpenClawError):
    """Applied, not healthy, and the last confirmed generation is in force again."""

    exit_code = 5


class RollbackFailedError(OpenClawError):
    """Failed and not rolled back: a person is needed."""

    exit_code = 6


class TrustError(OpenClawError):
    """A signature or a peer could not be verified."""

    exit_code = 7


class UsageError(OpenClawError):
    """The command line itself is wrong."""

    exit_code = 64


class UnreachableError(OpenClawError):
    """The supervisor or the gateway does not answer."""

    exit_code = 69


class LockedError(OpenClawError):
    """Another writer holds the lock; the text names it and says since when, as far as that can be told."""

    exit_code = 75


class NotPermittedError(OpenClawError):
    """The operating system refuses, and only a person can change that."""

    exit_code = 77


class DocumentError(OpenClawError):
    """The document is not valid. `problems` holds all that is wrong with it, never only the first.

    Attributes:
        problems: a tuple of `reconciler.document.problems.Problem`, in the order of their places.
        files: absolute paths of what it is made of, as far as that could be told, also of what could not be read.
    """

    exit_code = 78

    def __init__(
        self, message: str, problems: tuple[object, ...], *, hint: str | None = None, files: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems
        self.files = files


def innermost(err: BaseException) -> BaseException:
    """The one error that `err` is about: a nursery wraps whatever ends it into a group, often into several.

    Of a group with several the first one of ours is meant, else the first.
    """
    while isinstance(err, BaseExceptionGroup):
        ours = [item for item in err.exceptions if isinstance(item, OpenClawError)]
        err = (ours or err.exceptions)[0]
    return err


def shortage(err: BaseException) -> str:
    """What the system has no more of, where `err` says only that and could have come from any line; else empty."""
    if isinstance(err, OSError) and err.errno in SHORTAGES:
        return (err.strerror or "").lower()
    return ""


def lacking(err: BaseException) -> OSError | None:
    """The shortage that `err` is, or was raised from: whoever met it could not look, which says nothing of what he looked at."""
    return _cause(err, SHORTAGES)


def is_full(err: BaseException) -> bool:
    """Whether `err` is, or was raised from, the system's word that there is no room on a disk."""
    return _cause(err, FULL) is not None


def _cause(err: BaseException | None, numbers: tuple[int, ...]) -> OSError | None:
    while err is not None:
        err = innermost(err)
        if isinstance(err, OSError) and err.errno in numbers:
            return err
        err = err.__cause__
    return None
