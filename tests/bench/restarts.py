"""From the death of a child to its next start: our keeper beside runit, whose supervisor starts a child anew at once.

Both hold the same script, and each start of it says its pid on a pipe. Our keeper restarts at once a child that was ready for
ten seconds and one that died earlier after a delay; so there is a pool of children, all older than that, and each dies once.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from resources.service.keeper.policy import STABLE_SECONDS
from tests.beds.processes import Spawned, end_state, run
from tests.bench.harness import CommandFailedError, Contender, Measure, MissingError, Row
from tests.resources.service.beds import Bed

START_SECONDS: Final = 20.0
RUNSV: Final = "runsv"


class Pool:
    """Children that some supervisor holds, each ready to die once."""

    def __init__(self, directory: Path, spawned: Spawned) -> None:
        self._directory = directory
        self._spawned = spawned
        self._pipe = directory / "pipe"
        os.mkfifo(self._pipe)
        # For writing too: else each child that ends would close it.
        self._reader = os.open(self._pipe, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._pids: list[int] = []

    def script(self, path: Path) -> Path:
        """Writes the child's program."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$$" >{self._pipe}\nexec sleep 100000\n', encoding="utf-8")
        path.chmod(0o700)
        return path

    def started(self) -> None:
        """Waits until one more child runs."""
        self._pids.append(self._next())

    def kill_one(self) -> float:
        """Kills the child that runs for longest; seconds until the next one in its place runs."""
        victim = self._pids.pop(0)
        descriptor = os.pidfd_open(victim)
        try:
            began = time.perf_counter()
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            self._next()
            return time.perf_counter() - began
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Gives the pipe up."""
        os.close(self._reader)

    def _next(self) -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            if not selector.select(START_SECONDS):
                raise CommandFailedError(f"no child started within {START_SECONDS:g} s in {self._directory}")
        # A pid and its newline are written in one call, and only one child starts at a time.
        pid = int(os.read(self._reader, 64))
        self._spawned.take(pid)
        return pid


def runit_programs(cache: Path) -> Path:
    """runit's runsv(8): the installed one, else that of Debian's package, unpacked below `cache` and not installed.

    Raises:
        MissingError: neither can be had.
    """
    if (installed := shutil.which(RUNSV)) is not None:
        return Path(installed)
    directory = cache / "runit"
    if not (found := list(directory.glob(f"root/**/bin/{RUNSV}"))):
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise MissingError("runit is not installed, and here are no Debian packages to be had")
        directory.mkdir(parents=True, exist_ok=True)
        done = run(["apt-get", "download", "runit"], cwd=directory)
        for package in directory.glob("runit_*.deb"):
            done = run(["dpkg-deb", "-x", package, directory / "root"])
        if not (found := list(directory.glob(f"root/**/bin/{RUNSV}"))):
            words = done.stderr.strip().splitlines()
            raise MissingError(
                f"runit is not installed, and cannot be unpacked: {words[-1] if words else done.returncode}"
            )
    return found[0]


def cache_directory() -> Path:
    """Where peers are kept between runs: outside of the checkout, and nothing but a cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "openclaw-bench"


@contextmanager
def restart_rows(places: Mapping[str, Path], kills: int) -> Iterator[list[Row]]:
    """A row for each of the named places that holds the state, with as many children on both sides as rounds are to be run.

    They end with the block.
    """
    with ExitStack() as stack:
        spawned = stack.enter_context(Spawned())
        rows = [_row(stack, spawned, name, directory, kills) for name, directory in places.items()]
        time.sleep(STABLE_SECONDS + 0.5)
        yield rows


def _row(stack: ExitStack, spawned: Spawned, place: str, directory: Path, kills: int) -> Row:
    kept = _kept(stack, directory / "keeper", spawned, kills)
    return Row(
        name=f"child killed to child started, {place}",
        contender=Contender(name=f"keeper {place}", measure=kept.kill_one),
        floor=Contender(name=f"runit {place}", measure=_runit(stack, directory / "runit", spawned, kills)),
        at_most=1,
    )


def _kept(stack: ExitStack, state: Path, spawned: Spawned, number: int) -> Pool:
    state.mkdir()
    stack.callback(end_state, state)
    bed, pool = Bed(state, spawned), Pool(state, spawned)
    stack.callback(pool.close)
    bed.keeper()
    script = pool.script(state / "child")
    with bed.client() as client:
        for at in range(number):
            client.ok("ensure", name=f"child-{at}", spec=bed.spec([str(script)]))
            client.ok("start", name=f"child-{at}")
            pool.started()
    return pool


def _runit(stack: ExitStack, directory: Path, spawned: Spawned, number: int) -> Measure:
    try:
        runsv = runit_programs(cache_directory())
    except MissingError as err:
        missing = err

        def miss() -> float:
            raise missing

        return miss
    directory.mkdir()
    pool = Pool(directory, spawned)
    stack.callback(pool.close)
    for at in range(number):
        script = pool.script(directory / f"child-{at}" / "run")
        # runsv ends its child with itself when it is asked to end.
        spawned.start([runsv, script.parent], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        pool.started()
    return pool.kill_one
