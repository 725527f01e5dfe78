"""Reads what is: the keeper's word or its files, the process in /proc, the prepared files, the port. Changes nothing."""

from __future__ import annotations

import math
import os
import resource as rlimits
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from gateway.wire import json5
from reconciler.errors import NotPermittedError, OpenClawError, TemporaryError, lacking
from reconciler.files import open_regular
from reconciler.host import Host
from reconciler.kinds import End, Observation, Wanted, World
from reconciler.model import ABSENT, Condition, Secret, Status, Value
from reconciler.values import join_path, same
from resources.gateway_config.fields import DEFAULT_PORT
from resources.service import proc
from resources.service.keeper import program as keeper_program
from resources.service.keeper.loop import boot_seconds
from resources.service.keeper.policy import STABLE_SECONDS
from resources.service.keeper.process import ATTEMPT, DIGEST, UNSEEN_EXIT, output_obstacle
from resources.service.keeper_client import Seen, alive, look, unrecorded_process
from resources.service.listeners import listeners
from resources.service.plan import Detail, Holder
from resources.service.prepared import fields_behind, prepared_digest, values_behind
from resources.service.spec import (
    CHILD,
    KEEPER_PROGRAM,
    POLICY_FIELDS,
    ServiceSpec,
    is_spec_field,
    output_path,
    policy_of_keeper,
)

# A crash-looping gateway is tried at least this often, however seldom its keeper does, so that it serves soon after the
# cause is gone.
PROBE_SECONDS: Final = 45.0
_MAX_CONFIG_BYTES: Final = 4 << 20
_OFFERED: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """The gateway as the keeper, or what it left, describes it, together with whether its process really runs."""

    seen: Seen
    record: Mapping[str, Any] | None
    pid: int | None
    # No record tells of the process `pid`.
    unrecorded: bool = False

    @property
    def held(self) -> bool:
        """A keeper answers, and knows of the process that runs."""
        return self.seen.keeper_pid is not None and not self.unrecorded

    @property
    def state(self) -> str:
        """The field `state`: `running` also while the keeper is about to start it again; `broken`, `failed` and
        `crashed` are kinds of not running that nobody asked for.
        """
        record = self.record
        if self.pid is not None:
            return "running"
        if record is None or record["goal"] == "down":
            return "stopped"
        if record["state"] == "held":
            return "failed"
        if not self.held:
            return "crashed"
        return "broken" if record["state"] == "broken" else "running"

    @property
    def last_exit(self) -> Mapping[str, Any] | None:
        exits = self.record["exits"] if self.record is not None else ()
        return exits[-1] if exits else None

    @property
    def fell_unseen(self) -> bool:
        """Its process is gone, and no keeper has seen how that ended, or when."""
        if self.state != "crashed" or self.record is None or self.record["pid"] is None:
            return False
        return self.last_exit is None or self.last_exit["pid"] != self.record["pid"]

    def suspended(self, spec: ServiceSpec) -> bool:
        """A person stopped it, and the section is the same since."""
        hold = self.record["hold"] if self.record is not None else None
        return (
            hold is not None
            and self.pid is None
            and hold.get("by") == "operator"
            and hold.get("section") == spec.section
            and spec.service.state == "running"
        )

    def outlived(self, spec: ServiceSpec) -> bool:
        """A person stopped it under another section, and this one wants it stopped too: his word is the document's now."""
        hold = self.record["hold"] if self.record is not None else None
        return (
            hold is not None
            and self.pid is None
            and hold.get("by") == "operator"
            and hold.get("section") != spec.section
            and spec.service.state == "stopped"
        )


async def child_of(host: Host) -> Child:
    """The gateway right now.

    Raises:
        TemporaryError: the keeper cannot be understood, or what it left cannot be read.
        NotPermittedError: the system does not let us ask it or read it.
    """
    try:
        seen = await look(host)
    except OSError as err:
        text = f"cannot read {err.filename or 'the keeper'}: {err.strerror}"
        raise (NotPermittedError if isinstance(err, PermissionError) else TemporaryError)(text) from err
    record = seen.child(CHILD)
    return await trio.to_thread.run_sync(_child, host, seen, record)


def _child(host: Host, seen: Seen, record: Mapping[str, Any] | None) -> Child:
    if record is not None and alive(record):
        return Child(seen=seen, record=record, pid=record["pid"])
    if record is not None and seen.keeper_pid is not None:
        return Child(seen=seen, record=record, pid=None)
    pid = unrecorded_process(host, seen, CHILD, effective_port(None, host))
    return Child(seen=seen, record=record, pid=pid, unrecorded=pid is not None)


async def observe(wanted: Wanted, world: World) -> Observation:
    """The one resource of this kind."""
    try:
        child = await child_of(world.host)
        return await trio.to_thread.run_sync(_observation, wanted, world, child)
    except OSError as err:
        return Observation(key=wanted.key, unknown=f"cannot read {err.filename or 'the keeper'}: {err.strerror}")
    except OpenClawError as err:
        return Observation(key=wanted.key, unknown=f"{err.message}; {err.hint}" if err.hint else err.message)


def _observation(wanted: Wanted, world: World, child: Child) -> Observation:
    host = world.host
    spec: ServiceSpec | None = wanted.resource.spec if wanted.resource is not None else None
    declared = wanted.resource.fields if wanted.resource is not None else {}
    paths = [*declared, *(path for path in wanted.applied if path not in declared)]
    suspended = spec is not None and child.suspended(spec)
    fields = _fields(paths, declared, world, child)
    if suspended:
        # Somebody wants it stopped: that is no difference until he, or the section, says otherwise. What it will be
        # started with goes on following the document.
        fields |= {path: declared[path] for path in ("state", "keeper") if path in declared}
    return Observation(
        key=wanted.key,
        fields=fields,
        detail=_detail(spec, host, child),
        shown=shown(child, spec),
        conditions=conditions_of(child, spec, suspended=suspended),
        retried=spec is not None and _is_retried(child, spec, host),
        ends=ends_of(child),
    )


def _is_retried(child: Child, spec: ServiceSpec, host: Host) -> bool:
    """Whether its keeper is about to try this very spec again: the restart policy is the keeper's alone.

    What it starts with has to be there: it cannot prepare that, however often it tries.
    """
    record = child.record
    if child.state != "broken" or record is None or record["spec"]["spec_digest"] != spec.digest:
        return False
    if prepared_digest(host) != spec.digest:
        return False
    tried: float | None = record["spawned_boot"]
    return tried is not None and time.clock_gettime(time.CLOCK_BOOTTIME) - tried < PROBE_SECONDS


def _fields(paths: list[str], declared: Mapping[str, Value], world: World, child: Child) -> dict[str, Value]:
    host = world.host
    digest = digest_of(host, child)
    behind = fields_behind(host, digest)
    found: dict[str, Value] = {"state": child.state, "keeper": child.held or child.pid is None}
    # Where none answers the next one that is started is the installed one.
    program = child.seen.program if child.held else (declared.get(KEEPER_PROGRAM) or keeper_program.digest())
    found[KEEPER_PROGRAM] = ABSENT if program is None else program
    if behind is not None:
        by_value = _by_value(behind[0], declared, world, digest, child.pid)
        found |= {**behind[0], **by_value, **behind[1], "spec": declared.get("spec", ABSENT)}
        if declared and not behind[0].keys() <= set(paths):
            # It carries what is neither declared nor ours by the journal: a start that failed left it. No field says so.
            found["spec"] = Secret(digest) if digest is not None else ABSENT
    elif child.pid is not None:
        # It runs, and nobody knows with what: only the digest differs, and all that is declared is taken for given.
        found |= {path: value for path, value in declared.items() if is_spec_field(path)}
        found["spec"] = ABSENT if digest is None else Secret(digest)
    if child.pid is not None and child.record is not None and not child.unrecorded:
        found = {path: value for path, value in found.items() if path not in POLICY_FIELDS}
        found |= policy_of_keeper(child.record["spec"])
    return {path: found.get(path, ABSENT) for path in paths}


def _by_value(
    fields: Mapping[str, Value], declared: Mapping[str, Value], world: World, digest: str | None, pid: int | None
) -> dict[str, Value]:
    """The secrets among `fields` that are not as declared, by the values that it really has: their digests may be of another
    salt, that of a journal which is lost.
    """
    others = {
        path for path, value in fields.items() if isinstance(value, Secret) and not same(value, declared.get(path))
    }
    values = values_behind(world.host, digest, pid) if others else {}
    by_path = {join_path(("environment", name)): value for name, value in values.items()}
    return {path: world.secrets.digest_text(by_path[path]) for path in others & by_path.keys()}


def digest_of(host: Host, child: Child) -> str | None:
    """What it runs by, or will in a moment: whoever asked for a restart may have died before its end."""
    record = child.record
    if child.pid is not None and child.unrecorded:
        return proc.environ_value(child.pid, DIGEST)
    if child.pid is None or record is None:
        return prepared_digest(host)
    if record["state"] == "stopping" and record["goal"] == "up":
        told: str | None = record["spec"]["spec_digest"]
        return told
    running: str | None = record["digest"]
    return running


def _detail(spec: ServiceSpec | None, host: Host, child: Child) -> Detail:
    port = effective_port(spec, host)
    startup = child.record["startup_seconds"] if child.record is not None else None
    if spec is None or spec.service.state == "stopped":
        outlived = spec is not None and child.outlived(spec)
        ready = spec is None or _is_prepared(spec, host, child)
        return Detail(pid=child.pid, port=port, startup_seconds=startup, outlived=outlived, prepared=ready)
    return Detail(
        pid=child.pid,
        port=port,
        meant_up=child.record is not None and child.record["goal"] == "up",
        suspended=child.suspended(spec),
        prepared=_is_prepared(spec, host, child),
        waits=waits_text(child),
        silent_keeper=child.seen.silent,
        startup_seconds=startup,
        holder=_holder(port, child),
        unreadable=tuple((field, why) for field, path in spec.tls_files if (why := _unreadable(path)) is not None),
        program_missing=_program_missing(spec.program.argv[0]),
        output=output_obstacle(output_path(spec)),
        taken=_taken(child) if spec.port is None else frozenset(),
        least_port=proc.least_port(child.seen.keeper_pid or os.getpid()),
    )


def _is_prepared(spec: ServiceSpec, host: Host, child: Child) -> bool:
    """Whether the next start would be by what runs, or is declared: a run that died may have prepared another one.

    Raises:
        OSError: what is prepared cannot be looked at for want of descriptors or memory.
    """
    if child.record is None:
        return True
    try:
        # Both, for the digest of what runs may be of another salt.
        good = {spec.digest, digest_of(host, child)}
        return child.record["spec"]["spec_digest"] in good and prepared_digest(host) in good
    except OSError as err:
        if lacking(err) is not None:
            raise
        return False


def effective_port(spec: ServiceSpec | None, host: Host) -> int:
    """The port that the gateway will listen on: the declared one, else that of openclaw.json, else the default."""
    if spec is not None and spec.port is not None:
        return spec.port
    try:
        with open_regular(host.state.config) as file:
            config = json5.load(file.read(_MAX_CONFIG_BYTES).decode())
    except (OSError, ValueError, RecursionError):
        return DEFAULT_PORT
    section = config.get("gateway") if isinstance(config, dict) else None
    port = section.get("port") if isinstance(section, dict) else None
    return port if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536 else DEFAULT_PORT


def _holder(port: int, child: Child) -> Holder | None:
    pid = proc.port_owner(port, child.pid)
    if pid is None or _is_ours(pid, child):
        return None
    taken = proc.listening_ports()
    free = next((other for other in range(port + 1, min(port + _OFFERED, 65536)) if other not in taken), None)
    return Holder(port=port, who=proc.described(pid), free_port=free)


def _taken(child: Child) -> frozenset[int]:
    """The ports that others listen on. It has none of ours, but what the gateway's own helpers may hold."""
    return frozenset(
        found.port
        for found in listeners()
        if child.pid is None or not proc.holds_inode(child.pid, frozenset((found.inode,)))
    )


def _is_ours(pid: int, child: Child) -> bool:
    if not pid:
        return False
    if child.pid is not None and (pid == child.pid or proc.process_group(pid) == child.pid):
        return True
    attempt = child.record["attempt"] if child.record is not None else None
    return attempt is not None and proc.environ_value(pid, ATTEMPT) == attempt


def _unreadable(path: str) -> str | None:
    try:
        open_regular(path).close()
        return None
    except OSError as err:
        return f"cannot read {path}: {err.strerror}"


def _program_missing(program: str) -> str | None:
    if os.path.isabs(program) and not os.access(program, os.X_OK):
        return f"cannot start the gateway: {program} is not there, or cannot be run"
    return None


def conditions_of(child: Child, spec: ServiceSpec | None = None, *, suspended: bool = False) -> tuple[Condition, ...]:
    """What is to be said of it beside its fields; without a `spec`, as far as that needs none."""
    found = []
    hold = child.record["hold"] if child.record is not None else None
    if suspended and hold is not None:
        found.append(_condition("Suspended", "StoppedByOperator", hold_text(hold)))
    if child.state in ("broken", "failed", "crashed"):
        reason = {"broken": "CrashLooping", "failed": "HeldDown", "crashed": "NotHeld"}[child.state]
        found.append(_condition("Degraded", reason, down_text(child)))
    elif child.pid is not None and not child.held:
        text = unheld_text(child)
        found.append(_condition("Degraded", "NotHeld", text))
    elif not suspended and _on_probation(child):
        text = f"{down_text(child)}; it is tried again, and has not held for as long as it last waited"
        found.append(_condition("Degraded", "CrashLooping", text))
    if spec is not None and (missed := limits_not_held(spec)):
        found.append(_condition("LimitNotHeld", "EmbeddedManager", "; ".join(missed)))
    return tuple(found)


def _on_probation(child: Child) -> bool:
    """Whether a crash loop is not over yet: it runs again, and has not been Ready for as long as the policy asks of it.

    Without this one crash loop would look like as many as it has tries.
    """
    record = child.record
    if record is None or not child.held or record["goal"] != "up" or not record["history"]["broken"]:
        return False
    ready: float | None = record["ready_boot"]
    needed = max(STABLE_SECONDS, record["history"]["waited"])
    return ready is None or time.clock_gettime(time.CLOCK_BOOTTIME) - ready < needed


def _condition(kind: str, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=Status.TRUE, reason=reason, message=message)


def hold_text(hold: Mapping[str, Any]) -> str:
    """Who stopped it, when and why."""
    why = f": {hold['why']}" if hold.get("why") else ""
    at = f" at {moment(hold['at'])}" if hold.get("at") else ""
    role = "operator " if hold.get("by") == "operator" else ""
    return f"stopped by {role}{hold.get('who') or 'somebody'}{at}{why}"


def down_text(child: Child) -> str:
    """Why it does not run, for people."""
    hold = child.record["hold"] if child.record is not None else None
    if hold is not None and hold.get("by") == "operator":
        return hold_text(hold)
    ended = child.last_exit
    reason = ended["reason"] if ended is not None else "it was never started"
    if child.state == "crashed":
        return f"its process is gone, and {_no_keeper(child)} that would start it again"
    return f"{reason}; {hold['why']}" if hold is not None and hold.get("why") not in (None, reason) else reason


def ends_of(child: Child) -> tuple[End, ...]:
    """The ends that nobody asked for, as far as its record goes back, oldest first."""
    record = child.record
    if record is None:
        return ()
    exits = record["exits"]
    if record["state"] == "waiting" and record["next_boot"] is None and exits and "restart_after" not in exits[-1]:
        # What follows is not decided yet: its configuration is looked at first.
        exits = exits[:-1]
    return tuple(
        End(at=ended["at"], text=_end_text(ended, _started_again(child, ended)))
        for ended in exits
        if not ended["asked"]
    )


def _started_again(child: Child, ended: Mapping[str, Any]) -> float | None:
    """After how many seconds what runs now was started, where it is what came after this end; None where that is not so."""
    record = child.record
    if record is None or child.pid is None or ended is not record["exits"][-1] or record["spawned_at"] is None:
        return None
    return max(0.0, float(record["spawned_at"] - ended["at"]))


def fell(child: Child) -> float | None:
    """When it ended last without being asked to, seconds since the epoch; None where its record tells of no such end."""
    exits = child.record["exits"] if child.record is not None else ()
    return next((ended["at"] for ended in reversed(exits) if not ended["asked"]), None)


def _end_text(ended: Mapping[str, Any], again: float | None) -> str:
    # One that was never started has no process, and what a keeper of an earlier version did next it did not write down.
    pid = f" (pid {ended['pid']})" if ended["pid"] is not None else ""
    after = ended.get("restart_after", math.nan)
    if after is None:
        follows = "; it is not started again"
    elif math.isnan(after):
        follows = ""
    elif again is not None and again < after / 2:
        # Somebody else was quicker.
        follows = f"; it was started again after {again:.1f} s"
    else:
        follows = f"; its keeper starts it again {f'after {after:g} s' if after else 'at once'}"
    if ended.get("unseen"):
        follows = f", noticed then{follows}"
    return f"{ended['reason']}{pid}{follows}"


def waits_text(child: Child) -> str:
    """Why it does not run and when its keeper starts it again, for people; empty unless the keeper waits for just that."""
    if child.record is None or not child.held or child.pid is not None or child.record["state"] != "waiting":
        return ""
    seconds = math.ceil(due_seconds(child))
    return f"{down_text(child)}; its keeper starts it again {f'in {seconds} s' if seconds else 'now'}"


def due_seconds(child: Child) -> float:
    """How long the keeper waits before it starts the gateway again."""
    due = child.record["next_boot"] if child.record is not None and child.held and child.pid is None else None
    return max(0.0, due - boot_seconds()) if due is not None else 0.0


def unheld_text(child: Child) -> str:
    """What is the matter with one that runs and is not held, for people."""
    if child.unrecorded:
        return f"process {child.pid} runs, and the keeper's record of it is lost: `openclaw apply` has it held again"
    return f"it runs, and {_no_keeper(child)} that would start it again"


def _no_keeper(child: Child) -> str:
    pid = child.seen.silent
    if pid is None:
        return "no keeper runs"
    stopped = f"is stopped (`kill -CONT {pid}` continues it)" if proc.process_state(pid) == "T" else "does not answer"
    return f"its keeper (process {pid}) {stopped}: nobody is there"


def limits_not_held(spec: ServiceSpec) -> list[str]:
    """The declared limits that the embedded manager cannot hold on this host, as sentences."""
    limits = spec.service.limits
    found = []
    if limits.memory_bytes is not None:
        found.append("memory is not limited: the embedded manager of this version makes no control groups")
    if limits.cpu_percent is not None:
        found.append("cpu is not limited: the embedded manager of this version makes no control groups")
    hard = rlimits.getrlimit(rlimits.RLIMIT_NOFILE)[1]
    if limits.files is not None and hard != rlimits.RLIM_INFINITY and limits.files > hard:
        found.append(f"files is {hard} instead of {limits.files}: the system allows this user no more")
    return found


def shown(child: Child, spec: ServiceSpec | None) -> dict[str, Any]:
    """What `service status` shows; plain JSON data."""
    record = child.record
    ended = _last_exit(child)
    return {
        "manager": "embedded",
        "runtime": spec.service.runtime if spec is not None else "builtin",
        "state": _state_for_people(child),
        "pid": child.pid,
        "restarts": record["restarts"] if record is not None else 0,
        "last_exit": None if ended is None else {**ended, "at": moment(ended["at"]) if ended["at"] else None},
        "since": moment(record["since"]) if record is not None and record["since"] and not child.fell_unseen else None,
        "limits": _limits_shown(child, spec),
        "keeper": child.seen.keeper_pid,
        "last_keeper": _last_keeper(child.seen.replaced),
        "port": record["spec"]["port"] if record is not None else None,
        "hold": record["hold"] if record is not None else None,
    }


def _last_exit(child: Child) -> Mapping[str, Any] | None:
    """How the last process that is known ended; of one that fell unseen no more is known than that."""
    if not child.fell_unseen or child.record is None:
        return child.last_exit
    unknown = dict.fromkeys(("at", "code", "signal", "ready_seconds", "uptime_seconds"))
    known = {"reason": UNSEEN_EXIT, "pid": child.record["pid"], "asked": False, "adopted": True, "unseen": True}
    return {**unknown, **known}


def _last_keeper(replaced: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if replaced is None:
        return None
    return {"pid": replaced["pid"], "reason": "ended without a word", "replaced_at": moment(replaced["at"])}


def _state_for_people(child: Child) -> str:
    """The keeper's word where it answers; `unheld` is a process that runs under no keeper."""
    if child.pid is not None and not child.held:
        return "unheld"
    if child.record is None:
        return "stopped"
    return str(child.record["state"]) if child.held else child.state


def _limits_shown(child: Child, spec: ServiceSpec | None) -> dict[str, Any]:
    limits = spec.service.limits if spec is not None else None
    told = child.record["spec"]["limits"].get("files") if child.record is not None else None
    files: dict[str, Any] = {"declared": limits.files if limits is not None else told, "held": None}
    if child.pid is not None:
        try:
            files["held"] = rlimits.prlimit(child.pid, rlimits.RLIMIT_NOFILE)[0]
        except OSError:
            # It ended this instant, or runs for another user.
            pass
    return {
        "files": files,
        "memory": {"declared": limits.memory_bytes if limits is not None else None, "held": None},
        "cpu": {"declared": limits.cpu_percent if limits is not None else None, "held": None},
    }


def moment(seconds: float) -> str:
    """A wall clock time as RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
