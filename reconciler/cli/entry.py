"""Where the `openclaw` command begins: asks a supervisor where that is enough, else loads the program, and ends it well.

Nothing is imported at the top that the interpreter has not loaded already: a command that a supervisor answers must cost little
more than starting Python. What goes wrong beyond all expectation ends here, with an id and a trace for us, and without one for
the operator to read through.
"""

from __future__ import annotations

import errno
import os
import sys

from reconciler import paths
from reconciler.streams import failure, open_sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

# These go through the supervisor when one serves the document (docs/explanation/architecture.md).
ASKABLE = ("plan", "apply", "rollback", "status")
INTERRUPTED, TERMINATED, BUG, OUTPUT_FAILED, RAN_SHORT = 130, 143, 70, 1, 1
# Those of `reconciler.errors`, which cannot be imported once there is a shortage.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class _Signals:
    """Whether SIGTERM came: what is raised on its way out may be another exception than ours."""

    terminated = False


def main() -> int:
    """Runs the command line of this process and returns its exit code. Never raises but SystemExit of the command itself, and
    a KeyboardInterrupt that comes before it began.
    """
    code = _bounded()
    import _signal  # type: ignore[import-not-found]  # what `signal` is made of, without its enums

    # All is done and said. What is left is the interpreter's own end, which would tell of a Ctrl-C by a trace, and die of others.
    for number in (_signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, _signal.SIG_IGN)
    return code


def _bounded() -> int:
    """The command, with an exit code for whatever it ends by."""
    signals = _Signals()
    try:
        if command_of(sys.argv[1:])[0] == "run":
            _hold_signals()
        else:
            _end_on_sigterm(signals)
        _open_streams()
        code = _finish(_run(sys.argv[1:]))
        # Whoever was asked to end may have taken it for something else on the way out.
        return TERMINATED if signals.terminated else code
    except SystemExit as end:
        return _end(signals, end)
    except BaseException as err:
        return _boundary(signals, err)


def _run(arguments: list[str]) -> int:
    code = ask_supervisor(arguments)
    if code is not None:
        return code
    from reconciler.cli.main import main as full

    result = full()
    return result if isinstance(result, int) else 0


def ask_supervisor(arguments: list[str]) -> int | None:
    """The exit code of the command if a supervisor carried it out, None when it is ours to do."""
    command, file = command_of(arguments)
    if command not in ASKABLE:
        return None
    environ, home, directory, uid = os.environ, os.environ.get("HOME") or "/", paths.here(), os.getuid()
    root = paths.absolute(paths.state_root(environ, home), directory)
    path = paths.socket_path(root, "control.sock", paths.runtime_directory(environ, uid))
    if not os.path.exists(path):
        return None
    from reconciler.control.client import ask

    return ask(
        path,
        command,
        arguments,
        document=paths.document_path(file, environ, home, directory, os.path.lexists),
        directory=directory,
        environ=environ,
        terminal=terminal(),
        uid=uid,
        document_refused=lambda: _document_refused(file),
    )


def _document_refused(file: str | None) -> int | None:
    from reconciler.cli.main import document_refused

    return document_refused(file)


def command_of(arguments: list[str]) -> tuple[str | None, str | None]:
    """The command among the arguments and what `--file` names; no command where help is asked for.

    Knows only as much of the options as that needs. Where it guesses wrong, the supervisor serves another document or
    refuses, and the command goes the long way.
    """
    command: str | None = None
    file: str | None = None
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-f", "--file"):
            file = next(rest, None)
        elif argument.startswith("--file="):
            file = argument[7:]
        elif argument.startswith("-f") and not argument.startswith("--"):
            file = argument[2:]
        elif argument in ("-h", "--help", "--"):
            return None, file
        elif command is None:
            if argument.startswith("-"):
                return None, file
            command = argument
    return command, file


def terminal() -> dict[str, object]:
    """What the program that prints for us must know of our terminal."""
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isascii() and columns.isdigit() and len(columns) < 6 else 0
    if not width:
        try:
            width = os.get_terminal_size(1).columns
        except OSError:
            width = 0
    out = sys.stdout.isatty()
    return {
        "stdin": sys.stdin is not None and sys.stdin.isatty(),
        "stdout": out,
        "stderr": sys.stderr.isatty(),
        "width": width or 80,
        "colour": out and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb",
    }


def _open_streams() -> None:
    """Gives standard streams that were closed from outside to /dev/null: else the next file that is opened, a journal for one,
    would get their number, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - for the whole process
    sys.stdout, sys.stderr = open_sink(1, sys.stdout), open_sink(2, sys.stderr)


def _end_on_sigterm(signals: _Signals) -> None:
    """Lets SIGTERM end the process by an exception, so that `finally` runs; commands that serve take the signal themselves."""
    import _signal

    def end(number: int, frame: FrameType | None) -> None:
        signals.terminated = True
        raise SystemExit(TERMINATED)

    # Ignored from outside (a shell's trap) stays ignored.
    if _signal.getsignal(_signal.SIGTERM) == _signal.SIG_DFL:
        _signal.signal(_signal.SIGTERM, end)


def _hold_signals() -> None:
    """Keeps the supervisor's signals waiting until it listens to them (`reconciler.cli.commands.run`).

    An exception that a signal's handler raises is lost where the interpreter happens to be inside a callback of its own,
    as the import of each module has one; the supervisor would then begin, and stay, though it was told to end. Once it has
    stopped listening nothing is left that they could end, and they are passed over: an exception would break off the end.
    """
    import _signal

    held = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, held)
    for number in held:
        # Not SIG_IGN, which would throw away what waits already.
        _signal.signal(number, _pass_over)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Does nothing."""


def _end(signals: _Signals, end: SystemExit) -> int:
    """The exit code that `end` asks for."""
    if signals.terminated:
        return TERMINATED
    if end.code is None or isinstance(end.code, int):
        return _finish(end.code or 0)
    sys.stderr.write(f"{end.code}\n")
    return _finish(1)


def _finish(code: int) -> int:
    """`code`, once all output is out. Where it is not, a success is none, and a failure stays the one that it was."""
    sys.stdout.flush()
    err = failure(sys.stdout)
    if err is None:
        return code
    # That nobody reads on is no news.
    if err.errno != errno.EPIPE:
        sys.stderr.write(
            f"openclaw: cannot write to standard output: {(err.strerror or '').lower()}\n"
            "  hint: the command itself was carried out; only what it prints is lost\n"
        )
    return code or OUTPUT_FAILED


def _boundary(signals: _Signals, err: BaseException) -> int:
    if signals.terminated:
        return TERMINATED
    leaves = tuple(_leaves(err))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return INTERRUPTED
    for leaf in leaves:
        if isinstance(leaf, SystemExit):
            return _end(signals, leaf)
    for leaf in leaves:
        if isinstance(leaf, OSError) and leaf.errno in SHORTAGES:
            return _ran_short(leaf)
    from reconciler.errors import OpenClawError

    if len(leaves) == 1 and isinstance(leaves[0], OpenClawError):
        return _known(leaves[0])
    return _bug(err)


def _leaves(err: BaseException) -> list[BaseException]:
    """The exceptions inside groups; a nursery wraps even a Ctrl-C into one."""
    if isinstance(err, BaseExceptionGroup):
        return [leaf for item in err.exceptions for leaf in _leaves(item)]
    return [err]


def _ran_short(err: OSError) -> int:
    """The system has no more of something that any line of ours may need. Nothing is imported: that would need it too."""
    sys.stderr.write(f"openclaw: cannot go on: {(err.strerror or '').lower()}\n")
    if err.errno == errno.EMFILE:
        sys.stderr.write("  hint: this process may not open as many as it needs: raise the limit (`ulimit -n`)\n")
    return RAN_SHORT


def _known(err: BaseException) -> int:
    """An error with words of its own that no command has printed."""
    hint = getattr(err, "hint", None)
    sys.stderr.write(f"openclaw: {err}\n" + (f"  hint: {hint}\n" if hint else ""))
    return int(getattr(err, "exit_code", 1))


def _bug(err: BaseException) -> int:
    from reconciler.cli.crash import write_report
    from reconciler.errors import OpenClawError

    places = [paths.runtime_directory(os.environ, os.getuid())]
    try:
        root = paths.absolute(paths.state_root(os.environ, os.environ.get("HOME") or "/"), paths.here())
        places.insert(0, f"{root}/reconciler")
    except OpenClawError:
        pass  # whoever named a wrong one is told by the commands that need it
    name, where = write_report(err, os.environ, places, sys.argv[1:2])
    sys.stderr.write(f"openclaw: a bug of ours (id {name}): the trace lies in {where}\n")
    return BUG
