"""How often the journal is flushed around the effects of a run: counted by strace, not timed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.beds.processes import run
from tests.bench.harness import CommandFailedError, Contender, MissingError, Row
from tests.bench.scale import PROGRAM

ACTIONS: Final = 4
_FLUSH: Final = re.compile(r"\b(?:fsync|fdatasync)\(\d+<(?P<path>[^>]*)>")


def flushes_around(lines: Iterable[str], effects: Path) -> list[int]:
    """From strace's log (`-y`): the flushes of the journal's log before, between and after the effects' own, in order.

    An effect is a flush of a file in `effects`; that of the directory belongs to the file before it.
    """
    counts = [0]
    for line in lines:
        if (match := _FLUSH.search(line)) is None:
            continue
        path = match["path"]
        if path.endswith(".sqlite-wal"):
            counts[-1] += 1
        elif Path(path).parent == effects:
            counts.append(0)
    return counts


class Runs:
    """A chain of `ACTIONS` files, each of which needs the one before, so that no two actions run at once."""

    def __init__(self, python: Path, env: Mapping[str, str], home: Path) -> None:
        self._home = home / "chain"
        self._home.mkdir()
        self._effects = self._home / "effects"
        self._effects.mkdir()
        self._env = {**env, "OPENCLAW_STATE_DIR": str(home / "chain-state")}
        self._argv: list[str | Path] = [python, "-c", PROGRAM, "apply", "--yes"]
        self._saves = 0

    def first(self) -> float:
        """Flushes before the first effect: the run's header and the first intent, and what a fresh log costs."""
        return self._of_a_change()[0]

    def between(self) -> float:
        """Flushes between two effects: one that says done, one that says what is next. The largest number is what counts."""
        return max(self._of_a_change()[1:-1])

    def nothing(self) -> float:
        """Flushes of a run without differences."""
        return sum(self._traced())

    def _of_a_change(self) -> list[int]:
        self._saves += 1
        entries = (
            f"  f{number}: {{path: {self._effects}/f{number}, content: 'save {self._saves}',"
            f" needs: [{f'f{number - 1}' if number else ''}]}}\n"
            for number in range(ACTIONS)
        )
        text = "version: 1\npolicy: {verify: 0s}\nx-files:\n" + "".join(entries)
        (self._home / "openclaw.yaml").write_text(text, encoding="utf-8")
        counts = self._traced()
        if len(counts) != ACTIONS + 1:
            raise CommandFailedError(f"{ACTIONS} effects were to be seen, and {len(counts) - 1} were")
        return counts

    def _traced(self) -> list[int]:
        if shutil.which("strace") is None:
            raise MissingError("no strace(1) here")
        log = self._home / "strace.log"
        strace: list[str | Path] = [
            "strace",
            "-f",
            "-y",
            "-qq",
            "-e",
            "signal=none",
            "-e",
            "trace=fsync,fdatasync",
            "-o",
            log,
        ]
        done = run([*strace, *self._argv], env=self._env, cwd=self._home)
        if done.returncode != 0:
            raise CommandFailedError(f"strace of an apply ended with {done.returncode}: {done.stderr[-1000:]}")
        return flushes_around(log.read_text(errors="replace").splitlines(), self._effects)


def flush_rows(python: Path, env: Mapping[str, str], home: Path) -> list[Row]:
    """A first run makes the journal; a second one is measured."""
    runs = Runs(python, env, home)

    def row(name: str, measure: Contender, at_most: float) -> Row:
        return Row(name=f"journal flushes, {name}", contender=measure, floor=None, at_most=at_most, unit="flushes")

    # The first commit into a fresh log flushes the log's header too; that is SQLite's own rule.
    return [
        row("before the first action", Contender(name="first", measure=runs.first), 1 + 1),
        row("between two actions", Contender(name="between", measure=runs.between), 2),
        row("without differences", Contender(name="nothing", measure=runs.nothing), 0),
    ]
