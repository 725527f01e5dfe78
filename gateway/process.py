"""The files and signs by which whoever runs the gateway knows it: pid file, exit file, readiness. Synchronous and small."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from gateway.files import open_regular, write_atomic


def write_exit(environ: Mapping[str, str], code: int, reason: str) -> None:
    """Leave code and reason for whoever adopts the state, where `OPENCLAW_EXIT_FILE` names a file. It never raises."""
    if not (named := environ.get("OPENCLAW_EXIT_FILE")):
        return
    data = json.dumps({"code": code, "reason": reason, "pid": os.getpid()}).encode() + b"\n"
    try:
        write_atomic(Path(named), data)
    except OSError:
        pass  # the exit itself says the code; there is nobody left to hear of more


class PidFile:
    """`gateway.pid` in the state directory, for `kill -HUP`; taken away at the end while it is still ours.

    It is locked (flock(2)) as long as its gateway lives, however that ends: a number alone may be another process by now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = f"{os.getpid()}\n"
        self._handle: int | None = None

    def write(self) -> str | None:
        """Write it. Returns None, or which process it names where another gateway lives by it: then it is left alone.

        Raises:
            OSError: the directory cannot be written.
        """
        if (other := self._other()) is not None:
            return other
        write_atomic(self._path, self._text.encode())
        handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if os.read(handle, 64) != self._text.encode():
            os.close(handle)
            return self._other()  # a gateway that starts at the same moment was the last to write
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._handle = handle
        return None

    def _other(self) -> str | None:
        try:
            with open_regular(self._path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read(64).decode("ascii", "replace").strip()
        except OSError:
            pass  # none, none that could be read, or no locks
        return None

    def remove(self) -> None:
        """Take it away unless it is another gateway's. It never raises."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with suppress(OSError):  # gone
            if os.path.samestat(os.fstat(handle), os.lstat(self._path)):
                self._path.unlink()
        os.close(handle)


class Notifier:
    """Tells a service manager of readiness (sd_notify(3)); silent where nobody asked."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        # Taken out of the environment so that no child of ours speaks in our name.
        self._address = environ.pop("NOTIFY_SOCKET", "")

    def send(self, state: str) -> str | None:
        """Send one state. Returns what went wrong, or None."""
        if not self._address:
            return None
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), address)
        except OSError as err:
            return f"cannot notify the service manager: {err.strerror or err}"
        return None
