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

MEMORY: Final = Path("/dev/shm")
HISTORY: Final = Path(__file__).parent / "history"

Measure = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One thing that is measured: `measure` does it once and returns seconds, or what the unit of its row says."""

    name: str
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result. The goal is `at_most` times the floor, or `at_most` of the unit where there is no floor.

    `unit` is `s`, or a word for what is counted; a `statistic` makes one figure of all rounds.
    """

    name: str
    contender: Contender
    floor: Contender | None
    at_most: float
    unit: str = "s"
    statistic: Callable[[Sequence[float]], float] = median


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one row: `ours` and `floor` in its unit, `figure` as the goal is given.

    `failure` says why there is none; `missing` what was not to be had here, which is no failure.
    """

    name: str
    ours: float
    floor: float | None
    figure: float
    at_most: float
    rounds: int
    unit: str = "s"
    failure: str = ""
    missing: str = ""

    @property
    def held(self) -> bool:
        return bool(self.missing) or (not self.failure and self.figure <= self.at_most)


class CommandFailedError(Exception):
    """A measured command did not succeed, so its time says nothing; the text has its last words."""


class MissingError(Exception):
    """What a row needs cannot be had on this machine; the text says what, and why not."""


def percentile(part: float) -> Callable[[Sequence[float]], float]:
    """The statistic below which `part` (0 to 1) of all values lie; the nearest value that was measured, the larger of two."""
    return lambda values: sorted(values)[min(len(values) - 1, int(part * len(values)))]


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


def run_rounds(rows: Sequence[Row], rounds: int, *, warm: int = 1) -> list[Result]:
    """Measures all rows and their floors in turns; `warm` more rounds before the first counted one warm caches.

    A floor that several rows share is measured once a round. A contender that fails is left out from then on: its row says
    why, and the others go on.
    """
    contenders = {
        contender.name: contender for row in rows for contender in (row.floor, row.contender) if contender is not None
    }
    values: dict[str, list[float]] = {name: [] for name in contenders}
    failures: dict[str, CommandFailedError | MissingError] = {}
    for number in range(rounds + warm):
        # Another one begins each time: whoever follows a heavy contender finds a hotter machine.
        for name in _rotated([name for name in contenders if name not in failures], number):
            try:
                measured = contenders[name].measure()
            except (CommandFailedError, MissingError) as err:
                failures[name] = err
                continue
            if number >= warm:
                values[name].append(measured)
    return [_result(row, values, failures, rounds) for row in rows]


def _rotated(names: list[str], number: int) -> list[str]:
    at = number % max(1, len(names))
    return names[at:] + names[:at]


def _result(row: Row, values: Mapping[str, Sequence[float]], failures: Mapping[str, Exception], rounds: int) -> Result:
    names = [contender.name for contender in (row.contender, row.floor) if contender is not None]
    failure = next((failures[name] for name in names if name in failures), None)
    ours = nan if failure else row.statistic(values[row.contender.name])
    floor = row.statistic(values[row.floor.name]) if row.floor is not None and not failure else None
    return Result(
        name=row.name,
        ours=ours,
        floor=floor,
        figure=ours / floor if floor is not None else ours,
        at_most=row.at_most,
        rounds=rounds,
        unit=row.unit,
        failure=str(failure) if isinstance(failure, CommandFailedError) else "",
        missing=str(failure) if isinstance(failure, MissingError) else "",
    )


def render(results: Sequence[Result], earlier: Mapping[str, float]) -> str:
    """The table; `earlier` holds the figures of the last run on this host, by row."""
    width = max(34, *(len(result.name) for result in results)) if results else 34
    lines = [f"{'':{width}} {'ours':>11} {'floor':>11} {'figure':>9} {'goal':>9} {'before':>9}"]
    for result in results:
        if result.failure or result.missing:
            said = f"FAILED: {result.failure}" if result.failure else f"not measured: {result.missing}"
            lines.append(f"{result.name:{width}} {said}")
            continue
        floor = _amount(result.floor, result.unit) if result.floor is not None else "-"
        before = _figure(result, earlier[result.name]) if result.name in earlier else "-"
        lines.append(
            f"{result.name:{width}} {_amount(result.ours, result.unit):>11} {floor:>11} {_figure(result, result.figure):>9}"
            f" {_figure(result, result.at_most):>9} {before:>9}{'' if result.held else '  MISSED'}"
        )
    return "\n".join(lines)


def _amount(value: float, unit: str) -> str:
    match unit:
        case "s":
            return f"{value * 1e3:.1f} ms"
        case "MB":
            return f"{value:.1f} MB"
        case "%":
            return f"{value:.2f} %"
        case _:
            return f"{value:g} {unit}"


def _figure(result: Result, value: float) -> str:
    if result.floor is not None:
        return f"x {value:.2f}"
    return f"{value * 1e3:.0f} ms" if result.unit == "s" else _amount(value, result.unit)


def in_memory(otherwise: Path) -> Path:
    """A directory in memory where files can be made and programs run, else `otherwise`.

    What a disk adds is the same for all contenders, moves with the neighbours, and hides what the programs themselves cost.
    """
    if os.access(MEMORY, os.W_OK) and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return MEMORY
    return otherwise


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
                "ours": r.ours,
                "floor": r.floor,
                "unit": r.unit,
                "rounds": r.rounds,
            }
            for r in results
            if not r.failure and not r.missing
        ],
    }
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(run) + "\n")
