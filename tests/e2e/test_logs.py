"""`openclaw logs`: the gateway's lines, filtered and followed, over days, rotations and the end of whoever reads along."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.tail import Position, read_new
from tests.beds.processes import Spawned, wait_until
from tests.beds.site import OPENCLAW, Site

pytestmark = [pytest.mark.real, pytest.mark.req("LOG-10")]


@pytest.fixture
def logs(site: Site) -> Path:
    """The log directory of a host on which no gateway runs: what is in it is the test's."""
    site.write("version: 1\nlogging:\n  level: info\n")
    directory = site.state / "logs"
    directory.mkdir(mode=0o700)
    return directory


def line(text: str, *, level: str = "INFO", subsystem: str = "gateway", age: float = 0) -> str:
    """One line as the gateways write it, `age` seconds old."""
    at = datetime.fromtimestamp(time.time() - age, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    name = json.dumps({"subsystem": subsystem})
    return json.dumps({"0": name, "1": text, "_meta": {"logLevelName": level, "date": at}, "time": at}) + "\n"


def add(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(lines))


class Reader:
    """`openclaw logs -f` that runs; `lines` is all that it has printed."""

    def __init__(self, site: Site, spawned: Spawned, *argv: str) -> None:
        self._out, self._err = site.home / "reader.out", site.home / "reader.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = spawned.start(
                [OPENCLAW, "logs", "-f", *argv], cwd=site.home, env=site.environ, stdout=out, stderr=err
            )

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait(self, text: str) -> None:
        wait_until(lambda: any(text in found for found in self.lines), 10, f"{text!r} in {self.lines} {self.err}")


def texts(answer: Any) -> list[str]:
    """What the lines say, without time, level and subsystem."""
    assert answer.code == 0, answer.err
    return [found.rpartition("] ")[2] for found in answer.out.splitlines()]


def test_the_lines_of_a_real_gateway_by_level_subsystem_and_age(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()
    shown = site.run("logs")
    assert shown.code == 0, shown.err
    assert shown.err == ""
    first = shown.out.splitlines()[0]
    assert first.endswith("info  [gateway] Gateway starting...")
    assert "\x1b" not in shown.out
    assert all(
        "[gateway/reload]" in found for found in site.run("logs", "--subsystem", "gateway/reload").out.splitlines()
    )
    assert "[gateway/reload]" in site.run("logs", "--subsystem", "gateway").out
    assert "hot reload" in site.run("logs", "--subsystem", "gateway/reload").out
    assert site.run("logs", "--level", "fatal").out == ""
    assert site.run("logs", "-n", "1").out == shown.out.splitlines(keepends=True)[-1]
    as_json = site.run("logs", "--json")
    (file,) = (site.state / "logs").glob("openclaw-*.log")
    assert as_json.out == file.read_text()
    assert json.loads(as_json.out.splitlines()[0])["2"] == "Gateway starting..."
    assert site.run("logs", "--since", "1h").out == shown.out
    assert site.run("logs", "--subsystem", "nobody").out == ""


def test_a_level_means_that_and_graver_and_a_subsystem_what_is_below_it(site: Site, logs: Path) -> None:
    add(
        logs / "openclaw-2026-01-01.log",
        line("one", level="DEBUG", subsystem="gateway/ws"),
        line("two", level="INFO", subsystem="gateway"),
        line("three", level="WARN", subsystem="gateway/ws/frames"),
        line("four", level="ERROR", subsystem="gateway/wsx"),
        line("five", level="FATAL", subsystem="agent/embedded"),
    )
    assert texts(site.run("logs")) == ["one", "two", "three", "four", "five"]
    assert texts(site.run("logs", "--level", "warn")) == ["three", "four", "five"]
    assert texts(site.run("logs", "--level", "trace")) == ["one", "two", "three", "four", "five"]
    assert texts(site.run("logs", "--subsystem", "gateway/ws")) == ["one", "three"]
    assert texts(site.run("logs", "--subsystem", "gateway", "--level", "info")) == ["two", "three", "four"]
    assert texts(site.run("logs", "--level", "warn", "-n", "1")) == ["five"]


def test_since_counts_from_now_over_all_days(site: Site, logs: Path) -> None:
    add(logs / "openclaw-2026-01-01.log", line("old", age=7200), line("older", age=600))
    add(logs / "openclaw-2026-01-02.log", line("young", age=100), line("now"))
    assert texts(site.run("logs", "--since", "5m")) == ["young", "now"]
    assert texts(site.run("logs", "--since", "1h")) == ["older", "young", "now"]
    assert texts(site.run("logs", "--since", "1d")) == ["old", "older", "young", "now"]
    refused = site.run("logs", "--since", "yesterday")
    assert refused.code == 64
    assert "yesterday" in refused.err
    assert "hint: write it like 30s, 5m or 2h" in refused.err


def test_what_is_no_line_of_a_gateway_is_shown_as_it_stands(site: Site, logs: Path) -> None:
    path = logs / "openclaw-2026-01-01.log"
    add(path, "plain words\n", line("fine"), '{"half": \n', "[1, 2]\n", "\n")
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n" + line("end").encode())
    add(logs / "other.log", line("not ours"))
    shown = site.run("logs")
    assert shown.code == 0, shown.err
    assert "plain words\n" in shown.out
    assert '{"half": \n' in shown.out
    assert "[1, 2]\n" in shown.out
    assert "\ufffd\ufffd\n" in shown.out
    assert shown.out.endswith(" end\n")
    assert "not ours" not in shown.out
    # A line that is still being written is not shown before it is whole.
    add(path, "half a li")
    assert "half a li" not in site.run("logs").out


def test_following_goes_on_over_midnight_rotation_truncation_and_pruning(
    site: Site, logs: Path, spawned: Spawned
) -> None:
    today, tomorrow = logs / "openclaw-2026-01-01.log", logs / "openclaw-2026-01-02.log"
    add(today, line("before"))
    reader = Reader(site, spawned)
    reader.wait("before")
    add(today, line("at once"))
    reader.wait("at once")
    # A line in two halves is one line.
    whole = line("in two halves")
    add(today, whole[:40])
    add(today, whole[40:])
    reader.wait("in two halves")
    add(tomorrow, line("after midnight"))
    reader.wait("after midnight")
    add(today, line("a latecomer of yesterday"))
    reader.wait("a latecomer of yesterday")
    # Renamed away by a rotation, and begun anew under its name.
    tomorrow.rename(logs / "openclaw-2026-01-02.log.1")
    add(tomorrow, line("after the rotation"))
    reader.wait("after the rotation")
    # Cut short, as copy-and-truncate does it.
    os.truncate(tomorrow, 0)
    add(tomorrow, line("cut"))
    reader.wait(" cut")
    today.unlink()
    add(tomorrow, line("after the prune"))
    reader.wait("after the prune")
    assert [found.rpartition("] ")[2] for found in reader.lines] == [
        "before",
        "at once",
        "in two halves",
        "after midnight",
        "a latecomer of yesterday",
        "after the rotation",
        "cut",
        "after the prune",
    ]
    assert reader.process.poll() is None
    assert reader.err == ""


def test_not_one_line_is_missed_while_it_begins_to_follow(site: Site, logs: Path, spawned: Spawned) -> None:
    path = logs / "openclaw-2026-01-01.log"
    add(path, line("first"))
    # More than it can be late for, however slow its start is.
    reader = Reader(site, spawned, "-n", "10000")
    number = 0
    while not reader.lines:
        number += 1
        add(path, line(f"number {number}."))
        time.sleep(0.002)
    # The last one of these came somewhere between the first look and the beginning of the watch.
    reader.wait(f"number {number}.")
    found = [text for text in reader.lines if "number" in text]
    assert len(found) == number


def test_what_is_followed_is_filtered_as_well(site: Site, logs: Path, spawned: Spawned) -> None:
    path = logs / "openclaw-2026-01-01.log"
    add(path, line("calm"), line("grave", level="ERROR"))
    reader = Reader(site, spawned, "--level", "warn", "--subsystem", "gateway", "--json", "-n", "5")
    reader.wait("grave")
    add(path, line("calm too"), line("elsewhere", level="ERROR", subsystem="agent"), line("last", level="WARN"))
    reader.wait("last")
    assert [json.loads(found)["1"] for found in reader.lines] == ["grave", "last"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["at rest", "under way"])
def test_it_ends_well_when_it_is_interrupted(
    site: Site, logs: Path, spawned: Spawned, number: signal.Signals, code: int, moment: str
) -> None:
    path = logs / "openclaw-2026-01-01.log"
    add(path, line("first"))
    reader = Reader(site, spawned)
    reader.wait("first")
    if moment == "at rest":
        add(path, line("second"))
        reader.wait("second")
    reader.process.send_signal(number)
    assert reader.process.wait(10) == code
    assert reader.err == ""


def test_it_ends_quietly_when_nobody_reads_on(site: Site, logs: Path) -> None:
    add(logs / "openclaw-2026-01-01.log", *(line(f"number {number}") for number in range(5000)))
    done = subprocess.run(
        f"{OPENCLAW} logs -n 5000 | head -n 1",
        shell=True,
        cwd=site.home,
        env=site.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.endswith("number 0\n")
    assert done.stderr == ""


def link(path: Path) -> None:
    add(path.with_name("elsewhere"), line("not here"))
    path.symlink_to("elsewhere")


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo, bound, link])
def test_what_only_has_the_name_of_a_log_is_passed_over(
    site: Site, logs: Path, spawned: Spawned, put: Callable[[Path], None]
) -> None:
    add(logs / "openclaw-2026-01-01.log", line("one"))
    put(logs / "openclaw-2026-01-02.log")
    add(logs / "openclaw-2026-01-03.log", line("three"))
    assert texts(site.run("logs", timeout=10)) == ["one", "three"]
    reader = Reader(site, spawned)
    reader.wait("three")
    put(logs / "openclaw-2026-01-04.log")
    add(logs / "openclaw-2026-01-05.log", line("five"))
    reader.wait("five")
    assert reader.err == ""


def test_one_that_becomes_something_else_between_listing_and_opening_is_passed_over(tmp_path: Path) -> None:
    for number in range(1, 5):
        add(tmp_path / f"openclaw-2026-01-0{number}.log", line(f"number {number}"))
    reading = read_new(str(tmp_path), Position())
    assert next(reading).text == "number 1"
    for number, put in ((2, os.mkdir), (3, bound)):
        (tmp_path / f"openclaw-2026-01-0{number}.log").unlink()
        put(tmp_path / f"openclaw-2026-01-0{number}.log")
    assert [found.text for found in reading] == ["number 4"]


@pytest.mark.parametrize("argv", [(), ("-f",), ("--json",)])
def test_a_directory_that_is_not_there_is_said_with_a_hint(site: Site, argv: tuple[str, ...]) -> None:
    site.write()
    answer = site.run("logs", *argv)
    assert answer.code == 1
    assert answer.out == ""
    assert str(site.state / "logs") in answer.err
    assert "no such file or directory" in answer.err
    assert "hint: was the gateway ever started?" in answer.err


def test_a_directory_that_goes_while_it_is_followed_is_said(site: Site, logs: Path, spawned: Spawned) -> None:
    path = logs / "openclaw-2026-01-01.log"
    add(path, line("first"))
    reader = Reader(site, spawned)
    reader.wait("first")
    add(path, line("second"))
    reader.wait("second")
    path.unlink()
    logs.rmdir()
    assert reader.process.wait(10) == 1
    assert "no such file or directory" in reader.err
    assert "Traceback" not in reader.err


def test_the_declared_directory_is_the_one_that_is_read(site: Site) -> None:
    directory = site.home / "elsewhere"
    directory.mkdir()
    site.write(f"version: 1\nlogging:\n  directory: {directory}\n")
    add(directory / "openclaw-2026-01-01.log", line("here"))
    assert texts(site.run("logs")) == ["here"]
