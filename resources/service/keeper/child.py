"""One child and what happens to it: start, ready, exit, restart, stop. The keeper's state machine.

    stopped -> starting -> ready -> (exit) -> waiting | broken | held -> starting ...
    starting | ready -> stopping -> stopped | starting

Every step is written before it is done, so that a successor goes on from there. What was asked for is flushed before it is
answered; what happens by itself soon after (`store`). The restart policy is in `policy`, starting in `process`, taking over in
`adopt`; here they are put together.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from resources.service import proc
from resources.service.keeper import policy, process
from resources.service.keeper.helper import Helper
from resources.service.keeper.loop import Loop, Timer, boot_seconds
from resources.service.keeper.store import MAX_EXITS, Record, Store, policy_of
from resources.service.shortage import is_shortage

# A port that a child is to listen on cannot be waited for by an event; looked at only while it starts.
_PORT_LOOK_SECONDS = 0.02
_PORT_LOOK_MAX_SECONDS = 1.0
# While there is no descriptor to look with.
_LOOK_AGAIN_SECONDS = 1.0
_VALIDATE_SECONDS = 10.0
_MAX_EXIT_FILE_BYTES = 65536
# A power cut may take the account of this long with it, never an order; and a crash loop flushes no more often.
FLUSH_SECONDS = 1.0
UNKNOWN_EXIT = "unknown (adopted)"


class Surroundings(Protocol):
    """What a child needs of its keeper."""

    loop: Loop
    store: Store
    notify_path: str
    directory: str

    def emit(self, event: str, child: Child) -> None: ...

    def log(self, text: str) -> None: ...


class Child:
    """See the module."""

    def __init__(self, record: Record, keeper: Surroundings) -> None:
        self.record = record
        self._keeper = keeper
        self._pidfd: int | None = None
        self._own = False
        self._timer: Timer | None = None
        self._start_limit: Timer | None = None
        self._flush_timer: Timer | None = None
        self._overdue: str | None = None
        self._helper: Helper | None = None
        self._waiters: list[Callable[[], None]] = []

    # What is asked for.

    @property
    def running(self) -> bool:
        """There is a process that was not yet seen to end."""
        return self._pidfd is not None

    @property
    def settled(self) -> bool:
        """Nothing is on its way: it serves, or it does not run and will not without waiting."""
        return self.record.state not in ("starting", "stopping") and self._helper is None

    def when_settled(self, call: Callable[[], None]) -> None:
        """Calls `call` as soon as the child is settled, at once where it is."""
        if self.settled:
            call()
        else:
            self._waiters.append(call)

    def update(self, spec: dict[str, Any]) -> None:
        """Takes another spec. What needs a restart counts from the next start on; the limit of open files, and a shorter wait
        for that start, at once.
        """
        limited = self.record.spec["limits"].get("files") is not None
        self.record.spec = spec
        self._shorten_wait()
        self.save()
        files = spec["limits"].get("files")
        if (limited or files is not None) and self.running and self.record.pid is not None:
            try:
                process.set_file_limit(self.record.pid, files)
            except OSError as err:
                self._keeper.log(f"{self.record.name}: cannot limit open files of the running process: {err.strerror}")

    def start(self, *, reset: bool) -> None:
        """Runs from now on; a hold is lifted. `reset` forgets earlier exits, else a broken child gets one more try."""
        record = self.record
        record.goal, record.hold = "up", None
        if reset:
            record.history = policy.History()
        if self.running or self._helper is not None:
            self.save()
        else:
            self._spawn()

    def stop(self, hold: dict[str, Any] | None) -> None:
        """Ends it and leaves it down: SIGTERM, `drain + grace` seconds, then SIGKILL for the whole process group."""
        self.record.goal, self.record.hold = "down", hold
        self._cancel()
        if self.running:
            self._terminate()
        else:
            self._enter("stopped")
            self._settle("exited")

    def restart(self) -> None:
        """Ends it and starts it again; where it does not run, starts it."""
        record = self.record
        record.goal, record.hold, record.history = "up", None, policy.History()
        self._cancel()
        if self.running:
            self._terminate()
        else:
            self._spawn()

    def signal(self, number: int) -> bool:
        """Sends a signal to the main process; False where there is none."""
        if self._pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def save(self) -> None:
        """Lets a successor see how it is now."""
        self._enter(self.record.state)

    def flush(self) -> None:
        """Puts on disk for good what is not there yet; before an order is answered, and before another program goes on."""
        if self._flush_timer is None:
            return
        self._no_flush()
        try:
            self._keeper.store.save(self.record)
        except OSError as err:
            self._cannot_write(err)

    def remove(self) -> None:
        """Forgets it for good.

        Raises:
            OSError: the disk does not take that.
        """
        self._no_flush()
        self._keeper.store.remove(self.record.name)

    # Taking over what a keeper before us started.

    def adopt(self, pid: int, ticks: int, *, own: bool) -> None:
        """Holds a process that runs already. `own`: it is a child of this very process (an upgrade by exec).

        Raises:
            OSError: this process lacks what it takes to hold it (`is_shortage`).
        """
        record = self.record
        record.pid, record.start_ticks, record.adopted = pid, ticks, not own
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as err:
            if is_shortage(err):
                raise
            self.exited_unseen()
            return
        self._hold_process(pidfd, own=own)
        self._keeper.log(f"{record.name}: took over process {pid}")
        if record.state == "stopping" and own:
            # The program before asked it already, and a second time would cut its drain short.
            self._await_end(record.since)
        elif record.state == "stopping" or record.goal == "down":
            self._terminate()
        elif record.state != "ready":
            self._enter("starting")
            self._limit_start()
            self._await_ready_of_adopted()
        else:
            self.save()

    def adopt_unrecorded(self, pid: int, ticks: int, attempt: str, *, own: bool) -> None:
        """Holds a process that is in no record: what it was started with it carries itself, its times count from now.

        Where it is on record that it is to be down, it is ended.
        """
        record = self.record
        record.boot, record.attempt = self._keeper.store.boot, attempt
        record.digest = proc.environ_value(pid, process.DIGEST)
        record.spawned_at, record.spawned_boot = time.time(), boot_seconds()
        record.ready_at = record.ready_boot = record.next_boot = record.last_refusal = record.output_start = None
        if record.goal == "up":
            record.state, record.hold = "starting", None
        self._keeper.log(f"{record.name}: process {pid} runs, and no record tells of it")
        self.adopt(pid, ticks, own=own)

    def resume(self) -> None:
        """Goes on without a process: waits out a delay, or starts what was about to start."""
        record = self.record
        if record.goal == "down":
            if record.state != "stopped":
                self._enter("stopped")
        elif record.state in ("waiting", "broken") and record.next_boot is not None:
            self._start_later(record.next_boot - boot_seconds())
        elif record.state == "waiting" and record.spec["validate"] is not None:
            self._validate(record.exits[-1]["ready_seconds"] if record.exits else None)
        elif record.state != "held":
            self._spawn()

    def exited_unseen(self, code: int | None = None, signal_number: int | None = None) -> None:
        """The process ended while no keeper watched."""
        pid, own = self.record.pid, self._own
        if pid is not None:
            process.sweep_group(pid, self.record.attempt, own=own)
        self._after_exit(code, signal_number, unseen=code is None and signal_number is None)

    def leave(self) -> bool:
        """Ends a check that is on its way, for the sake of a program that knows nothing of it; `resume` begins it again.

        False where there is none.
        """
        if self._helper is None:
            return False
        self._helper.end()
        self._helper = None
        return True

    # Starting.

    def _spawn(self) -> None:
        record = self.record
        self._cancel()
        record.attempt = process.new_attempt(record.name)
        record.boot = self._keeper.store.boot
        record.pid = record.start_ticks = record.digest = None
        record.ready_at = record.ready_boot = record.next_boot = None
        record.adopted, record.last_refusal = False, None
        record.output_start = process.output_size(record.spec["output"])
        record.spawned_at, record.spawned_boot = time.time(), boot_seconds()
        self._forget_exit_file()
        try:
            # Without it a successor could start a second copy beside this one: then rather none, for a while.
            self._show("starting")
        except OSError as err:
            self._refused(f"cannot write its record: {err.strerror}")
            return
        try:
            environ = process.environment(record.spec, record.attempt, self._keeper.notify_path)
            pid = process.spawn(record.spec, environ)
            pidfd, ticks = process.watched(pid)
        except process.SpawnError as err:
            self._refused(str(err))
            return
        record.pid, record.start_ticks = pid, ticks
        record.digest = _digest_carried(record.spec, environ)
        self._hold_process(pidfd, own=True)
        self._keeper.emit("spawned", self)
        if record.spec["ready"] == "exec":
            self.mark_ready()
            return
        self.save()
        self._limit_start()
        if record.spec["ready"].startswith("port:"):
            self._look_at_port(int(record.spec["ready"][5:]), _PORT_LOOK_SECONDS)

    def _refused(self, why: str) -> None:
        self.record.last_refusal = why
        self._keeper.log(f"{self.record.name}: {why}")
        self._note_exit(None, None, why)
        self._decide(None, None)

    def _hold_process(self, pidfd: int, *, own: bool) -> None:
        self._pidfd, self._own = pidfd, own
        self._keeper.loop.watch(pidfd, self._on_exit)

    # Ready.

    def _limit_start(self) -> None:
        """Ends a process that hangs before it is Ready: nothing else would ever tell, and nobody would be served again."""
        limit, began = self.record.spec.get("start_seconds"), self.record.spawned_boot
        if limit is not None and began is not None:
            self._start_limit = self._keeper.loop.after(began + limit - boot_seconds(), self._end_overdue)

    def _end_overdue(self) -> None:
        if self.record.state == "starting" and self.running:
            self._overdue = f"it was not ready within {self.record.spec['start_seconds']:g} s"
            self._kill(self._overdue)

    def mark_ready(self) -> None:
        """The child serves from now on."""
        record = self.record
        if record.state != "starting":
            return
        record.ready_at, record.ready_boot = time.time(), boot_seconds()
        if not record.adopted and record.spawned_boot is not None:
            record.startup_seconds = record.ready_boot - record.spawned_boot
        if self._start_limit is not None:
            self._start_limit.cancel()
        self._enter("ready")
        self._settle("ready")

    def speaks_for(self, pid: int) -> bool:
        """Whether a notification from `pid` is this child's: its main process, or one of its process group."""
        return self.running and (pid == self.record.pid or proc.process_group(pid) == self.record.pid)

    def _look_at_port(self, port: int, wait: float) -> None:
        pid = self.record.pid
        if self.record.state != "starting" or pid is None or not self.running:
            return
        try:
            if proc.group_owns_port(pid, port):
                self.mark_ready()
                return
        except OSError as err:
            self._keeper.log(f"{self.record.name}: cannot see who listens on port {port}: {err.strerror}")
        longer = min(wait * 1.5, _PORT_LOOK_MAX_SECONDS)
        self._timer = self._keeper.loop.after(wait, lambda: self._look_at_port(port, longer))

    def _await_ready_of_adopted(self) -> None:
        """It may have said Ready while nobody listened: its port tells, and where it has none its being there."""
        spec = self.record.spec
        port = int(spec["ready"][5:]) if spec["ready"].startswith("port:") else spec["port"]
        if self._own and spec["ready"] == "notify":
            # An upgrade: the socket stayed open, and what was said waits in it.
            return
        if port is not None:
            self._look_at_port(port, _PORT_LOOK_SECONDS)
        else:
            self.mark_ready()

    # Ending.

    def _terminate(self) -> None:
        self._enter("stopping")
        self._keeper.emit("stopping", self)
        self.signal(signal.SIGTERM)
        # A stopped process (SIGSTOP) would not even look at SIGTERM.
        self.signal(signal.SIGCONT)
        self._await_end(time.time())

    def _await_end(self, asked_at: float) -> None:
        """Kills it when its time is over; `asked_at` is wall clock, so what is left of the time is never taken for more."""
        stop = self.record.spec["stop"]
        whole = stop["drain"] + stop["grace"]
        left = min(max(asked_at + whole - time.time(), 0.0), whole)
        self._timer = self._keeper.loop.after(left, lambda: self._kill("it did not end in time"))

    def _kill(self, why: str) -> None:
        pid = self.record.pid
        if self.running and pid is not None:
            self._keeper.log(f"{self.record.name}: killing the process group of {pid}: {why}")
            if self.signal(signal.SIGKILL):
                # The leader is there, running or not yet reaped, so the number is still its group's.
                with suppress(OSError):  # its exit, which comes now, sweeps again
                    process.sweep_group(pid, self.record.attempt, own=self._own)

    def _on_exit(self) -> None:
        record, fd, pid = self.record, self._pidfd, self.record.pid
        assert fd is not None
        assert pid is not None
        own = self._own
        if own:
            # Looked at and swept before it is reaped: until then the group's number cannot be another's.
            ended = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
            process.sweep_group(pid, record.attempt, own=True)
            exited = ended is not None and ended.si_code == os.CLD_EXITED
            code = ended.si_status if ended is not None and exited else None
            signal_number = ended.si_status if ended is not None and not exited else None
        else:
            try:
                process.sweep_group(pid, record.attempt, own=False)
            except OSError as err:
                # What is left of it cannot be told, and nothing may run beside that. The pidfd stays readable.
                self._keeper.log(f"{record.name}: cannot look for what it left: {err.strerror}")
                self._keeper.loop.forget(fd)
                self._keeper.loop.after(_LOOK_AGAIN_SECONDS, lambda: self._keeper.loop.watch(fd, self._on_exit))
                return
            code = signal_number = None
        self._keeper.loop.forget(fd)
        self._pidfd = None
        self._after_exit(code, signal_number)
        # The next one runs by now, where it was to be started at once.
        if own:
            os.waitid(os.P_PIDFD, fd, os.WEXITED)
        os.close(fd)

    def _after_exit(self, code: int | None, signal_number: int | None, *, unseen: bool = False) -> None:
        """`unseen`: it ended at some time before this, while nobody watched."""
        record = self.record
        left = self._exit_file()
        known = code is not None or signal_number is not None
        if left is not None and not known and isinstance(left.get("code"), int):
            code = left["code"]
        reason = _reason(code, signal_number, left, process.UNSEEN_EXIT if unseen else UNKNOWN_EXIT)
        if self._overdue is not None:
            reason, self._overdue = f"{reason}: {self._overdue}", None
        ready_seconds = None if record.ready_boot is None else boot_seconds() - record.ready_boot
        self._note_exit(code, signal_number, reason, unseen=unseen)
        asked = record.state == "stopping"
        self._cancel()
        record.pid = record.start_ticks = record.ready_at = record.ready_boot = record.digest = None
        if record.goal == "down":
            self._enter("stopped")
            self._settle("exited")
        elif asked:
            self._keeper.emit("exited", self)
            self._spawn()
        elif code is None and signal_number is None and record.spec["validate"] is not None:
            self._enter("waiting")
            self._keeper.emit("exited", self)
            self._validate(ready_seconds)
        else:
            self._decide(code, ready_seconds)

    def _decide(self, code: int | None, ready_seconds: float | None) -> None:
        record = self.record
        decision, record.history = policy.after_exit(
            policy_of(record.spec), record.history, code=code, ready_seconds=ready_seconds, now=boot_seconds()
        )
        ended = record.exits[-1]
        match decision:
            case policy.HoldDown(why=why):
                self._hold_down(why)
            case policy.Restart(after=0.0):
                ended["restart_after"] = 0.0
                self._keeper.emit("exited", self)
                self._start_again()
                self._keeper.log(f"{record.name}: {ended['reason']} (pid {ended['pid']}); started again at once")
            case policy.Restart(after=after, broken=broken):
                ended["restart_after"] = after
                record.next_boot = boot_seconds() + after
                self._enter("broken" if broken else "waiting")
                self._start_later(after)
                self._keeper.log(f"{record.name}: {ended['reason']} (pid {ended['pid']}); next start in {after:g} s")
                self._settle("broken" if broken else "exited")

    def _hold_down(self, why: str) -> None:
        record = self.record
        record.exits[-1]["restart_after"] = None
        record.hold = {"by": "policy", "who": "keeper", "why": why, "at": time.time(), "section": None}
        self._enter("held")
        self._keeper.log(f"{record.name}: held down: {why}")
        self._settle("held")

    def _start_later(self, seconds: float) -> None:
        self._timer = self._keeper.loop.after(seconds, self._start_again)

    def _shorten_wait(self) -> None:
        """Counts the wait from the same exit on by the policy of the spec, where that gives a shorter one."""
        record = self.record
        if record.state not in ("waiting", "broken") or record.next_boot is None:
            return
        wait = policy.wait_after(policy_of(record.spec), record.history)
        less = record.history.waited - wait
        if less > 0:
            record.next_boot -= less
            record.history = replace(record.history, waited=wait)
            record.exits[-1]["restart_after"] = wait
            self._cancel()
            self._start_later(record.next_boot - boot_seconds())

    def _start_again(self) -> None:
        self.record.restarts += 1
        self._spawn()

    def _validate(self, ready_seconds: float | None) -> None:
        """Nobody knows how it ended: asks whether its configuration is good before it is started again."""
        record = self.record

        def done(code: int | None, output: str) -> None:
            self._helper = None
            if self.running:
                # Started by an order meanwhile.
                return
            if record.goal == "down":
                self._enter("stopped")
                self._settle("exited")
            elif code == 0 or code is None:
                # A check that cannot be run says nothing against the child.
                self._decide(None, ready_seconds)
            else:
                self._hold_down(f"its configuration is not valid: {output or f'the check ended with {code}'}")

        try:
            environ = process.environment(record.spec, record.attempt or "", self._keeper.notify_path)
        except process.SpawnError as err:
            self._refused(str(err))
            return
        self._helper = Helper(
            self._keeper.loop,
            record.spec["validate"],
            environ=environ,
            cwd=record.spec["cwd"],
            output=f"{self._keeper.directory}/{record.name}.check",
            limit_seconds=_VALIDATE_SECONDS,
            done=done,
        )

    # What is remembered.

    def _exit_file(self) -> dict[str, Any] | None:
        """What the child itself left about its end, if it was this process that did."""
        path = self.record.spec["exit_file"]
        if path is None or self.record.pid is None:
            return None
        try:
            left = json.loads(process.read_regular(path)[:_MAX_EXIT_FILE_BYTES])
        except (OSError, ValueError):
            return None
        return left if isinstance(left, dict) and left.get("pid") == self.record.pid else None

    def _forget_exit_file(self) -> None:
        """An old one must not speak for a later process that was given the same pid."""
        path = self.record.spec["exit_file"]
        if path is not None:
            try:
                os.unlink(path)
            except OSError:
                pass

    def _note_exit(self, code: int | None, signal_number: int | None, reason: str, *, unseen: bool = False) -> None:
        record = self.record
        now = boot_seconds()
        record.exits = [
            *record.exits[1 - MAX_EXITS :],
            {
                "at": time.time(),
                "code": code,
                "signal": signal_number,
                "reason": reason,
                "pid": record.pid,
                "asked": record.state == "stopping",
                "adopted": record.adopted,
                "unseen": unseen,
                "ready_seconds": None if unseen or record.ready_boot is None else now - record.ready_boot,
                "uptime_seconds": None if unseen or record.spawned_boot is None else now - record.spawned_boot,
            },
        ]

    def _enter(self, state: str) -> None:
        try:
            self._show(state)
        except OSError as err:
            self._cannot_write(err)

    def _show(self, state: str) -> None:
        """Enters a state where a successor sees it; on disk it is a moment later."""
        if self.record.state != state:
            self.record.state, self.record.since = state, time.time()
        if self._flush_timer is None:
            self._flush_timer = self._keeper.loop.after(FLUSH_SECONDS, self.flush)
        if self._keeper.store.show(self.record):
            self._no_flush()

    def _no_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _cannot_write(self, err: OSError) -> None:
        # A full disk must not end the child that it holds; what is lost is what a successor could have known.
        self._keeper.log(f"{self.record.name}: cannot write its record: {err.strerror}")

    def _settle(self, event: str) -> None:
        self._keeper.emit(event, self)
        waiters, self._waiters = self._waiters, []
        for call in waiters:
            self.when_settled(call)

    def _cancel(self) -> None:
        for timer in (self._timer, self._start_limit):
            if timer is not None:
                timer.cancel()
        self._timer = self._start_limit = None


def _digest_carried(spec: dict[str, Any], environ: dict[bytes, bytes]) -> str | None:
    """The digest that the process was really started with; None where the spec and the environment file disagree."""
    carried = environ.get(process.DIGEST.encode())
    wanted: str | None = spec["spec_digest"]
    return wanted if carried is None or wanted is None or carried.decode("ascii", "replace") == wanted else None


def _reason(code: int | None, signal_number: int | None, left: dict[str, Any] | None, unknown: str) -> str:
    """How it ended, for people; `unknown` where that is not known."""
    said = left.get("reason") if left is not None else None
    if signal_number is not None:
        try:
            text = f"killed by {signal.Signals(signal_number).name}"
        except ValueError:
            text = f"killed by signal {signal_number}"
    elif code is not None:
        text = f"exit code {code}"
    else:
        text = unknown
    return f"{text}: {said}" if isinstance(said, str) and said else text
