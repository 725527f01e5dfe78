"""The gateway process: start order, signals, drain, exit codes. The composition root of this package.

Start: config, log, TLS, listeners, pid file, then serve, then say so. Stop: no new work, wait for what runs, tell the
clients, close, exit 0. Exit codes: 0 stopped as asked, 1 failed (the port is taken, a second signal), 64 wrong usage,
78 nothing will help before the config or a file that it names was changed.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import ssl
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from gateway.config import Issue, Settings, Snapshot, read_file
from gateway.health import Health
from gateway.last_good import copy_path, read_last_good
from gateway.live import LiveConfig, refused_if_missing
from gateway.log import Log, print_plain
from gateway.methods import Services
from gateway.presence import Presence
from gateway.process import Notifier, PidFile, write_exit
from gateway.reload import Reloader, configure_log
from gateway.runtime import Runtime, state_directory
from gateway.server import MAX_CONNECTIONS, Server
from gateway.transport import StartError, addresses, open_listeners, tls_context, url_host
from gateway.version import VERSION
from gateway.wire.connect import AuthMode

EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_CONFIG = 78

# As the service's default `stop.drain`.
DRAIN_SECONDS = 30.0
# Files that the process may open: each connection is one, and the rest is the log, the watch and a few sockets.
_FILES = 4096

USAGE = "usage: python -m gateway run [--config PATH] [--port N]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The command line."""

    config: Path | None
    port: int | None


class UsageError(Exception):
    """The command line is wrong."""


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """By hand: argparse costs as much time as the rest of a start's checks together.

    Raises:
        UsageError: with a text for the operator.
    """
    if not argv or argv[0] != "run":
        raise UsageError(f"unknown command: {argv[0]}" if argv else "a command is missing")
    given: dict[str, str] = {}
    rest = list(argv[1:])
    while rest:
        name, joined, value = rest.pop(0).partition("=")
        if name not in ("--config", "--port"):
            raise UsageError(f"unknown argument: {name}")
        if not joined:
            if not rest:
                raise UsageError(f"{name} needs a value")
            value = rest.pop(0)
        given[name] = value
    port = given.get("--port")
    if port is not None and not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise UsageError(f"--port must be from 1 to 65535, not {port[:32]!r}")
    return Arguments(config=Path(given["--config"]) if "--config" in given else None, port=int(port) if port else None)


def main(argv: Sequence[str], environ: MutableMapping[str, str] | None = None) -> int:
    """Run a gateway to its end; returns the exit code."""
    environ = os.environ if environ is None else environ
    try:
        arguments = parse_arguments(argv)
    except UsageError as err:
        print_plain(f"{err}\n{USAGE}")
        return EXIT_USAGE
    os.umask(0o077)
    state_dir = state_directory(environ)
    named = arguments.config or environ.get("OPENCLAW_CONFIG_PATH")
    path = Path(named or state_dir / "openclaw.json").absolute()
    config = _config(path, environ, arguments.port, named=bool(named))
    if isinstance(config, Snapshot):
        lines = (f"  {issue.path or path.name}: {issue.message}" for issue in config.issues)
        text = "\n".join(("Config validation failed:", *lines))
        print_plain(text)
        write_exit(environ, EXIT_CONFIG, text)
        return EXIT_CONFIG
    code, reason = _run(config, state_dir, environ)
    write_exit(environ, code, reason)
    return code


def _config(
    path: Path, environ: MutableMapping[str, str], port: int | None, *, named: bool = False
) -> LiveConfig | Snapshot:
    """The config to start with; the file as it was read where neither it nor the last good one will do.

    One that is missing is an empty one, but not where somebody `named` it: that is a slip of the pen, and without the
    `gateway.auth` that was meant every program on this host would have full rights.
    """
    snapshot = read_file(path, environ, port=port)
    if snapshot.valid and snapshot.exists:
        return LiveConfig(path, environ, snapshot, port=port)
    last_good = read_last_good(path, environ, port=port)
    if last_good is not None:
        return LiveConfig(path, environ, last_good, refused=refused_if_missing(snapshot), port=port)
    if named and not snapshot.exists:
        return replace(snapshot, settings=None, issues=(Issue("", f"there is no such file: {path}"),))
    return LiveConfig(path, environ, snapshot, port=port) if snapshot.valid else snapshot


def _run(config: LiveConfig, state_dir: Path, environ: MutableMapping[str, str]) -> tuple[int, str]:
    snapshot, settings = config.started, config.started.settings
    assert settings is not None  # only valid configs are in force
    runtime = Runtime(
        version=VERSION,
        state_dir=state_dir,
        environ=environ,
        config=config,
        log=Log(),
        presence=Presence(VERSION),
    )
    configure_log(runtime, settings)
    log = runtime.log.logger("gateway")
    log.info("Gateway starting...", pid=os.getpid(), version=runtime.version)
    if config.error is not None:
        log.error(
            f"{config.path} is refused: {config.error}; "
            f"running by the last good config, {copy_path(config.path)}, until it is repaired"
        )
    else:
        place = config.path
        log.info(f"Config loaded from {place}" if snapshot.exists else f"No config at {place}; running by defaults")
    for warning in snapshot.warnings:
        log.warn(f"{warning.path} {warning.message}")
    if settings.secret.mode is AuthMode.NONE:
        log.warn("gateway.auth is none: every program on this host has full rights; set gateway.auth.token")
    try:
        code, reason = trio.run(Gateway(runtime, settings, environ).run)
    except StartError as err:
        log.fatal(err.message)
        return err.exit_code, err.message
    log.info(f"stopped: {reason}", code=code)
    return code, reason


class Gateway:
    """One gateway from the first socket to the last."""

    def __init__(self, runtime: Runtime, settings: Settings, environ: MutableMapping[str, str]) -> None:
        self._runtime = runtime
        self._settings = settings
        self._notifier = Notifier(environ)
        self._files_limited = "OPENCLAW_FILES_LIMIT" in environ
        self._drain_seconds = _seconds(environ.get("OPENCLAW_DRAIN_SECONDS"), DRAIN_SECONDS)
        self._log = runtime.log.logger("gateway")
        self._reloader = Reloader(runtime)
        health = Health(runtime)
        services = Services(
            runtime=runtime,
            health=health,
            request_health=lambda: self._server.request_health(),
            reload_config=self._reloader.reload,
        )
        self._health = health
        self._server = Server(services, settings.secret)

    async def run(self) -> tuple[int, str]:
        """Serve until a signal ends it; returns exit code and reason.

        Raises:
            StartError: it never served.
        """
        with (
            ExitStack() as cleanup,
            trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals,
        ):
            tls = self._tls()
            listeners = self._listen()
            cleanup.callback(_close_all, listeners)
            self._write_pid(cleanup)
            self._health.refresh()
            async with trio.open_nursery() as nursery:
                await nursery.start(self._reloader.watch)
                nursery.start_soon(self._server.tick)
                nursery.start_soon(self._server.broadcast_health)
                served = [trio.SSLListener(one, tls, https_compatible=True) for one in listeners] if tls else listeners
                await nursery.start(trio.serve_listeners, self._server.serve, served)
                self._say_ready(listeners, tls)
                result = await self._obey(signals)
                nursery.cancel_scope.cancel()
        return result

    def _tls(self) -> ssl.SSLContext | None:
        if self._settings.tls is None:
            return None
        context, self._runtime.tls_hash = tls_context(*self._settings.tls, self._runtime.state_dir)
        return context

    def _listen(self) -> list[trio.SocketListener]:
        if not self._files_limited:
            _raise_file_limit()
        hosts = addresses(self._settings.bind, self._settings.custom_host)
        listeners, warnings = open_listeners(hosts, self._settings.port)
        for warning in warnings:
            self._log.warn(warning)
        return listeners

    def _write_pid(self, cleanup: ExitStack) -> None:
        pid_file = PidFile(self._runtime.state_dir / "gateway.pid")
        try:
            self._runtime.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (other := pid_file.write()) is not None:
                self._log.warn(
                    f"gateway.pid is left alone: another gateway of this state directory lives by it (PID {other})"
                )
        except OSError as err:
            # Serving does not need it; a full disk must not take the gateway down.
            self._log.warn(f"cannot write gateway.pid: {err.strerror}")
        cleanup.callback(pid_file.remove)

    def _say_ready(self, listeners: list[trio.SocketListener], tls: ssl.SSLContext | None) -> None:
        places = [listener.socket.getsockname()[:2] for listener in listeners]
        suffix = "s" if tls else ""
        self._runtime.listening = tuple(f"ws{suffix}://{url_host(host)}:{port}" for host, port in places)
        host, port = places[0]
        self._log.info(f"Gateway listening on http{suffix}://{url_host(host)}:{port}")
        self._log.info(f"listening on {self._runtime.listening[0]} (PID {os.getpid()})")
        for url in self._runtime.listening[1:]:
            self._log.info(f"listening on {url}")
        if self._runtime.log.file is not None:
            self._log.info(f"log file: {self._runtime.log.file.path}")
        if failed := self._notifier.send("READY=1"):
            self._log.warn(failed)
        self._reloader.keep()
        # What start made lives as long as the process: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()

    async def _obey(self, signals: AsyncIterator[int]) -> tuple[int, str]:
        """Do what signals ask, until one asks to stop and that is done."""
        async for number in signals:
            name = signal.Signals(number).name
            self._log.info(f"signal {name} received")
            if number == signal.SIGHUP:
                self._reloader.reload("SIGHUP")
            elif number == signal.SIGUSR1:
                self._log.warn("SIGUSR1 ignored: this gateway does not restart itself")
            else:
                self._log.info(f"Received {name}, shutting down gracefully...")
                return await self._stop(name, signals)
        raise AssertionError("the signal receiver never ends")

    async def _stop(self, name: str, signals: AsyncIterator[int]) -> tuple[int, str]:
        result = EXIT_FAILED, f"forced by a second signal after {name}"
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                nonlocal result
                await self._drain()
                result = 0, name
                nursery.cancel_scope.cancel()

            nursery.start_soon(drain)
            async for number in signals:
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._log.warn(f"{signal.Signals(number).name} again: not waiting any longer")
                    nursery.cancel_scope.cancel()
                    break
        return result

    async def _drain(self) -> None:
        """No new work; wait for what runs, bounded; then say goodbye."""
        self._runtime.stopping = True
        self._notifier.send("STOPPING=1")
        clients = self._runtime.clients
        with trio.move_on_after(self._drain_seconds) as limit:
            while clients.in_flight:
                self._log.info(f"Waiting for {clients.in_flight} requests to complete...")
                with trio.move_on_after(1):
                    await clients.wait_idle()
        if limit.cancelled_caught:
            self._log.warn(f"{clients.in_flight} requests did not complete within {self._drain_seconds:g} s")
        else:
            self._log.info("All requests completed")
        await self._server.say_goodbye()


def _close_all(listeners: list[trio.SocketListener]) -> None:
    for listener in listeners:
        listener.socket.close()


def _raise_file_limit() -> None:
    """Room for `MAX_CONNECTIONS`; the hard limit stays the operator's, and the soft one where he has set it."""
    assert _FILES > MAX_CONNECTIONS  # the two belong together
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _seconds(text: str | None, default: float) -> float:
    """A number of seconds from the environment; anything else counts as not set."""
    try:
        value = float(text) if text else default
    except ValueError:
        return default
    return value if 0 <= value < 86400 else default
