"""An operator's host that is a machine of its own: the real `openclaw` under a real systemd, set up as the how-to says."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.beds.processes import Spawned, run, wait_until
from tests.beds.site import DOCUMENT, TOKEN, Site
from tests.beds.systemd_box import SystemdBox
from tests.beds.systemd_holder import PROJECT, TESTER, TESTER_UID

PAGE: Final = PROJECT / "docs/how-to/start-at-boot.md"
# Where the page takes the checkout, the document and the state to be.
CHECKOUT: Final = f"/home/{TESTER}/openclaw"
STATE: Final = f"{CHECKOUT}/.openclaw"
UNITS: Final = {"user": "~/.config/systemd/user/openclaw.service", "system": "/etc/systemd/system/openclaw.service"}
# The machine's network has nobody else in it.
PORT: Final = 18789


@dataclass(kw_only=True)
class BoxedSite(Site):
    """A host in `box`, with the unit of `manager` (a key of UNITS); `home` and `state` are seen from outside."""

    box: SystemdBox
    manager: str

    def install(self) -> None:
        """Writes the page's unit and starts it; returns when the first generation is confirmed."""
        path = UNITS[self.manager]
        text = (
            unit_of(PAGE.read_text(), path)
            .replace("/home/you/", f"/home/{TESTER}/")
            .replace("User=you", f"User={TESTER}")
        )
        user = TESTER if self.manager == "user" else "root"
        self.box.write(path.replace("~", f"/home/{TESTER}"), text, user=user)
        self.systemctl("daemon-reload")
        self.systemctl("enable", "--now", "openclaw")
        self.wait_result("confirmed")

    def write(self, text: str | None = None, *, verify: str = "1s", **values: Any) -> str:
        text = text if text is not None else DOCUMENT.format(port=values.pop("port", self.port), verify=verify)
        # As `openclaw init` has it: a unit needs no environment for it.
        return super().write(text.replace("{env: E2E_TOKEN}", "{file: .openclaw-token}"))

    def systemctl(self, *argv: str, code: int = 0) -> str:
        """`systemctl` for the manager of the unit, as the one whose unit it is; its answer."""
        if self.manager == "user":
            done = self.box.run(["systemctl", "--user", *argv])
        else:
            done = self.box.run(["systemctl", *argv], user="root")
        assert done.returncode == code, (argv, done.stdout, done.stderr)
        return done.stdout.strip()

    def health(self, port: int | None = None, secret: str | None = None) -> tuple[int, Any]:
        argv = ["curl", "--silent", "--max-time", "5", "--write-out", r"\n%{http_code}"]
        if secret is not None:
            argv += ["--header", f"Authorization: Bearer {secret}"]
        # From root's console: a login would cost more than the question.
        done = self.box.run([*argv, f"http://127.0.0.1:{port or self.port}/health"], user="root")
        body, _, status = done.stdout.rpartition("\n")
        return (int(status), json.loads(body)) if done.returncode == 0 else (0, None)

    def gateways(self) -> list[int]:
        """The processes of the machine that are a gateway."""
        found = self.box.run(["pgrep", "--full", "--", "-m gateway run$"], user="root")
        return [int(word) for word in found.stdout.split()]

    def temporaries(self) -> list[str]:
        """The temporary files below the state directory."""
        return [path.name for path in self.state.rglob("*.tmp")]

    def ready(self) -> bool:
        """Whether `status` names every resource ready."""
        answer = self.run("status", "--json")
        assert answer.code == 0, answer.err
        conditions = [
            (resource["key"], condition["status"])
            for resource in answer.json["resources"]
            for condition in resource["conditions"]
            if condition["type"] == "Ready"
        ]
        return ("service/gateway", "True") in conditions and {status for _, status in conditions} == {"True"}

    def wait_result(self, result: str) -> None:
        """Waits until a supervisor says that the newest generation ended so."""
        wait_until(lambda: self._newest_result() == result, 40, f"the newest generation is {result}")

    def _newest_result(self) -> str | None:
        """None where nobody answers, or nothing was done yet. Asked of the supervisor's socket: a command takes longer."""
        socket = f"{STATE}/reconciler/control.sock"
        ask = ["curl", "--silent", "--fail", "--unix-socket", socket, "http://openclaw/v1/history?limit=1"]
        done = self.box.run(ask, user="root")
        found = json.loads(done.stdout)["generations"] if done.returncode == 0 else []
        return found[0]["result"] if found else None


def make_boxed_site(spawned: Spawned, directory: Path, manager: str) -> BoxedSite:
    """A machine with an empty checkout, as after `make run` was ended, without a document; skips the test where there is none."""
    box = SystemdBox(spawned, directory)
    compile_modules()
    box.write(f"{CHECKOUT}/.openclaw-token", f"{TOKEN}\n")
    box.path(f"{CHECKOUT}/.openclaw-token").chmod(0o600)
    box.path(f"{CHECKOUT}/.venv").symlink_to(sys.prefix)

    def inside(argv: Sequence[str | Path], _cwd: Path) -> Sequence[str | Path]:
        return box.inside(argv, cwd=CHECKOUT, env={"OPENCLAW_STATE_DIR": STATE})

    return BoxedSite(
        home=box.path(CHECKOUT),
        state=box.path(STATE),
        port=PORT,
        spawned=spawned,
        base={"PATH": os.environ["PATH"]},
        inside=inside,
        box=box,
        manager=manager,
    )


@functools.cache
def compile_modules() -> None:
    """Compiles the program, as its first start does where it may write beside itself; inside of a box it may not."""
    done = run([sys.executable, "-m", "compileall", "-q", "reconciler", "resources", "gateway"], cwd=PROJECT)
    assert done.returncode == 0, done.stdout


def give(path: Path) -> Path:
    """Makes a file that was written from outside the operator's."""
    os.chown(path, TESTER_UID, TESTER_UID)
    return path


def unit_of(page: str, path: str) -> str:
    """The unit text that the page gives for this path: the first indented block after its name."""
    lines = iter(page.split(f"`{path}`", 1)[1].splitlines())
    text = []
    for line in lines:
        if line.startswith("    "):
            text.append(line[4:])
        elif line and text:
            break
        elif text:
            text.append("")
    return "\n".join(text)
