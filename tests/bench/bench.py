"""`make bench`: what the commands cost beside the floors below them, how soon a save is applied, and all other promised figures.

    python -m tests.bench.bench [--rounds N] [--section NAME]... [--only WORD] [--openclaw PROGRAM] [--no-history]

It makes a state directory of its own with a gateway that runs, measures, and ends what it started. Exit 1 when a goal was missed.
What is counted or takes long has a number of rounds of its own.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.beds.ports import free_port
from tests.beds.processes import Spawned, end_state, run, wait_until
from tests.bench.flushes import flush_rows
from tests.bench.harness import (
    CommandFailedError,
    Contender,
    Result,
    Row,
    command,
    history_file,
    in_memory,
    last_figures,
    percentile,
    remember,
    render,
    run_rounds,
)
from tests.bench.prune import prune_rows
from tests.bench.rest import keeper_rows, rest_rows
from tests.bench.restarts import restart_rows
from tests.bench.scale import resource_rows, text_rows

ROUNDS: Final = 15
# A p99 needs more than a hundred; a kill needs a child of its own.
SAVES: Final = 200
KILLS: Final = 30
# These take seconds each.
FEW_ROUNDS: Final = 5
PYTHON: Final = Path(sys.executable)
IMPORTS: Final = "import trio, pydantic, ruamel.yaml, click"
IMPORTS_WITHOUT_TRIO: Final = "import pydantic, ruamel.yaml, click"

# Commands that observe nothing, and so need no event loop.
QUIET: Final = {
    "validate": ("validate",),
    "schema": ("schema",),
    "history": ("history",),
    "diff": ("diff", "1", "2"),
    "config explain": ("config", "explain", "logging.level"),
    "completion": ("completion", "bash"),
}
# Both let the gateway's own lines about a reload through.
LEVELS: Final = ("debug", "trace")
SAVE_DEADLINE_SECONDS: Final = 10
APPLIED: Final = re.compile(rb"config (hot reload|change) applied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A state directory with a gateway that runs, and the environment in which commands find it."""

    state: Path
    directory: Path
    env: Mapping[str, str]
    openclaw: tuple[str, ...]
    port: int

    @property
    def document(self) -> Path:
        return self.directory / "openclaw.yaml"

    def argv(self, *words: str) -> list[str]:
        return [*self.openclaw, *words]

    def save(self, level: str) -> None:
        """Replaces the document as an editor does."""
        text = f"""\
version: 1
service: {{}}
gateway:
  port: {self.port}
  auth: {{mode: token, token: {{file: {self.directory}/token}}}}
logging:
  level: {level}
policy:
  verify: 1s
"""
        new = self.document.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.document)


@contextmanager
def bed(openclaw: Sequence[str]) -> Iterator[Bed]:
    """A prepared bed; leaving it ends its gateway and keeper, and removes everything."""
    with ExitStack() as stack:
        state = Path(tempfile.mkdtemp(prefix="ocb-", dir="/tmp"))
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocb-home-", dir="/tmp")))
        token = directory / "token"
        token.write_text("a-token-for-measuring-only\n", encoding="utf-8")
        token.chmod(0o600)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENCLAW_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # every start would compile our own modules again
        env = {**kept, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory), "OPENCLAW_STATE_DIR": str(state)}
        ours = Bed(state=state, directory=directory, env=env, openclaw=tuple(openclaw), port=free_port())
        stack.callback(end_state, state)
        for level in ("info", LEVELS[0]):  # two generations, so that there is something to compare
            ours.save(level)
            _must(ours, "apply", "--yes")
        yield ours


def _must(ours: Bed, *words: str) -> None:
    done = run(ours.argv(*words), env=ours.env, cwd=ours.directory)
    if done.returncode != 0:
        raise CommandFailedError(
            f"cannot prepare the bed: {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )


def floor(ours: Bed, name: str, code: str) -> Contender:
    """A bare interpreter that runs `code`."""
    return Contender(name=f"python: {name}", measure=command([PYTHON, "-c", code], ours.env, ours.directory))


def ours_as(ours: Bed, name: str, *words: str) -> Contender:
    """One of our commands."""
    return Contender(name=name, measure=command(ours.argv(*words), ours.env, ours.directory))


def unseen(ours: Bed) -> Contender:
    """`validate` of a document that no cache can know: another text before each run. The bed's own stays as it was applied."""
    document = ours.directory / "unseen.yaml"
    validate = command(ours.argv("validate", "--file", str(document)), ours.env, ours.directory)

    def measure() -> float:
        text = ours.document.read_text(encoding="utf-8")
        document.write_text(f"# {time.monotonic_ns()}\n{text}", encoding="utf-8")
        return validate()

    return Contender(name="validate, never seen", measure=measure)


def cold_rows(ours: Bed) -> list[Row]:
    """Commands with no supervisor at hand."""
    imports = floor(ours, "imports", IMPORTS)
    quiet = floor(ours, "imports without trio", IMPORTS_WITHOUT_TRIO)
    rows = [Row(name="plan, cold", contender=ours_as(ours, "plan", "plan"), floor=imports, at_most=1.5)]
    rows.append(Row(name="validate, never seen", contender=unseen(ours), floor=quiet, at_most=1.5))
    return rows + [
        Row(name=name, contender=ours_as(ours, name, *words), floor=quiet, at_most=1.5) for name, words in QUIET.items()
    ]


def served_rows(ours: Bed) -> list[Row]:
    """What a supervisor answers; it must run."""
    asked = ours_as(ours, "plan by socket", "plan")
    return [Row(name="plan, through the socket", contender=asked, floor=floor(ours, "bare", "pass"), at_most=3)]


def save_rows(ours: Bed) -> list[Row]:
    """What a supervisor does by itself; not among the others, because a plan speaks differently inside a verify window."""
    saves = Contender(name="save to applied", measure=Saver(ours).measure)
    return [
        Row(name="save to applied (hot), p50", contender=saves, floor=None, at_most=0.250),
        Row(name="save to applied (hot), p99", contender=saves, floor=None, at_most=0.600, statistic=percentile(0.99)),
    ]


class Saver:
    """Saves another level each time, and waits for the gateway's own word in its log that it applied the change."""

    def __init__(self, ours: Bed) -> None:
        self._bed = ours
        self._saves = 0

    def measure(self) -> float:
        """Seconds from the rename of the document to the line in the log."""
        self._saves += 1
        log = max((self._bed.state / "logs").glob("openclaw-*.log"))
        with log.open("rb") as lines:
            lines.seek(0, os.SEEK_END)
            began = time.perf_counter()
            self._bed.save(LEVELS[self._saves % 2])
            while time.perf_counter() - began < SAVE_DEADLINE_SECONDS:
                if APPLIED.search(lines.read()):
                    return time.perf_counter() - began
                time.sleep(0.001)
        raise CommandFailedError(f"a save was not applied within {SAVE_DEADLINE_SECONDS} s, says {log}")


@contextmanager
def supervisor(ours: Bed) -> Iterator[None]:
    """`openclaw run` on the bed, for as long as the block lasts."""
    with Spawned() as spawned, (ours.directory / "run.log").open("wb") as log:
        spawned.start(ours.argv("run", "--on-exit", "leave"), env=ours.env, cwd=ours.directory, stdout=log, stderr=log)
        wait_until((ours.state / "reconciler/control.sock").exists, 20, "the supervisor's socket")
        yield


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows are measured, and how often those whose number of rounds is not their own."""

    word: str
    rounds: int

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """Those whose name holds the word."""
        return [row for row in rows if self.word in row.name]


def _commands(ours: Bed, choice: Choice) -> list[Result]:
    return run_rounds(choice.of(cold_rows(ours)), choice.rounds)


def _supervisor(ours: Bed, choice: Choice) -> list[Result]:
    with supervisor(ours):
        return [
            *run_rounds(choice.of(served_rows(ours)), choice.rounds),
            *run_rounds(choice.of(save_rows(ours)), SAVES),
            *run_rounds(choice.of(rest_rows(ours.state)), 1, warm=0),
        ]


def _keeper(ours: Bed, choice: Choice) -> list[Result]:
    results = run_rounds(choice.of(keeper_rows(ours.directory)), 1, warm=0)
    with (
        tempfile.TemporaryDirectory(prefix="ocb-keeper-", dir=in_memory(ours.directory)) as memory,
        restart_rows({"on disk": ours.directory, "in memory": Path(memory)}, KILLS + 1) as rows,
    ):
        return results + run_rounds(choice.of(rows), KILLS)


def _scale(ours: Bed, choice: Choice) -> list[Result]:
    return [
        *run_rounds(choice.of(resource_rows(PYTHON, ours.env, ours.directory)), FEW_ROUNDS),
        *run_rounds(choice.of(text_rows()), FEW_ROUNDS),
    ]


def _prune(ours: Bed, choice: Choice) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="ocb-tree-", dir=in_memory(ours.directory)) as place:
        disk = ours.directory / "tree"
        disk.mkdir()
        return run_rounds(choice.of(prune_rows(Path(place), disk)), FEW_ROUNDS)


def _journal(ours: Bed, choice: Choice) -> list[Result]:
    # The warming run makes the journal itself.
    return run_rounds(choice.of(flush_rows(PYTHON, ours.env, ours.directory)), 1)


SECTIONS: Final[Mapping[str, Callable[[Bed, Choice], list[Result]]]] = {
    "commands": _commands,
    "supervisor": _supervisor,
    "keeper": _keeper,
    "scale": _scale,
    "prune": _prune,
    "journal": _journal,
}


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="counted rounds")
    parser.add_argument("--section", action="append", choices=list(SECTIONS), help="only these rows; may be repeated")
    parser.add_argument("--only", default="", help="only rows whose name holds this")
    parser.add_argument(
        "--openclaw", default=str(PYTHON.parent / "openclaw"), help="the program, with its first arguments"
    )
    parser.add_argument("--no-history", action="store_true", help="do not keep the figures")
    options = parser.parse_args(arguments)

    results: list[Result] = []
    with bed(shlex.split(options.openclaw)) as ours:
        for name in options.section or SECTIONS:
            results += SECTIONS[name](ours, Choice(options.only, options.rounds))
    file = history_file()
    print(render(results, last_figures(file)))
    if not options.no_history:
        remember(file, results, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    return not all(result.held for result in results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
