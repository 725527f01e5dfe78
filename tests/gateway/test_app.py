"""Stopping, and where the gateway listens, without a process of its own."""

import errno
import signal
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.http import is_trusted
from gateway.transport import StartError, addresses, is_local_direct, open_listeners, tls_context
from gateway.wire.connect import AuthMode, Secret
from tests.gateway.parts import make


class Signals:
    """Signals, each so many seconds after the one before."""

    def __init__(self, *later: tuple[float, int]) -> None:
        self._later = list(later)

    def __aiter__(self) -> "Signals":
        return self

    async def __anext__(self) -> int:
        if not self._later:
            await trio.sleep_forever()
        seconds, number = self._later.pop(0)
        await trio.sleep(seconds)
        return number


@pytest.mark.req("SVC-9", "SVC-11")
@pytest.mark.parametrize(
    ("ends_after", "again_after", "result", "seconds"),
    [
        (0.0, None, (0, "SIGTERM"), 0),
        (3.5, None, (0, "SIGTERM"), 3.5),
        (None, None, (0, "SIGTERM"), 7),
        (None, 2, (1, "forced by a second signal after SIGTERM"), 2),
    ],
)
async def test_running_work_ends_first_but_neither_time_limit_nor_a_second_signal_waits(
    tmp_path: Path,
    autojump_clock: MockClock,
    ends_after: float | None,
    again_after: float | None,
    result: tuple[int, str],
    seconds: float,
) -> None:
    inside = make(tmp_path)
    gateway = Gateway(inside.runtime, inside.settings, {"OPENCLAW_DRAIN_SECONDS": "7"})
    clients = inside.runtime.clients
    clients.request_began()

    async def work() -> None:
        if ends_after is not None:
            await trio.sleep(ends_after)
            clients.request_ended()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        later = ((again_after, signal.SIGTERM),) if again_after is not None else ()
        assert await gateway._stop("SIGTERM", Signals((0.1, signal.SIGHUP), *later)) == result
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.2)
    assert inside.runtime.stopping


@pytest.mark.req("GW-1")
def test_where_it_listens_follows_the_bind() -> None:
    assert addresses("loopback", None) == ("127.0.0.1", "::1")
    assert addresses("lan", None) == ("0.0.0.0",)
    assert addresses("custom", "::") == ("::",)
    try:
        (tailnet,) = addresses("tailnet", None)
    except StartError as err:
        assert "no address of 100.64.0.0/10 here" in err.message  # noqa: PT017 - by the host, either may hold
    else:
        assert tailnet.startswith("100.")


@pytest.mark.req("GW-1")
async def test_only_the_second_address_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.bind

    def without_ipv6(self: socket.socket, address: tuple[str, int]) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        real(self, address)

    monkeypatch.setattr(socket.socket, "bind", without_ipv6)
    listeners, warnings = open_listeners(("127.0.0.1", "::1"), 0)
    assert len(listeners) == 1
    assert warnings == ["cannot listen on [::1]:0: Cannot assign requested address"]
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(StartError, match="another gateway instance is already listening on ws://127"):
        open_listeners(("127.0.0.1",), port)
    with pytest.raises(StartError, match="cannot listen on"):
        open_listeners(("::1",), 0)
    for listener in listeners:
        await listener.aclose()


def test_a_certificate_that_is_none_names_the_files_and_asks_nobody(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("no pem")
    with pytest.raises(StartError, match=r"cannot use the TLS key key with the certificate cert: ") as failed:
        tls_context("cert", "key", tmp_path)
    assert failed.value.exit_code == 78


@pytest.mark.req("GW-3")
@pytest.mark.parametrize(
    ("address", "host", "headers", "local"),
    [
        ("127.0.0.1", "localhost:1", (), True),
        ("127.8.9.9", "127.0.0.1", (), True),
        ("::1", "[::1]:18789", (), True),
        ("::ffff:127.0.0.1", "localhost", (), True),
        ("192.0.2.1", "localhost", (), False),
        ("127.0.0.1", "gw.example:18789", (), False),
        ("127.0.0.1", "127.0.0.1.evil.example", (), False),
        ("127.0.0.1", None, (), False),
        ("127.0.0.1", "localhost", ("x-forwarded-for",), False),
        ("unknown", "localhost", (), False),
    ],
)
def test_local_is_who_comes_straight_from_this_host(
    address: str, host: str | None, headers: tuple[str, ...], local: bool
) -> None:
    assert is_local_direct(address, host, frozenset(headers)) is local


@pytest.mark.req("GW-5")
def test_without_a_secret_the_parts_are_for_programs_of_this_host() -> None:
    none = Secret(mode=AuthMode.NONE)
    assert is_trusted({"host": "localhost"}, "127.0.0.1", none)
    assert not is_trusted({"host": "localhost", "origin": "https://evil.example"}, "127.0.0.1", none)
    assert not is_trusted({"host": "evil.example"}, "127.0.0.1", none)
    assert not is_trusted({"host": "localhost"}, "127.0.0.1", Secret(mode=AuthMode.TOKEN, value="abcdef"))
