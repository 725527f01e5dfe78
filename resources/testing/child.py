"""The kind `child`: a real process in a session of its own, for tests and benchmarks.

    x-children:
      NAME: {argv: [sleep, "1000"], state: running, needs: [file/NAME]}

The process is known by a record below `<state>/reconciler/run`: its pid and its start time, so that a pid that the system
gave to another is never taken for ours. The record is written before the process is started, with an id that stands in the
process's environment, and its pid is added as a second line: killed in between, the next look finds the process by that id, and
never starts a second one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets as randomness
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import trio

from reconciler.desired import Desired
from reconciler.errors import StaleError, TemporaryError, TerminalError
from reconciler.files import private_directory, remove_file, replace_file, write_all
from reconciler.host import Host
from reconciler.kinds import Health, KindPlan, Observation, Resource, Secrets, Step, Wanted, World
from reconciler.model import ABSENT, Action, Impact, Key, Undo, Value
from reconciler.values import same
from resources.steps import action_id, because_of, cause_of, precondition_of, reached, still_holds
from resources.testing.fakes import needed

ATTEMPT = "OPENCLAW_CHILD_ATTEMPT"
# From SIGTERM to SIGKILL.
GRACE_SECONDS = 5.0


class ChildKind:
    """See the module. Fields: `state` (running, stopped) and, where running is declared, `argv`."""

    name: ClassVar[str] = "child"
    sections: ClassVar[frozenset[str]] = frozenset({"x-children"})
    external: ClassVar[bool] = False
    backoff_cap_seconds: ClassVar[float] = 300.0

    def declare(self, desired: Desired, host: Host, secrets: Secrets) -> tuple[Resource, ...]:
        return tuple(_resource(name, entry) for name, entry in desired.extra.get("x-children", {}).items())

    async def observe(self, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
        return await trio.to_thread.run_sync(lambda: tuple([_observe(one, world.host) for one in wanted]))

    def plan(self, step: Step) -> KindPlan:
        return KindPlan(actions=(_action(step),)) if step.differences else KindPlan()

    async def apply(self, action: Action, resource: Resource | None, world: World) -> None:
        record = await trio.to_thread.run_sync(_read, world.host, action.key)
        argv: list[str] | None = action.arguments["argv"]
        if not _needed(action, record):
            return
        if record is not None and record.alive:
            await _stop(record)
        if argv is None:
            await trio.to_thread.run_sync(remove_file, _record_path(world.host, action.key))
        else:
            await trio.to_thread.run_sync(_start, world.host, action.key, argv)

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        observation = await trio.to_thread.run_sync(_observe, Wanted(key=key, resource=resource), world.host)
        if all(same(observation.fields[path], value) for path, value in resource.fields.items()):
            return Health(ready=True)
        return Health(ready=False, reason="NotRunning", message=f"the process is {observation.fields['state']}")

    async def watch(self, world: World, report: Callable[[Key], None]) -> None:
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class _Record:
    """What the record file says of a process, and whether that very process lives."""

    attempt: str
    pid: int
    start: str
    argv: tuple[str, ...]

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.start


def pid_of(host: Host, name: str) -> int | None:
    """The pid of the child `name` of this state, None where it does not run."""
    record = _read(host, Key("child", name))
    return record.pid if record is not None and record.alive else None


def _resource(name: str, entry: Mapping[str, Any]) -> Resource:
    fields: dict[str, Value] = {"state": entry.get("state", "running")}
    if fields["state"] == "running":
        fields["argv"] = tuple(entry["argv"])
    return Resource(
        key=Key("child", name),
        fields=fields,
        origins={path: ("x-children", name, path) for path in fields if path in entry},
        defaulted=frozenset(path for path in fields if path not in entry),
        needs=needed("child", entry.get("needs", [])),
    )


def _observe(wanted: Wanted, host: Host) -> Observation:
    record = _read(host, wanted.key)
    fields = _fields(record)
    shown = {"pid": record.pid} if record is not None and record.alive else {}
    return Observation(key=wanted.key, fields=fields, detail=fields["argv"], shown=shown)


def _fields(record: _Record | None) -> dict[str, Value]:
    if record is None or not record.alive:
        return {"state": "stopped", "argv": ABSENT}
    return {"state": "running", "argv": record.argv}


def _action(step: Step) -> Action:
    before = step.observation.detail
    argv = step.resource.fields.get("argv", ABSENT) if step.resource is not None else ABSENT
    verb = "stop" if argv is ABSENT else "start" if before is ABSENT else "restart"
    return Action(
        id=action_id(step, verb),
        key=step.key,
        verb=verb,
        cause=cause_of(step.differences),
        because=because_of(step.resource, step.differences),
        differences=step.differences,
        impact={"start": Impact.NONE, "restart": Impact.RESTART, "stop": Impact.DESTROY}[verb],
        precondition=precondition_of(step.differences),
        arguments={"argv": None if argv is ABSENT else list(argv)},  # type: ignore[arg-type]
        undo=Undo(
            verb="stop" if before is ABSENT else "start",
            arguments={"argv": None if before is ABSENT else list(before)},
            text="stops the process" if before is ABSENT else "starts the earlier process",
        ),
    )


def _needed(action: Action, record: _Record | None) -> bool:
    """Whether there is anything to do; StaleError when the process is not the one that the plan saw."""
    present = _fields(record)
    argv = action.arguments["argv"]
    if same(present["argv"], ABSENT if argv is None else argv):
        return record is not None and not record.alive
    if action.precondition is None or still_holds(action.precondition, action.differences, present):
        return True
    if reached(action.differences, present):
        return False
    raise StaleError(f"cannot {action.verb} {action.key}: its process is another one since the plan")


def _record_path(host: Host, key: Key) -> Path:
    return host.state.run / f"child-{key.name}.json"


def _read(host: Host, key: Key) -> _Record | None:
    try:
        first, *more = _record_path(host, key).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    data = json.loads(first)
    # Whoever dies while it adds the second line may leave a part of it.
    with contextlib.suppress(IndexError, ValueError):
        found = json.loads(more[0])
        return _Record(data["attempt"], found["pid"], found["start"], tuple(data["argv"]))
    return _find(data["attempt"], tuple(data["argv"]))


def _find(attempt: str, argv: tuple[str, ...]) -> _Record | None:
    """The process of an attempt whose record was never finished, found by the id in its environment."""
    sign = f"{ATTEMPT}={attempt}".encode()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if sign in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                return _Record(attempt, int(name), start_time(int(name)), argv)
    return None


def start_time(pid: int) -> str:
    """When the process began, in clock ticks since the boot (proc(5), field 22 of stat); empty where it has ended."""
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return ""
    # The name in parentheses may hold anything, so the fields are counted from the last one of them.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _start(host: Host, key: Key, argv: list[str]) -> None:
    program = shutil.which(argv[0], path=host.environ.get("PATH"))
    if program is None:
        raise TerminalError(f"cannot start {key}: there is no program {argv[0]!r}", hint="name it by its whole path")
    path = _record_path(host, key)
    attempt = randomness.token_hex(8)
    try:
        private_directory(path.parent)
        replace_file(path, _line({"attempt": attempt, "argv": argv}), 0o600)
        pid = _spawn(program, argv, {**host.environ, ATTEMPT: attempt})
        _add(path, _line({"pid": pid, "start": start_time(pid)}))
    except OSError as err:
        raise TemporaryError(f"cannot start {key}: {err.strerror}") from err


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _add(path: Path, line: bytes) -> None:
    """Appends to the record. Not flushed: what loses this line has lost the process as well."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        write_all(descriptor, line)
    finally:
        os.close(descriptor)


def _spawn(program: str, argv: list[str], environ: Mapping[str, str]) -> int:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
        return os.posix_spawn(program, argv, environ, file_actions=actions, setsid=True)
    finally:
        os.close(null)


async def _stop(record: _Record) -> None:
    """Ends the process: SIGTERM, then SIGKILL. Cancelled, the process is left as it is; the record still names it."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if not record.alive:
            return
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        with trio.move_on_after(GRACE_SECONDS) as scope:
            await trio.lowlevel.wait_readable(descriptor)
        if scope.cancelled_caught:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    _reap(record.pid)


def _reap(pid: int) -> None:
    """Takes the exit status, where the process is a child of this very process: else its init does."""
    deadline = time.monotonic() + 1.0
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.001)
