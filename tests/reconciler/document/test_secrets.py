"""Secrets are resolved from where they are, all problems at once, and no text ever shows one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio

from reconciler.desired import SecretRef
from reconciler.document.load import Loaded, load
from reconciler.document.problems import render_problems
from reconciler.document.secrets import SecretValues, references, resolve, resolve_references
from reconciler.errors import DocumentError

ENVIRON = {"PATH": os.environ["PATH"], "TOKEN": "canary-1", "HOME": "/nonexistent"}


def document(directory: Path, auth: str) -> Loaded:
    path = directory / "openclaw.yaml"
    path.write_text(f"version: 1\ngateway:\n  auth:\n{auth}")
    return load(path, {})


def token(loaded: Loaded) -> SecretRef:
    gateway = loaded.desired.gateway
    assert gateway is not None
    assert gateway.token is not None
    return gateway.token


def resolved(loaded: Loaded, salt: bytes = b"salt", seconds: float = 5.0) -> SecretValues:
    return resolve(loaded, ENVIRON, salt=salt, seconds=seconds)


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("{env: TOKEN}", "canary-1"),
        ("${TOKEN}", "canary-1"),
        ("{file: secret}", "canary-2"),
        ("{exec: [sh, -c, 'printf canary-3']}", "canary-3"),
        ("{exec: [cat, secret]}", "canary-2"),
        ("{exec: [sh, -c, 'echo \"$TOKEN\"']}", "canary-1"),
        ("{exec: [sh, -c, 'printf \"a\\nb\\n\\n\"']}", "a\nb\n"),
    ],
)
def test_each_source(tmp_path: Path, reference: str, value: str) -> None:
    (tmp_path / "secret").write_bytes(b"canary-2\r\n")
    loaded = document(tmp_path, f"    token: {reference}\n")
    secrets = resolved(loaded)
    assert secrets.reveal(token(loaded)) == value
    assert value not in repr(secrets)
    assert value not in repr(secrets.digest(token(loaded)))


@pytest.mark.req("DOC-4")
def test_digests_compare_values_and_depend_on_the_salt(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary-1\n")
    loaded = document(tmp_path, "    token: {file: secret}\n    password: ${TOKEN}\n")
    secrets = resolved(loaded)
    file, env = SecretRef("file", "secret"), SecretRef("env", "TOKEN")
    assert secrets.digest(file) == secrets.digest(env)
    assert secrets.digest(file) != resolved(loaded, salt=b"other").digest(file)
    assert "canary" not in secrets.digest(file).digest


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize(
    ("reference", "code", "text"),
    [
        ("{file: none}", "secret_unreadable", "read the secret file 'none': there is no such file"),
        ("{file: .}", "secret_unreadable", "it is a directory"),
        ("{file: fifo}", "secret_unreadable", "it is no regular file"),
        ("{file: large}", "secret_unreadable", "65,537 bytes are more than the 64 KiB allowed"),
        ("{file: empty}", "secret_unreadable", "it gives nothing"),
        ("{file: binary}", "secret_unreadable", "it gives no UTF-8 text"),
        ("{file: nul}", "secret_unreadable", "it gives a NUL byte"),
        ("{file: ~/secret}", "secret_unreadable", "read the secret file '~/secret': there is no such file"),
        ("{env: NONE}", "secret_unset", "use the environment variable NONE: it is not set"),
        ("{exec: [none-such]}", "secret_exec_failed", "start 'none-such': there is no such file"),
        ("{exec: [sh, -c, 'echo canary; exit 4']}", "secret_exec_failed", "it ended with status 4"),
        ("{exec: ['true']}", "secret_exec_failed", "it gives nothing"),
        ("{exec: [head, -c, 70000, /dev/zero]}", "", ""),
        ("{exec: [head, -c, '70000', /dev/zero]}", "secret_exec_failed", "more than 64 KiB"),
    ],
)
def test_each_failure_has_its_place_and_no_value(tmp_path: Path, reference: str, code: str, text: str) -> None:
    (tmp_path / "large").write_bytes(b"x" * 65537)
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "binary").write_bytes(b"canary\xff")
    (tmp_path / "nul").write_bytes(b"canary\0")
    os.mkfifo(tmp_path / "fifo")
    if not code:
        with pytest.raises(DocumentError):  # an argument that is no text never gets this far
            document(tmp_path, f"    token: {reference}\n")
        return
    with pytest.raises(DocumentError) as caught:
        resolved(document(tmp_path, f"    token: {reference}\n"))
    (problem,) = caught.value.problems
    assert (problem.code, problem.path, problem.line) == (code, "gateway.auth.token", 4)  # type: ignore[attr-defined]
    assert text in render_problems([problem])  # type: ignore[list-item]


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize(
    ("names", "said"),
    [(("A",), "cannot resolve 1 reference to a secret"), (("A", "B"), "cannot resolve 2 references to secrets")],
)
def test_how_many_cannot_be_resolved_is_said_in_words(names: tuple[str, ...], said: str) -> None:
    found = references({"service": {"environment": {name: {"env": name} for name in names}}})
    with pytest.raises(DocumentError) as caught:
        resolve_references(found, {}, salt=b"", directory=".", locate=lambda _path: None)
    assert str(caught.value) == said


@pytest.mark.req("DOC-4")
@pytest.mark.real
def test_programs_that_hang_are_ended_side_by_side_with_all_they_started(tmp_path: Path) -> None:
    """Five programs that would take a minute each cost one time limit, and leave no process behind."""
    agents = "".join(
        f"    V{number}: {{exec: [sh, -c, 'echo $$ >> pids; sleep 60 & echo $! >> pids; echo canary; wait {number}']}}\n"
        for number in range(5)
    )
    path = tmp_path / "openclaw.yaml"
    path.write_text(f"version: 1\nservice:\n  environment:\n{agents}")
    began = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        resolved(load(path, {}), seconds=0.5)
    assert time.monotonic() - began < 2.5
    assert len(caught.value.problems) == 5
    assert "canary-" not in render_problems(caught.value.problems)  # type: ignore[arg-type]
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 10
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.real
async def test_it_can_be_called_from_a_thread_of_trio(tmp_path: Path) -> None:
    loaded = document(tmp_path, "    token: {exec: [printf, canary]}\n    password: {exec: [printf, other]}\n")
    secrets = await trio.to_thread.run_sync(lambda: resolved(loaded))
    assert secrets.reveal(token(loaded)) == "canary"


def test_references_are_found_in_settings_and_not_in_free_names() -> None:
    canonical = {
        "gateway": {"settings": {"a": ["x${ONE}", {"env": "plain"}], "env": {"vars": {"B": "${TWO}"}}}, "auth": None},
        "tunnels": {"env": {"type": "ngrok", "token": {"env": "THREE"}}},
        "service": {"environment": {"file": {"file": "p"}, "T": "text"}},
        "heartbeats": {"agents": {"env": {"every": 1}}},
        "x-free": {"token": {"env": "NO"}},
    }
    assert [(path, str(each)) for path, each in references(canonical)] == [
        (("gateway", "settings", "a", 0), "env:ONE"),
        (("gateway", "settings", "env", "vars", "B"), "env:TWO"),
        (("service", "environment", "file"), "file:p"),
        (("tunnels", "env", "token"), "env:THREE"),
    ]
