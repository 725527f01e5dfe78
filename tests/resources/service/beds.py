"""A keeper with small real children for tests: start it, talk to it without Trio, wait for what its children do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resources.service.keeper import envfile, protocol
from tests.beds.processes import Process, Spawned, identify, wait_until

FAST = {"delay": 0.1, "max_delay": 0.4, "burst": 3, "window": 60.0, "never_on_exit": [78]}
DEADLINE = 15.0
# A child that says so once it serves.
READY = """
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""


class Client:
    """A connection to a keeper that blocks; versions are those of the protocol unless given."""

    def __init__(self, path: Path, versions: tuple[int, ...] = protocol.VERSIONS) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.lines = protocol.Lines()
        self.waiting: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        try:
            self.socket.connect(str(path))
            self.hello = self.ask("hello", versions=list(versions))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, command: str, **arguments: Any) -> None:
        self.socket.sendall(protocol.encode({"id": 1, "command": command, **arguments}))

    def next(self) -> dict[str, Any]:
        while not self.waiting:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.waiting = self.lines.feed(data)
        return self.waiting.pop(0)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.send(command, **arguments)
        while "event" in (message := self.next()):
            self.events.append(message)
        return message

    def ok(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer = self.ask(command, **arguments)
        assert answer.get("ok"), answer
        return answer

    def event(self, name: str) -> dict[str, Any]:
        """Waits for an event of this name."""
        while True:
            message = self.events.pop(0) if self.events else self.next()
            if message.get("event") == name:
                return message


class Bed:
    """A state directory with a keeper, its children known by the marker of the state in their environment."""

    def __init__(self, state: Path, spawned: Spawned) -> None:
        self.state = state
        self.spawned = spawned
        self.socket = state / "reconciler" / "keeper" / "keeper.sock"
        self.run = state / "reconciler" / "run"
        self.run.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keeper(self, path: Path | None = None) -> subprocess.Popen[Any]:
        """Starts a keeper and returns when it serves; `path` is where another version of it lies."""
        before = self.holder()
        popen = self.spawned.start(
            [sys.executable, "-P", "-m", "resources.service.keeper", "--state", self.state],
            stderr=(log := self.log_file()),
            env=environ(path),
        )
        os.close(log)
        wait_until(lambda: popen.poll() is not None or self.serves(popen.pid), DEADLINE, f"keeper (was {before})")
        return popen

    def log_file(self) -> Any:
        return os.open(self.state / "keeper.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def log(self) -> str:
        return (self.state / "keeper.err").read_text()

    def serves(self, pid: int) -> bool:
        try:
            with self.client() as client:
                return bool(client.hello["pid"] == pid)
        except (OSError, EOFError):
            return False

    def holder(self) -> int | None:
        try:
            return int(json.loads((self.state / "reconciler/keeper/lock").read_text())["pid"])
        except (OSError, ValueError):
            return None

    def client(self, versions: tuple[int, ...] = protocol.VERSIONS) -> Client:
        return Client(self.socket, versions)

    def spec(self, argv: list[str], environ: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
        """A spec with an environment file that names the state, and the fast restart policy."""
        path = self.run / "child.env"
        values = {"PATH": os.environ["PATH"], "OPENCLAW_STATE_DIR": str(self.state), **(environ or {})}
        path.write_bytes(envfile.render(values))
        return {
            "argv": argv,
            "cwd": str(self.state),
            "env_file": str(path),
            "output": str(self.state / "child.log"),
            "restart": FAST,
            "stop": {"drain": 0.0, "grace": 5.0},
            **more,
        }

    def up(self, client: Client, spec: dict[str, Any], name: str = "gateway") -> dict[str, Any]:
        """Starts a child and returns it once it is settled."""
        client.ok("ensure", name=name, spec=spec)
        client.ok("start", name=name)
        child: dict[str, Any] = client.ok("wait", name=name)["child"]
        if child["pid"] is not None:
            self.spawned.take(child["pid"])
        return child

    def child(self, name: str = "gateway") -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.ok("status")["children"][name]
        if found["pid"] is not None:
            self.spawned.take(found["pid"])
        return found

    def record(self, name: str = "gateway") -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.state / f"reconciler/keeper/children/{name}.json").read_text())
        return data

    def wait_child(self, state: str, name: str = "gateway", **more: Any) -> dict[str, Any]:
        """Waits until the child is in this state with these values."""

        def there() -> dict[str, Any] | None:
            child = self.child(name)
            wanted = child["state"] == state and all(child[key] == value for key, value in more.items())
            return child if wanted else None

        found: dict[str, Any] = wait_until(there, DEADLINE, f"{name} {state} {more}")
        return found

    def output(self) -> str:
        path = self.state / "child.log"
        return path.read_text() if path.exists() else ""

    def output_says(self, text: str) -> None:
        wait_until(lambda: text in self.output(), DEADLINE, f"{text!r} in the output")


KEEPER = [sys.executable, "-P", "-m", "resources.service.keeper"]


def environ(path: Path | None = None) -> dict[str, str]:
    """What a keeper of the version at `path` is started with; None: of this checkout."""
    return {"PATH": os.environ["PATH"], **({"PYTHONPATH": str(path)} if path is not None else {})}


def other_version(directory: Path, version: int) -> Path:
    """A copy of the keeper that speaks `version` of the protocol and the one before; returns where it is imported from."""
    source = Path(protocol.__file__).parents[2]
    path = directory / f"version-{version}"
    shutil.copytree(source, path / source.name, ignore=shutil.ignore_patterns("__pycache__", "testing"))
    words = path / source.name / "service/keeper/protocol.py"
    before = words.read_text()
    words.write_text(before.replace(f"VERSION = {protocol.VERSION}\n", f"VERSION = {version}\n"))
    assert words.read_text() != before
    return path


def kill(pid: int) -> None:
    """SIGKILL, and waits until it is gone."""
    process = process_of(pid)
    process.send(signal.SIGKILL)
    wait_until(lambda: not process.alive, DEADLINE, f"the end of {pid}")


def process_of(pid: int) -> Process:
    found = identify(pid)
    assert found is not None
    return found


def python(code: str) -> list[str]:
    """An argv that runs `code` without the site's start-up."""
    return [sys.executable, "-S", "-c", code]
