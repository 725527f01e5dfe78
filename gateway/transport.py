"""Sockets for the gateway: which addresses to listen on, TLS, request heads, and streams with bytes put back.

It knows no protocol beyond where an HTTP head ends.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import trio

from gateway.files import open_regular
from gateway.wire.connect import is_loopback_name
from gateway.wire.tls import MAX_FILE_BYTES, files_hash

# A browser's largest head with cookies is below 8 KiB; Node's own limit is 16 KiB.
MAX_HEAD_BYTES = 16 * 1024
# The kernel cuts it to net.core.somaxconn; a burst of reconnecting clients after a restart must not be refused.
_BACKLOG = 1024
# As nginx's lingering_timeout, cut to what loopback and a LAN need.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 256 * 1024
# Tailscale gives every machine an address of this range (CGNAT, RFC 6598).
_TAILNET = ipaddress.ip_network("100.64.0.0/10")


class StartError(Exception):
    """The gateway cannot start; the text is for the operator. `exit_code` 78: not before something was changed."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class HeadTooLarge(Exception):
    """A request head passed `MAX_HEAD_BYTES`."""


class PrefixedStream(trio.abc.Stream):
    """A stream in front of which some bytes were already read."""

    def __init__(self, prefix: bytes, stream: trio.abc.Stream) -> None:
        self._prefix = prefix
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """First what was put back, then the stream's own bytes."""
        if not self._prefix:
            return bytes(await self._stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        size = len(self._prefix) if max_bytes is None else max_bytes
        data, self._prefix = self._prefix[:size], self._prefix[size:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream's."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream's."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


async def read_head(stream: trio.abc.Stream, already: bytes = b"") -> bytes:
    """The bytes up to at least the end of one HTTP request head, perhaps more; empty when the peer went away before.

    The caller sets the deadline.

    Raises:
        HeadTooLarge: no end within `MAX_HEAD_BYTES`.
        trio.BrokenResourceError: the peer reset the connection.
    """
    data = bytearray(already)
    while True:
        end = _head_end(data)
        if end is not None and end <= MAX_HEAD_BYTES:
            return bytes(data)
        if len(data) > MAX_HEAD_BYTES:
            raise HeadTooLarge
        received = await stream.receive_some(4096)
        if not received:
            return b""
        data += received


async def linger(stream: trio.abc.Stream) -> None:
    """Read away what a peer still sends, for a moment, so that the reset of an early close does not eat our last words."""
    with trio.move_on_after(_LINGER_SECONDS):
        try:
            if isinstance(stream, trio.SocketStream):
                await stream.send_eof()
            while await stream.receive_some(_LINGER_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is gone already


def _head_end(data: bytearray) -> int | None:
    """Where the blank line ends; line feeds alone count too, as they do to h11."""
    match = re.search(rb"\n\r?\n", data)
    return match.end() if match else None


def addresses(bind: str, custom_host: str | None) -> tuple[str, ...]:
    """The addresses to listen on; of loopback the second may fail.

    Raises:
        StartError: there is no address for this `bind`.
    """
    if bind == "loopback":
        return ("127.0.0.1", "::1")
    if bind == "tailnet":
        found = next((str(address) for address in _host_addresses() if address in _TAILNET), None)
        if found is None:
            raise StartError(
                'cannot bind to the tailnet: no address of 100.64.0.0/10 here; start tailscale, or set gateway.bind to "loopback"'
            )
        return (found,)
    if bind == "custom":
        assert custom_host  # checked with the config
        return (custom_host,)
    return ("0.0.0.0",)  # noqa: S104 - bind "lan" means every interface; a secret is mandatory there


def _host_addresses() -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses of this host, by interface (netdevice(7), SIOCGIFADDR)."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            yield ipaddress.IPv4Address(answer[20:24])


def open_listeners(hosts: tuple[str, ...], port: int) -> tuple[list[trio.SocketListener], list[str]]:
    """Listening sockets for all hosts, and what could not be had though it should (a missing ::1 is no error).

    Raises:
        StartError: the port is taken, or an address cannot be bound.
    """
    listeners: list[trio.SocketListener] = []
    warnings: list[str] = []
    try:
        for index, host in enumerate(hosts):
            try:
                listeners.append(_listen(host, port or _port_of(listeners)))
            except OSError as err:
                if index and err.errno != errno.EADDRINUSE:
                    warnings.append(f"cannot listen on {url_host(host)}:{port}: {err.strerror}")
                    continue
                raise _start_error(host, port, err) from err
    except StartError:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners, warnings


def _start_error(host: str, port: int, err: OSError) -> StartError:
    if err.errno == errno.EADDRINUSE:
        return StartError(f"another gateway instance is already listening on ws://{url_host(host)}:{port}")
    if err.errno in (errno.EACCES, errno.EPERM):
        return StartError(f"cannot listen on {url_host(host)}:{port}: not permitted; choose a port above 1023", 78)
    return StartError(f"cannot listen on {url_host(host)}:{port}: {err.strerror or err}")


def _port_of(listeners: list[trio.SocketListener]) -> int:
    """The port that the kernel chose for the first listener, so that the others get the same (port 0, in tests)."""
    return int(listeners[0].socket.getsockname()[1]) if listeners else 0


def _listen(host: str, port: int) -> trio.SocketListener:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" means all of IPv6; IPv4 beside it is a listener of its own, never a surprise.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def url_host(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def tls_context(cert_path: str, key_path: str, base: Path) -> tuple[ssl.SSLContext, str]:
    """A server's context, TLS 1.3 only, as the real product's, and the hash of the two files. They are relative to `base`.

    Raises:
        StartError: a file cannot be read, or the two do not fit together; it names the file, never its content.
    """
    cert, key = (base / os.path.expanduser(path) for path in (cert_path, key_path))
    read = []
    for what, name, path in (
        ("certificate (gateway.tls.certPath)", cert_path, cert),
        ("key (gateway.tls.keyPath)", key_path, key),
    ):
        try:
            with open_regular(path) as file:
                read.append(file.read(MAX_FILE_BYTES))
        except OSError as err:
            raise StartError(f"cannot read the TLS {what} {name}: {err.strerror}", 78) from err
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        # An empty password: an encrypted key is an error here and never a question on a terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError, OSError) as err:
        raise StartError(f"cannot use the TLS key {key_path} with the certificate {cert_path}: {err}", 78) from err
    # Of what was read before: where a file was replaced in between, that is told once too often and never once too rarely.
    return context, files_hash(*read)


def peer_address(stream: trio.abc.Stream) -> str:
    """The address of the other end, "unknown" where there is none (streams in memory, a connection already gone)."""
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(inner, trio.SocketStream):
        try:
            return str(inner.socket.getpeername()[0])
        except OSError:
            pass
    return "unknown"


def is_local_direct(address: str, host: str | None, header_names: frozenset[str]) -> bool:
    """Whether a request comes straight from this host: loopback peer, loopback `Host`, and nobody forwarded it."""
    try:
        peer = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
        peer = peer.ipv4_mapped
    forwarded = header_names & {"x-forwarded-for", "x-real-ip", "x-forwarded-host", "forwarded"}
    return peer.is_loopback and not forwarded and is_loopback_name(_host_name(host))


def _host_name(host: str | None) -> str:
    """A `Host` header without its port and brackets."""
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*))(?::\d*)?", host or "")
    return (match.group(1) or match.group(2) or "") if match else ""
