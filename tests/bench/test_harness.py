"""The harness measures what it says, on contenders whose time is known."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from reconciler.document.load import load_text
from tests.beds.processes import Spawned
from tests.bench.flushes import flushes_around
from tests.bench.harness import (
    CommandFailedError,
    Contender,
    MissingError,
    Row,
    command,
    last_figures,
    percentile,
    remember,
    render,
    run_rounds,
)
from tests.bench.prune import Prune
from tests.bench.rest import cpu_of, cpu_seconds, resident_mb, resident_of
from tests.bench.restarts import Pool
from tests.bench.scale import files_document, long_text


def scripted(name: str, seconds: list[float], log: list[str]) -> Contender:
    left = iter(seconds)

    def measure() -> float:
        log.append(name)
        return next(left)

    return Contender(name=name, measure=measure)


def test_rounds_are_interleaved_the_first_is_not_counted_and_a_shared_floor_runs_once() -> None:
    log: list[str] = []
    floor = scripted("floor", [9, 1, 2, 3], log)
    ours = scripted("ours", [99, 4, 3, 2], log)
    other = scripted("other", [99, 1, 1, 1], log)
    rows = [
        Row(name="plan", contender=ours, floor=floor, at_most=1.5),
        Row(name="save", contender=other, floor=None, at_most=0.5),
    ]
    plan, save = run_rounds(rows, 3)
    assert (plan.ours, plan.floor, plan.figure, plan.held) == (3, 2, 1.5, True)
    assert (save.figure, save.held) == (1, False)
    assert [log[at : at + 3] for at in range(0, 12, 3)] == [
        ["floor", "ours", "other"],
        ["ours", "other", "floor"],
        ["other", "floor", "ours"],
        ["floor", "ours", "other"],
    ]


def test_the_history_of_a_host_keeps_the_newest_figure_of_each_row(tmp_path: Path) -> None:
    file = tmp_path / "history" / "host.jsonl"
    assert last_figures(file) == {}
    floor = scripted("floor", [1.0] * 9, [])
    for figure in (3.0, 2.0):
        row = Row(name="plan", contender=scripted("ours", [figure] * 2, []), floor=floor, at_most=2.5)
        results = run_rounds([row], 1)
        remember(file, results, "2026-11-21T00:00:00Z")
    assert last_figures(file) == {"plan": 2.0}
    line = render(results, {"plan": 3.0}).splitlines()[1]
    assert line.split() == ["plan", "2000.0", "ms", "1000.0", "ms", "x", "2.00", "x", "2.50", "x", "3.00"]


def test_a_contender_that_fails_loses_its_own_row_only() -> None:
    def fail() -> float:
        raise CommandFailedError("no such command")

    floor = scripted("floor", [1] * 9, [])
    rows = [
        Row(name="broken", contender=Contender(name="broken", measure=fail), floor=floor, at_most=2),
        Row(name="sound", contender=scripted("sound", [1] * 9, []), floor=floor, at_most=2),
    ]
    broken, sound = run_rounds(rows, 3)
    assert (broken.held, sound.held) == (False, True)
    assert "broken" in render([broken, sound], {}).splitlines()[1]
    assert "FAILED: no such command" in render([broken, sound], {}).splitlines()[1]


def test_what_is_not_to_be_had_here_is_said_and_is_no_failure(tmp_path: Path) -> None:
    def miss() -> float:
        raise MissingError("no runit here: not root")

    row = Row(
        name="restart",
        contender=scripted("ours", [1] * 9, []),
        floor=Contender(name="peer", measure=miss),
        at_most=1,
    )
    results = run_rounds([row], 2)
    assert results[0].held
    assert render(results, {}).splitlines()[1].split(maxsplit=1) == ["restart", "not measured: no runit here: not root"]
    remember(tmp_path / "h.jsonl", results, "2026-11-21T00:00:00Z")
    assert last_figures(tmp_path / "h.jsonl") == {}


def test_one_series_can_be_judged_by_several_statistics_in_its_own_unit() -> None:
    saves = scripted("saves", [float(number) for number in range(100)], [])
    size = Contender(name="size", measure=lambda: 17.25)
    rows = [
        Row(name="p50", contender=saves, floor=None, at_most=50),
        Row(name="p99", contender=saves, floor=None, at_most=98, statistic=percentile(0.99)),
        Row(name="size", contender=size, floor=None, at_most=18, unit="MB"),
    ]
    results = run_rounds(rows, 100, warm=0)
    assert [(result.figure, result.held) for result in results] == [(49.5, True), (99.0, False), (17.25, True)]
    assert render(results, {"size": 16.0}).splitlines()[3].split()[1:] == [
        "17.2",
        "MB",
        "-",
        "17.2",
        "MB",
        "18.0",
        "MB",
        "16.0",
        "MB",
    ]


@pytest.mark.parametrize(("part", "value"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_a_percentile_is_a_value_that_was_measured(part: float, value: float) -> None:
    assert percentile(part)([4, 1, 3, 2]) == value


@pytest.mark.real
def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    assert 0 < command([sys.executable, "-c", "pass"], os.environ, tmp_path)() < 30
    with pytest.raises(CommandFailedError, match="ended with 3: no luck"):
        command(
            [sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"], os.environ, tmp_path
        )()


TRACE = """\
7 fdatasync(11</s/reconciler/journal.sqlite-wal>) = 0
7 fdatasync(13</s/reconciler>) = 0
7 fsync(13</w/.f0.tmp>) = 0
7 fsync(13</w>) = 0
8 fdatasync(11</s/reconciler/journal.sqlite-wal> <unfinished ...>
8 <... fdatasync resumed>) = 0
7 fdatasync(11</s/reconciler/journal.sqlite-wal>) = 0
7 fsync(13</w/.f1.tmp>) = 0
7 fsync(13</w>) = 0
7 fdatasync(11</s/reconciler/journal.sqlite-wal>) = 0
7 fdatasync(9</s/reconciler/journal.sqlite>) = 0
7 +++ exited with 0 +++
"""


def test_flushes_of_the_journal_are_counted_between_the_effects() -> None:
    assert flushes_around(TRACE.splitlines(), Path("/w")) == [1, 2, 1]
    assert flushes_around([], Path("/w")) == [0]


def test_resident_memory_is_read_as_the_kernel_says_it() -> None:
    assert resident_of("Name:\tx\nVmHWM:\t  99 kB\nVmRSS:\t   1000 kB\n") == pytest.approx(1.024)
    with pytest.raises(CommandFailedError, match="has ended"):
        resident_of("Name:\tx\nState:\tZ (zombie)\n")
    assert 5 < resident_mb(os.getpid()) < 2000


def test_cpu_time_is_that_of_the_whole_process() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    assert cpu_of(f"7 (a ) b) S 1 7 7 0 -1 4194304 1 0 0 0 {ticks} {2 * ticks} 9 9 20 0 1 0 5 6 7") == 3.0
    before = cpu_seconds([os.getpid()])
    while cpu_seconds([os.getpid()]) == before:
        assert sum(range(100_000)) > 0


def test_the_long_documents_are_valid_and_as_long_as_they_say() -> None:
    text = long_text(200)
    assert 200 <= text.count("\n") < 220
    assert len(load_text(text, {}).desired.extra["x-agents"]) > 10
    assert len(load_text(files_document(Path("/w"), 7), {}).desired.extra["x-files"]) == 7


@pytest.mark.real
def test_both_prunes_leave_the_same_file(tmp_path: Path) -> None:
    prune = Prune(tmp_path, 40)
    assert 0 < prune.by_find() < 30
    assert 0 < prune.action() < 30
    assert 0 < prune.whole() < 30


@pytest.mark.real
def test_a_killed_child_counts_until_the_next_one_says_its_pid(tmp_path: Path) -> None:
    with Spawned() as spawned:
        pool = Pool(tmp_path, spawned)
        script = pool.script(tmp_path / "child")
        loop = f"while :; do {script} & wait $!; sleep 0.05; done"
        spawned.start(["sh", "-c", loop])
        pool.started()
        assert 0.05 < pool.kill_one() < 10
        pool.close()
