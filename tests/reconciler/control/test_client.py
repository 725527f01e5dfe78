"""The cheap client against a real socket: the same bytes, the same exit code, and nothing done twice."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from reconciler.control.calls import CommandCall, Identity, Session
from reconciler.control.client import dumps, environment_digest, loads
from tests.reconciler.control.conftest import FakeSupervisor, serving

# What the client does when it goes on without the supervisor is the whole program; here it only says so.
PROGRAM = """
import sys, types
whole = types.ModuleType("reconciler.cli.main")
def main():
    print("the long way")
    return 42
whole.main = main
def document_refused(file):
    print(f"the document {file}")
    return 78 if file == "wrong.yaml" else None
whole.document_refused = document_refused
sys.modules["reconciler.cli.main"] = whole
from reconciler.cli.entry import main
code = main()
if "--modules" in sys.argv:
    sys.stderr.write(" ".join(sorted(sys.modules)))
sys.exit(code)
"""


@pytest.fixture
def document(state: Path) -> Path:
    path = state / "openclaw.yaml"
    path.write_text("version: 1\n")
    return path


@pytest.fixture
def supervisor(document: Path) -> FakeSupervisor:
    return FakeSupervisor(document=str(document), names=("CANARY", "OPENCLAW_LOG_LEVEL"), environ={"CANARY": "a"})


def environ(state: Path, **more: str) -> dict[str, str]:
    return {"OPENCLAW_STATE_DIR": str(state), "HOME": str(state), "CANARY": "a", "PATH": os.environ["PATH"], **more}


async def openclaw(
    state: Path, *arguments: str, environment: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environ(state) if environment is None else environment,
        cwd=state,
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


@asynccontextmanager
async def served(supervisor: FakeSupervisor, state: Path) -> AsyncIterator[None]:
    async with serving(supervisor, state / "reconciler" / "control.sock"):
        yield


# Without a process


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(documents)
def test_its_json_is_json(data: Any) -> None:
    assert json.loads(dumps(data)) == data
    assert loads(json.dumps(data)) == data
    assert loads(json.dumps(data) + "\n") == data


@pytest.mark.parametrize("text", ["", "{", "{a", "[1,]", '"', "nul", "1 2", "{} x"])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        loads(text)


def test_the_digest_tells_environments_apart_and_says_nothing_of_them() -> None:
    salt = b"s" * 32
    digests = {
        environment_digest(names, values, salt)
        for names, values in (
            (["A"], {}),
            (["A"], {"A": ""}),
            (["A"], {"A": "x"}),
            (["A", "B"], {"A": "x"}),
            (["A", "B"], {"A": "x\0B=1:y"}),
            (["A", "B"], {"A": "x", "B": "y"}),
        )
    }
    assert len(digests) == 6
    assert environment_digest(["B", "A"], {"A": "1", "Z": "2"}, salt) == environment_digest(
        ["A", "B"], {"A": "1"}, salt
    )
    assert environment_digest(["A"], {"A": "x"}, b"t" * 32) not in digests


# With one


@pytest.mark.real
@pytest.mark.parametrize("command", ["plan", "apply", "status"])
async def test_it_prints_what_the_supervisor_prints(
    supervisor: FakeSupervisor, state: Path, document: Path, command: str
) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        session.out("zażółć\n" * 30_000)
        session.err("progress\r")
        return 2

    supervisor.command = run
    async with served(supervisor, state):
        done = await openclaw(state, command, "--json", "-f", "openclaw.yaml")
    assert (done.returncode, done.stderr) == (2, b"progress\r")
    assert done.stdout == "zażółć\n".encode() * 30_000
    (call,) = supervisor.asked
    assert (call.argv, call.directory, call.document) == (
        (command, "--json", "-f", "openclaw.yaml"),
        str(state),
        str(document),
    )
    assert (call.uid, call.terminal.stdout, call.terminal.colour) == (os.getuid(), False, False)


@pytest.mark.real
async def test_it_passes_on_the_width_of_its_terminal(supervisor: FakeSupervisor, state: Path) -> None:
    async with served(supervisor, state):
        await openclaw(state, "plan", environment=environ(state, COLUMNS="123"))
    assert supervisor.asked[0].terminal.width == 123


@pytest.mark.real
async def test_it_loads_next_to_nothing(supervisor: FakeSupervisor, state: Path) -> None:
    """Each of these alone costs a good part of the interpreter's own start."""
    dear = set(sys.stdlib_module_names) & {
        "json", "re", "enum", "dataclasses", "pathlib", "socket", "signal", "typing", "hashlib", "functools", "collections",
        "subprocess", "contextlib", "argparse", "shutil", "inspect",
    }  # fmt: skip
    async with served(supervisor, state):
        # Without site, whose editable installs and hooks load what they like.
        program = f"import sys; sys.path.append({str(Path(__file__).parents[3])!r})" + PROGRAM
        done = await trio.run_process(
            [sys.executable, "-I", "-S", "-c", program, "plan", "--modules"],
            env=environ(state),
            cwd=state,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.stdout == b"no changes\n"
    loaded = set(done.stderr.decode().removeprefix("looking\n").split())
    assert "reconciler.control.client" in loaded
    assert loaded & dear == set()
    ours = {name for name in loaded if name.startswith(("reconciler", "resources", "gateway"))}
    assert ours == {
        "reconciler",
        "reconciler.cli",
        "reconciler.cli.entry",
        "reconciler.cli.main",
        "reconciler.control",
        "reconciler.control.client",
        "reconciler.paths",
        "reconciler.streams",
    }


@pytest.mark.real
async def test_without_a_supervisor_it_goes_the_long_way_without_a_word(state: Path, document: Path) -> None:
    done = await openclaw(state, "plan")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"the long way\n", b"")


@pytest.mark.real
@pytest.mark.parametrize("arguments", [["validate"], ["plan", "--help"], ["--version"], [], ["--unknown", "plan"]])
async def test_what_it_cannot_ask_for_goes_the_long_way(
    supervisor: FakeSupervisor, state: Path, arguments: list[str]
) -> None:
    async with served(supervisor, state):
        done = await openclaw(state, *arguments)
    assert done.stdout == b"the long way\n"
    assert supervisor.asked == []


@pytest.mark.real
async def test_another_environment_is_planned_for_at_home_and_said_so(supervisor: FakeSupervisor, state: Path) -> None:
    async with served(supervisor, state):
        done = await openclaw(state, "plan", environment=environ(state, CANARY="b"))
        other = await openclaw(state, "plan", environment=environ(state, OPENCLAW_LOG_LEVEL="debug"))
    for result in (done, other):
        assert result.stdout == b"the long way\n"
        assert result.stderr == b"openclaw: the supervisor runs in another environment; going on without it\n"
    assert supervisor.asked == []


@pytest.mark.real
async def test_what_the_supervisor_lacks_the_means_for_is_done_without_it(
    supervisor: FakeSupervisor, state: Path
) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EMFILE, "Too many open files")

    supervisor.command = run
    async with served(supervisor, state):
        done = await openclaw(state, "status")
        changed = await openclaw(state, "apply", "--yes")
    assert (done.returncode, done.stdout) == (42, b"the long way\n")
    assert done.stderr == b"openclaw: the supervisor cannot go on: too many open files; going on without it\n"
    assert (changed.returncode, changed.stdout) == (1, b"")


@pytest.mark.real
@pytest.mark.req("PLAN-6")
async def test_an_apply_in_another_environment_is_refused(supervisor: FakeSupervisor, state: Path) -> None:
    async with served(supervisor, state):
        done = await openclaw(state, "apply", "--yes", environment=environ(state, CANARY="b"))
        back = await openclaw(state, "rollback", "1", "--yes", environment=environ(state, CANARY="b"))
    assert (done.returncode, done.stdout) == (3, b"the document None\n")
    # That needs no document of now.
    assert (back.returncode, back.stdout) == (3, b"")
    assert b"would take back what differs\n  hint: let it apply" in done.stderr
    assert supervisor.asked == []


@pytest.mark.real
@pytest.mark.req("DOC-1", "PLAN-6")
async def test_a_document_that_is_not_valid_is_refused_before_the_environment(
    supervisor: FakeSupervisor, document: Path, state: Path
) -> None:
    supervisor.document = str(document.with_name("wrong.yaml"))
    async with served(supervisor, state):
        done = await openclaw(state, "apply", "--file=wrong.yaml", environment=environ(state, CANARY="b"))
    assert (done.returncode, done.stdout, done.stderr) == (78, b"the document wrong.yaml\n", b"")
    assert supervisor.asked == []


@dataclass
class Reading(FakeSupervisor):
    """Reads another document between its introduction and the command, so that its environment is measured anew."""

    def identity(self) -> Identity:
        who = super().identity()
        if len(self.names) == 2:
            self.names, self.who = ("CANARY",), None
        return who


@pytest.mark.real
@pytest.mark.req("PLAN-6")
@pytest.mark.parametrize(("canary", "code"), [("a", 0), ("b", 3)])
async def test_a_save_that_is_read_just_now_makes_no_other_environment(
    document: Path, state: Path, canary: str, code: int
) -> None:
    supervisor = Reading(document=str(document), names=("CANARY", "OPENCLAW_LOG_LEVEL"), environ={"CANARY": "a"})
    async with served(supervisor, state):
        done = await openclaw(state, "apply", "--yes", environment=environ(state, CANARY=canary))
    assert done.returncode == code, done.stderr
    assert len(supervisor.asked) == (1 if code == 0 else 0)


@pytest.mark.real
@pytest.mark.parametrize("how", ["option", "variable", "directory"])
async def test_another_document_is_not_its_business(supervisor: FakeSupervisor, state: Path, how: str) -> None:
    supervisor.document = "/etc/openclaw/openclaw.yaml"
    arguments = {"option": ["plan", "--file=other.yaml"]}.get(how, ["plan"])
    more = {"OPENCLAW_FILE": "/x.yaml"} if how == "variable" else {}
    async with served(supervisor, state):
        done = await openclaw(state, *arguments, environment=environ(state, **more))
    assert (done.stdout, done.stderr) == (b"the long way\n", b"")
    assert supervisor.asked == []


@pytest.mark.real
@pytest.mark.parametrize("how", ["dead", "silent", "closing", "garbage", "no socket"])
async def test_a_socket_that_does_not_serve_costs_at_most_two_seconds(state: Path, document: Path, how: str) -> None:
    path = state / "reconciler" / "control.sock"
    os.mkdir(path.parent, 0o700)
    if how == "no socket":
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        done = await openclaw(state, "plan")
    else:
        with trio.socket.socket(trio.socket.AF_UNIX) as sock:
            await sock.bind(str(path))
            if how != "dead":
                sock.listen(1)

            async def misbehave() -> None:
                if how in ("dead", "silent"):
                    return
                peer, _ = await sock.accept()
                with peer:
                    if how == "garbage":
                        await peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(misbehave)
                begun = trio.current_time()
                done = await openclaw(state, "plan")
                assert trio.current_time() - begun < 6
    assert (done.returncode, done.stdout) == (42, b"the long way\n")
    if how == "silent":
        assert done.stderr == b"openclaw: the supervisor did not answer within 2 s; going on without the supervisor\n"


@pytest.mark.real
async def test_a_supervisor_that_dies_in_the_middle_of_an_apply_is_not_done_again(state: Path, document: Path) -> None:
    supervisor = FakeSupervisor(document=str(document), names=())
    path = state / "reconciler" / "control.sock"
    async with trio.open_nursery() as nursery:
        begun = trio.Event()

        async def run(call: CommandCall, session: Session) -> int:
            session.out("step 1\n")
            begun.set()
            await trio.sleep_forever()

        async def die() -> None:
            async with serving(supervisor, path):
                serves.set()
                await begun.wait()
                await trio.sleep(0.1)

        serves = trio.Event()
        supervisor.command = run
        nursery.start_soon(die)
        await serves.wait()
        done = await openclaw(state, "apply", "--yes")
    assert (done.returncode, done.stdout) == (69, b"step 1\n")
    assert b"the supervisor went away" in done.stderr


@pytest.mark.real
async def test_a_question_is_answered_from_stdin(supervisor: FakeSupervisor, state: Path) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        answers = []
        for _ in range(3):
            session.err("Apply? ")
            answers.append(await session.ask())
        session.out(repr(answers))
        return 0

    supervisor.command = run
    async with served(supervisor, state):
        done = await openclaw(state, "apply", stdin="yes\nzażółć".encode())
    assert done.stdout.decode() == "['yes', 'zażółć', None]"
    assert done.stderr == b"Apply? Apply? Apply? "


async def start_apply(nursery: trio.Nursery, state: Path) -> tuple[trio.Process, trio.abc.ReceiveStream]:
    """`openclaw apply`, asked nothing yet, and what it prints."""
    start = partial(
        trio.run_process,
        [sys.executable, "-c", PROGRAM, "apply"],
        env=environ(state),
        cwd=state,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    process: trio.Process = await nursery.start(start)
    assert process.stdout is not None
    return process, process.stdout


@pytest.mark.real
async def test_ctrl_c_lets_the_step_finish_and_shows_it(supervisor: FakeSupervisor, state: Path) -> None:
    begun = trio.Event()

    async def run(call: CommandCall, session: Session) -> int:
        session.out("step 1\n")
        begun.set()
        await session.interrupted.wait()
        session.out("step 1 finished\n")
        return 130

    supervisor.command = run
    async with served(supervisor, state), trio.open_nursery() as nursery:
        process, printed = await start_apply(nursery, state)
        await begun.wait()
        output = b""
        while b"step 1\n" not in output:
            output += await printed.receive_some()
        process.send_signal(signal.SIGINT)
        while data := await printed.receive_some():
            output += data
        assert await process.wait() == 130
    assert output == b"step 1\nstep 1 finished\n"


@pytest.mark.real
async def test_ctrl_c_at_a_question_gives_the_question_up(supervisor: FakeSupervisor, state: Path) -> None:
    asked = trio.Event()

    async def run(call: CommandCall, session: Session) -> int:
        session.out("Apply? ")
        asked.set()
        return 130 if await session.ask() is None else 0

    supervisor.command = run
    async with served(supervisor, state), trio.open_nursery() as nursery:
        process, printed = await start_apply(nursery, state)
        assert await printed.receive_some() == b"Apply? "
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


@pytest.mark.real
async def test_a_reader_that_has_enough_ends_it_quietly(supervisor: FakeSupervisor, state: Path) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        for _ in range(100):
            session.out("a line\n" * 1000)
        return 0

    supervisor.command = run
    async with served(supervisor, state):
        done = await trio.run_process(
            ["sh", "-c", '"$0" -c "$1" plan | head -n 1', sys.executable, PROGRAM],
            env=environ(state),
            cwd=state,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert (done.stdout, done.stderr) == (b"a line\n", b"")
    assert len(supervisor.asked) == 1
