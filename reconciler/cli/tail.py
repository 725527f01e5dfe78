"""Reads the gateway's daily log files for `openclaw logs`: the lines of the real product's shape, filtered, and followed.

Knows the files' names and the shape of a line (docs/reference/files.md), and nothing of the gateway.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from reconciler.cli.console import Console
from reconciler.cli.render.text import paint
from reconciler.cli.session import Session
from reconciler.errors import DocumentError, NotPermittedError, OpenClawError, UsageError
from reconciler.files import open_regular
from reconciler.values import parse_json

LEVELS = ("fatal", "error", "warn", "info", "debug", "trace")
_DAILY = re.compile(r"openclaw-\d{4}-\d{2}-\d{2}\.log")
_STYLES = {"fatal": "red", "error": "red", "warn": "yellow", "debug": "dim", "trace": "dim"}
# One line of a log may hold a whole request body; more than this is shown cut, never read into memory whole.
MAX_LINE_BYTES = 1 << 20
# How long a line may wait that no event tells of.
LOOK_MILLISECONDS = 500
# Between the listing and now it was pruned, or something else than a regular file came in its place.
_NO_LOG_NOW = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which lines are wanted: this level or graver, this subsystem or below it, not older than so many seconds."""

    level: str | None = None
    subsystem: str | None = None
    since_seconds: float | None = None

    def wants(self, line: Line, now: float) -> bool:
        """True when the line passes."""
        if self.level is not None and (line.level not in LEVELS or LEVELS.index(line.level) > LEVELS.index(self.level)):
            return False
        if self.subsystem is not None and not f"{line.subsystem}/".startswith(f"{self.subsystem}/"):
            return False
        return self.since_seconds is None or line.time >= _utc(now - self.since_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the file: `time` is RFC 3339 in UTC, `raw` the line as it stands there."""

    time: str
    level: str
    subsystem: str
    text: str
    raw: str


@dataclass(slots=True)
class Position:
    """How far each file was read: by inode, so that a renamed file is not read twice."""

    offsets: dict[int, int] = field(default_factory=dict)


def parse_line(raw: str) -> Line:
    """The line, in whatever state it is: what is no JSON of the known shape is shown as it stands."""
    try:
        data = parse_json(raw)
        name = parse_json(data["0"]) if str(data.get("0", "")).startswith("{") else {}
        texts = [data[key] for key in ("1", "2") if isinstance(data.get(key), str)] if name else [str(data["0"])]
        return Line(
            time=str(data.get("time", "")),
            level=str(data["_meta"]["logLevelName"]).lower(),
            subsystem=str(name.get("subsystem") or name.get("module") or ""),
            text=texts[-1] if texts else "",
            raw=raw,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Line(time="", level="", subsystem="", text=raw, raw=raw)


def show(console: Console, directory: str, wanted: Filter, *, lines: int, follow: bool, as_json: bool) -> int:
    """Prints the last `lines` wanted lines, then with `follow` what comes, until interrupted. Returns the exit code.

    Raises:
        NotPermittedError: this user may not read it.
        OpenClawError: there is no such directory, or it cannot be read.
    """
    # Loaded before anything is shown: a Ctrl-C in the middle of an import may be lost in a callback of the interpreter's own.
    looks = _looks(directory) if follow else None
    position = Position()
    last: deque[Line] = deque(maxlen=lines)
    last.extend(line for line in read_new(directory, position) if wanted.wants(line, time.time()))
    for line in last:
        console.out(_shown(line, console, as_json))
    if looks is None:
        return 0
    try:
        for _look in looks:
            for line in read_new(directory, position):
                if wanted.wants(line, time.time()):
                    console.out(_shown(line, console, as_json))
            # Whoever reads along through a pipe waits for nothing.
            console.err("")
            if console.deaf():
                return 0
    except KeyboardInterrupt:
        return 130
    return 0


def _looks(directory: str) -> Iterator[None]:
    """Comes back whenever there may be something new, until interrupted.

    What is written before the watch is set up, or where nothing tells of it, is found by looking now and then.
    """
    from watchfiles import watch
    from watchfiles._rust_notify import WatchfilesRustInternalError

    def looks() -> Iterator[None]:
        changes = watch(
            directory,
            watch_filter=None,
            recursive=False,
            step=50,
            debounce=50,
            rust_timeout=LOOK_MILLISECONDS,
            yield_on_timeout=True,
            raise_interrupt=True,
        )
        try:
            for _change in changes:
                yield
        except (OSError, WatchfilesRustInternalError):
            # The system cannot watch (no inotify instance is left).
            while True:
                yield
                time.sleep(LOOK_MILLISECONDS / 1000)

    return looks()


def read_new(directory: str, position: Position) -> Iterator[Line]:
    """The whole lines of all daily files that were not read before, oldest file first.

    What only has the name of one (a directory, a fifo, a link) is none, as for the plan that prunes them.
    """
    try:
        with os.scandir(directory) as entries:
            found = [each for each in entries if _DAILY.fullmatch(each.name) and each.is_file(follow_symlinks=False)]
    except OSError as err:
        raise _unreadable(directory, err) from err
    for path in sorted(each.path for each in found):
        try:
            yield from _read_file(path, position)
        except OSError as err:
            if err.errno in _NO_LOG_NOW:
                continue
            raise _unreadable(directory, err) from err


def _unreadable(directory: str, err: OSError) -> OpenClawError:
    text = f'cannot read the logs in "{directory}": {(err.strerror or "").lower()}'
    if isinstance(err, PermissionError):
        return NotPermittedError(text, hint="run as the user that the gateway runs as")
    return OpenClawError(text, hint="was the gateway ever started?")


def _read_file(path: str, position: Position) -> Iterator[Line]:
    with open_regular(path, follow=False) as file:
        inode = os.fstat(file.fileno()).st_ino
        start = position.offsets.get(inode, 0)
        if os.fstat(file.fileno()).st_size < start:
            start = 0
        file.seek(start)
        while raw := file.readline(MAX_LINE_BYTES):
            if not raw.endswith(b"\n") and len(raw) < MAX_LINE_BYTES:
                break
            start += len(raw)
            yield parse_line(raw.decode("utf-8", "replace").rstrip("\n"))
        position.offsets[inode] = start


def directory_of(session: Session) -> str:
    """Where the logs of this document's gateway lie; where it is not valid, or gone, those of the generation in force."""
    session.settle()
    try:
        desired = session.load().desired
    except DocumentError:
        from reconciler.engine.goal import desired_of

        if (last := session.in_force()) is None:
            raise
        desired = desired_of(last)
    host = session.host()
    declared = desired.logging.directory if desired.logging is not None else None
    if declared is None:
        return str(host.state.logs)
    from resources.service.spec import expand_path

    return expand_path(declared, host)


def duration(text: str, parse: Callable[[Any], float]) -> float:
    """The seconds that `text` means.

    Raises:
        UsageError: it is no duration.
    """
    try:
        return parse(text)
    except ValueError as err:
        raise UsageError(f"cannot use --since: cannot {err}", hint="write it like 30s, 5m or 2h") from err


def _shown(line: Line, console: Console, as_json: bool) -> str:
    if as_json or not line.level:
        return line.raw + "\n"
    colour = console.terminal.colour
    level = paint(f"{line.level:<5}", _STYLES.get(line.level, "bold"), colour)
    where = f" [{line.subsystem}]" if line.subsystem else ""
    return f"{line.time} {level}{where} {line.text}\n"


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
