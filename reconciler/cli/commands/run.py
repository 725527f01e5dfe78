"""`openclaw run`: the supervisor in the foreground."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from reconciler.cli.options import file_option
from reconciler.cli.session import Session

if TYPE_CHECKING:
    from reconciler.cli.supervisor import Supervisor
    from reconciler.engine.lock import WriterLock
    from reconciler.engine.telling import Log


@click.command("run")
@file_option
@click.option("--on-exit", type=click.Choice(["stop", "leave"]), help="What becomes of the service at the end.")
@click.pass_obj
def run_command(session: Session, on_exit: str | None) -> int:
    """Watch the document and the host, and apply what moves, until Ctrl-C."""
    return session.run(run, on_exit=on_exit)


async def run(session: Session, *, on_exit: str | None) -> int:
    """Runs until a signal or `stop` comes, and returns the exit code. A clean stop is 0.

    Raises:
        LockedError: another supervisor watches this state directory, or took the place of this one.
    """
    from reconciler.cli.allocator import keep_memory_together
    from reconciler.cli.logging import logging
    from reconciler.cli.supervisor import Supervisor
    from reconciler.errors import DocumentError

    keep_memory_together()
    try:
        session.load()
    except DocumentError:
        # With a generation to keep in force it begins all the same; without one there is nothing to run.
        if not _is_in_force(session):
            raise
    session.check_owner()
    runtime = session.runtime()
    with logging(session.console.terminal) as log:
        await _supervise(session, Supervisor(session, runtime, log), log, on_exit)
    return 0


async def _supervise(session: Session, supervisor: Supervisor, log: Log, on_exit: str | None) -> None:
    import trio

    from reconciler.cli.supervisor import on_exit_by_default

    with alone(supervisor.lock):
        async with trio.open_nursery() as nursery:
            # To the very end: also while the service is stopped, and while the last words are said.
            await nursery.start(supervisor.listen_to_signals)
            release_signals()
            with supervisor.patience:
                await _watch(session, supervisor, log)
                if supervisor.ousted is None:
                    await _leave(session, supervisor.on_exit or on_exit or on_exit_by_default(supervisor.signal), log)
            if supervisor.patience.cancelled_caught:
                left = await _what_is_left(session)
                log.warning("ended_at_once", hint=left or "no service runs here")
            nursery.cancel_scope.cancel()
    if supervisor.patience.cancelled_caught:
        assert supervisor.cut_short_by is not None
        raise SystemExit(128 + supervisor.cut_short_by)
    if supervisor.ousted is not None:
        # The gateway is another one's to keep by now.
        raise supervisor.ousted


async def _watch(session: Session, supervisor: Supervisor, log: Log) -> None:
    """Serves and watches until the wish to end comes."""
    import trio

    from reconciler.cli.allocator import forget_the_start

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.server.serve)
            log.info("starting", document=session.document, state=str(session.host().state.root))
            # Watching begins once what was found at the start is dealt with: a first step is finished even on Ctrl-C.
            await nursery.start(supervisor.loop.run)
            forget_the_start()
            log.info("watching")
            await supervisor.stopped.wait()
            nursery.cancel_scope.cancel()
    finally:
        supervisor.engine.close()


def _is_in_force(session: Session) -> bool:
    """Whether a generation of this very document is in force."""
    from reconciler.errors import BlockedError

    try:
        journal = session.own_reader()
    except BlockedError:
        return False
    if journal is None:
        return False
    with journal:
        return journal.in_force() is not None


def release_signals() -> None:
    """Lets the signals through that were held while the program was loaded.

    Raises:
        SystemExit: one of them asked to end; nothing has begun yet.
    """
    import signal

    for number in signal.sigpending() & {signal.SIGINT, signal.SIGTERM}:
        raise SystemExit(128 + number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


@contextmanager
def alone(lock: WriterLock) -> Iterator[None]:
    """Holds the lock of the one supervisor.

    Raises:
        LockedError: there is another one; the text names it.
    """
    from reconciler.engine.lock import holder
    from reconciler.errors import LockedError

    if not lock.acquire_nowait():
        raise LockedError(
            f"cannot watch: a supervisor does so already: {holder(lock.path) or 'it ends just now'}",
            hint="`openclaw status` asks it; end it to run another one here",
        )
    try:
        yield
    finally:
        lock.release()


async def _leave(session: Session, chosen: str, log: Log) -> None:
    import trio

    from resources.service.control import stop_all

    if chosen == "stop":
        log.info("stopping", what="everything that was started here")
        # The drain and the grace of the service have their own bounds; this one is for what has none.
        with trio.move_on_after(120):
            await stop_all(session.host())
        log.info("stopped")
    elif left := await _what_is_left(session):
        log.info("left_running", hint=left)
    else:
        log.info("stopped", what="watching; no service runs here")


async def _what_is_left(session: Session) -> str:
    """What goes on running of the service, and how to end it; empty where nothing does."""
    from reconciler.errors import OpenClawError
    from resources.service.control import going_on

    try:
        return await going_on(session.host())
    except OpenClawError:
        return "whether the service goes on cannot be told now; `openclaw service status` tells"
