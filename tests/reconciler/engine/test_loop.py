"""The loop keeps a host as its document says, whatever it is told or not told."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from reconciler.document.problems import Problem
from reconciler.engine import loop as loops
from reconciler.engine.engine import Engine, Kept
from reconciler.engine.goal import Goal
from reconciler.engine.lock import WriterLock
from reconciler.engine.loop import EVERYTHING, Found, Loop
from reconciler.engine.verify import probe
from reconciler.errors import BlockedError, DocumentError, TemporaryError, TerminalError
from reconciler.journal import Journal, JournalFullError
from reconciler.kinds import End, Health, World
from reconciler.model import Action, Condition, Key, Note, Result, Status
from reconciler.values import rfc3339
from resources.testing import FakeKind
from tests.reconciler.engine.harness import APPLY, Harness, fake

# One of an included file, and one that is of no line.
PROBLEMS = (
    Problem(file="parts/a.yaml", line=3, column=5, path="logging.levl", code="unknown_key", message="cannot use it"),
    Problem(file="b.yaml", line=0, column=0, path="", code="unreadable", message="cannot read it"),
)


class Record:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Mapping[str, Any]]] = []
        self.told: list[Mapping[str, Any]] = []

    def info(self, event: str, **values: Any) -> None:
        self.lines.append((event, values))

    warning = info

    def tell(self, event: Mapping[str, Any]) -> None:
        # As the supervisor's does, which wakes whoever listens: it may be called by no other thread than Trio's.
        trio.lowlevel.current_task()
        self.told.append(event)

    def said(self, event: str) -> list[Mapping[str, Any]]:
        return [values for name, values in self.lines if name == event]


class Document:
    """What `load` finds: a document, or an error."""

    def __init__(self, host: Harness, fakes: Mapping[str, Any]) -> None:
        self.host, self.fakes, self.invalid = host, fakes, False
        self.loads = 0

    async def load(self) -> Found:
        await trio.lowlevel.checkpoint()
        self.loads += 1
        if self.invalid:
            raise DocumentError("cannot use openclaw.yaml: 2 problems", PROBLEMS)
        source = self.host.source(self.fakes)
        return Found(source=source, mark=source(b"").digest, files=(), remember=lambda: None)


@pytest.fixture
def host(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


async def keep() -> Kept:
    """There is nothing that could fall."""
    await trio.lowlevel.checkpoint()
    return "", {}


def make_loop(document: Document, log: Record, idle: Callable[[], object] = lambda: None) -> Loop:
    return Loop(
        engine=document.host.engine,
        load=document.load,
        files=(str(document.host.world.document),),
        log=log,
        tell=log.tell,
        crashed=lambda _err: "trace-1",
        idle=idle,
        keep=keep,
        look_around=trio.lowlevel.checkpoint,
    )


@asynccontextmanager
async def running(document: Document, log: Record, idle: Callable[[], object] = lambda: None) -> AsyncIterator[Loop]:
    loop = make_loop(document, log, idle)
    async with trio.open_nursery() as nursery:
        await nursery.start(loop.run)
        yield loop
        nursery.cancel_scope.cancel()


async def until(predicate: Callable[[], object], what: str) -> None:
    with trio.move_on_after(10):
        while not predicate():  # noqa: ASYNC110 - the engine works in threads: there is no event to wait for
            await trio.sleep(0.005)
        return
    raise AssertionError(f"waited in vain for {what}")


async def looked(document: Document, loop: Loop) -> None:
    """Has the loop look once more, and waits until it has."""
    looks = document.loads
    loop.poke()
    await until(lambda: document.loads > looks and not loop.queue._dirty and not loop.queue._processing, "a look")


@pytest.mark.req("PLAN-3")
async def test_the_first_look_applies_and_a_poke_cures_drift(host: Harness) -> None:
    log = Record()
    async with running(Document(host, {"a": fake(1)}), log) as loop:
        assert host.kind.state == {"a": {"v": 1}}
        host.kind.state["a"] = {"v": "moved"}
        loop.poke(Key("fake", "a"))
        await until(lambda: host.kind.state == {"a": {"v": 1}}, "the cure")
    assert [line["result"] for line in log.said("run")][:1] == ["verifying"]


@pytest.mark.req("PLAN-3", "PLAN-15")
async def test_what_a_person_applies_although_it_is_held_back_stays_applied(host: Harness) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})

    def loaded(times: int) -> bool:
        return document.loads >= times

    async with running(document, log) as loop:
        await until(
            lambda: [line for line in log.said("run") if line["result"] == "confirmed"], "the first one confirmed"
        )
        document.fakes = {"a": fake(2, impact="restart")}
        digest = host.source(document.fakes)(b"").digest
        host.engine.journal().quarantine(digest, "it was rolled back", "run-0", 1.0)
        loop.poke()
        await until(lambda: log.said("held_back"), "it is held back")
        _outcome, window = await host.engine.begin(host.source(document.fakes), APPLY)
        assert window is not None
        # Looks in the middle of its window, as events of what it did bring them about: with the third one the first two are over.
        for _ in range(3):
            begun = document.loads + 1
            loop.poke()
            await until(partial(loaded, begun), "a look")
        assert host.kind.state["a"] == {"v": 2}
        assert (await host.engine.finish(window)).exit_code == 0
        assert host.kind.state["a"] == {"v": 2}


@pytest.mark.req("PLAN-7", "PLAN-8")
async def test_a_run_of_another_process_is_told_once_with_its_steps_and_its_cause(host: Harness) -> None:
    log = Record()
    await host.apply({"a": fake(1)})
    document = Document(host, {"a": fake(1)})
    async with running(document, log) as loop:
        assert log.said("run") == []
        document.fakes = {"a": fake(2)}
        outcome = await host.fresh().apply(host.source(document.fakes), replace(APPLY, cause="rollback to 2"))
        for _ in range(3):
            await looked(document, loop)
    host.engine.close()
    told = {"run": outcome.run, "cause": "rollback to 2", "result": "confirmed", "generation": 2}
    # A look may have come into its window.
    assert log.said("run") in ([told], [{**told, "result": "verifying"}, told])
    assert [(line["key"], line["result"]) for line in log.said("step")] == [("fake/a", "done")]


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("confirmed", [True, False])
async def test_a_window_whose_watcher_is_killed_beside_it_is_gone_on_with_within_a_second(
    host: Harness, confirmed: bool
) -> None:
    """Nothing tells of that, be it the window of a new document or of a cure of drift."""
    log = Record()
    host.verify_seconds = 5.0
    document = Document(host, {"a": fake(1, impact="restart")})
    if confirmed:
        host.verify_seconds = 0.02
        await host.apply(document.fakes)
        host.kind.state["a"] = {"v": "moved"}
        host.verify_seconds = 5.0
    _outcome, window = await host.engine.begin(host.source(document.fakes), APPLY)
    assert window is not None
    watcher = WriterLock(host.world.host.state.ours / "verify.lock", command="openclaw apply", now=time.time)
    assert watcher.acquire_nowait()
    host.engine.close()
    host.fresh()
    async with running(document, log) as loop:
        await trio.sleep(1.0)
        looks = document.loads
        await trio.sleep(1.0)
        # It only waits meanwhile.
        assert (document.loads, host.engine.watching.here) == (looks, False)
        watcher.release()
        with trio.fail_after(1):
            await until(lambda: host.engine.watching.here, "its watch of the window")
        # It is its own now: nobody is waited for.
        assert not host.engine.watching.elsewhere
        await until(lambda: not loop._outlasting, "rest")
    host.engine.close()


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_a_window_that_a_killed_process_left_beside_our_newer_one_is_ended_with_ours(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as we watch one, any may be taken for watched."""
    # The moment between two holders of the lock is missed.
    monkeypatch.setattr("reconciler.engine.loop.OUTLAST_SECONDS", 60.0)
    log = Record()
    host.verify_seconds = 1.5
    document = Document(host, {"a": fake(1, impact="restart")})
    _outcome, older = await host.engine.begin(host.source(document.fakes), APPLY)
    assert older is not None
    watcher = WriterLock(host.world.host.state.ours / "verify.lock", command="openclaw apply", now=time.time)
    assert watcher.acquire_nowait()
    host.engine.close()
    host.fresh()
    async with running(document, log) as loop:
        host.kind.state["a"] = {"v": "moved"}
        loop.poke()
        await until(lambda: host.engine.watching.here, "the window of the cure")
        # Nothing is to look while the lock is nobody's.
        await trio.sleep(0.5)
        assert len(host.engine.journal().open_runs()) == 2
        watcher.release()
        await until(lambda: host.engine.journal().generations()[0].result is Result.CONFIRMED, "its end")
        with trio.fail_after(2):
            await until(lambda: host.engine.journal().open_runs() == (), "the end of the older one")
    left = host.engine.journal().run(older.run)
    assert left is not None
    assert (left.state, left.reason) == (Result.SUPERSEDED, "another run took its place")


@pytest.mark.req("PLAN-8", "PLAN-15")
async def test_a_look_that_a_person_overtakes_by_going_back_is_done_again_and_nothing_to_warn_of(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Record()
    await host.apply({"a": fake(1)})
    document = Document(host, {"a": fake(2)})
    digest = host.source(document.fakes)(b"").digest
    begin = Engine.begin

    async def overtaken(engine: Engine, *arguments: Any, **named: Any) -> Any:
        # The document was not held back when this look asked for it.
        if not engine.journal().quarantined(digest):
            engine.journal().quarantine(digest, "superseded by an operator", "", 1.0)
        return await begin(engine, *arguments, **named)

    monkeypatch.setattr(Engine, "begin", overtaken)
    async with running(document, log) as loop:
        await until(lambda: log.said("held_back"), "the next look")
        await until(lambda: not loop.queue._dirty and not loop.queue._processing, "rest")
    assert host.kind.state == {"a": {"v": 1}}
    assert log.said("not_applied") == log.said("look_failed") == []


async def test_after_each_run_it_is_said_that_nobody_waits(host: Harness) -> None:
    log, said = Record(), list[str]()
    async with running(Document(host, {"a": fake(1)}), log, lambda: said.append(log.lines[-1][1]["result"])) as loop:
        await until(lambda: said == ["confirmed"], "the end of the first run")
        host.kind.state["a"] = {"v": "moved"}
        loop.poke(Key("fake", "a"))
        await until(lambda: said == ["confirmed", "confirmed"], "the end of the cure")


@pytest.mark.req("PLAN-3", "PLAN-4", "PLAN-8")
async def test_a_way_back_of_which_a_part_is_still_tried_is_what_stays_in_force(host: Harness) -> None:
    log = Record()
    await host.apply({"a": fake(1)})
    await host.apply({"a": fake(2)})
    document = Document(host, {"a": fake(2)})

    async def fail(action: Action) -> None:
        if action.key.name == "b":
            raise TemporaryError("cannot set b: read-only file system")

    host.kind.before_apply = fail
    digest = host.source(document.fakes)(b"").digest
    back = replace(APPLY, cause="rollback to 1", holds_back=((digest,), "superseded by an operator"))
    outcome = await host.apply({"a": fake(1), "b": fake(1)}, back)
    assert (outcome.result, outcome.generation, outcome.exit_code) == (Result.PARTIAL, 3, 1)
    async with running(document, log) as loop:
        loop.poke()
        await until(lambda: document.loads > 2, "two looks")
        assert host.kind.state == {"a": {"v": 1}}
        host.kind.before_apply = None
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 1}, "b": {"v": 1}}, "the rest of the way back")
        await until(lambda: host.engine.journal().generations()[0].result is Result.CONFIRMED, "it is confirmed")
    assert [item.number for item in host.engine.journal().generations()] == [3, 2, 1]


@pytest.mark.req("PLAN-3", "DOC-9")
async def test_an_invalid_document_leaves_the_last_good_one_in_force_and_is_told_once(host: Harness) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})
    async with running(document, log) as loop:
        document.invalid = True
        for _ in range(3):
            host.kind.state["a"] = {"v": "moved"}
            loop.poke()
            await until(lambda: host.kind.state == {"a": {"v": 1}}, "the last good document in force")
        (said,) = log.said("document_invalid")
        assert said["problems"] == ["parts/a.yaml:3:5: cannot use it", "b.yaml: cannot read it"]
        document.invalid, document.fakes = False, {"a": fake(2)}
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 2}}, "the next valid document")


@pytest.mark.req("PLAN-3")
async def test_a_look_that_runs_out_of_descriptors_is_repeated_and_no_bug(host: Harness) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})
    load = document.load
    short = True

    async def load_in_want() -> Found:
        if short:
            raise OSError(errno.EMFILE, "Too many open files")
        return await load()

    document.load = load_in_want  # type: ignore[method-assign]
    async with running(document, log) as loop:
        (line,) = log.said("not_applied")
        assert line["reason"] == "cannot look: too many open files"
        short = False
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 1}}, "the look that finds enough of them")
    assert log.said("look_failed") == []


@pytest.mark.req("PLAN-3", "PLAN-15")
@pytest.mark.parametrize("direct", [True, False])
async def test_a_full_disk_is_looked_at_again_soon_however_long_it_lasts_and_told_once(
    host: Harness, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(loops, "SHORT_SECONDS", 0.02)
    log, looks = Record(), 0
    document = Document(host, {"a": fake(1)})
    load = document.load

    async def load_in_want() -> Found:
        nonlocal looks
        looks += 1
        # Doubled as often as this, a wait would be minutes.
        if looks > 12:
            return await load()
        if direct:
            raise JournalFullError("cannot write the journal: the disk is full")
        raise TemporaryError("cannot write a: no space") from OSError(errno.ENOSPC, "No space left on device")

    document.load = load_in_want  # type: ignore[method-assign]
    async with running(document, log):
        await until(lambda: host.kind.state == {"a": {"v": 1}}, "the look that finds room")
    assert len(log.said("not_applied")) == 1


@pytest.mark.req("PLAN-3", "PLAN-15")
async def test_a_window_that_cannot_be_looked_into_for_want_of_descriptors_is_watched_on(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "SHORT_SECONDS", 0.02)
    log, probes = Record(), 0

    async def look(_kind: FakeKind, _key: Key, _resource: object, _world: World) -> Health:
        nonlocal probes
        await trio.lowlevel.checkpoint()
        probes += 1
        if probes < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return Health(ready=True)

    monkeypatch.setattr(FakeKind, "probe", look)
    async with running(Document(host, {"a": fake(1, impact="restart")}), log):
        await until(lambda: host.engine.journal().generations()[0].result is Result.CONFIRMED, "it is confirmed")
    assert host.kind.state == {"a": {"v": 1}}
    assert host.engine.journal().quarantines() == ()
    assert [line["reason"] for line in log.said("not_applied")] == ["cannot look: too many open files"]


@pytest.mark.req("PLAN-3", "PLAN-15")
async def test_what_a_probe_did_not_see_for_want_of_descriptors_is_no_verdict(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    await host.apply({"a": fake(1)})
    host.kind.health["a"] = Health(ready=False, reason="PortNotOwned", message="it does not listen")
    goal = host.source({"a": fake(1)})(b"")
    (resource,) = goal.resources.values()
    assert not (await probe(host.kind, resource.key, resource, host.world)).ready
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        await probe(host.kind, resource.key, resource, host.world)


@pytest.mark.req("PLAN-3", "DOC-9")
async def test_a_document_that_was_gone_for_a_while_is_seen_when_it_is_back_in_its_place(
    host: Harness, tmp_path: Path
) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def gone() -> Found:
        await trio.lowlevel.checkpoint()
        raise DocumentError("cannot use it: there is no such file", (), files=(str(elsewhere / "openclaw.yaml"),))

    load = document.load

    async def real() -> Found:
        return replace(await load(), files=(str(host.world.document),))

    document.load = real  # type: ignore[method-assign]
    async with running(document, log) as loop:
        loop._load = gone
        loop.poke()
        await until(lambda: any("elsewhere" in str(name) for name in loop._points.names), "the watch that moved")
        await until(lambda: not loop.queue._dirty and not loop.queue._processing, "rest")
        loop._load, document.fakes = real, {"a": fake(2)}
        host.world.document.write_text("version: 1")
        await until(lambda: host.kind.state == {"a": {"v": 2}}, "the document that is back")


@pytest.mark.req("PLAN-3")
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (RuntimeError("hunter2"), "a bug of ours: RuntimeError (id trace-1)"),
    ],
)
async def test_a_watch_of_a_kind_that_fails_is_told_and_everything_else_goes_on(
    host: Harness, monkeypatch: pytest.MonkeyPatch, failure: Exception, told: str
) -> None:
    async def watch(_kind: FakeKind, _world: World, _report: object) -> None:
        await trio.lowlevel.checkpoint()
        raise failure

    monkeypatch.setattr(FakeKind, "watch", watch)
    log = Record()
    async with running(Document(host, {"a": fake(1)}), log) as loop:
        await until(lambda: log.said("watch_failed"), "it is told")
        assert told in log.said("watch_failed")[0]["reason"]
        assert "hunter2" not in log.said("watch_failed")[0]["reason"]
        host.kind.state["a"] = {"v": "moved"}
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 1}}, "the cure")


@pytest.mark.req("DOC-9")
async def test_a_start_with_an_invalid_document_keeps_what_was_confirmed_before(host: Harness) -> None:
    await host.apply({"a": fake(1)})
    host.kind.state["a"] = {"v": "moved"}
    document = Document(host, {"a": fake(9)})
    document.invalid = True
    async with running(document, Record()):
        assert host.kind.state == {"a": {"v": 1}}


@pytest.mark.req("PLAN-12", "SVC-7")
async def test_an_end_between_two_looks_is_told_though_nothing_is_to_be_done(host: Harness) -> None:
    log = Record()
    async with running(Document(host, {"a": fake(1)}), log) as loop:
        await until(lambda: [line["result"] for line in log.said("run")][-1:] == ["confirmed"], "the first one")
        at = host.engine.now() + 1.0
        host.kind.ends["a"] = (End(at=at, text="killed"),)
        loop.poke()
        await until(lambda: log.said("ended"), "the word of it")
        # What is to be told later nobody reports once more.
        host.kind.ends["a"] += (End(at=at + 1.0, text="killed again"),)
        loop._teller._ends[Key("fake", "a")].quiet_until = trio.current_time() + 0.3
        loop.poke()
        await until(lambda: len(log.said("ended")) > 1, "the word of the next one")
    ended = [{"key": "fake/a", "at": rfc3339(at), "reason": "killed", "times": 1}]
    ended.append({"key": "fake/a", "at": rfc3339(at + 1.0), "reason": "killed again", "times": 1})
    assert log.said("ended") == ended
    assert [event for event in log.told if event["event"] == "ended"] == [{"event": "ended", **each} for each in ended]


@pytest.mark.req("PLAN-12", "SVC-12")
async def test_what_does_not_answer_is_told_once_and_that_it_is_over(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No plan sees it: there is nothing to do about it."""
    monkeypatch.setattr(loops, "RESYNC_SECONDS", 0.2)
    monkeypatch.setattr(loops, "ASTRAY_SECONDS", 0.02)
    log, probes = Record(), list[str]()
    hangs = Health(ready=False, reason="NoAnswer", message="no answer within 5 s")
    real = FakeKind.probe

    async def probe(self: FakeKind, key: Key, resource: Any, world: World) -> Health:
        probes.append(key.name)
        return await real(self, key, resource, world)

    monkeypatch.setattr(FakeKind, "probe", probe)
    async with running(Document(host, {"a": fake(1), "b": fake(1), "c": fake(1)}), log) as loop:
        await until(lambda: [line["result"] for line in log.said("run")][-1:] == ["confirmed"], "the first one")
        host.kind.health["a"] = hangs
        # By a person's word, or on its way: nothing to warn of.
        host.kind.health["b"] = replace(hangs, excused=True)
        host.kind.health["c"] = replace(hangs, lagging=True)
        begun = len(probes)
        await until(lambda: len(probes) > begun + 12, "some looks")
        loop.poke()
        await until(lambda: len(probes) > begun + 36, "and more, with plans in between")
        assert log.said("degraded") == [{"key": "fake/a", "reason": "NoAnswer", "message": "no answer within 5 s"}]
        assert log.said("recovered") == []
        host.kind.health.clear()
        await until(lambda: log.said("recovered") == [{"key": "fake/a"}], "the end of it")
        # Once is no news: it may just be started again.
        monkeypatch.setattr(FakeKind, "probe", real)
        turns = iter([True, False] * 1000)

        async def flickers(self: FakeKind, key: Key, resource: Any, world: World) -> Health:
            probes.append(key.name)
            await trio.lowlevel.checkpoint()
            return hangs if key.name == "a" and next(turns) else Health(ready=True)

        monkeypatch.setattr(FakeKind, "probe", flickers)
        begun = len(probes)
        await until(lambda: len(probes) > begun + 18, "looks at what comes and goes")
    assert len(log.said("degraded")) == 1


@pytest.mark.req("PLAN-12", "SVC-12")
async def test_what_is_kept_up_and_degraded_is_told_once_and_that_it_is_over(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be planned, so that no plan sees it."""
    monkeypatch.setattr(loops, "SHORT_SECONDS", 0.01)
    log, looks, key = Record(), list[int](), Key("fake", "a")
    crashing = Condition(type="Degraded", status=Status.TRUE, reason="CrashLooping", message="exit code 1")
    found: tuple[Condition, ...] = (crashing,)

    async def keep() -> Kept:
        await trio.lowlevel.checkpoint()
        looks.append(1)
        return "", {key: found}

    await host.apply({"a": fake(1)})
    document = Document(host, {"a": fake(2)})

    def full(*_arguments: object, **_named: object) -> None:
        raise JournalFullError("cannot write to the journal: the disk is full")

    monkeypatch.setattr(Engine, "begin", full)
    loop = make_loop(document, log)
    loop._keep = keep
    async with trio.open_nursery() as nursery:
        await nursery.start(loop.run)
        await until(lambda: len(looks) > 3, "some looks")
        assert [(line["key"], line["reason"]) for line in log.said("degraded")] == [("fake/a", "CrashLooping")]
        assert log.said("recovered") == []
        found = ()
        await until(lambda: log.said("recovered"), "the good news")
        nursery.cancel_scope.cancel()
    assert [event["key"] for event in log.told if event["event"] in ("degraded", "recovered")] == ["fake/a"] * 2


@pytest.mark.req("PLAN-4", "SVC-7")
@pytest.mark.parametrize("ours", [True, False])
async def test_while_all_that_is_known_is_refused_what_was_applied_last_is_kept_up(host: Harness, ours: bool) -> None:
    """Nothing is in force, as far as the journal knows. What belongs to another document is none of our business."""
    log, looks = Record(), list[int]()

    async def keep() -> Kept:
        await trio.lowlevel.checkpoint()
        looks.append(1)
        return "it is started as it was last applied", {}

    async def refused(*_arguments: object, **_named: object) -> None:
        await trio.lowlevel.checkpoint()
        raise BlockedError("cannot write a: it was there before us")

    document = Document(host, {"a": fake(1)})
    host.engine.begin = refused  # type: ignore[assignment, method-assign]
    loop = make_loop(document, log)
    loop._keep = keep
    if not ours:
        with Journal.open_writer(host.world.host.state.journal, now=1.0) as journal:
            journal.set_document("/another/openclaw.yaml")
    async with trio.open_nursery() as nursery:
        await nursery.start(loop.run)
        await until(lambda: loop._backoff[EVERYTHING].failures >= 2, "ever rarer looks")
        nursery.cancel_scope.cancel()
    assert bool(looks) is ours
    assert [line["what"] for line in log.said("kept")][:1] == ["it is started as it was last applied"][: len(looks)]


@pytest.mark.req("PLAN-8", "DOC-4")
async def test_two_things_that_are_wrong_at_once_are_told_once_each(host: Harness) -> None:
    """The document's secret is gone, and with it that of the generation that is to be in force instead."""
    await host.apply({"a": fake(1)})
    log = Record()
    document = Document(host, {"a": fake(2)})
    host.engine.journal().quarantine(host.source(document.fakes)(b"").digest, "it did not serve", "", 1.0)
    async with running(document, log) as loop:

        def gone(_generation: object) -> tuple[Goal, tuple[Note, ...]]:
            raise DocumentError("cannot resolve 1 reference to a secret", PROBLEMS[1:])

        host.engine.goal_of = gone
        document.invalid = True
        for _ in range(3):
            begun = document.loads + 1
            loop.poke()
            await until(lambda begun=begun: document.loads >= begun, "a look")  # type: ignore[misc]
        await until(lambda: not loop.queue._dirty and not loop.queue._processing, "rest")
    (said,) = log.said("not_restored")
    assert said["reason"] == "cannot keep generation 1 in force: cannot resolve 1 reference to a secret"
    assert said["problems"] == ["b.yaml: cannot read it"]
    assert len(log.said("document_invalid")) == 1


@pytest.mark.req("PLAN-4")
async def test_a_resource_that_fails_waits_alone_and_is_tried_again(host: Harness) -> None:
    tries: list[str] = []

    async def fail(action: Action) -> None:
        tries.append(action.key.name)
        if action.key.name == "a" and tries.count("a") < 3:
            raise TerminalError("cannot set a: not yet")

    host.kind.before_apply = fail
    log = Record()
    async with running(Document(host, {"a": fake(1), "b": fake(1)}), log) as loop:
        assert host.kind.state == {"b": {"v": 1}}
        host.kind.state["b"] = {"v": "moved"}
        loop.queue.add(Key("fake", "b"))
        await until(lambda: host.kind.state.get("b") == {"v": 1}, "the other one is not held up")
        assert tries.count("a") == 1
        await until(lambda: host.kind.state.get("a") == {"v": 1}, "the third try")
    assert tries.count("a") == 3
    # Told once: the second failure said nothing new.
    assert [line["error"] for line in log.said("step") if "error" in line] == ["cannot set a: not yet"]


@pytest.mark.req("PLAN-4", "SVC-12")
async def test_looks_for_other_reasons_do_not_shorten_the_wait_of_what_failed(host: Harness) -> None:
    async def fail(action: Action) -> None:
        await trio.lowlevel.checkpoint()
        if action.key.name == "a":
            raise TerminalError("cannot set a: not yet")

    host.kind.before_apply = fail
    async with running(Document(host, {"a": fake(1), "b": fake(1)}), Record()) as loop:
        last = 0.0
        for _ in range(5):
            host.kind.state["b"] = {"v": "moved"}
            loop.queue.add(Key("fake", "b"))
            await until(lambda: host.kind.state.get("b") == {"v": 1}, "the look")
            # Nothing else is done: the look after it plans only what waits.
            loop.queue.add(Key("fake", "b"))
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert loop._backoff[Key("fake", "a")].until >= last > -1
            last = loop._backoff[Key("fake", "a")].until
        assert last > 0


@pytest.mark.req("SVC-12")
async def test_what_is_tried_again_by_itself_is_left_to_that_but_not_what_a_person_wants(host: Harness) -> None:
    document = Document(host, {"a": fake(1), "b": fake(1)})
    async with running(document, Record()) as loop:
        host.kind.retried.add("a")
        host.kind.state = {"a": {"v": "down"}, "b": {"v": "moved"}}
        loop.poke()
        await until(lambda: host.kind.state["b"] == {"v": 1}, "the other one")
        assert host.kind.state["a"] == {"v": "down"}
        # Another resource's action leads to no look at this one: what does is planned for.
        loop.poke()
        await until(lambda: EVERYTHING in loop.queue._later, "the next look")
    await host.apply({"a": fake(1), "b": fake(1)})
    assert host.kind.state["a"] == {"v": 1}


@pytest.mark.req("SVC-12")
async def test_what_is_degraded_and_that_it_is_over_is_told_once_each(host: Harness) -> None:
    log = Record()
    async with running(Document(host, {"a": fake(1), "b": fake(1)}), log) as loop:
        for turn in range(3):
            message = f"exit code {turn}"
            host.kind.conditions["a"] = (
                Condition(type="Degraded", status=Status.TRUE, reason="CrashLooping", message=message),
            )
            loop.poke()
            await until(lambda: log.said("degraded"), "the news")
            host.kind.state["b"] = {"v": "moved"}
            loop.poke()
            await until(lambda: host.kind.state["b"] == {"v": 1}, "another look")
        (told,) = log.said("degraded")
        assert told == {"key": "fake/a", "reason": "CrashLooping", "message": "exit code 0"}
        assert log.said("recovered") == []
        host.kind.conditions.clear()
        loop.poke()
        await until(lambda: log.said("recovered") == [{"key": "fake/a"}], "the end of it")


@pytest.mark.req("PLAN-15")
async def test_a_rejected_document_is_held_back_until_it_changes(host: Harness) -> None:
    log = Record()
    document = Document(host, {"a": fake("good", impact="restart")})

    async def feel(action: Action) -> None:
        good = host.kind.state["a"]["v"] != "bad"
        host.kind.health["a"] = Health(ready=good, reason="Sick", message="no answer")

    host.kind.after_apply = feel
    async with running(document, log) as loop:
        await until(lambda: {"result": "confirmed"}.items() <= log.said("run")[-1].items(), "confirmed")
        document.fakes = {"a": fake("bad", impact="restart")}
        loop.poke()
        await until(lambda: any(line["result"] == "rolled-back" for line in log.said("run")), "the rollback")
        await until(lambda: log.said("held_back"), "it is held back")
        assert host.kind.state == {"a": {"v": "good"}}
        assert "held_back" in [event["event"] for event in log.told]
        assert not log.said("look_failed")
        loop.poke()
        loop.poke(EVERYTHING)
        document.fakes = {"a": fake("better", impact="restart")}
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": "better"}}, "the corrected document")


@pytest.mark.req("PLAN-5", "PLAN-12")
async def test_that_the_history_is_lost_is_told_once_with_place_and_remedy(host: Harness) -> None:
    document, log = Document(host, {"a": fake(1, impact="restart")}), Record()
    async with host.engine._writer(1.0):
        host.engine.journal().set_history_lost("the journal is gone: run one of then was recorded in it")
    async with running(document, log) as loop:
        await until(lambda: log.said("history_lost"), "it is told")
        loop.poke()
        await until(lambda: host.engine.journal().history_lost is None, "a generation is confirmed")
    (said,) = log.said("history_lost")
    assert said["reason"].startswith(
        "the earlier history is lost: the journal is gone: run one of then was recorded in"
    )
    assert said["journal"] == str(host.world.host.state.journal)
    assert "put it at its place" in said["hint"]
    assert [event["reason"] for event in log.told if event["event"] == "history_lost"] == [said["reason"]]


@pytest.mark.req("PLAN-5", "PLAN-15")
@pytest.mark.parametrize("lost", [False, True])
async def test_where_what_is_held_back_has_nothing_before_it_what_was_applied_last_is_kept_up(
    host: Harness, lost: bool
) -> None:
    document, log, kept = Document(host, {"a": fake("bad", impact="restart")}), Record(), trio.Event()

    async def keep() -> Kept:
        await trio.lowlevel.checkpoint()
        kept.set()
        return "", {}

    async with host.engine._writer(1.0):
        journal = host.engine.journal()
        journal.quarantine(host.source(document.fakes)(journal.salt).digest, "it was sick", "run-1", host.now())
        journal.set_history_lost("the journal is gone" if lost else None)
    loop = make_loop(document, log)
    loop._keep = keep
    async with trio.open_nursery() as nursery:
        await nursery.start(loop.run)
        await until(kept.is_set, "it is kept up")
        nursery.cancel_scope.cancel()
    before = "the history of what was before it is lost" if lost else "no generation was ever confirmed"
    assert log.said("not_applied")[0]["reason"].startswith(
        f"cannot apply: the document is held back, and {before}: what was applied last is kept up"
    )
    assert host.kind.state == {}


@pytest.mark.req("PLAN-8", "PLAN-15")
@pytest.mark.parametrize("between", [1, 3], ids=["what it went back to", "another one"])
async def test_what_a_person_went_back_from_is_applied_when_it_is_saved_again_after_another(
    host: Harness, between: int
) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})

    def at(value: int) -> Callable[[], bool]:
        return lambda: host.kind.state == {"a": {"v": value}}

    async with running(document, log) as loop:
        await until(lambda: {"result": "confirmed"}.items() <= log.said("run")[-1].items(), "confirmed")
        document.fakes = {"a": fake(2)}
        loop.poke()
        await until(lambda: len([run for run in log.said("run") if run["result"] == "confirmed"]) == 2, "the second")
        target = host.engine.journal().generation(1)
        assert target is not None
        held = host.source(document.fakes)(b"").names
        back = replace(APPLY, holds_back=(held, "superseded by an operator"))
        await host.engine.apply(lambda _salt: host.engine.goal_of(target)[0], back, wait_seconds=5)
        loop.poke()
        await until(lambda: log.said("held_back"), "it is held back")
        assert at(1)()
        document.fakes = {"a": fake(between)}
        loop.poke()
        await until(at(between), "the next save")
        await until(lambda: not host.engine.journal().quarantines(), "nothing is held back")
        document.fakes = {"a": fake(2)}
        loop.poke()
        await until(at(2), "the same content once more")
    assert len(log.said("held_back")) == 1


@pytest.mark.req("PLAN-8", "PLAN-15")
@pytest.mark.parametrize("saved", [1, 2], ids=["what is in force", "what is held back"])
async def test_what_is_kept_while_a_document_is_not_valid_ends_no_word_of_a_person(host: Harness, saved: int) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})
    async with running(document, log) as loop:
        await until(lambda: {"result": "confirmed"}.items() <= log.said("run")[-1].items(), "confirmed")
        held = host.source({"a": fake(2)})(b"").names
        for name in held:
            host.engine.journal().quarantine(name, "superseded by an operator", "", 1.0)
        document.invalid = True
        loop.poke()
        await until(lambda: log.said("document_invalid"), "it is not valid")
        host.kind.state["a"] = {"v": "moved"}
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 1}}, "what is in force is kept")
        assert host.engine.journal().quarantined(*held)
        document.invalid, document.fakes = False, {"a": fake(saved)}
        loop.poke()
        # What is in force, saved once more, is a change of the document as any other is.
        is_held = host.engine.journal().quarantined
        await until(lambda: log.said("held_back") if saved == 2 else not is_held(*held), "it is looked at")
        assert host.kind.state == {"a": {"v": 1}}


@pytest.mark.req("PLAN-8", "PLAN-15")
@pytest.mark.parametrize("superseded", [False, True])
async def test_what_was_seen_to_fail_is_held_back_and_told_each_time_it_is_saved(
    host: Harness, superseded: bool
) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})
    async with running(document, log) as loop:
        await until(lambda: {"result": "confirmed"}.items() <= log.said("run")[-1].items(), "confirmed")
        bad = host.source({"a": fake(2)})(b"")
        host.engine.journal().quarantine(bad.digest, "it was sick", "run-0", 1.0)
        for times in (1, 2, 3):
            said = len(log.said("held_back"))
            document.fakes = {"a": fake(2)}
            loop.poke()
            await until(lambda said=said: len(log.said("held_back")) > said, "it is said")  # type: ignore[misc]
            if superseded:
                # Going back while it is held back anyway makes no word of a person of what failed.
                target = host.engine.journal().in_force()
                assert target is not None
                goal = host.engine.goal_of(target)[0]
                back = replace(APPLY, holds_back=(bad.names, "superseded by an operator"))
                await host.engine.apply(lambda _salt, goal=goal: goal, back, wait_seconds=5)  # type: ignore[misc]
            document.fakes = {"a": fake(10 + times)}
            loop.poke()
            await until(lambda times=times: host.kind.state == {"a": {"v": 10 + times}}, "another one")  # type: ignore[misc]
        assert [held.digest for held in host.engine.journal().quarantines()] == [bad.digest]
    assert len([event for event in log.told if event["event"] == "held_back"]) == len(log.said("held_back"))


@pytest.mark.req("PLAN-3", "PLAN-15")
async def test_a_document_that_is_held_back_and_saved_again_after_one_that_is_not_valid_is_told_again(
    host: Harness,
) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})
    async with running(document, log) as loop:
        await until(lambda: {"result": "confirmed"}.items() <= log.said("run")[-1].items(), "confirmed")
        bad = host.source({"a": fake(2)})(b"")
        host.engine.journal().quarantine(bad.digest, "it was sick", "run-0", 1.0)
        document.fakes = {"a": fake(2)}
        for times in (1, 2):
            loop.poke()
            await until(lambda times=times: len(log.said("held_back")) == times, "it is said")  # type: ignore[misc]
            looks = document.loads
            loop.poke()
            await until(lambda looks=looks: document.loads > looks, "a look that finds nothing new")  # type: ignore[misc]
            document.invalid = True
            for _ in range(2):
                looks = document.loads
                loop.poke()
                await until(lambda looks=looks: document.loads > looks, "it is not valid")  # type: ignore[misc]
            assert len(log.said("document_invalid")) == times
            assert len(log.said("document_valid")) == times - 1
            document.invalid = False
        loop.poke()
        await until(lambda: len(log.said("held_back")) == 3, "it is said")
        assert len(log.said("document_valid")) == 2
    assert {line["reason"] for line in log.said("held_back")} == {"the document is held back: it was sick"}
    assert host.kind.state == {"a": {"v": 1}}


@pytest.mark.req("PLAN-10")
async def test_a_section_that_disappears_is_not_withdrawn_by_itself(host: Harness) -> None:
    log = Record()
    document = Document(host, {"a": fake(1), "b": fake(1)})
    async with running(document, log) as loop:
        document.fakes = {"a": fake(1)}
        loop.poke()
        await until(lambda: log.said("not_applied"), "it says that it waits for a person")
        assert "`openclaw apply`" in str(log.said("not_applied")[0]["hint"])
        assert host.kind.state == {"a": {"v": 1}, "b": {"v": 1}}


async def test_a_bug_in_one_look_is_told_with_an_id_and_does_not_end_the_loop(host: Harness) -> None:
    log = Record()
    document = Document(host, {"a": fake(1)})
    real = document.load

    async def bug() -> Found:
        raise RuntimeError("hunter2")

    document.load = bug  # type: ignore[method-assign]
    async with running(document, log) as loop:
        assert "trace-1" in log.said("look_failed")[0]["reason"]
        assert "hunter2" not in str(log.lines)
        loop._load = real
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 1}}, "the next look")


@pytest.mark.req("PLAN-6")
async def test_another_writer_is_waited_for(host: Harness) -> None:
    from reconciler.engine.lock import WriterLock

    log = Record()
    document = Document(host, {"a": fake(1)})
    lock = WriterLock(host.world.host.state.lock, command="somebody", now=lambda: 0.0)
    assert lock.acquire_nowait()
    async with running(document, log):
        assert "somebody" in log.said("waiting_for_lock")[0]["reason"]
        lock.release()
        await until(lambda: host.kind.state == {"a": {"v": 1}}, "its turn")


@pytest.mark.req("PLAN-6")
@pytest.mark.parametrize("invalid", [False, True])
async def test_a_journal_is_not_opened_for_writing_while_another_writes(host: Harness, invalid: bool) -> None:
    """Two that open a damaged one at the same time would move aside each other's."""
    from reconciler.engine.lock import WriterLock

    await host.apply({"a": fake(1)})
    host.engine.close()
    host.fresh()
    log = Record()
    document = Document(host, {"a": fake(2)})
    document.invalid = invalid
    lock = WriterLock(host.world.host.state.lock, command="somebody", now=lambda: 0.0)
    assert lock.acquire_nowait()
    async with running(document, log):
        assert "somebody" in log.said("waiting_for_lock")[0]["reason"]
        assert host.engine._journal is None
        lock.release()
        await until(lambda: host.engine._journal is not None, "its turn")
        if not invalid:
            await until(lambda: host.kind.state == {"a": {"v": 2}}, "the document")


@pytest.mark.req("PLAN-3", "PLAN-15")
async def test_a_watch_whose_document_was_just_overtaken_is_tried_again(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = trio.Event()

    async def watch(_kind: FakeKind, _world: World, _report: object) -> None:
        watched.set()
        await trio.sleep_forever()

    def overtaken(_salt: bytes) -> Goal:
        raise TerminalError("cannot apply: what is to be in force has changed meanwhile")

    monkeypatch.setattr(FakeKind, "watch", watch)
    monkeypatch.setattr(loops, "RESYNC_SECONDS", 0.05)
    log = Record()
    await host.apply({"a": fake(1)})
    loop = make_loop(Document(host, {"a": fake(1)}), log)
    loop.kept = overtaken
    loop._applied.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop._watch_kinds)
        await until(lambda: log.said("watch_failed"), "it is told")
        loop.kept = host.source({"a": fake(1)})
        await until(watched.is_set, "another try")
        nursery.cancel_scope.cancel()


@pytest.mark.req("PLAN-3")
async def test_a_watch_that_cannot_be_had_is_tried_again(
    host: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def watch(_paths: object, _report: object, ready: Callable[[], object]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        ready()
        await trio.sleep_forever()

    monkeypatch.setattr(loops, "watch_directories", watch)
    monkeypatch.setattr(loops, "RESYNC_SECONDS", 0.05)
    log = Record()
    async with running(Document(host, {"a": fake(1)}), log):
        assert "Too many open files" in log.said("watch_failed")[0]["reason"]
        await until(lambda: tries > 1, "another try")
    assert len(log.said("watch_failed")) == 1


@pytest.mark.req("PLAN-3", "PLAN-10")
async def test_while_a_document_is_refused_what_is_in_force_stays_so(host: Harness) -> None:
    log = Record()
    document = Document(host, {"a": fake(1), "b": fake(1)})
    async with running(document, log) as loop:
        document.fakes = {"a": fake(2)}
        loop.poke()
        await until(lambda: log.said("not_applied"), "it says that it waits for a person")
        host.kind.state["a"] = {"v": "drifted"}
        loop.poke(Key("fake", "a"))
        await until(lambda: host.kind.state == {"a": {"v": 1}, "b": {"v": 1}}, "drift is cured")
        assert len(log.said("not_applied")) == 1
        document.fakes = {"a": fake(3), "b": fake(1)}
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 3}, "b": {"v": 1}}, "the next save is applied")
        document.fakes = {"a": fake(4)}
        loop.poke()
        await until(lambda: len(log.said("not_applied")) == 2, "it is said again")


@pytest.mark.req("PLAN-5", "PLAN-8")
async def test_a_way_back_that_is_refused_waits_and_is_not_undone(host: Harness) -> None:
    """A person's, whose command was killed when half of it was done."""
    left = {"a": fake(2), "b": fake(2), "c": fake(2)}
    await host.apply({"a": fake(1), "b": fake(1, needs=("a",)), "c": fake(1)})
    await host.apply(left)
    journal = host.engine.journal()
    journal.quarantine(host.source(left)(b"").digest, "superseded by a person", "", 1.0)
    journal.set_going_back(1)
    host.kind.state["c"] = {"v": 1}
    # Nothing is planned for what needs what cannot be seen.
    host.kind.unknown["a"] = "somebody wrote half of it"
    log, document = Record(), Document(host, left)
    async with running(document, log) as loop:
        await until(lambda: log.said("not_applied"), "it says what hinders")
        await looked(document, loop)
        assert host.kind.state == {"a": {"v": 2}, "b": {"v": 2}, "c": {"v": 1}}
        del host.kind.unknown["a"]
        loop.poke()
        await until(lambda: host.kind.state == {name: {"v": 1} for name in "abc"}, "it is finished")


@pytest.mark.req("PLAN-3", "PLAN-10", "SVC-7")
async def test_a_supervisor_that_starts_with_a_refused_document_keeps_what_is_in_force(host: Harness) -> None:
    await host.apply({"a": fake(1), "b": fake(1)})
    log = Record()
    document = Document(host, {"a": fake(2)})
    async with running(document, log) as loop:
        assert len(log.said("not_applied")) == 1
        host.kind.state["a"] = {"v": "drifted"}
        loop.poke(Key("fake", "a"))
        await until(lambda: host.kind.state == {"a": {"v": 1}, "b": {"v": 1}}, "drift is cured")
        document.fakes = {"a": fake(3), "b": fake(1)}
        loop.poke()
        await until(lambda: host.kind.state == {"a": {"v": 3}, "b": {"v": 1}}, "the next save is applied")
    assert not log.said("look_failed")
    assert not log.said("watch_failed")


@pytest.mark.req("PLAN-3", "PLAN-8", "PLAN-10")
@pytest.mark.parametrize("saved", [None, 3, "not valid"])
@pytest.mark.parametrize("hinders", ["refused", "unseen"])
async def test_what_was_saved_while_nothing_could_be_applied_since_the_start_is_a_save(
    host: Harness, hinders: str, saved: object
) -> None:
    await host.apply({"a": fake(1), "b": fake(1)})
    log = Record()
    # Nothing is planned for what needs what cannot be seen.
    document = Document(host, {"a": fake(2), "b": fake(2, needs=("a",)) if hinders == "refused" else fake(1)})
    host.kind.unknown["a"] = "somebody wrote half of it"
    async with running(document, log) as loop:
        if saved is not None:
            document.invalid = saved == "not valid"
            document.fakes = {**document.fakes, "a": fake(2 if document.invalid else saved)}
            await looked(document, loop)
            document.invalid = False
        host.kind.unknown.clear()
        loop.poke()
        now = 3 if saved == 3 else 2
        await until(lambda: host.kind.state["a"] == {"v": now}, "it is applied")
        await until(lambda: len(host.engine.journal().generations()) == 2, "it is recorded")
    assert host.engine.journal().generations()[0].cause == ("save" if saved else "start")


@pytest.mark.req("PLAN-3", "PLAN-10")
async def test_a_document_that_waits_is_looked_at_ever_more_rarely_and_each_save_of_it_is_told(host: Harness) -> None:
    await host.apply({"a": fake(1), "b": fake(1)})
    log = Record()
    document = Document(host, {"a": fake(2)})
    async with running(document, log) as loop:
        for looks in (2, 3):
            loop.queue.add(EVERYTHING)
            await until(lambda looks=looks: document.loads >= looks, "a look")  # type: ignore[misc]
        await until(lambda: loop._backoff[EVERYTHING].failures >= 3, "the wait grows")
        assert len(log.said("not_applied")) == 1
        # Another save that is refused for the same reason is told again, and tried at once.
        document.fakes = {"a": fake(5)}
        loop.queue.add(EVERYTHING)
        await until(lambda: len(log.said("not_applied")) == 2, "it is told")
        assert loop._backoff[EVERYTHING].failures == 1
