"""One process that applies a document of real files and real processes, and is killed at a named step of it.

    python -m tests.e2e.campaigns.life            serves orders, one JSON line each, every one in a process of its own
    python -m tests.e2e.campaigns.life ORDER      carries out one order in this very process (for whoever traces it)

The engine, the journal, the kinds `file` and `child`, the kill (SIGKILL, to itself) are real; only the start of the
interpreter is shared by the processes of a server, which forks each of them before anything was opened or started.

A step is the moment right before or after a write of the journal, an effect or a probe, or right before a call of the
system by which files are changed or processes started and ended. Actions run side by side, so steps are known by their
names: the same in every run, in whatever order.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import trio

from reconciler.desired import Desired
from reconciler.engine.engine import Engine
from reconciler.engine.goal import Goal
from reconciler.engine.requests import Progress, Request
from reconciler.files import write_all
from reconciler.journal import Journal
from reconciler.journal.store import Store
from reconciler.model import Action, Generation, Key, Note, Result
from reconciler.values import digest
from resources.testing import ChildKind, FakeSecrets, FileKind, make_desired, make_world
from tests.reconciler.engine.mortal import WRITES as COMMITS

# Every method of the journal that writes. What is not here and writes nevertheless ends the run (`_guarded`).
WRITES: Final = ("transaction", *sorted(COMMITS))
# The calls by which files are changed; their first argument is a path or a descriptor.
CALLS: Final = ("open", "write", "fchmod", "fsync", "rename", "unlink", "chmod", "mkdir", "pwrite", "ftruncate")
ACTION_ID: Final = re.compile(r"[a-z]+/\w+:[a-z]+")
# A life that hangs is a failure, not a wait.
LIMIT_SECONDS: Final = 60.0
# Longer than any campaign takes for one host; what a campaign that was itself killed leaves behind ends by this.
CHILD_SECONDS: Final = 600


def before(directory: Path) -> dict[str, Any]:
    """The document that is in force before the one whose apply is killed."""
    return {
        "x-files": {
            "same": _file(directory, "same", "stays"),
            "old": _file(directory, "old", "one"),
            "mode": _file(directory, "mode", "kept"),
            "gone": _file(directory, "gone", "for a while"),
            "former": _file(directory, "former", "ours for a while"),
        },
        "x-children": {"worker": _child(directory, "worker", "1")},
    }


def after(directory: Path) -> dict[str, Any]:
    """The document whose apply is killed: twelve actions, of every sort that the two kinds have but `stop`."""
    return {
        "x-files": {
            "same": _file(directory, "same", "stays"),
            "old": _file(directory, "old", "two"),
            "mode": _file(directory, "mode", "kept", mode="0600"),
            "a1": _file(directory, "a1", "first"),
            "a2": _file(directory, "a2", "second", needs=["a1"]),
            "a3": _file(directory, "a3", "third", needs=["a2"], mode="0640"),
            "b1": _file(directory, "b1", "beside", needs=["a1"]),
            "c1": _file(directory, "c1", "alone", mode="0400"),
        },
        "x-children": {
            "one": _child(directory, "one", "1", needs=["file/a3"]),
            "two": _child(directory, "two", "1", needs=["child/one", "file/b1"]),
            "worker": _child(directory, "worker", "2", needs=["file/old"]),
        },
    }


def chain(directory: Path, version: int) -> dict[str, Any]:
    """Four files, each of which needs the one before: nothing runs side by side."""
    return {
        "x-files": {
            f"f{number}": _file(directory, f"f{number}", f"{version}", needs=[f"f{number - 1}"] if number else [])
            for number in range(4)
        }
    }


DOCUMENTS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {
    "before": before,
    "after": after,
    "chain": functools.partial(chain, version=1),
    "chain again": functools.partial(chain, version=2),
}


def _file(directory: Path, name: str, content: str, **more: Any) -> dict[str, Any]:
    return {"path": str(directory / "targets" / name), "content": content, **more}


def _child(directory: Path, name: str, version: str, **more: Any) -> dict[str, Any]:
    # It tells itself that it was started, and by which version of its declaration.
    script = f'echo "$2 $$" >> "$1"; exec sleep {CHILD_SECONDS}'
    return {"argv": ["sh", "-c", script, name, str(directory / "starts" / name), version], **more}


@dataclass
class Fate:
    """Counts the steps of this process, and kills it at the one that is called `end`."""

    end: str | None
    names: list[str] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def step(self, name: str) -> None:
        with self._lock:
            self._seen[name] += 1
            full = f"{name} #{self._seen[name]}"
            self.names.append(full)
            if full == self.end:
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a life is to do: lead `directory` to `document`, and die at `end` (never where that is None).

    `window` is how long the result is watched; with `watched` it dies when that part of the window is over.
    """

    directory: str
    document: str
    end: str | None = None
    window: float = 0.0
    watched: float | None = None


async def live(order: Order) -> dict[str, Any]:
    """Carries out an order; what is told of it to whoever ordered it."""
    directory, fate = Path(order.directory), Fate(order.end)
    # By this name whoever owns the directory finds what was started for it, however it came to be forgotten.
    world = make_world(directory, environ={"OPENCLAW_STATE_DIR": str(directory / "state")})
    kinds = (FileKind(), ChildKind())

    def goal(desired: Desired) -> Goal:
        desired = replace(desired, policy=replace(desired.policy, verify_seconds=order.window))
        return Goal(
            desired=desired,
            digest=digest(dict(desired.canonical)),
            texts={"openclaw.yaml": repr(desired.canonical)},
            secrets=FakeSecrets(),
            secret_digests={},
            resources={
                item.key: item for kind in kinds for item in kind.declare(desired, world.host, world.secrets)
            },
            locate=lambda _path: None,
        )  # fmt: skip

    def goal_of(generation: Generation) -> tuple[Goal, tuple[Note, ...]]:
        return goal(make_desired(extra=generation.canonical["canonical"])), ()

    def report(progress: Progress) -> None:
        if progress.what == "verifying" and order.watched is not None:
            threading.Timer(order.window * order.watched, os.kill, (os.getpid(), signal.SIGKILL)).start()

    engine = Engine(
        kinds=kinds,
        host=world.host,
        document=world.document,
        now=time.time,
        goal_of=goal_of,
        report=report,
        command="a life",
    )
    _count_steps(fate, directory)
    wanted = goal(make_desired(extra=DOCUMENTS[order.document](directory)))
    with trio.fail_after(LIMIT_SECONDS):
        outcome = await engine.apply(lambda _salt: wanted, Request(cause="apply", author="a life"))
        engine.close()
    return {
        "result": outcome.result.value,
        "reason": outcome.reason,
        "actions": [action.id for action in outcome.plan.actions],
        "errors": [step.error for step in outcome.steps if step.error],
        "steps": fate.names,
    }


def _count_steps(fate: Fate, directory: Path) -> None:
    """Puts the steps into this process, which lives for one order and never takes them out again."""
    writing = threading.local()
    for name in WRITES:
        wrap = _block if name == "transaction" else _write
        setattr(Journal, name, wrap(fate, writing, name, getattr(Journal, name)))
    Store.transaction = _guarded(writing, Store.transaction)  # type: ignore[method-assign]
    for kind in (FileKind, ChildKind):
        kind.apply = _effect(fate, kind.apply)  # type: ignore[method-assign]
        kind.probe = _probe(fate, kind.probe)  # type: ignore[method-assign]
    for name in CALLS:
        setattr(os, name, _call(fate, directory, name, getattr(os, name)))
    os.posix_spawn = _spawn(fate, os.posix_spawn)
    signal.pidfd_send_signal = _signal(fate, signal.pidfd_send_signal)


def _write(fate: Fate, writing: threading.local, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def write(journal: Journal, *arguments: Any, **named: Any) -> Any:
        told = " ".join(filter(None, (name, *map(_word, (*arguments, named.get("first_intent"))))))
        fate.step(f"journal: before {told}")
        outer, writing.now = getattr(writing, "now", False), True
        try:
            result = method(journal, *arguments, **named)
        finally:
            writing.now = outer
        fate.step(f"journal: after {told}")
        return result

    return write


def _block(fate: Fate, writing: threading.local, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The same for `transaction`, whose commit comes at the end of a block."""

    @contextmanager
    def block(journal: Journal) -> Iterator[None]:
        outer, writing.now = getattr(writing, "now", False), True
        try:
            with method(journal):
                yield
                fate.step(f"journal: before the end of a {name}")
        finally:
            writing.now = outer
        fate.step(f"journal: after the end of a {name}")

    return block


def _word(argument: Any) -> str:
    """What tells one write from another of its sort: an action, a key, a state. Ids of runs are new ones each time."""
    match argument:
        case Action():
            return argument.id
        case Key():
            return str(argument)
        case Result():
            return argument.value
        case str() if ACTION_ID.fullmatch(argument):
            return argument
    return ""


def _guarded(writing: threading.local, method: Callable[..., Any]) -> Callable[..., Any]:
    """A commit that no step stands around is a hole in the campaign."""

    @functools.wraps(method)
    def transaction(store: Store) -> Any:
        assert getattr(writing, "now", False), "a method of the journal writes that the campaign does not know"
        return method(store)

    return transaction


def _effect(fate: Fate, apply: Callable[..., Any]) -> Callable[..., Any]:
    async def effect(kind: Any, action: Action, *rest: Any) -> None:
        fate.step(f"effect: before {action.id}")
        await apply(kind, action, *rest)
        fate.step(f"effect: after {action.id}")

    return effect


def _probe(fate: Fate, probe: Callable[..., Any]) -> Callable[..., Any]:
    async def probed(kind: Any, key: Any, *rest: Any) -> Any:
        fate.step(f"probe: before {key}")
        health = await probe(kind, key, *rest)
        fate.step(f"probe: after {key}")
        return health

    return probed


def _call(fate: Fate, directory: Path, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def called(where: Any, *rest: Any, **named: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else os.fspath(where)
        creates = name != "open" or bool(rest and rest[0] & os.O_CREAT)
        if creates and isinstance(path, str) and path.startswith(f"{directory}/"):
            fate.step(f"call: before {name} {path.removeprefix(f'{directory}/')}")
        return call(where, *rest, **named)

    return called


def _spawn(fate: Fate, spawn: Callable[..., int]) -> Callable[..., int]:
    def spawned(program: str, argv: list[str], *rest: Any, **named: Any) -> int:
        fate.step(f"call: before spawn {argv[3]}")
        pid = spawn(program, argv, *rest, **named)
        fate.step(f"call: after spawn {argv[3]}")
        return pid

    return spawned


def _signal(fate: Fate, send: Callable[..., None]) -> Callable[..., None]:
    def sent(descriptor: int, number: signal.Signals) -> None:
        fate.step(f"call: before {signal.Signals(number).name}")
        send(descriptor, number)
        fate.step(f"call: after {signal.Signals(number).name}")

    return sent


def main() -> None:
    """See the module."""
    if len(sys.argv) > 1:
        print(json.dumps(trio.run(live, Order(**json.loads(sys.argv[1])))))
        return
    for line in sys.stdin:
        status, text = _in_a_process(Order(**json.loads(line)))
        print(json.dumps({"status": status, "answer": json.loads(text) if text else None}), flush=True)


def _in_a_process(order: Order) -> tuple[int, bytes]:
    """How a process that carries out the order ended (as os.waitpid tells it), and what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            write_all(writing, json.dumps(trio.run(live, order)).encode())
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            # Never back into the server, whatever happened.
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as answer:
        text = answer.read()
    return os.waitpid(pid, 0)[1], text


if __name__ == "__main__":
    main()
