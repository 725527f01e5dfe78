"""A short program that the keeper runs and waits for without stopping its loop: a check, with a time limit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from resources.service.keeper import process
from resources.service.keeper.loop import Loop

_MAX_OUTPUT_BYTES = 4096
_MAX_TEXT = 500


class Helper:
    """Runs `argv` and calls `done(code, output)` once: the exit code (None: not run, killed, too slow), the last line."""

    def __init__(
        self,
        loop: Loop,
        argv: list[str],
        *,
        environ: dict[bytes, bytes],
        cwd: str,
        output: str,
        limit_seconds: float,
        done: Callable[[int | None, str], None],
    ) -> None:
        self._loop = loop
        self._output = output
        self._done = done
        self._pidfd: int | None = None
        self._remove_output()
        try:
            self._pid = process.spawn({"argv": argv, "cwd": cwd, "output": output, "limits": {}}, environ)
            self._pidfd, _ = process.watched(self._pid)
        except (process.SpawnError, OSError) as err:
            why = str(err)
            self._timer = loop.after(0.0, lambda: done(None, why))
            return
        loop.watch(self._pidfd, self._on_exit)
        self._timer = loop.after(limit_seconds, self._kill)

    def _kill(self) -> None:
        assert self._pidfd is not None
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self) -> None:
        """Ends it now; `done` is not called."""
        self._timer.cancel()
        if self._pidfd is None:
            return
        self._kill()
        self._collect()

    def _on_exit(self) -> None:
        ended = self._collect()
        text = self._last_line()
        self._remove_output()
        exited = ended is not None and ended.si_code == os.CLD_EXITED
        self._done(ended.si_status if ended is not None and exited else None, text)

    def _collect(self) -> os.waitid_result | None:
        """Waits for its end, sweeps its process group, and forgets it."""
        assert self._pidfd is not None
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        process.sweep_group(self._pid, None, own=True)
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._timer.cancel()
        self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None
        return ended

    def _last_line(self) -> str:
        try:
            with open(self._output, "rb") as file:
                lines = file.read(_MAX_OUTPUT_BYTES).decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:_MAX_TEXT] for line in reversed(lines) if line.strip()), "")

    def _remove_output(self) -> None:
        try:
            os.unlink(self._output)
        except OSError:
            pass
