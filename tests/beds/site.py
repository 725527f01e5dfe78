"""One operator's host for end-to-end tests: a document, a state directory, and the real `openclaw` in processes of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.beds.processes import Spawned, wait_until

OPENCLAW = Path(sys.executable).parent / "openclaw"
TOKEN = "e2e-token-0123456789abcdef0123456789abcdef"

DOCUMENT = """\
version: 1
service: {{manager: embedded, restart: {{delay: 200ms, max_delay: 2s}}, stop: {{drain: 2s, grace: 2s}}}}
gateway:
  port: {port}
  auth: {{mode: token, token: {{env: E2E_TOKEN}}}}
logging:
  level: info
policy: {{verify: {verify}}}
"""


@dataclass
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Site:
    """A host. `state` is its state directory, the document lies beside it in `home`."""

    home: Path
    state: Path
    port: int
    spawned: Spawned
    base: Mapping[str, str]
    extra: dict[str, str] = field(default_factory=dict)
    # Makes the command line by which a program is started elsewhere (in a namespace), from its own and a directory.
    inside: Callable[[Sequence[str | Path], Path], Sequence[str | Path]] = lambda argv, _cwd: argv

    @property
    def document(self) -> Path:
        return self.home / "openclaw.yaml"

    @property
    def environ(self) -> dict[str, str]:
        return {
            **self.base,
            "OPENCLAW_STATE_DIR": str(self.state),
            "E2E_TOKEN": TOKEN,
            "USER": "operator",
            **self.extra,
        }

    def evidence(self) -> str:
        """What supervisor, keeper and journal say of this host, for whoever reads of a test that failed."""
        logs = (self.home / "supervisor.log", self.state / "reconciler" / "keeper" / "keeper.log")
        texts = [f"{path.name}:\n{path.read_text(errors='replace')[-8000:]}" for path in logs if path.exists()]
        for verb in ("status", "history"):
            try:
                answer = self.run(verb, timeout=20)
                texts.append(f"{verb}:\n{answer.out}{answer.err}")
            except subprocess.TimeoutExpired as err:
                texts.append(str(err))
        return "\n".join(texts)

    def write(self, text: str | None = None, *, verify: str = "1s", **values: Any) -> str:
        """Writes the document: `text`, or the usual one with these values. Returns it."""
        text = text if text is not None else DOCUMENT.format(port=values.pop("port", self.port), verify=verify)
        self.document.write_text(text, encoding="utf-8")
        return text

    def edit(self, old: str, new: str) -> None:
        """Replaces a part of the document, as an editor does that writes in place."""
        text = self.document.read_text()
        assert old in text
        self.document.write_text(text.replace(old, new))

    def run(self, *argv: str | Path, timeout: float = 60, cwd: Path | None = None, stdin: str = "") -> Answer:
        """Runs `openclaw ARGV` to its end."""
        done = subprocess.run(
            self.inside([OPENCLAW, *argv], cwd or self.home),
            cwd=cwd or self.home,
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *argv: str, **environ: str) -> subprocess.Popen[str]:
        """Starts `openclaw ARGV`, with pipes for what it prints; `environ` comes on top of the usual."""
        return self.spawned.start(
            self.inside([OPENCLAW, *argv], self.home),
            cwd=self.home,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *argv: str) -> Answer:
        """The same inside of this process: for many quick commands, where how a process begins and ends is not the question."""
        from reconciler.cli.main import main

        out, err = io.StringIO(), io.StringIO()
        before, directory = dict(os.environ), os.getcwd()
        try:
            os.environ.clear()
            os.environ.update(self.environ)
            os.chdir(self.home)
            with redirect_stdout(out), redirect_stderr(err):
                code = main(argv)
        finally:
            os.chdir(directory)
            os.environ.clear()
            os.environ.update(before)
        return Answer(code, out.getvalue(), err.getvalue())

    def apply(self, *argv: str, code: int = 0) -> Any:
        """`openclaw apply --yes --json`, whose exit code must be `code`; its answer."""
        answer = self.run("apply", "--yes", "--json", *argv)
        assert answer.code == code, (answer.code, answer.out, answer.err)
        return answer.json if answer.out else None

    def plan(self, *argv: str, code: int = 0) -> Any:
        """`openclaw plan --json`, whose exit code must be `code`; its answer."""
        answer = self.run("plan", "--json", *argv)
        assert answer.code == code, (answer.code, answer.out, answer.err)
        return answer.json

    def service(self) -> Any:
        """`openclaw service status --json`."""
        answer = self.run("service", "status", "--json")
        assert answer.code == 0, answer.err
        return answer.json

    def config(self) -> Any:
        """What the running gateway says its config is (`config.get`)."""
        answer = self.run("gateway", "call", "config.get")
        assert answer.code == 0, answer.err
        return answer.json["config"]

    def standing(self) -> tuple[int, str]:
        """Number and result of the newest generation."""
        newest = self.generations()[0]
        return newest["number"], newest["result"]

    def level(self) -> str | None:
        """The log level that the gateway runs at; None where it does not answer, as in the middle of a restart."""
        answer = self.run("gateway", "call", "config.get")
        return answer.json["config"]["logging"]["level"] if answer.code == 0 else None

    def supervisor(self, *argv: str) -> Supervisor:
        """Starts `openclaw run` and waits until it has looked once."""
        log = self.home / "supervisor.log"
        with log.open("ab") as file:
            process = self.spawned.start(
                self.inside([OPENCLAW, "run", *argv], self.home),
                cwd=self.home,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        supervisor = Supervisor(self, process, log)
        wait_until(
            lambda: '"watching"' in supervisor.text() or process.poll() is not None, 20, "the supervisor watches"
        )
        assert process.poll() is None, supervisor.text()
        return supervisor

    def health(self, port: int | None = None, secret: str | None = None) -> tuple[int, Any]:
        """Status and body of `GET /health`; status 0 where nobody answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.port}/health")
        if secret is not None:
            request.add_header("Authorization", f"Bearer {secret}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as err:
            with err:
                return err.code, json.load(err)
        except OSError:
            return 0, None

    def gateway_pid(self) -> int | None:
        """The process of the gateway, as it says itself."""
        _status, body = self.health(secret=TOKEN)
        return body.get("pid") if body else None

    def wait_healthy(self, port: int | None = None) -> None:
        """Waits until the gateway answers that it is well."""
        wait_until(lambda: self.health(port)[0] == 200, 20, f"a healthy gateway on {port or self.port}")

    def generations(self) -> list[Any]:
        """`openclaw history --json`, newest first."""
        answer = self.run("history", "--json")
        assert answer.code == 0, answer.err
        found: list[Any] = answer.json["generations"]
        return found


@dataclass
class Supervisor:
    """A running `openclaw run`."""

    site: Site
    process: subprocess.Popen[Any]
    log: Path

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def events(self) -> list[Any]:
        """The whole lines of its log; one that is being written, or a line separator inside of a text, ends none."""
        whole, _, _unfinished = self.text().rpartition("\n")
        return [json.loads(line) for line in whole.split("\n") if line.startswith("{")]

    def wait_event(self, found: Callable[[Any], bool], what: str, seconds: float = 20) -> Any:
        """Waits for a log line."""
        return wait_until(lambda: next((event for event in self.events() if found(event)), None), seconds, what)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ends it and returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
