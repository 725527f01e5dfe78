"""Resolves references to secrets: environment, files, programs. All problems at once, and never a value in any text.

Synchronous and thread-safe: a Trio program calls it through `trio.to_thread.run_sync`. A reference that occurs twice is resolved
once; programs run side by side.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from reconciler.desired import SecretRef
from reconciler.document.references import references
from reconciler.errors import DocumentError, TerminalError
from reconciler.model import MASK, DocumentPath, Position, Secret
from reconciler.paths import here
from reconciler.values import join_path

if TYPE_CHECKING:
    from subprocess import Popen

    from reconciler.document.load import Loaded
    from reconciler.document.problems import Problem

__all__ = [
    "EXEC_SECONDS",
    "MAX_SECRET_BYTES",
    "Hanging",
    "RecordedSecrets",
    "SecretValues",
    "references",
    "resolve",
    "resolve_references",
]

# The longest private key chains are some 20 KiB; a log file named by mistake is not.
MAX_SECRET_BYTES: Final = 64 * 1024
EXEC_SECONDS: Final = 10.0
# Password managers ask a daemon that serves one request at a time; more side by side gains nothing.
_MAX_THREADS: Final = 8
# What the clients of the gateway show in a header, and people copy: it must come through unchanged.
_SHOWN: Final[frozenset[DocumentPath]] = frozenset(
    {
        ("gateway", "auth", "token"),
        ("gateway", "auth", "password"),
        ("service", "environment", "OPENCLAW_GATEWAY_TOKEN"),
        ("service", "environment", "OPENCLAW_GATEWAY_PASSWORD"),
    }
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BYTE_ORDER_MARK: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class SecretValues:
    """The resolved secrets of one load (`reconciler.kinds.Secrets`). Its texts show none of them."""

    _values: Mapping[SecretRef, str] = field(repr=False)
    _salt: bytes = field(repr=False)

    def digest(self, reference: SecretRef) -> Secret:
        """The digest of the secret behind `reference`, keyed by the salt; KeyError for one that was never resolved."""
        return self.digest_text(self._values[reference])

    def digest_text(self, value: str) -> Secret:
        """The digest of a secret that was found on the host, comparable with that of a reference."""
        # _blake2 is a builtin module of CPython; it is what hashlib would give after several milliseconds of import.
        from _blake2 import blake2b

        data = value.encode("utf-8", "surrogateescape")
        return Secret(blake2b(data, key=self._salt[:64], digest_size=32).hexdigest())

    def reveal(self, reference: SecretRef) -> str:
        """The value; KeyError for one that was never resolved."""
        return self._values[reference]

    def salted(self, salt: bytes) -> SecretValues:
        """The same values with digests under another salt."""
        return SecretValues(self._values, salt)


@dataclass(frozen=True, slots=True)
class RecordedSecrets:
    """What a generation recorded of its secrets (`reconciler.kinds.Secrets`): enough to compare with, and no value."""

    _digests: Mapping[SecretRef, str] = field(repr=False)
    _salt: bytes = field(repr=False)

    def digest(self, reference: SecretRef) -> Secret:
        """The digest that was recorded; KeyError for a reference that the generation did not have."""
        return Secret(self._digests[reference])

    def digest_text(self, value: str) -> Secret:
        """The digest of a secret that was found on the host, comparable with a recorded one."""
        return SecretValues({}, self._salt).digest_text(value)

    def reveal(self, reference: SecretRef) -> str:
        """There is no value.

        Raises:
            TerminalError: always.
        """
        raise TerminalError(f"cannot use the secret {reference}: it gives nothing now")


@dataclass(frozen=True, slots=True)
class _Refused(Exception):
    """A reference cannot be resolved; `message` follows "cannot " and holds no value."""

    code: str
    message: str
    hint: str = ""


# The references whose programs were waited for in vain, with what is to be said of them.
Hanging: TypeAlias = "dict[SecretRef, _Refused]"
_TIMEOUT: Final = "secret_exec_timeout"


def resolve(
    loaded: Loaded,
    environ: Mapping[str, str],
    *,
    salt: bytes,
    hanging: Hanging | None = None,
    seconds: float = EXEC_SECONDS,
) -> SecretValues:
    """All secrets that a document refers to.

    Relative paths are relative to the main document's directory, which is also where programs run; `~/` is `HOME` of
    `environ`. Blocks for at most `seconds` for each eight programs. What is in `hanging` is not waited for again, and what hangs
    is added to it.

    Raises:
        DocumentError: with a problem at each reference that cannot be resolved.
    """
    found = references(loaded.desired.canonical)
    try:
        return resolve_references(
            found,
            environ,
            salt=salt,
            directory=_directory(loaded),
            locate=partial(loaded.locate, value=True),
            hanging=hanging,
            seconds=seconds,
        )
    except DocumentError as err:
        from reconciler.document.problems import named

        count = len(err.problems)
        raise DocumentError(
            f"cannot resolve the secrets of {named(loaded.name)}: {count} problem{'s' if count > 1 else ''}",
            err.problems,
            files=(*loaded.files, *secret_files(loaded, environ)),
        ) from None


def secret_files(loaded: Loaded, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The absolute paths of the files that its secrets stand in."""
    directory = _directory(loaded)
    return tuple(
        os.path.abspath(_located(each.value, environ, directory))
        for _, each in references(loaded.desired.canonical)
        if each.source == "file" and isinstance(each.value, str)
    )


def resolve_references(
    found: tuple[tuple[DocumentPath, SecretRef], ...],
    environ: Mapping[str, str],
    *,
    salt: bytes,
    directory: str,
    locate: Callable[[DocumentPath], Position | None],
    instead: Callable[[DocumentPath], str | None] = lambda _path: None,
    hanging: Hanging | None = None,
    seconds: float = EXEC_SECONDS,
) -> SecretValues:
    """The same for references in hand; `locate` tells where each stands, `instead` the value of one that gives nothing of use,
    where that is known otherwise.

    Raises:
        DocumentError: with a problem at each reference that cannot be resolved.
    """
    wanted = sorted({reference for _, reference in found}, key=lambda each: (each.source, str(each.value)))
    values: dict[SecretRef, str] = {}
    known = hanging if hanging is not None else {}
    refused: dict[SecretRef, _Refused] = {each: known[each] for each in wanted if each in known}

    def one(reference: SecretRef) -> None:
        try:
            values[reference] = _resolve(reference, environ, directory, seconds)
        except _Refused as err:
            refused[reference] = err
            if err.code == _TIMEOUT:
                known[reference] = err

    programs = [each for each in wanted if each.source == "exec" and each not in known]
    for each in wanted:
        if each.source != "exec":
            one(each)
    if len(programs) == 1:
        one(programs[0])
    elif programs:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(programs), _MAX_THREADS)) as pool:
            list(pool.map(one, programs))

    wrong = [
        (path, each, why)
        for path, each in found
        if (why := refused.get(each) or (_unfit(each, values[each]) if path in _SHOWN else None)) is not None
    ]
    again = {each: value for path, each, _why in wrong if (value := instead(path)) is not None}
    problems = [_problem(path, why, locate(path)) for path, each, why in wrong if each not in again]
    if problems:
        from reconciler.document.problems import sort_problems

        what = "1 reference to a secret" if len(problems) == 1 else f"{len(problems)} references to secrets"
        raise DocumentError(f"cannot resolve {what}", sort_problems(problems))
    return SecretValues({**values, **again}, salt)


def _directory(loaded: Loaded) -> str:
    return os.path.dirname(loaded.files[0]) if loaded.files else here()


def _problem(path: DocumentPath, refused: _Refused, position: Position | None) -> Problem:
    from reconciler.document.problems import Problem, quote

    text, caret = quote(position.text, position.column) if position is not None and position.line else ("", -1)
    return Problem(
        file=position.file if position is not None else "",
        line=position.line if position is not None else 0,
        column=position.column if position is not None else 0,
        path=join_path(path),
        code=refused.code,
        message=f"cannot {refused.message}",
        hint=refused.hint,
        text=text,
        caret=caret,
    )


def _resolve(reference: SecretRef, environ: Mapping[str, str], directory: str, seconds: float) -> str:
    match reference.source, reference.value:
        case "env", str() as name:
            return _from_environment(reference, name, environ)
        case "file", str() as path:
            return _from_file(reference, path, environ, directory)
        case _, tuple() as argv:
            return _from_program(reference, argv, environ, directory, seconds)
    raise AssertionError(reference.source)


def _using(reference: SecretRef) -> str:
    """How an error begins about what it gives."""
    match reference.source, reference.value:
        case "env", str() as name:
            return f"use the environment variable {_shown(name)}"
        case "file", str() as path:
            return f"use the secret file '{_shown(path)}'"
        case _, tuple() as argv:
            return f"use what '{_shown(argv[0])}' prints"
    raise AssertionError(reference.source)


def _unfit(reference: SecretRef, value: str) -> _Refused | None:
    """Why the gateway's clients cannot show it; None where they can."""
    if value.startswith(_BYTE_ORDER_MARK):
        wrong, hint = "begins with a byte order mark", "save it as UTF-8 without one"
    elif value != value.strip():
        wrong = "begins or ends with white space"
        hint = "take it away; one line break at the end of a file or of what a program prints does no harm"
    elif _CONTROL.search(value):
        wrong, hint = "holds a line break or another control character", "give it a secret that is one line of text"
    else:
        return None
    return _Refused("secret_unfit", f"{_using(reference)} for the gateway: it {wrong}, which no client can show", hint)


def _from_environment(reference: SecretRef, name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if not value:
        state = "it is not set" if value is None else "it is empty"
        raise _Refused("secret_unset", f"{_using(reference)}: {state}", "set it where openclaw is started")
    # Bytes that are no UTF-8 are lone surrogates in os.environ.
    return _text(value.encode("utf-8", "surrogatepass"), "secret_unset", _using(reference))


def _from_file(reference: SecretRef, path: str, environ: Mapping[str, str], directory: str) -> str:
    from reconciler.document.files import ReadError, read_file

    shown = f"'{_shown(path)}'"
    try:
        data = read_file(_located(path, environ, directory), MAX_SECRET_BYTES, MAX_SECRET_BYTES)
    except ReadError as err:
        reason = err.message.removeprefix("read it: ")
        raise _Refused("secret_unreadable", f"read the secret file {shown}: {reason}", err.hint) from None
    return _text(_without_newline(data), "secret_unreadable", _using(reference))


def _shown(name: str) -> str:
    """The name of a variable, a file or a program inside a message; an older version took a secret for one."""
    from reconciler.document.masking import is_secret_itself
    from reconciler.document.problems import named

    return MASK if is_secret_itself(name) else named(name)


def _located(path: str, environ: Mapping[str, str], directory: str) -> str:
    expanded = environ.get("HOME", "~") + path[1:] if path == "~" or path.startswith("~/") else path
    return os.path.join(directory, expanded)


def _without_newline(data: bytes) -> bytes:
    """The one that editors and `echo` put at the end."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _text(data: bytes, code: str, message: str) -> str:
    """The text of a secret."""
    if not data:
        raise _Refused(code, f"{message}: it gives nothing")
    if b"\0" in data:
        raise _Refused(code, f"{message}: it gives a NUL byte")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _Refused(code, f"{message}: it gives no UTF-8 text") from None
    if text.isspace():
        raise _Refused(code, f"{message}: it gives nothing but white space")
    return text


def _from_program(
    reference: SecretRef, argv: tuple[str, ...], environ: Mapping[str, str], directory: str, seconds: float
) -> str:
    import subprocess
    import time

    from reconciler.document.files import reason_of

    shown = f"'{_shown(argv[0])}'"
    program = environ.get("HOME", "~") + argv[0][1:] if argv[0].startswith("~/") else argv[0]
    try:
        # A session of its own, so that whatever it starts can be ended with it. Its stderr may hold anything: never shown.
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            cwd=directory,
            start_new_session=True,
        )
    except OSError as err:
        hint = "is it installed, and on PATH?" if isinstance(err, FileNotFoundError) else ""
        raise _Refused("secret_exec_failed", f"start {shown}: {reason_of(err)}", hint) from None
    except ValueError:
        raise _Refused("secret_exec_failed", f"start {shown}: an argument has a NUL character") from None
    deadline = time.monotonic() + seconds
    try:
        data = _read_until(process, deadline)
        if data is not None and len(data) <= MAX_SECRET_BYTES:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                data = None
    finally:
        _end(process)
    if data is None:
        raise _Refused(_TIMEOUT, f"wait for {shown}: it took longer than {seconds:g} s and was ended")
    if len(data) > MAX_SECRET_BYTES:
        raise _Refused("secret_exec_failed", f"{_using(reference)}: more than {MAX_SECRET_BYTES // 1024} KiB")
    status = process.returncode
    if status:
        how = f"it ended with status {status}" if status > 0 else f"it was ended by signal {-status}"
        raise _Refused("secret_exec_failed", f"{_using(reference)}: {how}", "run it by hand to see what it says")
    return _text(_without_newline(data), "secret_exec_failed", _using(reference))


def _read_until(process: Popen[bytes], deadline: float) -> bytes | None:
    """What the process prints until it closes its output, one byte more than allowed at most; None after the deadline."""
    import select
    import time

    stream = process.stdout
    assert stream is not None
    data = b""
    while len(data) <= MAX_SECRET_BYTES:
        left = deadline - time.monotonic()
        # poll, not select: a descriptor may be above 1023 in a supervisor.
        waiter = select.poll()
        waiter.register(stream, select.POLLIN)
        if left <= 0 or not waiter.poll(left * 1000):
            return None
        chunk = os.read(stream.fileno(), MAX_SECRET_BYTES + 1 - len(data))
        if not chunk:
            break
        data += chunk
    return data


def _end(process: Popen[bytes]) -> None:
    """Ends the process with all that it started, unless it was seen to end in time, and leaves no zombie."""
    import signal

    if process.stdout is not None:
        process.stdout.close()
    # Not waited for yet, so the number cannot be another's; its children may live even if it has ended itself.
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    process.wait()
