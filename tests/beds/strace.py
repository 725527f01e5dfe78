"""What a program changes, seen by the kernel: strace's log, reduced to the calls that write, rename, remove or signal.

For the promise that commands which only read touch nothing, for the order of writes and flushes, and for calls that fail or kill
where strace is told to let them. Knows strace's text form and nothing of the program under test.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# All by which a file system or another process can be changed. `open` counts only where its flags create or cut a file.
TRACED: Final = (
    "write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,splice,truncate,ftruncate,fallocate,"
    "?open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,mknod,mknodat,"
    "link,linkat,symlink,symlinkat,chmod,fchmod,fchmodat,?fchmodat2,chown,fchown,lchown,fchownat,utime,utimes,futimesat,utimensat,"
    "setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr,mount,umount2,"
    "kill,tkill,tgkill,pidfd_send_signal,rt_sigqueueinfo,rt_tgsigqueueinfo"
)
SIGNALS: Final = frozenset({"kill", "tkill", "tgkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo"})
OPENS: Final = frozenset({"open", "openat", "openat2"})
BY_DESCRIPTOR: Final = frozenset(
    {
        "write",
        "pwrite64",
        "writev",
        "pwritev",
        "pwritev2",
        "sendfile",
        "ftruncate",
        "fallocate",
        "fchmod",
        "fchown",
        "fsetxattr",
    }
)
# SQLite makes these beside a journal in WAL mode even for readers, and removes them when it is the last to leave.
SQLITE_SIDE_FILES: Final = re.compile(r"\.sqlite-(wal|shm)(?=[\">])")

_LINE: Final = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>\S+)")
_UNFINISHED: Final = re.compile(r"^(?P<pid>\d+) +(?P<text>\w+\(.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"^(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<text>.*)$")
_TEXT: Final = re.compile(r'"([^"]*)"')
_DESCRIPTOR: Final = re.compile(r"^(?P<number>\d+)<(?P<target>[^>]*)>")


@dataclass(frozen=True, slots=True)
class Syscall:
    """One call that succeeded: the process that made it, its name and its arguments as strace prints them."""

    pid: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Timed:
    """One call that succeeded, with its place among the others: where it `began`, and where it had `ended`."""

    call: Syscall
    began: int
    ended: int

    @property
    def path(self) -> str:
        """The file that the call is about, the new name for a rename; empty where strace does not tell."""
        if match := _DESCRIPTOR.match(self.call.arguments):
            return match["target"]
        texts: list[str] = _TEXT.findall(self.call.arguments)
        return texts[-1 if self.call.name.startswith("rename") else 0] if texts else ""


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced run: how it ended, what it printed, and what it changed."""

    returncode: int
    stdout: str
    stderr: str
    changes: tuple[Syscall, ...]


def strace_writes(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deadline_seconds: float = 120,
) -> Traced:
    """Runs `argv` with all its children under strace; `changes` is empty for a command that only reads.

    Standard output and error, pipes, sockets and terminals are no changes, and neither are SQLite's side files. Python's
    bytecode cache is switched off: it belongs to the interpreter, not to the command.

    Raises:
        FileNotFoundError: strace is not installed.
        AssertionError: strace could not trace (its words are in the text).
    """
    environment = {**(os.environ if env is None else env), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory(prefix="oc-strace-") as directory:
        log = Path(directory) / "log"
        done = subprocess.run(
            [
                "strace",
                "-f",
                "-qq",
                "-y",
                "-s",
                "200",
                "-e",
                f"trace={TRACED}",
                "-e",
                "signal=none",
                "-o",
                str(log),
                *map(str, argv),
            ],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_seconds,
            check=False,
        )
        if not log.exists():
            raise AssertionError(f"strace did not start the command: {done.stderr.strip()}")
        lines = log.read_text(errors="replace").splitlines()
    return Traced(done.returncode, done.stdout, done.stderr, tuple(changes_in(lines)))


def strace_command(
    log: Path, calls: str, *, inject: str = "", paths: Sequence[Path] = (), alone: bool = False
) -> list[str | Path]:
    """The beginning of a command line: what follows it is traced with all its children, for these calls alone.

    `inject` is what happens to a call (strace(1), "Tampering"): `error=EIO:when=3`, `signal=SIGKILL:when=3`. Threads count
    their calls apart. With `paths` only calls that name one of them count. With `alone` the programs that it starts are
    neither traced nor waited for.
    """
    given = ["-e", f"inject={calls}:{inject}"] if inject else []
    where = [word for path in paths for word in ("-P", str(path))]
    # Who is let go must not be stopped by a filter that nobody answers any more.
    let_go = "--detach-on=execve" if alone else "--seccomp-bpf"
    head = ["strace", "-f", let_go, "-qq", "-y", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(log)]
    return [*head, *given, *where, "--"]


def calls_in(lines: Iterable[str]) -> list[Timed]:
    """The calls in strace's log (`-f`) that succeeded, in the order in which they ended."""
    begun: dict[str, tuple[int, str]] = {}
    found = []
    for number, line in enumerate(lines):
        began = number
        if match := _UNFINISHED.match(line):
            begun[match["pid"]] = (number, match["text"])
            continue
        if match := _RESUMED.match(line):
            began, text = begun.pop(match["pid"], (number, ""))
            line = f"{match['pid']} {text}{match['text']}"
        match = _LINE.match(line)
        if match is not None and not match["result"].startswith(("-1", "?")):
            found.append(Timed(Syscall(int(match["pid"]), match["name"], match["arguments"]), began, number))
    return found


def injected_in(lines: Iterable[str]) -> list[str]:
    """The lines of strace's log whose call was made to fail."""
    return [line for line in lines if line.endswith("(INJECTED)")]


def changes_in(lines: Iterable[str]) -> Iterator[Syscall]:
    """The calls in strace's log (`-f -y`) that changed something outside of the process."""
    for line in _joined(lines):
        match = _LINE.match(line)
        if match is None or match["result"].startswith("-1"):
            continue
        call = Syscall(int(match["pid"]), match["name"], match["arguments"])
        if _changes(call):
            yield call


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Puts the two halves of a call that another process interrupted together again."""
    begun: dict[str, str] = {}
    for line in lines:
        if match := _UNFINISHED.match(line):
            begun[match["pid"]] = match["text"]
        elif match := _RESUMED.match(line):
            yield f"{match['pid']} {begun.pop(match['pid'], '')}{match['text']}"
        else:
            yield line
    # A call that never came back (the process was killed in it) may have had its effect.
    for pid, text in begun.items():
        yield f"{pid} {text}) = ?"


def _changes(call: Syscall) -> bool:
    if call.name in SIGNALS:
        return "SIG" in call.arguments  # signal 0 only asks whether a process is there
    if SQLITE_SIDE_FILES.search(call.arguments):
        return False
    if call.name in OPENS:
        return bool(re.search(r"\bO_(CREAT|TRUNC|TMPFILE)\b", call.arguments)) and not re.search(
            r'"/dev/(null|tty)"', call.arguments
        )
    if call.name in BY_DESCRIPTOR:
        return _is_file(call.arguments)
    return True


def _is_file(arguments: str) -> bool:
    """Whether the first descriptor of a call is a file on a disk, rather than a pipe, a socket, a terminal or an eventfd."""
    match = _DESCRIPTOR.match(arguments)
    if match is None:
        return True
    target = match["target"]
    return (
        target.startswith("/")
        and not target.startswith(("/dev/null", "/dev/tty", "/dev/pts/"))
        and match["number"] not in ("1", "2")
    )
