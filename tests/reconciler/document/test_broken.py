"""Every broken document is refused with exactly the text beside it, quickly, and without showing a secret.

One case is `NAME.yaml` or `NAME/openclaw.yaml`, the whole expected text in `NAME.txt`; `NAME.options.json` may set the
environment (`environ`) and ask for secrets to be resolved (`resolve`). Cases that cannot lie in a repository are made here.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.document.files import reason_of
from reconciler.document.load import load
from reconciler.document.problems import Problem, problem_json, render_problems
from reconciler.document.secrets import resolve
from reconciler.errors import DocumentError
from tests.beds.pace import slowness

BROKEN = Path(__file__).parents[2] / "data" / "broken"
NAMES = sorted(path.stem for path in BROKEN.iterdir() if path.is_dir() or path.suffix == ".yaml")
# The promise is one second; a declared exec limit comes on top.
# Of this thread's own work: what else the machine does meanwhile must not decide. Waiting is bounded apart.
SECONDS = 1.0
WAIT_SECONDS = 20.0
EXEC_SECONDS = 0.3


def refuse(path: str, options: Mapping[str, Any]) -> DocumentError:
    environ = {"PATH": os.environ["PATH"], **options.get("environ", {})}
    with pytest.raises(DocumentError) as caught:
        loaded = load(path, environ)
        if options.get("resolve"):
            resolve(loaded, environ, salt=b"salt", seconds=EXEC_SECONDS)
    return caught.value


def refuse_in_time(path: str, options: Mapping[str, Any]) -> DocumentError:
    """Refused within the promise, as the quickest of a few tries shows: a neighbour on the same core slows a thread down, too."""
    for left in (4, 3, 2, 1, 0):
        began, worked = time.monotonic(), time.thread_time()
        error = refuse(path, options)
        worked, took = time.thread_time() - worked, time.monotonic() - began
        assert took < WAIT_SECONDS
        if worked < SECONDS * slowness():
            break
        assert left, f"it worked for {worked:.2f} s"
    return error


def test_corpus_is_large() -> None:
    assert len(NAMES) >= 80


@pytest.mark.req("DOC-2", "DOC-4", "DOC-5", "DOC-7", "DOC-9")
@pytest.mark.parametrize("name", NAMES)
def test_is_refused_with_this_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)
    options_file = Path(f"{name}.options.json")
    options = json.loads(options_file.read_text()) if options_file.exists() else {}
    path = f"{name}/openclaw.yaml" if Path(name).is_dir() else f"{name}.yaml"
    refuse(path, options)  # the first one pays for imports and models
    error = refuse_in_time(path, options)
    text = f"{error.message}\n{render_problems(error.problems)}\n"  # type: ignore[arg-type]
    assert text == Path(f"{name}.txt").read_text(encoding="utf-8")
    assert error.exit_code == 78
    shown = text + json.dumps([problem_json(each) for each in error.problems])  # type: ignore[arg-type]
    assert "canary" not in shown.replace(name, "")
    assert shown.isprintable() or all(char == "\n" or char.isprintable() for char in shown)


def test_no_expected_text_is_left_over() -> None:
    assert sorted(path.stem for path in BROKEN.glob("*.txt")) == NAMES


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(50 * 1024 * 1024)


def _just_too_large(path: Path) -> None:
    path.write_bytes(b"version: 1\n#" + b"x" * (4 * 1024 * 1024))


def _include_too_large(path: Path) -> None:
    path.write_text("version: 1\ninclude: [a.yaml, b.yaml]\n")
    for name in ("a.yaml", "b.yaml"):
        path.with_name(name).write_bytes(b"x-a: 1\n#" + b"x" * (2 * 1024 * 1024))


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    try:
        # By way of /proc: the address stays short however deep the directory is.
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        listener.close()
        os.close(here)


MADE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot read it: there is no such file"),
    "directory": (lambda path: path.mkdir(), "cannot read it: it is a directory"),
    "fifo": (lambda path: os.mkfifo(path), "cannot read it: it is no regular file"),
    "socket": (_socket, "cannot read it: it is no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "cannot read it: it is no regular file"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "cannot read it: there is no such file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot read it: too many symbolic links"),
    "below a file": (lambda path: path.parent.joinpath("x").touch(), ""),
    "50 MB": (_sparse, "cannot read it: 52,428,800 bytes are more than the 4,096 KiB allowed"),
    "just over the cap": (_just_too_large, "cannot read it: 4,194,316 bytes are more than the 4,096 KiB allowed"),
    "includes over the cap": (
        _include_too_large,
        "b.yaml': 2,097,160 bytes with what was read before are more than the 4,096 KiB allowed",
    ),
    "flow depth": (lambda path: path.write_text("version: 1\nx-a: " + "[" * 2_000_000), "more than 60 levels"),
    "flow mapping depth": (lambda path: path.write_text("version: 1\nx-a: " + "{a: " * 900_000), "more than 60 levels"),
    "block depth": (lambda path: path.write_text("version: 1\nx-a: \n" + "- " * 2_000_000), "more than 60 levels"),
    "values": (lambda path: path.write_text("version: 1\nx-a:\n" + "- a\n" * 900_000), "more than 50,000 values"),
    "directives": (
        lambda path: path.write_text("".join(f"%TAG !a{n}! x\n" for n in range(200_000))),
        "cannot use a line that begins with %",
    ),
    "late directives": (
        lambda path: path.write_text("version: 1\n...\n" + "".join(f"%TAG !a{n}! x\n" for n in range(200_000))),
        "cannot use a line that begins with %",
    ),
    "anchors": (
        lambda path: path.write_text("version: 1\n" + "".join(f"&a{n} a{n}: *a{n}\n" for n in range(150_000))),
        "50,000",
    ),
    "unknown names": (
        lambda path: path.write_text("version: 1\n" + "".join(f"gatewa{n}: 1\n" for n in range(24_000))),
        "more problems",
    ),
    "unknown fields": (
        lambda path: path.write_text("version: 1\ngateway:\n" + "".join(f"  prot{n}: 1\n" for n in range(24_000))),
        "more problems",
    ),
    "wrong profiles": (
        lambda path: path.write_text(
            "version: 1\nauth:\n  order: {a: ["
            + "p, " * 12_000
            + "]}\n  profiles:\n"
            + "".join(f"    p{n}: {{}}\n" for n in range(12_000))
        ),
        "more problems",
    ),
    "one long line": (
        lambda path: path.write_text("version: 1\ngateway: {port: x" + "x" * 4_000_000 + "}"),
        "cannot use 'xxxx",
    ),
    "one long name": (
        lambda path: path.write_text("version: 1\n? " + "x" * 4_000_000 + "\n: 1\n"),
        "cannot use the name",
    ),
    "random bytes": (lambda path: path.write_bytes(bytes(range(256)) * 4096), "cannot read the byte 0x80"),
    "zeros": (lambda path: path.write_bytes(b"\0" * 4_000_000), "cannot read the character U+0000"),
    "open quote": (
        lambda path: path.write_text("version: 1\nx-a: '" + "x\n" * 2_000_000),
        "cannot find the end of the text",
    ),
    "short lines": (
        lambda path: path.write_text("version: 1\n# \U0001f600\n" + "#a\n" * 1_397_400 + "gatewy: 1\n"),
        "did you mean 'gateway'?",
    ),
    "bad byte below short lines": (
        lambda path: path.write_bytes("# \U0001f600\n".encode() + b"#a\n" * 1_397_400 + b"gateway: \xff\n"),
        "openclaw.yaml:1397402:10: cannot read the byte 0xff",
    ),
    "long line of problems": (
        lambda path: path.write_text(
            "version: 1\nx-a: {" + ".inf: 1, " * 1_500 + "a: '\U0001f600" + "x" * 3_900_000 + "', .inf: 1}\n"
        ),
        "cannot use the number .inf",
    ),
    "no newline": (lambda path: path.write_text("version:"), "cannot use nothing (null) as the version"),
    "many includes": (lambda path: path.write_text("version: 1\ninclude: [" + "a.yaml, " * 400_000 + "]"), "cannot"),
}


@pytest.mark.req("DOC-9")
@pytest.mark.parametrize("name", sorted(MADE))
def test_what_cannot_lie_in_a_repository(name: str, tmp_path: Path) -> None:
    make, expected = MADE[name]
    path = tmp_path / "openclaw.yaml"
    make(path)
    target = path if name != "below a file" else tmp_path / "x" / "openclaw.yaml"
    error = refuse_in_time(str(target), {})
    assert expected in render_problems(error.problems)  # type: ignore[arg-type]
    assert len(render_problems(error.problems)) < 100_000  # type: ignore[arg-type]
    assert error.exit_code == 78


@pytest.mark.req("DOC-2")
def test_the_place_of_a_problem_is_a_whole_path(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 200) / "openclaw.yaml"
    path.parent.mkdir()
    for text in (b"gatewy: 1\n", b"a: \xff\n", b"include: none.yaml\n"):
        path.write_bytes(b"version: 1\n" + text)
        error = refuse(str(path), {})
        assert f"{path}: 1 problem" in error.message
        assert [problem.file for problem in error.problems] == [str(path)]  # type: ignore[attr-defined]


WORST = [
    "50 MB",
    "values",
    "flow depth",
    "anchors",
    "unknown fields",
    "wrong profiles",
    "one long line",
    "open quote",
    "short lines",
    "bad byte below short lines",
]


@pytest.mark.req("DOC-9")
@pytest.mark.real
@pytest.mark.parametrize("name", WORST)
def test_memory_is_bounded(name: str, tmp_path: Path) -> None:
    """A whole interpreter with all its imports stays below 200 MB."""
    path = tmp_path / "openclaw.yaml"
    MADE[name][0](path)
    program = (
        "import sys\n"
        "from reconciler.document.load import load\n"
        "from reconciler.document.problems import render_problems\n"
        "from reconciler.errors import DocumentError\n"
        "try: load(sys.argv[1], {})\n"
        "except DocumentError as err: render_problems(err.problems)\n"
        "else: sys.exit('accepted')\n"
        # ru_maxrss would count the parent as it was at the fork.
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, timeout=30
    )
    assert int(done.stdout) < 200 * 1024


@pytest.mark.req("DOC-2")
def test_too_many_values_are_refused_where_they_stand_and_aliases_blamed_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.yaml"
    tunnels = "".join(f"  t{number}: {{}}\n" for number in range(30_000))
    path.write_text(f"version: 1\ntunnels:\n{tunnels}")
    (problem,) = refuse(str(path), {}).problems
    assert isinstance(problem, Problem)
    assert (problem.path, problem.hint) == ("tunnels.t24997", "")
    path.write_text("version: 1\nx-a: &a [1, 2]\nx-b: [" + "*a, " * 20_000 + "]\n")
    (problem,) = refuse(str(path), {}).problems
    assert isinstance(problem, Problem)
    assert problem.hint == "aliases count as what they stand for"


@pytest.mark.req("DOC-9")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.yaml"
    path.write_text("version: 1\n")
    path.chmod(0)
    assert "cannot read it: permission denied" in render_problems(refuse(str(path), {}).problems)  # type: ignore[arg-type]


def test_what_only_looks_like_a_file_is_called_none() -> None:
    """The kernel's /proc/kmsg, for one, has nothing to read at most moments."""
    assert reason_of(BlockingIOError(errno.EAGAIN, "")) == "it is no regular file"


@pytest.mark.req("DOC-9")
def test_no_permission_to_a_stranger(tmp_path: Path) -> None:
    """The same for whoever runs the tests as root, with another user's rights."""
    if os.geteuid() != 0:
        pytest.skip("only root can take another user's rights")
    from reconciler.document.files import ReadError, read_file

    path = tmp_path / "openclaw.yaml"
    path.write_text("version: 1\n")
    path.chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(ReadError, match="permission denied"):
            read_file(str(path))
    finally:
        os.seteuid(0)


def test_texts_do_not_depend_on_hash_seed_and_locale(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from reconciler.document.load import load\n"
        "from reconciler.document.problems import render_problems\n"
        "from reconciler.errors import DocumentError\n"
        "for name in sys.argv[1:]:\n"
        "    try: load(name, {})\n"
        "    except DocumentError as err: sys.stdout.buffer.write(render_problems(err.problems).encode())\n"
    )
    names = [
        str(BROKEN / f"{name}.yaml")
        for name in ("many_at_once", "unknown_everywhere", "secret_in_settings", "bind_misspelt")
    ]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, *names],
            capture_output=True,
            check=True,
            timeout=30,
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone},
        ).stdout
        for seed, locale, zone in (
            ("1", "C", "UTC"),
            ("2", "C.UTF-8", "Asia/Tokyo"),
            ("77", "de_DE.UTF-8", "Europe/Berlin"),
        )
    }
    assert len(outputs) == 1
