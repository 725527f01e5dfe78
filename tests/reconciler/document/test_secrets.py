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

ENVIRON = {
    "PATH": os.environ["PATH"],
    "TOKEN": "canary-1",
    "HOME": "/nonexistent",
    "BINARY": "canary\udcff",
    "BLANK": "\t",
}


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
        ("{exec: [sh, -c, 'printf \"a b\\n\"']}", "a b"),
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
        ("{file: blank}", "secret_unreadable", "use the secret file 'blank': it gives nothing but white space"),
        ("{env: NONE}", "secret_unset", "use the environment variable NONE: it is not set"),
        ("{env: BINARY}", "secret_unset", "use the environment variable BINARY: it gives no UTF-8 text"),
        ("{env: BLANK}", "secret_unset", "use the environment variable BLANK: it gives nothing but white space"),
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
    (tmp_path / "blank").write_bytes(b"\n\n")
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


PEM = "-----BEGIN CANARY-----\nabc\n-----END CANARY-----\n"


@pytest.mark.req("DOC-4", "DOC-9")
@pytest.mark.parametrize("name", ["token", "password"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("canary\n", "begins or ends with white space"),
        (" canary", "begins or ends with white space"),
        ("canary\u00a0", "begins or ends with white space"),
        ("\ufeffcanary", "begins with a byte order mark"),
        ("can\nary", "holds a line break or another control character"),
        ("can\x01ary", "holds a line break or another control character"),
        ("canary\x7f", "holds a line break or another control character"),
        (PEM.strip(), "holds a line break or another control character"),
    ],
)
def test_what_a_client_cannot_show_to_the_gateway_is_refused(tmp_path: Path, name: str, value: str, why: str) -> None:
    loaded = document(tmp_path, f"    {name}: {{env: SHOWN}}\n")
    with pytest.raises(DocumentError) as caught:
        resolve(loaded, {"SHOWN": value}, salt=b"")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path, problem.line) == ("secret_unfit", f"gateway.auth.{name}", 4)  # type: ignore[attr-defined]
    text = render_problems([problem])  # type: ignore[list-item]
    assert f"use the environment variable SHOWN for the gateway: it {why}" in text
    assert "canary" not in text


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize("value", ["ab cd", "grün", "😀-👩‍💻", "~!@#$%^&*()"])
def test_any_other_line_of_text_is_a_secret_of_the_gateway(tmp_path: Path, value: str) -> None:
    loaded = document(tmp_path, "    token: {env: SHOWN}\n")
    assert resolve(loaded, {"SHOWN": value}, salt=b"").reveal(token(loaded)) == value


@pytest.mark.req("DOC-4")
def test_secrets_that_are_not_shown_in_a_header_may_have_lines(tmp_path: Path) -> None:
    """The same reference may be good in one place and not in another."""
    (tmp_path / "pem").write_text(f"{PEM}\n")
    path = tmp_path / "openclaw.yaml"
    path.write_text("version: 1\nservice: {environment: {KEY: {file: pem}}}\n")
    pem = SecretRef("file", "pem")
    assert resolved(load(path, {})).reveal(pem) == PEM
    path.write_text(f"{path.read_text()}gateway: {{auth: {{token: {{file: pem}}}}}}\n")
    with pytest.raises(DocumentError) as caught:
        resolved(load(path, {}))
    assert [problem.path for problem in caught.value.problems] == ["gateway.auth.token"]  # type: ignore[attr-defined]
    found = references(load(path, {}).desired.canonical)
    again = resolve_references(
        found,
        {},
        salt=b"",
        directory=str(tmp_path),
        locate=lambda _path: None,
        instead=lambda path: "canary-before" if path[0] == "gateway" else None,
    )
    assert again.reveal(pem) == "canary-before"


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
