"""The gateway's log: JSON lines in the real product's shape to a daily file, and a line for people on the console.

A logger of its own rather than structlog: the shape of the lines is fixed by the programs that read them, and the import
is a third of the gateway's start. Calls are synchronous, one `write` a line, and never raise and never block on the
console: what cannot be written is counted and said once, when writing works again. Levels filter by meaning (the real
product filters its file backwards; see docs/explanation/gateway-differences.md).
"""

from __future__ import annotations

import errno
import os
import platform
import select
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from gateway.config import MAX_LOG_BYTES

# How much an event matters; `logging.level` names the least that is written.
_RANK = {"silent": 0, "fatal": 1, "error": 2, "warn": 3, "info": 4, "debug": 5, "trace": 6}
# The numbers that the real product puts into the file.
_LEVEL_ID = {"trace": 1, "debug": 2, "info": 3, "warn": 4, "error": 5, "fatal": 6}
# A pipe that polls writable takes this much without blocking (pipe(7), PIPE_BUF).
_MAX_CONSOLE_BYTES = 4096
# Shorter secrets would turn every line into stars, and protect nothing.
_MIN_SECRET_CHARS = 4
_MASK = "***"
_COLOURS = {"fatal": "31;1", "error": "31", "warn": "33", "info": "36", "debug": "90", "trace": "90"}


# A day's file that grew too large is turned aside, five times at most, as the real product's later versions do.
ARCHIVES = 5


class DailyFile:
    """Appends lines to `<directory>/openclaw-YYYY-MM-DD.log` (local date), reopened when it was moved, deleted or is over.

    A file that would grow above `max_bytes` is turned aside first: it becomes `.1`, what was `.1` becomes `.2`, and what was
    the last of `ARCHIVES` goes. Two gateways that write one file (the old one ends while the new one starts) may turn it
    twice; no line is lost by that.

    Attributes:
        lost: lines that could not be written since the start.
        error: why writing does not work at the moment, or None.
    """

    def __init__(
        self, directory: Path, *, max_bytes: int = MAX_LOG_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.lost = 0
        self.error: str | None = None
        self._clock = clock
        self._fd = -1
        self._identity: tuple[int, int] = (0, 0)
        self._path = ""
        self._torn = False

    @property
    def path(self) -> Path:
        """Where a line written now would go."""
        return self.directory / time.strftime("openclaw-%Y-%m-%d.log", time.localtime(self._clock()))

    def write(self, line: bytes) -> bool:
        """Append one line, which ends with a line feed. Returns whether it is in the file."""
        try:
            self._open_current()
            self._make_way(len(line))
            if self._torn:
                line = b"\n" + line
            taken = self._append(line)
            if taken < len(line):
                self._drop(taken)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as err:
            self.lost += 1
            self.error = err.strerror or str(err)
            return False
        self._torn = False
        self.error = None
        return True

    def close(self) -> None:
        """Give the file up; the next `write` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> int:
        """One `write`; how much of it reached the file, which on a full disk is less than all."""
        return os.write(self._fd, line)

    def _drop(self, taken: int) -> None:
        """Takes the beginning of a line that found no room back out of the file; where that fails, the next line ends it."""
        self._torn = True
        with suppress(OSError):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - taken)
            self._torn = _is_torn(self._fd)

    def _make_way(self, size: int) -> None:
        """Turns the file aside where a line of this size would be too much for it; one that is empty takes any line."""
        present = os.fstat(self._fd).st_size
        if present == 0 or present + size <= self.max_bytes:
            return
        # Where it cannot be turned aside, a file that is too large is better than lines that are lost.
        with suppress(OSError):
            for number in range(ARCHIVES - 1, 0, -1):
                self._shift(number)
            os.rename(self._path, f"{self._path}.1")
            self._open_current()

    def _shift(self, number: int) -> None:
        """Makes the older part `number` the next older one, which goes; each may have been compressed by somebody."""
        older = f"{self._path}.{number + 1}"
        for form, other in (("", ".zst"), (".zst", "")):
            with suppress(FileNotFoundError):
                os.rename(f"{self._path}.{number}{form}", older + form)
                os.unlink(older + other)

    def _open_current(self) -> None:
        path = str(self.path)
        if self._fd >= 0 and path == self._path:
            try:
                found = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                if (found.st_dev, found.st_ino) == self._identity:
                    return
        self.close()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # No link is followed and no pipe waited for: a name in a shared directory may be anybody's.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags, 0o600)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file")
        self._fd, self._path, self._identity = fd, path, (found.st_dev, found.st_ino)
        # Whoever wrote here before may have ended in the middle of a line.
        self._torn = _is_torn(fd)


class Log:
    """The sinks and their levels; `logger` gives what the parts of the gateway write with."""

    def __init__(
        self,
        file: DailyFile | None = None,
        *,
        stdout: int = 1,
        stderr: int = 2,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.file = file
        self._stdout, self._stderr = stdout, stderr
        self._clock = clock
        self._level, self._console_level = _RANK["info"], _RANK["info"]
        self._style = "pretty" if os.isatty(stdout) else "compact"
        self._colour = os.isatty(stdout) and not os.environ.get("NO_COLOR")
        self._secrets: tuple[bytes, ...] = ()
        self._gap: tuple[int, str] | None = None

    def configure(
        self,
        *,
        level: str,
        console_level: str,
        console_style: str | None,
        directory: Path | None,
        secrets: Iterable[str],
        max_file_bytes: int = MAX_LOG_BYTES,
    ) -> None:
        """Take over what the config says; from the next line on it holds. `secrets` are masked wherever they appear."""
        self._level, self._console_level = _RANK[level], _RANK[console_level]
        self._style = console_style or ("pretty" if os.isatty(self._stdout) else "compact")
        forms = {form for secret in secrets if len(secret) >= _MIN_SECRET_CHARS for form in _forms(secret)}
        self._secrets = tuple(sorted(forms, key=len, reverse=True))
        if self.file is not None:
            self.file.max_bytes = max_file_bytes
        if directory is None or (self.file is not None and self.file.directory == directory):
            return
        if self.file is not None:
            self.file.close()
        self.file = DailyFile(directory, max_bytes=max_file_bytes, clock=self._clock)

    def logger(self, subsystem: str) -> Logger:
        """What a part of the gateway writes with, for example "gateway/reload"."""
        return Logger(self, subsystem)

    def masked(self, text: str) -> str:
        """The text as it may leave the process: without the secrets of the config."""
        return self._masked(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")

    def wants(self, level: str) -> bool:
        """Whether any sink takes lines of this level."""
        return _RANK[level] <= max(self._level, self._console_level)

    def write(self, subsystem: str, level: str, text: str, meta: dict[str, Any]) -> None:
        """One event to every sink that wants it. It never raises."""
        rank = _RANK[level]
        if rank <= self._level and self.file is not None:
            self._to_file(subsystem, level, text, meta)
        if rank <= self._console_level:
            self._to_console(subsystem, level, text, meta)

    def state(self) -> dict[str, Any]:
        """For the health answer: whether lines reach the file, and how many did not."""
        if self.file is None:
            return {"ok": False, "file": None, "lost": 0, "error": "no directory for the log can be used"}
        return {
            "ok": self.file.error is None,
            "file": str(self.file.path),
            "lost": self.file.lost,
            "error": self.file.error,
        }

    def _to_file(self, subsystem: str, level: str, text: str, meta: dict[str, Any]) -> None:
        assert self.file is not None  # asked by the caller
        if self._gap is None:
            lost_before = self.file.lost
            if not self.file.write(self._record(subsystem, level, text, meta)):
                self._gap = (lost_before, self.file.error or "")
                self._to_console("gateway", "error", f"cannot write the log: {self.file.error}; lines are lost", {})
            return
        # The first line that works again is the word about the gap, so that it stands before what follows.
        lost_before, why = self._gap
        notice = f"log lines were lost: {self.file.lost - lost_before} ({why})"
        if self.file.write(self._record("gateway", "warn", notice, {})):
            self._gap = None
            self._to_console("gateway", "warn", notice, {})
            self.file.write(self._record(subsystem, level, text, meta))

    def _record(self, subsystem: str, level: str, text: str, meta: dict[str, Any]) -> bytes:
        at = _iso(self._clock())
        name = f'{{"subsystem":"{subsystem}"}}'
        record: dict[str, Any] = {"0": name}
        record |= {"1": meta, "2": text} if meta else {"1": text}
        record["_meta"] = {
            "runtime": "python",
            "runtimeVersion": platform.python_version(),
            "hostname": "unknown",
            "name": name,
            "parentNames": ["openclaw"],
            "date": at,
            "logLevelId": _LEVEL_ID[level],
            "logLevelName": level.upper(),
        }
        record["time"] = at
        return self._masked(_dumps(record)) + b"\n"

    def _masked(self, line: bytes) -> bytes:
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, _MASK.encode())
        return line

    def _to_console(self, subsystem: str, level: str, text: str, meta: dict[str, Any]) -> None:
        line = self._console_line(subsystem, level, text, meta)
        fd = self._stderr if _RANK[level] <= _RANK["error"] else self._stdout
        raw = self._masked(line)[: _MAX_CONSOLE_BYTES - 1] + b"\n"
        try:
            if _writable(fd):
                os.write(fd, raw)
        except OSError:
            pass  # a closed terminal or pipe: nobody is there to be told

    def _console_line(self, subsystem: str, level: str, text: str, meta: dict[str, Any]) -> bytes:
        now = self._clock()
        if self._style == "json":
            return _dumps({"time": _iso(now), "level": level, "subsystem": subsystem, "message": text, **meta})
        text = text.replace("\n", "\n  ")
        if self._style == "compact":
            return f"{_iso(now)} [{_short(subsystem)}] {text}".encode("utf-8", "replace")
        mark = f"[{_short(subsystem)}]"
        if self._colour:
            mark = f"\x1b[{_COLOURS[level]}m{mark}\x1b[0m"
        return f"{time.strftime('%H:%M:%S', time.localtime(now))} {mark} {text}".encode("utf-8", "replace")


class Logger:
    """Writes as one subsystem: a constant text for people, and what varies beside it as `meta`."""

    __slots__ = ("_log", "_subsystem")

    def __init__(self, log: Log, subsystem: str) -> None:
        self._log = log
        self._subsystem = subsystem

    def fatal(self, text: str, **meta: Any) -> None:
        """The process ends of it."""
        self._log.write(self._subsystem, "fatal", text, meta)

    def error(self, text: str, **meta: Any) -> None:
        """Something that was asked for was not done."""
        self._log.write(self._subsystem, "error", text, meta)

    def warn(self, text: str, **meta: Any) -> None:
        """Done otherwise than asked, or likely to go wrong."""
        self._log.write(self._subsystem, "warn", text, meta)

    def info(self, text: str, **meta: Any) -> None:
        """What an operator wants to find later."""
        self._log.write(self._subsystem, "info", text, meta)

    def debug(self, text: str, **meta: Any) -> None:
        """For whoever looks for a fault."""
        if self._log.wants("debug"):
            self._log.write(self._subsystem, "debug", text, meta)


def log_directory(configured_file: str | None, environ: Mapping[str, str]) -> Path | None:
    """Where the daily files go: beside `logging.file`, else `OPENCLAW_LOG_DIR`, else /tmp/openclaw.

    The last is shared ground: it must be ours alone (a directory, no link, owned by us, writable by nobody else), else
    /tmp/openclaw-<uid> is tried by the same rule, else there is no file (None).
    """
    if configured_file:
        return Path(configured_file).expanduser().absolute().parent
    if named := environ.get("OPENCLAW_LOG_DIR"):
        return Path(named).expanduser().absolute()
    for candidate in (Path("/tmp/openclaw"), Path(f"/tmp/openclaw-{os.getuid()}")):  # noqa: S108 - checked below
        if _is_private(candidate):
            return candidate
    return None


def _is_torn(fd: int) -> bool:
    """Whether the file ends in the middle of a line."""
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def _is_private(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = os.stat(directory, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _forms(secret: str) -> Iterator[bytes]:
    """How a secret may stand in a line. One from the environment may have bytes that are no UTF-8 (surrogates)."""
    yield secret.encode("utf-8", "surrogatepass")
    yield secret.encode("utf-8", "replace")
    try:
        yield orjson.dumps(secret)[1:-1]
    except TypeError:
        # What is no text for JSON stands there as `_dumps` shows it: twice escaped.
        yield orjson.dumps(ascii(secret)[1:-1])[1:-1]


def _dumps(data: Any) -> bytes:
    try:
        return orjson.dumps(data, default=str)
    except TypeError:
        # A lone surrogate from a file name, an integer beyond 64 bits: said as text rather than lost.
        return orjson.dumps({"unprintable": ascii(data)})


def _iso(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _short(subsystem: str) -> str:
    """The console's form: leading gateway, channels, providers dropped, at most the last two segments."""
    parts = subsystem.split("/")
    while len(parts) > 1 and parts[0] in ("gateway", "channels", "providers"):
        parts = parts[1:]
    return "/".join(parts[-2:])


def _writable(fd: int) -> bool:
    """Whether a write of `_MAX_CONSOLE_BYTES` returns at once: a full pipe or a stopped terminal must not stop us."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poller.poll(0))


def print_plain(text: str) -> None:
    """For what is said before there is a log: to stderr, in one piece."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
