"""Loopback ports that nobody else takes: no other test, no other session, and not the kernel for a client socket."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

# Below the range from which the kernel serves outgoing connections, and above the ports of well-known services.
LOWEST: Final = 20_000
_HIGHEST_FALLBACK: Final = 32_767
_held: list[socket.socket] = []


def free_port() -> int:
    """A TCP port that is free on every local address, and reserved until the session ends.

    The reservation is an abstract Unix socket named after the port: it vanishes with the process that holds it, however it ends.
    """
    for _ in range(1000):
        port = random.SystemRandom().randint(LOWEST, _highest())
        if (claim := _claim(port)) is not None:
            if _is_free(port):
                _held.append(claim)
                return port
            claim.close()
    raise AssertionError("no free loopback port found in 1000 tries")


def release_ports() -> None:
    """Gives all reservations back."""
    while _held:
        _held.pop().close()


def _highest() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]) - 1
    except FileNotFoundError:
        return _HIGHEST_FALLBACK


def _claim(port: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0openclaw-test-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError as err:
            # A machine without IPv6 has nothing to hold there.
            if family == socket.AF_INET:
                return False
            return "address" in str(err).lower() and "in use" not in str(err).lower()
    return True
