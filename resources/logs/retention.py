"""Which log files go, and which are compressed. Pure: a listing and a time in, an answer out.

Owned are only names that match `OWNED`: the dated files, their rotated parts, and rotated output files of the keeper
(`gateway.out.log.1`; never the one without a number, which is being written). All others are foreign.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from reconciler.desired import Retention

_NAME = r"(?:openclaw-\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\.log(?:\.\d{1,6})?|gateway\.out\.log\.\d{1,6})"
OWNED = re.compile(_NAME + r"(\.zst|\.gz)?")
# What a compression that was killed leaves behind.
LEFTOVER = re.compile(r"\." + _NAME + r"\.zst\.tmp")


class LogFile(NamedTuple):
    """One owned file as it was seen. A tuple, because there may be a hundred thousand."""

    name: str
    dev: int
    inode: int
    size: int
    mtime_ns: int

    @property
    def compressed(self) -> bool:
        return self.name.endswith((".zst", ".gz"))


# The oldest first, in a third of the time that a function of ours would take.
_BY_TIME = itemgetter(LogFile._fields.index("mtime_ns"), LogFile._fields.index("name"))

# A LogFile, or a plain tuple of the same: that is made in a third of the time, and costs the garbage collector nothing.
Identity = tuple[str, int, int, int, int]


class Deletion(NamedTuple):
    """A file that goes, and why: `age`, `count`, `total`, or `leftover`."""

    file: LogFile
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a retention asks for, the oldest first."""

    deletions: tuple[Deletion, ...] = ()
    compressions: tuple[LogFile, ...] = ()

    @property
    def files(self) -> Iterable[LogFile]:
        return chain((deletion.file for deletion in self.deletions), self.compressions)


def spared(files: Sequence[LogFile], days: frozenset[str]) -> frozenset[str]:
    """The names that are never touched: the file of each day in `days` (YYYY-MM-DD), and the newest of all.

    The rotated parts of a day are closed, so they are not spared: else one day could fill the disk.
    """
    newest = max(files, key=_BY_TIME, default=None)
    return frozenset({f"openclaw-{day}.log" for day in days} | ({newest.name} if newest else set()))


def decide(files: Sequence[LogFile], now: float, retention: Retention, kept: frozenset[str]) -> Decision:
    """What to delete and what to compress of `files`; `now` in seconds since the epoch, `kept` names that must stay.

    Kept files count for number and total size all the same: what is in the directory is what fills the disk.
    """
    files = sorted(files, key=_BY_TIME)
    count, total = len(files), sum(file.size for file in files)
    deletions: list[Deletion] = []
    rest: list[LogFile] = []
    for file in files:
        reason = None if file.name in kept else _reason(file, now, retention, count, total)
        if reason is None:
            rest.append(file)
        else:
            deletions.append(Deletion(file, reason))
            count, total = count - 1, total - file.size
    return Decision(deletions=tuple(deletions), compressions=_compressions(rest, now, retention, kept))


def _reason(file: LogFile, now: float, retention: Retention, count: int, total: int) -> str | None:
    if retention.age_seconds is not None and _age(file, now) > retention.age_seconds:
        return "age"
    if retention.files is not None and count > retention.files:
        return "count"
    if retention.total_bytes is not None and total > retention.total_bytes:
        return "total"
    return None


def _compressions(
    files: Sequence[LogFile], now: float, retention: Retention, kept: frozenset[str]
) -> tuple[LogFile, ...]:
    after = retention.compress_after_seconds
    if after is None:
        return ()
    return tuple(file for file in files if not file.compressed and file.name not in kept and _age(file, now) > after)


def _age(file: LogFile, now: float) -> float:
    return now - file.mtime_ns / 1e9
