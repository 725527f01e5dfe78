"""Interleaved measurements: contenders take turns in rounds, and what counts is a ratio inside one run.

On a shared machine absolute figures move by a factor of two with the neighbours; medians of interleaved rounds and the ratio to a
floor that was measured in the same rounds do not. Knows nothing of the program that is measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import median
from typing import IO, Final

HISTORY: Final = Path(__file__).parent / "history"

Measure = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One thing that is measured: `measure` does it once and returns seconds."""

    name: str
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result. The goal is `at_most` times the floor, or `at_most` seconds where there is no floor."""

    name: str
    contender: Contender
    floor: Contender | None
    at_most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one row: medians in seconds, `figure` in the unit of the goal. `failure` says why there is none."""

    name: str
    seconds: float
    floor_seconds: float | None
    figure: float
    at_most: float
    rounds: int
    failure: str = ""

    @property
    def held(self) -> bool:
        return not self.failure and self.figure <= self.at_most


class CommandFailedError(Exception):
    """A measured command did not succeed, so its time says nothing; the text has its last words."""


def command(argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path) -> Measure:
    """Measures the wall time of a whole process, from before its start until it was collected.

    The measure raises `CommandFailedError` where the process does not end with 0, or says anything on stderr: a command that
    took another way than the one to be measured says so there.
    """
    words = [str(word) for word in argv]

    def measure() -> float:
        with tempfile.TemporaryFile() as errors:
            began = time.perf_counter()
            status = subprocess.run(
                words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, check=False
            ).returncode
            seconds = time.perf_counter() - began
            if status != 0 or errors.seek(0, os.SEEK_END):
                raise CommandFailedError(f"{' '.join(words)} ended with {status}: {_tail(errors)}")
        return seconds

    return measure


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")[-1000:].strip()


def run_rounds(rows: Sequence[Row], rounds: int) -> list[Result]:
    """Measures all rows and their floors in turns; one more round before the first counted one warms caches.

    A floor that several rows share is measured once a round. A contender that fails is left out from then on: its row says
    why, and the others go on.
    """
    contenders = {
        contender.name: contender for row in rows for contender in (row.floor, row.contender) if contender is not None
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    failures: dict[str, str] = {}
    for number in range(rounds + 1):
        # Another one begins each time: whoever follows a heavy contender finds a hotter machine.
        for name in _rotated([name for name in contenders if name not in failures], number):
            try:
                measured = contenders[name].measure()
            except CommandFailedError as err:
                failures[name] = str(err)
                continue
            if number:
                seconds[name].append(measured)
    return [_result(row, seconds, failures, rounds) for row in rows]


def _rotated(names: list[str], number: int) -> list[str]:
    at = number % max(1, len(names))
    return names[at:] + names[:at]


def _result(row: Row, seconds: Mapping[str, Sequence[float]], failures: Mapping[str, str], rounds: int) -> Result:
    names = [contender.name for contender in (row.contender, row.floor) if contender is not None]
    failure = next((failures[name] for name in names if name in failures), "")
    own = nan if failure else median(seconds[row.contender.name])
    floor = median(seconds[row.floor.name]) if row.floor is not None and not failure else None
    return Result(
        name=row.name,
        seconds=own,
        floor_seconds=floor,
        figure=own / floor if floor is not None else own,
        at_most=row.at_most,
        rounds=rounds,
        failure=failure,
    )


def render(results: Sequence[Result], earlier: Mapping[str, float]) -> str:
    """The table; `earlier` holds the figures of the last run on this host, by row."""
    lines = [f"{'':34} {'ours':>9} {'floor':>9} {'figure':>8} {'goal':>8} {'before':>8}"]
    for result in results:
        if result.failure:
            lines.append(f"{result.name:34} FAILED: {result.failure}")
            continue
        floor = f"{result.floor_seconds * 1e3:6.1f} ms" if result.floor_seconds is not None else "-"
        before = _figure(result, earlier[result.name]) if result.name in earlier else "-"
        lines.append(
            f"{result.name:34} {result.seconds * 1e3:6.1f} ms {floor:>9} {_figure(result, result.figure):>8}"
            f" {_figure(result, result.at_most):>8} {before:>8}{'' if result.held else '  MISSED'}"
        )
    return "\n".join(lines)


def _figure(result: Result, value: float) -> str:
    return f"x {value:.2f}" if result.floor_seconds is not None else f"{value * 1e3:.0f} ms"


def history_file(directory: Path = HISTORY) -> Path:
    """Where the runs of this host are kept: figures of different hosts are never compared."""
    return directory / f"{platform.node() or 'unnamed'}.jsonl"


def last_figures(file: Path) -> dict[str, float]:
    """The figure of each row in the newest run that had that row; empty without a history."""
    figures: dict[str, float] = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            figures.update({row["name"]: row["figure"] for row in json.loads(line)["rows"]})
    return figures


def remember(file: Path, results: Sequence[Result], at: str) -> None:
    """Adds one run to the history; `at` is its time as text."""
    file.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "at": at,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "rows": [
            {
                "name": r.name,
                "figure": r.figure,
                "seconds": r.seconds,
                "floor_seconds": r.floor_seconds,
                "rounds": r.rounds,
            }
            for r in results
            if not r.failure
        ],
    }
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(run) + "\n")
