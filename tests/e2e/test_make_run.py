"""`make run` in a fresh clone: from nothing to a gateway that answers, and back to nothing by Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.beds.lonely_net import LonelyNet
from tests.beds.needs import needs_programs
from tests.beds.processes import Process, Spawned, end_state, identify, processes_of_state, run, wait_until

pytestmark = [pytest.mark.real, pytest.mark.req("OPS-1")]

ROOT = Path(__file__).parents[2]
PORT = 18789
# What make's own run gives to its recipes, and what would steer the program.
FOREIGN = ("OPENCLAW_", "MAKE", "MFLAGS", "VIRTUAL_ENV")


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A clone of what is committed here, with its environment really made and installed; nothing was run in it yet. The parameter
    is how the name of its directory begins.
    """
    needs_programs("git", "make", "curl")
    prefixes = (getattr(request, "param", "oc-"), "oc-home-")
    path, home = (Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp")) for prefix in prefixes)
    try:
        cloned = run(["git", "clone", "--quiet", ROOT, path])
        assert cloned.returncode == 0, cloned.stderr
        made = run(["tools/environment", "run"], cwd=path, env=_environ(home), timeout=300)
        if "is the package index reachable" in made.stderr:
            pytest.skip(f"the package cannot be installed here: {made.stderr[-300:]}")
        assert made.returncode == 0, made.stderr
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def _environ(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PYTHON": sys.executable}


@dataclass
class Checkout:
    """A clone on a machine of its own. `home` is the home directory there."""

    path: Path
    home: Path
    net: LonelyNet
    spawned: Spawned
    logs: dict[int, Path] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.path / ".openclaw"

    @property
    def log(self) -> str:
        """What the last `make run` said."""
        return [*self.logs.values()][-1].read_text(errors="replace")

    def make_run(self) -> subprocess.Popen[bytes]:
        """Starts `make run` as a shell does in a terminal: in a process group of its own."""
        path = self.home / f"run-{len(self.logs)}.log"
        with path.open("wb") as log:
            make = self.spawned.start(
                self.net.inside(["make", "run"]),
                cwd=self.path,
                env=_environ(self.home),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.logs[make.pid] = path
        return make

    def call(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a program in the checkout, on that machine."""
        environ = {**_environ(self.home), "OPENCLAW_STATE_DIR": str(self.state)}
        return run(self.net.inside(argv), cwd=self.path, env=environ)

    def openclaw(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.call(".venv/bin/openclaw", *argv)

    def health(self, port: int = PORT, secret: str | None = None) -> tuple[int, Any]:
        """Status and body of `/health`; status 0 where nobody answers."""
        header = [] if secret is None else ["-H", f"Authorization: Bearer {secret}"]
        asked = self.call("curl", "-s", "-w", "\n%{http_code}", *header, f"http://127.0.0.1:{port}/health")
        body, _, status = asked.stdout.rpartition("\n")
        return int(status or 0), json.loads(body) if body else None

    def wait_healthy(self, make: subprocess.Popen[bytes], port: int = PORT, seconds: float = 15) -> None:
        wait_until(lambda: self.health(port)[0] == 200 or make.poll() is not None, seconds, "a healthy gateway")
        assert make.poll() is None, self.log

    def started(self) -> list[Process]:
        """All processes that run for this checkout."""
        return processes_of_state(self.state)


def interrupt(checkout: Checkout, make: subprocess.Popen[bytes], *, bounces: bool = False) -> None:
    """Ctrl-C as the terminal sends it: SIGINT to the whole group, twice where the key bounces. Returns when everything is over,
    and it ended well.
    """
    os.killpg(make.pid, signal.SIGINT)
    if bounces:
        time.sleep(0.01)
        os.killpg(make.pid, signal.SIGINT)
    # make itself ends by the signal, as a shell expects it, once what it started has ended.
    code, said = make.wait(30), checkout.logs[make.pid].read_text()
    assert code == -signal.SIGINT, said
    assert '"stopped"' in said
    assert "Traceback" not in said
    assert checkout.started() == []


@pytest.fixture
def checkout(installed: Path, spawned: Spawned) -> Iterator[Checkout]:
    net = LonelyNet(spawned)
    with tempfile.TemporaryDirectory(prefix="oc-home-", dir="/tmp") as home:
        found = Checkout(installed, Path(home), net, spawned)
        try:
            yield found
        finally:
            end_state(found.state)
            # As it was cloned, but for the environment.
            run(["git", "clean", "-qdfx", "-e", ".venv"], cwd=installed)


def confirmed(checkout: Checkout) -> bool:
    listed = checkout.openclaw("history", "--json")
    return bool(listed.stdout) and json.loads(listed.stdout)["generations"][0]["result"] == "confirmed"


def quicken(checkout: Checkout) -> None:
    """A first document whose window is short: what is shown here does not depend on its length."""
    assert checkout.openclaw("init").returncode == 0
    document = checkout.path / "openclaw.yaml"
    document.write_text(document.read_text() + "\npolicy: {verify: 500ms}\n")


@pytest.mark.parametrize("installed", ["oc-", "oc two words "], indirect=True)
def test_from_a_clone_to_a_gateway_that_answers_and_back(checkout: Checkout) -> None:
    make = checkout.make_run()
    checkout.wait_healthy(make)
    assert checkout.health() == (200, {"status": "ok"})
    token = (checkout.path / ".openclaw-token").read_text().strip()
    status, body = checkout.health(secret=token)
    assert status == 200
    assert {"status", "version", "uptime", "parts", "pid"} <= body.keys()
    assert all(part["ok"] for part in body["parts"].values())
    # It serves a moment before whoever watches it says so.
    wait_until(lambda: '"watching"' in checkout.log, 15, "the supervisor watches")
    for said in ("wrote openclaw.yaml", "Plan: 2 actions"):
        assert said in checkout.log
    assert token not in checkout.log
    assert (checkout.path / ".openclaw-token").stat().st_mode & 0o777 == 0o600
    # A command that only reads finds its modules compiled, and has nothing to write even when it is used first.
    sources = [path for name in ("reconciler", "resources", "gateway") for path in (checkout.path / name).rglob("*.py")]
    assert len(sources) > 100
    assert [path for path in sources if not [*path.parent.glob(f"__pycache__/{path.stem}.*.pyc")]] == []
    running = checkout.started()
    assert len(running) >= 3
    interrupt(checkout, make)
    assert checkout.health()[0] == 0
    assert not [process for process in running if process.alive]
    # Nothing lies outside of what git ignores in the checkout.
    assert run(["git", "status", "--porcelain"], cwd=checkout.path).stdout == ""
    assert [path.name for path in checkout.home.iterdir() if not path.name.startswith("run-")] == []


def test_a_second_make_run_has_nothing_to_write_and_serves_again(checkout: Checkout) -> None:
    quicken(checkout)
    first = checkout.make_run()
    checkout.wait_healthy(first)
    wait_until(lambda: confirmed(checkout), 15, "the first generation is confirmed")
    interrupt(checkout, first)
    kept = (checkout.path / "openclaw.yaml").read_bytes(), (checkout.path / ".openclaw-token").read_bytes()
    config = (checkout.state / "openclaw.json").stat()
    second = checkout.make_run()
    checkout.wait_healthy(second)
    assert "wrote openclaw.yaml" not in checkout.log
    assert "installing" not in checkout.log
    assert "gateway-config" not in checkout.log.partition('"watching"')[0]
    assert kept == ((checkout.path / "openclaw.yaml").read_bytes(), (checkout.path / ".openclaw-token").read_bytes())
    assert (checkout.state / "openclaw.json").stat() == config
    wait_until(lambda: "No changes" in checkout.openclaw("plan").stdout, 10, "nothing left to do")
    interrupt(checkout, second, bounces=True)


def test_while_one_runs_another_is_refused_and_the_first_one_named(checkout: Checkout) -> None:
    quicken(checkout)
    first = checkout.make_run()
    checkout.wait_healthy(first)
    pids = {process.pid for process in checkout.started()}
    second = checkout.make_run()
    assert second.wait(20) != 0
    assert "75" in checkout.log
    assert any(f"pid {pid}" in checkout.log for pid in pids)
    assert checkout.health()[0] == 200
    assert first.poll() is None
    interrupt(checkout, first)


def test_ctrl_c_inside_the_first_window_and_then_again(checkout: Checkout) -> None:
    """The window is still open when it is stopped: the next run must not wait it out for a gateway that is gone."""
    make = checkout.make_run()
    checkout.wait_healthy(make)
    assert not confirmed(checkout)
    interrupt(checkout, make)
    began = time.monotonic()
    again = checkout.make_run()
    checkout.wait_healthy(again, seconds=8)
    assert time.monotonic() - began < 8
    # And once more, at a moment when nothing of it is ready yet.
    interrupt(checkout, again)
    third = checkout.make_run()
    wait_until(lambda: '"watching"' in checkout.log, 15, "it watches")
    interrupt(checkout, third)
    fourth = checkout.make_run()
    checkout.wait_healthy(fourth, seconds=8)
    wait_until(lambda: confirmed(checkout), 30, "the window ends well")
    assert "rolled" not in checkout.openclaw("history").stdout
    interrupt(checkout, fourth)


def test_a_strangers_port_and_home_are_left_alone_and_another_port_is_used(checkout: Checkout) -> None:
    theirs = checkout.home / ".openclaw" / "openclaw.json"
    theirs.parent.mkdir(mode=0o755)
    theirs.write_text('{"gateway": {"port": 18789}}')
    os.utime(theirs, (1, 1))
    stranger = checkout.spawned.start(
        checkout.net.inside([sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1"]),
        cwd=theirs.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**_environ(checkout.home), "PYTHONUNBUFFERED": "1"},
    )
    assert stranger.stdout is not None
    assert b"Serving" in stranger.stdout.readline()
    make = checkout.make_run()
    wait_until(lambda: '"watching"' in checkout.log or make.poll() is not None, 15, "it watches")
    assert make.poll() is None, checkout.log
    said = next(line for line in checkout.log.splitlines() if f"port {PORT} is held" in line)
    assert f"held by process {stranger.pid} " in said
    port = int(said.rsplit(" ", 1)[-1])
    assert port != PORT
    checkout.wait_healthy(make, port)
    assert checkout.health(port) == (200, {"status": "ok"})
    # The stranger still answers for itself, with its own words.
    assert checkout.call("curl", "-s", f"http://127.0.0.1:{PORT}/openclaw.json").stdout == theirs.read_text()
    interrupt(checkout, make)
    assert identify(stranger.pid) is not None
    assert theirs.stat().st_mtime == 1
    assert [path.name for path in theirs.parent.iterdir()] == ["openclaw.json"]


def test_a_port_that_is_taken_later_is_refused_with_its_holder_and_another_offered(checkout: Checkout) -> None:
    quicken(checkout)
    holder = (
        "import socket, time\n"
        f"held = socket.create_server(('127.0.0.1', {PORT}))\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    stranger = checkout.spawned.start(
        checkout.net.inside([sys.executable, "-c", holder]), stdout=subprocess.PIPE, env=_environ(checkout.home)
    )
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == b"held\n"
    make = checkout.make_run()
    assert make.wait(20) != 0
    assert f"process {stranger.pid} (" in checkout.log
    assert not (checkout.state / "openclaw.json").exists()
    offer = checkout.log.partition("gateway: {port: ")[2].partition("}")[0]
    assert offer.isdecimal()
    taken = checkout.openclaw("config", "set", "gateway.port", offer)
    assert taken.returncode == 0, taken.stderr
    again = checkout.make_run()
    checkout.wait_healthy(again, int(offer))
    assert identify(stranger.pid) is not None
    interrupt(checkout, again)
