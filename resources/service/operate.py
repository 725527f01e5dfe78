"""Moves the gateway through its keeper, and waits until it is where it should be: what `kind` and `control` share.

Cancelled, each leaves the keeper doing what it was told; the next look tells how that ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import trio

from reconciler.errors import TemporaryError, TerminalError
from reconciler.host import Host
from resources.service.keeper_client import KeeperClient, KeeperGone, connect, ensure_keeper
from resources.service.spec import CHILD

# Beyond the time that a process has to end: to kill what is left of its group, and to write that down.
_SLACK_SECONDS: Final = 10.0
_TAIL_BYTES: Final = 8192
_LINE_CHARACTERS: Final = 300
_SHORTEST_MASKED: Final = 4
MASKED: Final = "********"


async def bring_up(
    host: Host,
    told: Mapping[str, Any],
    *,
    seconds: float,
    fresh: bool = True,
    again: bool = False,
    masked: Iterable[str] = (),
) -> None:
    """Runs the gateway with this spec and returns when it is Ready.

    A process that runs with another digest is restarted, any process where `again`. `fresh` forgets earlier exits; without it
    a crash-looping gateway gets one more try. `seconds` bounds the wait; `masked` are texts never to be repeated from its output.

    Raises:
        TerminalError: it ended and is held down, or the keeper refuses.
        TemporaryError: it ended, or was not Ready in time; the keeper goes on trying.
    """
    await ensure_keeper(host)
    with trio.move_on_after(seconds) as limit:
        async with connect(host) as keeper:
            before = await keeper.child("ensure", CHILD, spec=dict(told))
            stale = before["digest"] is None or before["digest"] != told["spec_digest"]
            if before["pid"] is not None and (again or stale):
                await keeper.child("restart", CHILD)
            else:
                await keeper.child("start", CHILD, reset=fresh)
            child = await keeper.child("wait", CHILD)
    if limit.cancelled_caught:
        raise TemporaryError(f"cannot start the gateway: it was not ready within {seconds:g} s")
    if child["state"] != "ready":
        # A keeper of an earlier version does not say where it begins.
        start = child.get("output_start")
        last = "" if start is None else await trio.to_thread.run_sync(_last_words, told["output"], start, tuple(masked))
        raise _failed(child, last)


async def bring_down(host: Host, hold: Mapping[str, Any] | None) -> None:
    """Ends the gateway and returns when its process group is gone; `hold` says who wanted that, and why.

    Raises:
        TemporaryError: the keeper ended meanwhile, or does not answer.
    """
    await ensure_keeper(host)
    async with connect(host) as keeper:
        children = (await keeper.call("status"))["children"]
        if CHILD in children:
            await keeper.child("stop", CHILD, hold=dict(hold) if hold is not None else None)
            with _time_to_end(children):
                await keeper.child("wait", CHILD)


async def tell(host: Host, told: Mapping[str, Any], *, start_keeper: bool) -> None:
    """Gives the keeper another spec without a restart; without a keeper only where `start_keeper`."""
    if start_keeper:
        await ensure_keeper(host)
    try:
        async with connect(host) as keeper:
            await keeper.child("ensure", CHILD, spec=dict(told))
    except KeeperGone:
        if start_keeper:
            raise


async def hold_unrecorded(host: Host) -> None:
    """Has the keeper hold the gateway that runs and that no record tells of, so that it can be ended.

    Raises:
        TemporaryError: the keeper ended meanwhile, or does not answer.
    """
    # A spec that is never to be run: with it a keeper takes over what is to be ended.
    await tell(host, {"argv": ["true"]}, start_keeper=True)


async def forget(host: Host) -> None:
    """Ends the gateway, and the keeper where it holds nothing else."""
    await bring_down(host, None)
    async with connect(host) as keeper:
        await keeper.call("remove", name=CHILD)
        if not (await keeper.call("status"))["children"]:
            await shut_down(keeper)


async def shut_down(keeper: KeeperClient) -> None:
    """Ends all children and the keeper; returns when its process is gone.

    Raises:
        TemporaryError: it does not answer.
    """
    try:
        watched = os.pidfd_open(keeper.pid)
    except ProcessLookupError:
        return
    try:
        children = (await keeper.call("status"))["children"]
        with _time_to_end(children):
            await keeper.call("shutdown")
            # The connection ends a little before the process does.
            await trio.lowlevel.wait_readable(watched)
    except KeeperGone:
        return
    finally:
        os.close(watched)


def hold_of(by: str, who: str, why: str, section: str | None, at: float) -> dict[str, Any]:
    """A hold as the keeper keeps it: `by` is `operator` or `document`."""
    return {"by": by, "who": who, "why": why, "at": at, "section": section}


@contextmanager
def _time_to_end(children: Mapping[str, Any]) -> Iterator[None]:
    """As long as the slowest of `children` may take to end, and some more.

    Raises:
        TemporaryError: that is over.
    """
    stops = [child["spec"]["stop"] for child in children.values()]
    seconds = max((stop["drain"] + stop["grace"] for stop in stops), default=0.0) + _SLACK_SECONDS
    with trio.move_on_after(seconds) as limit:
        yield
    if limit.cancelled_caught:
        raise TemporaryError(f"cannot stop the gateway: the keeper did not say within {seconds:g} s that it ended")


def _failed(child: Mapping[str, Any], last_words: str) -> TemporaryError | TerminalError:
    ended = child["exits"][-1] if child["exits"] else None
    reason = child["last_refusal"] or (ended["reason"] if ended is not None else f"it is {child['state']}")
    # A reason that the gateway left itself stands behind a colon; else its last line is all that there is.
    said = f"; its last line: {last_words}" if last_words and ": " not in reason else ""
    hint = f"its output is in {child['spec']['output']}" if child["spec"]["output"] else None
    if child["state"] == "held":
        return TerminalError(f"cannot start the gateway: {reason}{said}", hint=hint)
    again = max(child["next_boot"] - time.clock_gettime(time.CLOCK_BOOTTIME), 0.0) if child["next_boot"] else None
    return TemporaryError(f"cannot start the gateway: {reason}{said}", hint=hint, delay_seconds=again)


def _last_words(path: str, start: int, masked: tuple[str, ...]) -> str:
    """The last line behind byte `start`, without what must not be repeated."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            # Turned aside meanwhile: then all of it is new.
            file.seek(max(end - _TAIL_BYTES, start if start <= end else 0))
            lines = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    for text in sorted(masked, key=len, reverse=True):
        if len(text) >= _SHORTEST_MASKED:
            line = line.replace(text, MASKED)
    return line[:_LINE_CHARACTERS]
