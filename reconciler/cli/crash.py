"""The report of a bug of ours: where it happened, without what it happened to.

A traceback with messages and locals would carry whatever the program held, secrets included. So a report keeps the frames and the
types, and of messages only those that the interpreter itself writes about names and types, and these masked as well. It is
imported when something has crashed, and must work when little else does.
"""

from __future__ import annotations

import os
import platform
import re
import stat
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

MASK: Final = "********"
# Whatever crashes may crash again and again, and the newest tell as much as all.
MAX_REPORTS: Final = 10
# Groups of groups of exceptions are cut somewhere.
MAX_EXCEPTIONS: Final = 50
# What these say is made of the names of types, attributes and modules. ValueError and KeyError quote their input.
_SPOKEN: Final = (
    TypeError,
    AttributeError,
    NameError,
    ImportError,
    AssertionError,
    RecursionError,
    NotImplementedError,
)
# A value of the environment this short is a switch or a number, and masking it would blot out half of the report.
_SHORTEST_SECRET: Final = 6
_HARMLESS: Final = frozenset(
    ("HOME", "LANG", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "TERM", "USER", "VIRTUAL_ENV")
)
_REPORT: Final = re.compile(r"crash-[0-9a-f]{8}\.txt")
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_.]{0,39}")
_WORD: Final = re.compile(r"[^\s'\"()<>,;:]{8,}")


def write_report(
    err: BaseException, environ: Mapping[str, str], directories: Sequence[str], command: Sequence[str] = ()
) -> tuple[str, str]:
    """Writes the report into the first of `directories` that takes it; its id and its path.

    Only directories of this user are used, and none of them is made but a private one below /tmp. Where nothing can be
    written the report goes to stderr. The newest MAX_REPORTS in a directory are kept. `command` is shown; it holds no arguments.
    """
    name = os.urandom(4).hex()
    text = render(err, environ, name, command)
    for directory in directories:
        path = f"{directory}/crash-{name}.txt"
        try:
            _prepare(directory)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        with suppress(OSError):
            _remove_old(directory)
        return name, path
    # Not by `sys.stderr`: whatever crashed may have it in the middle of a line.
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))
    return name, "the lines above"


def render(err: BaseException, environ: Mapping[str, str], name: str, command: Sequence[str] = ()) -> str:
    """The text of a report."""
    secrets = _secrets(environ)
    head = f"openclaw crash {name}\npython {platform.python_version()} on {platform.system()} {platform.release()}\n"
    shown = " ".join(word for word in command if _NAME.fullmatch(word))
    blocks = [_block(item, how, secrets) for item, how in _chain(err)]
    return f"{head}command {shown or '(none)'}\n\n" + "\n".join(blocks)


def _block(err: BaseException, how: str, secrets: Sequence[str]) -> str:
    frames = "".join(
        traceback.format_list([_without_locals(frame) for frame in traceback.extract_tb(err.__traceback__)])
    )
    kind = f"{type(err).__module__}.{type(err).__qualname__}"
    return f"{how}\n{frames}{kind}: {_message(err, secrets)}\n"


def _without_locals(frame: traceback.FrameSummary) -> traceback.FrameSummary:
    return traceback.FrameSummary(frame.filename, frame.lineno, frame.name, line=frame.line)


def _message(err: BaseException, secrets: Sequence[str]) -> str:
    if isinstance(err, BaseExceptionGroup):
        return f"{len(err.exceptions)} exceptions"
    if isinstance(err, OSError) and err.errno is not None:
        return f"[Errno {err.errno}] {os.strerror(err.errno)}"
    if not isinstance(err, _SPOKEN):
        return "(message left out)"
    text = _QUOTED.sub(lambda found: found[0] if _NAME.fullmatch(found[0][1:-1]) else MASK, str(err))
    text = _WORD.sub(lambda found: found[0] if _NAME.fullmatch(found[0]) else MASK, text)
    return _masked(text, secrets)


def _chain(err: BaseException) -> Iterator[tuple[BaseException, str]]:
    """The exception, what caused it, and what is inside groups, outermost first, each once."""
    waiting: list[tuple[BaseException, str]] = [(err, "raised:")]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_EXCEPTIONS:
        item, how = waiting.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item, how
        if isinstance(item, BaseExceptionGroup):
            waiting.extend((inner, "in the group above:") for inner in item.exceptions)
        if item.__cause__ is not None:
            waiting.append((item.__cause__, "because of:"))
        elif item.__context__ is not None and not item.__suppress_context__:
            waiting.append((item.__context__, "while handling:"))


def _secrets(environ: Mapping[str, str]) -> list[str]:
    """Every value of the environment that could be one, longest first, so that no part of a longer one stays."""
    values = {value for name, value in environ.items() if name not in _HARMLESS and len(value) >= _SHORTEST_SECRET}
    return sorted(values, key=len, reverse=True)


def _masked(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _remove_old(directory: str) -> None:
    paths = [f"{directory}/{name}" for name in os.listdir(directory) if _REPORT.fullmatch(name)]
    paths.sort(key=lambda path: os.lstat(path).st_mtime_ns)
    for path in paths[:-MAX_REPORTS]:
        os.unlink(path)


def _prepare(directory: str) -> None:
    """Makes a private directory below /tmp where that is what is asked for; OSError unless it is ours alone."""
    if directory.startswith("/tmp/openclaw-run-") and not os.path.lexists(directory):  # noqa: S108 - 0700, checked below
        os.mkdir(directory, 0o700)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"not ours alone: {directory}")
