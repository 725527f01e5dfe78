"""How the command begins and how it ends, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler import host, paths
from reconciler.cli import entry
from reconciler.cli.entry import command_of
from reconciler.errors import SHORTAGES

CANARY = "hunter2-canary-swordfish"
RAISE_IT = "this process may not open as many as it needs: raise the limit (`ulimit -n`)"

# A program that fails in the way its first argument says; only the ends of it are of interest here.
PROGRAM = """
import errno, os, signal, sys, types
from reconciler.errors import StaleError
CANARY = "hunter2-canary-swordfish"
def main():
    match sys.argv[1]:
        case "value": raise ValueError(f"cannot parse token {CANARY}")
        case "key": return {}[CANARY]
        case "attribute": return CANARY.nothing
        case "type": raise TypeError(f"not a number: '{CANARY}' or {CANARY}")
        case "cause":
            try:
                int(CANARY)
            except ValueError as err:
                raise OSError(2, CANARY, CANARY) from err
        case "group": raise ExceptionGroup(CANARY, [ValueError(CANARY), RuntimeError(CANARY)])
        case "note":
            err = RuntimeError(CANARY)
            err.add_note(CANARY)
            raise err
        case "interrupt": raise KeyboardInterrupt
        case "interrupted group": raise BaseExceptionGroup("x", [KeyboardInterrupt()])
        case "known": raise StaleError("cannot apply: it moved", hint="plan again")
        case "short":
            raise ExceptionGroup("x", [ValueError("of what follows"), OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x")])
        case "exit text": sys.exit("no such thing")
        case "exit": sys.exit(78)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        case "term wrapped":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            except SystemExit as err:
                raise RuntimeError("inside") from err
        case "full":
            print("x")
        case "full and long":
            print("x" * 100_000)
        case "full in the middle":
            print("x" * 100_000, flush=True)
            print("and on", file=sys.stderr, flush=True)
            return 5
        case "ok": return 2
whole = types.ModuleType("reconciler.cli.main")
whole.main = main
sys.modules["reconciler.cli.main"] = whole
from reconciler.cli.entry import main
sys.exit(main())
"""


def run(
    state: Path, how: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    environ = {
        "OPENCLAW_STATE_DIR": str(state),
        "HOME": str(state),
        "PATH": os.environ["PATH"],
        "OPENCLAW_GATEWAY_TOKEN": CANARY,
        "XDG_RUNTIME_DIR": str(state / "runtime"),
    }
    command = [sys.executable, "-c", PROGRAM, how]
    return subprocess.run(command, env=environ, text=True, timeout=60, stdout=stdout, stderr=stderr)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "reconciler").mkdir(mode=0o700)
    return tmp_path


def report(state: Path) -> Path | None:
    return next(state.glob("**/crash-*.txt"), None)


@pytest.mark.real
@pytest.mark.req("DOC-4")
@pytest.mark.parametrize("how", ["value", "key", "attribute", "type", "cause", "group", "note"])
def test_a_bug_leaves_a_report_without_what_it_held(state: Path, how: str) -> None:
    done = run(state, how)
    found = report(state)
    assert found is not None
    name = found.stem.removeprefix("crash-")
    assert done.returncode == 70
    assert (done.stdout, done.stderr) == ("", f"openclaw: a bug of ours (id {name}): the trace lies in {found}\n")
    assert found.stat().st_mode & 0o777 == 0o600
    text = found.read_text()
    assert "in main" in text
    assert "entry.py" in text
    assert not any(part in text for part in (CANARY, "hunter2", "swordfish"))
    if how == "attribute":
        assert "'str' object has no attribute 'nothing'" in text
    if how == "cause":
        assert "[Errno 2] No such file or directory" in text
        assert "because of:" in text
    if how == "group":
        assert "builtins.RuntimeError" in text


@pytest.mark.real
def test_a_report_never_makes_a_directory_in_a_state_that_is_not_ours(tmp_path: Path) -> None:
    done = run(tmp_path, "value")
    assert done.returncode == 70
    assert list(tmp_path.iterdir()) == []
    assert "openclaw crash" in done.stderr
    assert CANARY not in done.stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("how", "code", "stderr"),
    [
        ("ok", 2, ""),
        ("exit", 78, ""),
        ("exit text", 1, "no such thing\n"),
        ("interrupt", 130, ""),
        ("interrupted group", 130, ""),
        ("term", 143, ""),
        ("term wrapped", 143, ""),
        ("known", 4, "openclaw: cannot apply: it moved\n  hint: plan again\n"),
        ("short", 1, f"openclaw: cannot go on: too many open files\n  hint: {RAISE_IT}\n"),
    ],
)
def test_every_end_has_its_exit_code(state: Path, how: str, code: int, stderr: str) -> None:
    done = run(state, how)
    assert (done.returncode, done.stderr) == (code, stderr)
    assert report(state) is None


def test_a_shortage_is_the_same_here_and_for_whoever_serves() -> None:
    assert entry.SHORTAGES == SHORTAGES


@pytest.mark.real
def test_a_reader_that_went_away_is_no_news(state: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = run(state, "full", stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
    assert report(state) is None


NO_ROOM = (
    "openclaw: cannot write to standard output: no space left on device\n"
    "  hint: the command itself was carried out; only what it prints is lost\n"
)
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")


@pytest.mark.real
@needs_full
@pytest.mark.parametrize(
    ("how", "code", "before"),
    [("full", 1, ""), ("full and long", 1, ""), ("full in the middle", 5, "and on\n"), ("ok", 2, None)],
)
def test_output_that_cannot_be_written_is_said_and_no_bug(state: Path, how: str, code: int, before: str | None) -> None:
    with open("/dev/full", "w") as full:
        done = run(state, how, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (code, "" if before is None else before + NO_ROOM)
    assert report(state) is None


@pytest.mark.real
@needs_full
@pytest.mark.parametrize(
    ("how", "code"), [("full in the middle", 5), ("full", 1), ("known", 4), ("value", 70), ("exit text", 1)]
)
def test_where_nothing_can_be_said_the_exit_code_still_tells(state: Path, how: str, code: int) -> None:
    with open("/dev/full", "w") as full:
        done = run(state, how, stdout=full.fileno(), stderr=full.fileno())
    assert done.returncode == code


@pytest.mark.real
def test_closed_streams_are_nobody_elses(state: Path) -> None:
    """A file that is opened must not become the one to which is printed."""
    program = PROGRAM.replace(
        'print("x")',
        'print("x"); file = os.open("opened", os.O_CREAT | os.O_RDWR); assert file > 2; sys.stderr.write("x")',
    )
    environ = {"OPENCLAW_STATE_DIR": str(state), "HOME": str(state), "PATH": os.environ["PATH"]}
    command = ["sh", "-c", '"$0" -c "$1" full <&- >&- 2>&-', sys.executable, program]
    root = str(Path(__file__).parents[3])
    done = subprocess.run(command, env={**environ, "PYTHONPATH": root}, cwd=state, timeout=60)
    assert done.returncode == 0
    assert (state / "opened").read_text() == ""
    assert report(state) is None


@pytest.mark.real
def test_a_signal_that_is_ignored_from_outside_stays_so(state: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        program = PROGRAM.replace("signal.pause()", 'sys.exit("went on")')
        environ = {"OPENCLAW_STATE_DIR": str(state), "HOME": str(state), "PATH": os.environ["PATH"]}
        done = subprocess.run([sys.executable, "-c", program, "term"], env=environ, text=True, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.stderr == "went on\n"


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.real
@pytest.mark.parametrize("where", ["as it is imported", "as it begins"])
def test_ctrl_c_before_the_command_began_leaves_no_trace(tmp_path: Path, where: str) -> None:
    package = tmp_path / "reconciler" / "cli"
    package.mkdir(parents=True)
    for directory in (package.parent, package):
        (directory / "__init__.py").touch()
    entry_text = f"import os, signal\ndef main():\n    {INTERRUPT}\n"
    (package / "entry.py").write_text(entry_text if where == "as it begins" else f"{entry_text}main()\n")
    script = Path(__file__).parents[3] / "tools" / "openclaw"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-S", script], env=environ, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.real
def test_ctrl_c_after_all_is_done_changes_nothing(state: Path) -> None:
    late = PROGRAM.replace("sys.exit(main())", "code = main(); os.kill(os.getpid(), signal.SIGINT); sys.exit(code)")
    environ = {"OPENCLAW_STATE_DIR": str(state), "HOME": str(state), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", late, "ok"], env=environ, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plan", ("plan", None)),
        ("plan --json -f a.yaml", ("plan", "a.yaml")),
        ("-f a.yaml plan", ("plan", "a.yaml")),
        ("-fa.yaml plan", ("plan", "a.yaml")),
        ("--file=a.yaml apply p.json", ("apply", "a.yaml")),
        ("--file a.yaml status", ("status", "a.yaml")),
        ("config get plan", ("config", None)),
        ("plan --help", (None, None)),
        ("-h", (None, None)),
        ("--verbose plan", (None, None)),
        ("plan -f", ("plan", None)),
        ("", (None, None)),
    ],
)
def test_it_finds_the_command_and_the_document_among_the_arguments(
    line: str, expected: tuple[str | None, str | None]
) -> None:
    assert command_of(line.split()) == expected


# Where things lie


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({}, "/h/.openclaw"),
        ({"OPENCLAW_PROFILE": "default"}, "/h/.openclaw"),
        ({"OPENCLAW_PROFILE": "work"}, "/h/.openclaw-work"),
        ({"OPENCLAW_STATE_DIR": "~"}, "/h"),
        ({"OPENCLAW_STATE_DIR": "~/s"}, "/h/s"),
        ({"OPENCLAW_STATE_DIR": " /s//t/. "}, "/s/t"),
        ({"OPENCLAW_STATE_DIR": "~other/s"}, f"{Path.cwd()}/~other/s"),
    ],
)
def test_the_cheap_rules_and_the_host_agree(environ: dict[str, str], root: str) -> None:
    whole = host.host_from({**environ, "HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/7"}, 7)
    cheap = paths.absolute(paths.state_root(environ, "/h"), str(Path.cwd()))
    assert str(whole.state.root) == cheap == root
    assert str(whole.socket_path("control.sock")) == paths.socket_path(cheap, "control.sock", "/run/user/7")


def test_a_deep_state_directory_has_its_sockets_in_the_runtime_directory() -> None:
    deep = "/d" * 60
    path = paths.socket_path(deep, "keeper/keeper.sock", "/run/user/7")
    assert path.startswith("/run/user/7/openclaw-")
    assert path.endswith("/keeper.sock")
    assert path != paths.socket_path("/e" * 60, "keeper/keeper.sock", "/run/user/7")


def test_the_document_is_found_in_order() -> None:
    def find(named: str | None, environ: dict[str, str], *there: str) -> str:
        return paths.document_path(named, environ, "/h", "/w", lambda path: path in there)

    assert find("a.yaml", {"OPENCLAW_FILE": "/f.yaml"}) == "/w/a.yaml"
    assert find(None, {"OPENCLAW_FILE": "./f.yaml"}, "/w/openclaw.yaml") == "/w/f.yaml"
    assert find(None, {}, "/w/openclaw.yaml") == "/w/openclaw.yaml"
    assert find(None, {}) == "/h/.config/openclaw/openclaw.yaml"
    assert find(None, {"XDG_CONFIG_HOME": "/c"}) == "/c/openclaw/openclaw.yaml"
