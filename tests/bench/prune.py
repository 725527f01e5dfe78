"""The prune of a hundred thousand log files beside `find -delete` on the same tree, made afresh for every run.

The trees lie in memory where the machine has such a place: what a disk adds is the same for both, and hides the difference. How
much it hides is a row of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

import trio

from reconciler.desired import Desired, Logging, Retention
from resources.logs.kind import LogsKind
from resources.testing import make_desired, make_world
from tests.bench.harness import CommandFailedError, Contender, MissingError, Row
from tests.resources.contract import Case, carry_out, look

FILES: Final = 100_000
# A disk takes twenty times as long for each of them.
FILES_ON_DISK: Final = 10_000
DAY_SECONDS: Final = 86_400
_SIZE = b"x" * 100


def make_tree(directory: Path, files: int) -> None:
    """`files` log files older than a day, as a gateway leaves them (the older, the earlier made), and one of now."""
    directory.mkdir()
    oldest = time.time() - 3 * DAY_SECONDS
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        for number in range(files):
            name = f"openclaw-2026-01-{number % 28 + 1:02}.log.{number}"
            file = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor)
            os.write(file, _SIZE)
            os.utime(file, (oldest + number * 0.1,) * 2)
            os.close(file)
    finally:
        os.close(descriptor)
    (directory / "openclaw-2026-02-01.log").write_bytes(_SIZE)


class Prune:
    """Prunes trees below `place`, by our kind and by find(1)."""

    def __init__(self, place: Path, files: int = FILES) -> None:
        self._tree = place / "tree"
        self._state = place / "state"
        self._files = files
        self._state.mkdir()

    def by_find(self) -> float:
        """Seconds of the whole process."""
        if (find := shutil.which("find")) is None:
            raise MissingError("no find(1) here")
        make_tree(self._tree, self._files)
        argv: list[str | Path] = [find, self._tree, "-type", "f", "-name", "openclaw-*.log*", "-mtime", "+0", "-delete"]
        began = time.perf_counter()
        subprocess.run(argv, check=True)
        return self._checked(time.perf_counter() - began)

    def action(self) -> float:
        """Seconds of the action alone, its check of each file included, the listing not."""
        return trio.run(self._ours)[1]

    def whole(self) -> float:
        """Seconds of all: listing, decision, plan and action."""
        return sum(trio.run(self._ours))

    async def _ours(self) -> tuple[float, float]:
        make_tree(self._tree, self._files)
        case = Case(kind=LogsKind(), world=make_world(self._state), desired=_desired(self._tree), root=self._tree)
        began = time.perf_counter()
        seen = await look(case, case.desired)
        planned = time.perf_counter()
        await carry_out(case, seen)
        ended = time.perf_counter()
        self._checked(0)
        return planned - began, ended - planned

    def _checked(self, seconds: float) -> float:
        left = len(os.listdir(self._tree))
        shutil.rmtree(self._tree)
        if left != 1:
            raise CommandFailedError(f"{left} files are left of {self._files + 1}, and one should be")
        return seconds


def _desired(directory: Path) -> Desired:
    retention = Retention(age_seconds=DAY_SECONDS, total_bytes=None, files=None, compress_after_seconds=None)
    return make_desired(
        logging=Logging(
            level=None,
            console_level=None,
            console_style=None,
            redact=None,
            redact_patterns=None,
            directory=str(directory),
            max_file_bytes=None,
            retention=retention,
        )
    )


def prune_rows(memory: Path, disk: Path) -> list[Row]:
    """The deletion by itself and with all that leads to it, in memory; and all of it with fewer files on a disk."""
    prune, on_disk = Prune(memory), Prune(disk, FILES_ON_DISK)
    find = Contender(name="find -delete", measure=prune.by_find)
    find_on_disk = Contender(name="find -delete on disk", measure=on_disk.by_find)
    return [
        Row(
            name=f"prune of {FILES:,} files, the action",
            contender=Contender(name="prune", measure=prune.action),
            floor=find,
            at_most=1.25,
        ),
        Row(
            name=f"prune of {FILES:,} files, with its plan",
            contender=Contender(name="plan and prune", measure=prune.whole),
            floor=find,
            at_most=1.25,
        ),
        Row(
            name=f"the same of {FILES_ON_DISK:,} files in {disk.parent.parent}",
            contender=Contender(name="plan and prune on disk", measure=on_disk.whole),
            floor=find_on_disk,
            at_most=1.25,
        ),
    ]
