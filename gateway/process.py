"""The files and signs by which whoever runs the gateway knows it: pid file, exit file, readiness. Synchronous and small."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from gateway.files import write_atomic


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
    """`gateway.pid` in the state directory, for `kill -HUP`; taken away at the end while it is still ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = f"{os.getpid()}\n"

    def write(self) -> None:
        """Write it. Raises OSError where the directory cannot be written."""
        write_atomic(self._path, self._text.encode())

    def remove(self) -> None:
        """Take it away unless another gateway wrote its own meanwhile. It never raises."""
        try:
            if self._path.read_text() == self._text:
                self._path.unlink()
        except OSError:
            pass  # gone, or unreadable: not ours to clean


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
