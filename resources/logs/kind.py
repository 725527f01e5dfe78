"""The kind `logs`: the retention of the log directory as a resource. A declared retention is the consent to delete.

Two fields say whether the directory is as declared: `files.expired` and `files.uncompressed`, both false. They are no
counts on purpose: a file that falls due between plan and apply must not make the plan stale. Which files, and how many
bytes, stands in the actions.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar

import trio

from reconciler.desired import Desired, Retention
from reconciler.errors import shortage
from reconciler.host import Host
from reconciler.kinds import Health, KindPlan, Observation, Resource, Secrets, Step, Wanted, World
from reconciler.model import ABSENT, Action, Because, Consequence, Difference, DocumentPath, Key, Undo, Value
from resources.logs.directory import compress, delete, expand, in_use, is_free, listed, opened, opened_again
from resources.logs.retention import Decision, Deletion, LogFile, decide, spared
from resources.steps import action_id, cause_of, precondition_of

KEY = Key("logs", "gateway")
# How many names a sentence holds; the arguments of the action hold them all.
SHOWN_NAMES = 10
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class LogsSpec:
    """Where and for how long. `trouble` is the reason why the directory cannot be known."""

    directory: str
    retention: Retention
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What `plan` needs of one look: the directory's identity, and what is due."""

    directory: str
    dev: int = 0
    inode: int = 0
    decision: Decision = field(default_factory=Decision)


class LogsKind:
    """See the module."""

    name: ClassVar[str] = "logs"
    sections: ClassVar[frozenset[str]] = frozenset({"logging"})
    external: ClassVar[bool] = False
    backoff_cap_seconds: ClassVar[float] = 300.0

    def declare(self, desired: Desired, host: Host, secrets: Secrets) -> tuple[Resource, ...]:
        if desired.logging is None:
            return ()
        retention = desired.logging.retention
        fields: dict[str, Value] = {}
        if (retention.age_seconds, retention.total_bytes, retention.files) != (None, None, None):
            fields["files.expired"] = False
        if retention.compress_after_seconds is not None:
            fields["files.uncompressed"] = False
        origins = {path: _origin(desired, path) for path in fields}
        return (
            Resource(
                key=KEY,
                fields=fields,
                origins={path: origin for path, origin in origins.items() if origin is not None},
                defaulted=frozenset(path for path, origin in origins.items() if origin is None),
                spec=_spec(desired.logging.directory, retention, host),
            ),
        )

    async def observe(self, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
        return tuple([await trio.to_thread.run_sync(_observe, one, world.now()) for one in wanted])

    def plan(self, step: Step) -> KindPlan:
        if step.resource is None or not step.differences:
            return KindPlan()
        seen: Seen = step.observation.detail
        prune = _prune(step, seen)
        return KindPlan(actions=(*prune, *_compress(step, seen, after=prune)))

    async def apply(self, action: Action, resource: Resource | None, world: World) -> str | None:
        """See `Kind.apply`. Cancelled, it ends after the file at hand; what is done is done."""
        return await trio.to_thread.run_sync(_apply, action)

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        look = partial(_observe, Wanted(key=key, resource=resource), world.now(), may_lack=False)
        observation = await trio.to_thread.run_sync(look)
        if observation.unknown is not None:
            # It serves nobody: what is not seen leaves a run partial, and condemns no document.
            return Health(ready=False, reason="Unreadable", message=observation.unknown, lagging=True)
        return Health(ready=True)

    async def watch(self, world: World, report: Callable[[Key], None]) -> None:
        """Nothing to watch: files fall due by time, and a resync finds them."""
        await trio.lowlevel.checkpoint()


def _origin(desired: Desired, path: str) -> DocumentPath | None:
    names = ("compress_after",) if path == "files.uncompressed" else ("age", "total", "files")
    declared = (("logging", "retention", name) for name in names)
    return next((place for place in declared if place in desired.declared), None)


def _spec(directory: str | None, retention: Retention, host: Host) -> LogsSpec:
    if directory is None:
        return LogsSpec(str(host.state.logs), retention)
    missing = [name for name in _VARIABLE.findall(directory) if name not in host.environ]
    if missing:
        return LogsSpec(directory, retention, f"cannot find the log directory: {missing[0]!r} is not set")
    path = _VARIABLE.sub(lambda match: host.environ[match.group(1)], directory)
    if path == "~" or path.startswith("~/"):
        path = str(host.home) + path[1:]
    return LogsSpec(os.path.normpath(os.path.join(host.state.root, path)), retention)


def _observe(wanted: Wanted, now: float, *, may_lack: bool = True) -> Observation:
    """Raises OSError where this process lacks something to look with, unless it `may_lack` it."""
    # Without a declaration there is no retention to measure by; absent leads to no difference.
    fields: dict[str, Value] = dict.fromkeys(wanted.applied, ABSENT)
    if wanted.resource is None:
        return Observation(key=wanted.key, fields=fields)
    spec: LogsSpec = wanted.resource.spec
    if spec.trouble is not None:
        return Observation(key=wanted.key, unknown=spec.trouble)
    try:
        seen, shown = _look(spec, now)
    except NotADirectoryError:
        reason = f"cannot read log directory {spec.directory!r}: it is a link or no directory; name the real one"
        return Observation(key=wanted.key, unknown=reason)
    except OSError as err:
        if shortage(err) and not may_lack:
            raise
        return Observation(key=wanted.key, unknown=f"cannot read log directory {spec.directory!r}: {err.strerror}")
    due = {
        "files.expired": bool(seen.decision.deletions),
        "files.uncompressed": bool(seen.decision.compressions),
    }
    fields |= {path: due[path] for path in wanted.resource.fields}
    return Observation(key=wanted.key, fields=fields, detail=seen, shown=shown)


def _look(spec: LogsSpec, now: float) -> tuple[Seen, dict[str, Any]]:
    try:
        with opened(spec.directory) as descriptor:
            status = os.fstat(descriptor)
            files, leftovers = listed(descriptor)
            decision = _decided(files, leftovers, spec.retention, now)
            # Where something else has the name that a compressed file would get, the file stays as it is.
            packed = tuple(file for file in decision.compressions if is_free(descriptor, f"{file.name}.zst", file))
            decision = replace(decision, compressions=packed)
    except FileNotFoundError:
        return Seen(directory=spec.directory), {"directory": spec.directory, "files": 0, "bytes": 0}
    seen = Seen(directory=spec.directory, dev=status.st_dev, inode=status.st_ino, decision=decision)
    return seen, {"directory": spec.directory, "files": len(files), "bytes": sum(file.size for file in files)}


def _decided(files: list[LogFile], leftovers: list[LogFile], retention: Retention, now: float) -> Decision:
    """What is due; a file that somebody has open is looked for only among those that are due."""
    kept = spared(files, _today(now))
    decision = decide(files, now, retention, kept)
    if busy := in_use((*decision.files, *leftovers)):
        decision = decide(files, now, retention, kept | busy)
    if not _prunes(retention):
        return decision
    left = tuple(Deletion(file, "leftover") for file in leftovers if file.name not in busy)
    return Decision(deletions=(*left, *decision.deletions), compressions=decision.compressions)


def _prunes(retention: Retention) -> bool:
    return (retention.age_seconds, retention.total_bytes, retention.files) != (None, None, None)


def _today(now: float) -> frozenset[str]:
    """The day of our clock and of UTC: the writer may live in either."""
    return frozenset(datetime.fromtimestamp(now, zone).strftime("%Y-%m-%d") for zone in (None, UTC))


def _prune(step: Step, seen: Seen) -> tuple[Action, ...]:
    deletions = seen.decision.deletions
    differences = _of(step, "files.expired")
    if not differences:
        return ()
    reasons = Counter(deletion.reason for deletion in deletions)
    files = [deletion.file for deletion in deletions]
    freed = sum(file.size for file in files)
    return (
        Action(
            id=action_id(step, "prune"),
            key=step.key,
            verb="prune",
            cause=cause_of(differences),
            because=_because(step, differences, _sentence(reasons)),
            differences=differences,
            consequences=(
                Consequence(
                    what="files_deleted",
                    text=f"deletes {_files(len(files))}: {_names([file.name for file in files])}",
                    amount=len(files),
                ),
                Consequence(what="bytes_freed", text=f"frees {_bytes(freed)}", amount=freed),
            ),
            precondition=precondition_of(differences),
            deadline_seconds=120.0,
            arguments=_arguments(seen, files),
        ),
    )


def _compress(step: Step, seen: Seen, after: tuple[Action, ...]) -> tuple[Action, ...]:
    files = list(seen.decision.compressions)
    listed = f"{_files(len(files))}, {_bytes(sum(file.size for file in files))}"
    differences = _of(step, "files.uncompressed")
    if not differences:
        return ()
    arguments = _arguments(seen, files)
    return (
        Action(
            id=action_id(step, "compress"),
            key=step.key,
            verb="compress",
            cause=cause_of(differences),
            because=_because(step, differences, f"{_files(len(files))} to compress"),
            differences=differences,
            consequences=(
                Consequence(
                    what="note",
                    text=f"compresses {listed}: {_names([file.name for file in files])}",
                    amount=len(files),
                ),
            ),
            precondition=precondition_of(differences),
            undo=Undo(verb="expand", arguments=arguments, text="expands the files again"),
            # On a disk that is nearly full, what goes makes room for what is written.
            needs=tuple(action.id for action in after),
            deadline_seconds=600.0,
            arguments=arguments,
        ),
    )


def _of(step: Step, path: str) -> tuple[Difference, ...]:
    return tuple(difference for difference in step.differences if difference.path == path and not difference.desired)


def _because(step: Step, differences: tuple[Difference, ...], text: str) -> Because:
    assert step.resource is not None
    return Because(text=text, path=step.resource.origins.get(differences[0].path))


def _arguments(seen: Seen, files: Iterable[LogFile]) -> Mapping[str, Any]:
    return {
        "directory": seen.directory,
        "dev": seen.dev,
        "inode": seen.inode,
        # Each a list in the order of LogFile: names for a hundred thousand would be most of the journal's work.
        "files": [list(file) for file in files],
    }


_REASONS = {
    "age": "past the age",
    "count": "over the number",
    "total": "over the total size",
    "leftover": "left by a compression that was cut off",
}


def _sentence(reasons: Counter[str]) -> str:
    return ", ".join(f"{_files(number)} {_REASONS[reason]}" for reason, number in sorted(reasons.items()))


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def _names(files: Sequence[str]) -> str:
    names = ", ".join(files[:SHOWN_NAMES])
    more = len(files) - SHOWN_NAMES
    return names if more <= 0 else f"{names} and {more} more"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


_TRANSFORMS = {"compress": compress, "expand": expand}


def _apply(action: Action) -> str | None:
    arguments = action.arguments
    with opened_again(arguments["directory"], arguments["dev"], arguments["inode"]) as directory:
        if action.verb == "prune":
            files = sorted(arguments["files"], key=itemgetter(LogFile._fields.index("inode")))
            left = delete(directory, map(tuple, files), trio.from_thread.check_cancelled)
        else:
            transform = _TRANSFORMS[action.verb]
            listed = [LogFile(*file) for file in arguments["files"]]
            left = transform(directory, listed, trio.from_thread.check_cancelled)
    if not left:
        return None
    stay = "stays as it is" if len(left) == 1 else "stay as they are"
    return f"{_files(len(left))} {stay}, opened or changed since the plan: {_names(sorted(left))}"
