"""Who listens on TCP ports of this network namespace: asked of the kernel by sock_diag(7), else read from /proc/net.

Standard library only: the keeper uses it. The tables in /proc hold every connection and take milliseconds on a busy host;
sock_diag filters in the kernel. Some sandboxes refuse netlink: then the tables are read.
"""

from __future__ import annotations

import socket
import struct
import sys

from resources.service.shortage import is_shortage

# linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20
_NETLINK_SOCK_DIAG = 4
_REQUEST_DUMP = 0x301
_DONE, _ERROR = 3, 2
_LISTEN = 10
_HEADER = struct.Struct("=LHHLL")
_REQUEST = struct.Struct("=BBBxL2s2s16s16sLQ")
_ANSWER = struct.Struct("=4B2s2s16s16sLQLLLLL")
_ANSWER_SECONDS = 1.0


class Listener:
    """One listening socket: `host` as a client on this host would dial it (a wildcard by loopback), its user and inode."""

    __slots__ = ("host", "inode", "port", "uid")

    def __init__(self, host: str, port: int, uid: int, inode: str) -> None:
        self.host = host
        self.port = port
        self.uid = uid
        self.inode = inode


def listeners(port: int | None = None) -> list[Listener]:
    """The listening sockets with this port (None: all), IPv4 first.

    Raises:
        OSError: this process lacks what it takes to look (`is_shortage`).
    """
    try:
        return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _ask(family, port or 0)]
    except OSError as err:
        if is_shortage(err):
            raise
        return [
            found
            for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6))
            for found in _read(table, family)
            if port is None or found.port == port
        ]


def _ask(family: int, port: int) -> list[Listener]:
    """The kernel's own answer for one family. Raises OSError."""
    body = _REQUEST.pack(
        family, socket.IPPROTO_TCP, 0, 1 << _LISTEN, port.to_bytes(2, "big"), b"", b"", b"", 0, 0xFFFFFFFFFFFFFFFF
    )
    found: list[Listener] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_SECONDS)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + body)
        while True:
            data = kernel.recv(65536)
            while len(data) >= _HEADER.size:
                length, kind, *_rest = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise OSError("sock_diag is refused")
                found.append(_parsed(family, data[_HEADER.size : length]))
                data = data[(length + 3) & ~3 :]


def _parsed(family: int, data: bytes) -> Listener:
    fields = _ANSWER.unpack_from(data)
    size = 4 if family == socket.AF_INET else 16
    return Listener(_dialled(family, fields[6][:size]), int.from_bytes(fields[4], "big"), fields[13], str(fields[14]))


def _read(table: str, family: int) -> list[Listener]:
    found = []
    try:
        with open(f"/proc/self/net/{table}", encoding="ascii") as file:
            lines = file.readlines()[1:]
    except OSError as err:
        if is_shortage(err):
            raise
        return []
    for line in lines:
        fields = line.split()
        address, _, number = fields[1].rpartition(":")
        if int(fields[3], 16) == _LISTEN:
            # The kernel prints each 32-bit word of the address in the byte order of the machine.
            words = (address[at : at + 8] for at in range(0, len(address), 8))
            packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
            found.append(Listener(_dialled(family, packed), int(number, 16), int(fields[7]), fields[9]))
    return found


def _dialled(family: int, packed: bytes) -> str:
    if not any(packed):
        return "127.0.0.1" if family == socket.AF_INET else "::1"
    return socket.inet_ntop(family, packed)
