"""Keeps the config in force and the file together: watches, waits until it is quiet, takes over or says why not.

The watcher is inotify on the directory (a save by rename puts a new file in the place of the old one) with a slow look at
the file beside it, so that a lost event, a network file system or a swapped link is found all the same. At rest it
wakes up every `LOOK_SECONDS` for one `stat`. Linux's inotify is called by ctypes: `watchfiles` keeps a thread that wakes up
twenty times a second.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import trio

from gateway.config import Settings
from gateway.last_good import keep
from gateway.live import Outcome, signature
from gateway.log import log_directory
from gateway.runtime import Runtime

LOOK_SECONDS = 5.0
# Without inotify (no more watches, another kernel) the look is all there is.
LOOK_SECONDS_ALONE = 1.0
# A file that keeps changing is taken as it is after this long.
_SETTLE_LIMIT_SECONDS = 5.0

# inotify(7): create, delete, moved in or out, written and closed, modified, attributes, and the directory itself gone.
_EVENTS = 0x100 | 0x200 | 0x40 | 0x80 | 0x8 | 0x2 | 0x4 | 0x400 | 0x800
_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK

_NAMED = {
    "gateway.port": "Gateway port change requires restart",
    "gateway.bind": "Gateway bind change requires restart",
    "gateway.auth": "Gateway auth change requires restart",
    "gateway.tls": "Gateway TLS change requires restart",
}


class DirectoryWatch:
    """Wakes up when anything in a directory moves. Everything about it may fail; `wait` then only waits for its time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._add()

    @property
    def working(self) -> bool:
        """Whether events come at all."""
        return self._fd >= 0

    async def wait(self, seconds: float) -> None:
        """Until something moved, at most `seconds`."""
        if not self.working:
            await trio.sleep(seconds)
            self._add()
            return
        with trio.move_on_after(seconds):
            await trio.lowlevel.wait_readable(self._fd)
            self._drain()

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _add(self) -> None:
        fd = self._libc.inotify_init1(_CLOEXEC_NONBLOCK)
        if fd >= 0 and self._libc.inotify_add_watch(fd, os.fsencode(self._directory), _EVENTS) < 0:
            os.close(fd)
            fd = -1
        self._fd = fd

    def _drain(self) -> None:
        """Take the events away. The directory itself gone or replaced: begin anew."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        gone = 0x400 | 0x800 | 0x8000
        at = 0
        while at + 16 <= len(data):
            mask, length = (
                int.from_bytes(data[at + 4 : at + 8], "little"),
                int.from_bytes(data[at + 12 : at + 16], "little"),
            )
            if mask & gone:
                self.close()
                self._add()
                return
            at += 16 + length


class Reloader:
    """Takes a new config over, whoever asks: the watcher, SIGHUP, the RPC."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._log = runtime.log.logger("gateway/reload")
        self._told: tuple[str, str | None] | None = None

    def reload(self, asked_by: str) -> Outcome:
        """Read the file now; a valid one is in force when this returns, an invalid one changes nothing."""
        outcome = self._runtime.config.reload()
        told, self._told = self._told, (outcome.hash, outcome.error)
        if outcome.error is not None:
            if told != self._told:
                self._log.warn(f"config reload skipped (invalid config): {outcome.error}", askedBy=asked_by)
            return outcome
        if outcome.changed:
            self._log.info(
                f"config change detected; evaluating reload ({', '.join(outcome.changed)})", askedBy=asked_by
            )
            self._apply(outcome)
        elif told is not None and told[1] is not None:
            self._log.info("config is valid again; nothing changed")
        self.keep()
        return outcome

    def keep(self) -> None:
        """Keep the config in force for a start that finds the file damaged."""
        if (problem := keep(self._runtime.config.path, self._runtime.config.current)) is not None:
            self._log.warn(problem)

    def _apply(self, outcome: Outcome) -> None:
        settings = self._runtime.config.current.settings
        assert settings is not None  # only valid configs are in force
        configure_log(self._runtime, settings)
        if outcome.hot:
            self._log.info(f"config hot reload applied ({', '.join(outcome.hot)})")
        if outcome.none:
            self._log.info(f"config change applied (dynamic reads: {', '.join(outcome.none)})")
        if outcome.restart:
            self._say_restart(outcome.restart, settings.reload_mode)
        self._log.info("Config reloaded successfully", hash=outcome.hash)

    def _say_restart(self, paths: tuple[str, ...], mode: str) -> None:
        """The gateway never restarts itself: whoever runs it does, and is told by `restartOwed` and these lines."""
        for prefix, text in _NAMED.items():
            if any(path == prefix or path.startswith(f"{prefix}.") for path in paths):
                self._log.warn(text)
        listed = ", ".join(paths)
        if mode == "hot":
            self._log.warn(f"config reload requires gateway restart; hot mode ignoring ({listed})")
        else:
            self._log.warn(f"config change requires gateway restart ({listed})")

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reload whenever the file has moved and is quiet again, for ever."""
        config = self._runtime.config
        watch = DirectoryWatch(config.path.parent)
        try:
            seen = signature(config.path)
            task_status.started()
            while True:
                await watch.wait(LOOK_SECONDS if watch.working else LOOK_SECONDS_ALONE)
                if signature(config.path) == seen:
                    continue
                seen = await self._settled()
                if self._mode() != "off":
                    self.reload("watcher")
        finally:
            watch.close()

    async def _settled(self) -> tuple[int, ...]:
        """Wait until the file did not move for the debounce time; its signature then."""
        config = self._runtime.config
        limit = trio.current_time() + _SETTLE_LIMIT_SECONDS
        while True:
            seen = signature(config.path)
            await trio.sleep(self._debounce_seconds())
            if signature(config.path) == seen or trio.current_time() > limit:
                return seen

    def _mode(self) -> str:
        settings = self._runtime.config.current.settings
        return settings.reload_mode if settings else "hybrid"

    def _debounce_seconds(self) -> float:
        settings = self._runtime.config.current.settings
        return settings.debounce_seconds if settings else 0.3


def configure_log(runtime: Runtime, settings: Settings) -> None:
    """Make the log what the settings say. A secret that waits for a restart is masked beside the one in use."""
    started = runtime.config.started.settings
    runtime.log.configure(
        level=settings.level,
        console_level=settings.console_level,
        console_style=settings.console_style,
        directory=log_directory(settings.log_file, runtime.environ),
        max_file_bytes=settings.max_log_bytes,
        secrets=(settings.secret.value, started.secret.value if started else ""),
    )
