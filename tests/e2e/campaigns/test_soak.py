"""Hours in small: a save every 2 s, a killed gateway every 10 s; memory, descriptors, threads, tasks and journal stay flat."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site, Supervisor
from tests.e2e.test_kills import gateways, keeper_pid

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7", "PLAN-5", "GW-6")]

SAVE_SECONDS: Final = 2.0
KILL_SECONDS: Final = 10.0
SAMPLE_SECONDS: Final = 2.0
LEVELS: Final = ("info", "debug", "warn")
# A leak of a kilobyte for each save would be 1,800 an hour more than the allocator's own noise.
MAX_RSS_KIB_PER_HOUR: Final = 2048.0
# Runs and generations are pruned by number, events later: what is left of their growth is bounded, and small.
MAX_JOURNAL_KIB_PER_HOUR: Final = 4096.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look; sizes in KiB, `at` in seconds since the beginning."""

    at: float
    supervisor_rss: float
    supervisor_descriptors: int
    supervisor_threads: int
    supervisor_tasks: int
    keeper_rss: float
    keeper_descriptors: int
    keeper_threads: int
    journal: float


COUNTS: Final = (
    "supervisor_descriptors", "supervisor_threads", "supervisor_tasks", "keeper_descriptors", "keeper_threads"
)  # fmt: skip


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def threads_at_work(pid: int) -> int:
    """All but Trio's idle workers, which wait up to 10 s for more: how many depends on how close two looks came."""
    names = []
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # ended in this moment
            names.append(path.read_text())
    return sum(not name.startswith("Trio thread") for name in names)


def tasks_of(site: Site) -> int:
    """How many Trio tasks live in the supervisor, as its control API says."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(site.state / "reconciler/control.sock"))
        connection.sendall(b"GET /v1 HTTP/1.1\r\nHost: openclaw\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            return int(json.loads(answer.read().partition(b"\r\n\r\n")[2])["tasks"])


def look(site: Site, supervisor: int, keeper: int, began: float) -> Sample:
    of_supervisor, of_keeper = status_of(supervisor), status_of(keeper)
    files = (site.state / "reconciler").glob("journal.sqlite*")
    return Sample(
        at=time.monotonic() - began,
        supervisor_rss=float(of_supervisor["VmRSS"].split()[0]),
        supervisor_descriptors=len(os.listdir(f"/proc/{supervisor}/fd")),
        supervisor_threads=threads_at_work(supervisor),
        supervisor_tasks=tasks_of(site),
        keeper_rss=float(of_keeper["VmRSS"].split()[0]),
        keeper_descriptors=len(os.listdir(f"/proc/{keeper}/fd")),
        keeper_threads=int(of_keeper["Threads"]),
        journal=sum(path.stat().st_size for path in files) / 1024,
    )


def per_hour(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """The slope of the line through the samples (least squares)."""
    middle = sum(sample.at for sample in samples) / len(samples)
    mean = sum(map(value, samples)) / len(samples)
    above = sum((sample.at - middle) * (value(sample) - mean) for sample in samples)
    below = sum((sample.at - middle) ** 2 for sample in samples)
    return 3600 * above / below


def soak(site: Site, seconds: float) -> list[Sample]:
    """Saves and kills for so long; returns what was seen."""
    text = site.write(verify="1s")
    text = site.write(text.replace("delay: 200ms, max_delay: 2s", "delay: 100ms, max_delay: 200ms, burst: 1000"))
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    site.wait_healthy()
    began, keeper = time.monotonic(), keeper_pid(site)
    samples: list[Sample] = []
    due = {"save": SAVE_SECONDS, "kill": KILL_SECONDS, "look": SAMPLE_SECONDS}
    saves = kills = 0
    while time.monotonic() - began < seconds:
        now = time.monotonic() - began
        what = min(due, key=lambda name: due[name])
        if due[what] > now:
            time.sleep(min(due[what] - now, seconds - now) if seconds > now else 0)
            continue
        if what == "save":
            saves += 1
            site.document.write_text(text.replace("level: info", f"level: {LEVELS[saves % len(LEVELS)]}"))
            due["save"] += SAVE_SECONDS
        elif what == "kill":
            kills += 1
            for pid in gateways(site):
                os.kill(pid, signal.SIGKILL)
            due["kill"] += KILL_SECONDS
        else:
            samples.append(look(site, supervisor.process.pid, keeper, began))
            due["look"] += SAMPLE_SECONDS
    after(site, supervisor, keeper, f"level: {LEVELS[saves % len(LEVELS)]}")
    print(f"{saves} saves and {kills} kills in {seconds:g} s")
    return samples


def after(site: Site, supervisor: Supervisor, keeper: int, last: str) -> None:
    """What must hold when everything has calmed down."""
    assert supervisor.process.poll() is None, supervisor.text()[-2000:]
    assert keeper_pid(site) == keeper
    site.wait_healthy()
    level = last.partition(": ")[2]
    wait_until(lambda: site.level() == level, 20, "the last save is in force")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "and confirmed")
    assert site.plan()["actions"] == []
    assert len(gateways(site)) == 1
    assert "look_failed" not in supervisor.text()
    assert supervisor.stop() == 0


def test_a_short_soak_leaks_no_descriptor_and_no_thread(site: Site) -> None:
    samples = soak(site, 24)
    half = len(samples) // 2
    early, late = samples[2:half], samples[half:]
    for name in COUNTS:
        # Now and then one more: a look, or a client, that is under way in that moment.
        assert min(getattr(sample, name) for sample in late) <= max(getattr(sample, name) for sample in early), name


@pytest.mark.soak
def test_half_an_hour_is_flat(site: Site) -> None:
    minutes = float(os.environ.get("OPENCLAW_SOAK_MINUTES", "30"))
    samples = soak(site, minutes * 60)
    # Until then caches fill (SQLite's takes 2 MB for each connection), and the journal comes to the runs that it keeps.
    settled = samples[2 * len(samples) // 3 :]
    for name in Sample.__slots__[1:]:
        values = [getattr(sample, name) for sample in settled]
        slope = per_hour(settled, lambda sample, name=name: getattr(sample, name))  # type: ignore[misc]
        print(f"{name:24} {min(values):10.0f} {max(values):10.0f} {slope:+12.1f} an hour")
    for name in ("supervisor_rss", "keeper_rss"):
        assert per_hour(settled, lambda sample, name=name: getattr(sample, name)) < MAX_RSS_KIB_PER_HOUR, name  # type: ignore[misc]
    for name in COUNTS:
        assert abs(per_hour(settled, lambda sample, name=name: getattr(sample, name))) < 4, name  # type: ignore[misc]
    assert per_hour(settled, lambda sample: sample.journal) < MAX_JOURNAL_KIB_PER_HOUR
