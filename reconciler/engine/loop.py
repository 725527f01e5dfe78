"""The loop of the supervisor: level-triggered over keys. An event says only "look"; a look reads everything afresh.

Sources of keys: the files of the document, what kinds watch, timers, the control API, signals. What is lost is found again by
the resync. One crash boundary: a look that fails leaves a line in the log and is repeated after a backoff.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import trio

from reconciler.engine.backoff import Backoff, failed, held
from reconciler.engine.engine import Engine, Keep, Source, refuse_stranger
from reconciler.engine.goal import Goal
from reconciler.engine.queue import WorkQueue
from reconciler.engine.requests import Outcome, Request
from reconciler.engine.settle import OVERDUE_SECONDS
from reconciler.engine.standing import led_to, nothing_instead
from reconciler.engine.steps import step_of
from reconciler.engine.telling import Log, Teller, problems_of
from reconciler.engine.verify import probe_all
from reconciler.engine.watcher import WatchPoints, watch_points
from reconciler.engine.window import Window
from reconciler.errors import (
    BlockedError,
    DocumentError,
    LockedError,
    OpenClawError,
    TerminalError,
    innermost,
    is_full,
    shortage,
)
from reconciler.journal import Intent, Journal, JournalFullError, Run
from reconciler.kinds import Kind
from reconciler.model import Condition, Generation, Key, Result, Status
from reconciler.planning.policy import Approvals
from reconciler.watching import watch_directories

RESYNC_SECONDS = 300.0
# The key that stands for the document itself, and the one that stands for everything.
DOCUMENT = Key("document", "openclaw.yaml")
EVERYTHING = Key("host", "everything")
# How often it is looked whether the journal, and what makes this process the supervisor, are still at their places.
ASTRAY_SECONDS = 30.0
# How long another writer is waited for, before the look is put off.
LOCK_SECONDS = 1.0
# How often it is looked whether somebody else still watches a window; only while there is one.
OUTLAST_SECONDS = 0.5
UNKNOWN_SECONDS = 5.0
# What this host has none of now may be there again at any moment, and nothing tells.
SHORT_SECONDS = 5.0
# How many of the newest runs are looked at for what was not told yet: other writers wait for each other, so that few runs can
# come between two looks.
NEWEST_RUNS = 20


class _OvertakenError(OpenClawError):
    """What this look was to lead to is no longer what is wanted: look again."""


class _NotRestorableError(OpenClawError):
    """What is to be in force cannot be led to: a secret of it gives nothing now, and what it gave is nowhere."""

    def __init__(self, generation: Generation, cause: DocumentError) -> None:
        super().__init__(f"cannot keep generation {generation.number} in force: {cause.message}")
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The document as it was loaded just now. `mark` is the same as long as nothing in it or in what it reads changed."""

    source: Source
    mark: str
    files: tuple[str, ...]
    remember: Callable[[], None]


class Loop:
    """Keeps one host as its document declares it, until cancelled.

    Args:
        engine: applies.
        load: reads the document and its secrets; raises DocumentError.
        log: is told what goes on.
        tell: is told the same as plain data, for those who listen to events; must not block.
        crashed: keeps the trace of a bug and returns its id.
        idle: is called after each run, when nobody waits for anything.
        keep: keeps up what was applied last while nothing can be planned.
        look_around: is awaited every half minute; what it looks after is its own business, and so are its errors.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        load: Callable[[], Awaitable[Found]],
        files: tuple[str, ...],
        log: Log,
        tell: Callable[[Mapping[str, Any]], None],
        crashed: Callable[[Exception], str],
        idle: Callable[[], object],
        keep: Keep,
        look_around: Callable[[], Awaitable[None]],
    ) -> None:
        self.engine = engine
        self.queue: WorkQueue[Key] = WorkQueue(trio.current_time)
        self._load = load
        self._files = files
        self._points = WatchPoints(frozenset(), frozenset())
        self._points_moved = trio.Event()
        self._watched = trio.Event()
        self._log = log
        self._teller = Teller(log, tell, since=engine.now())
        self._crashed = crashed
        self._idle = idle
        self._keep = keep
        self._look_around = look_around
        self._good: Found | None = None
        # The document that was there when this began, as long as no other has been saved ("": one has been).
        self._first: str | None = None
        # The one that was applied last: what could not be seen on the host was not led there.
        self._done: str | None = None
        # What was looked at last, good or not (None: it was not valid), and what was last said of one that is refused.
        self._looked: str | None = None
        self._refused: tuple[str, str] | None = None
        self.kept: Source | None = None  # what the host is led to, as far as that is known
        self._backoff: dict[Key, Backoff] = {}
        self._ended_for_good = False
        # What did not serve when it was probed last.
        self._silent: frozenset[Key] = frozenset()
        self._windows: trio.Nursery | None = None
        self._outlasting = False
        self._applied = trio.Event()

    def poke(self, key: Key = EVERYTHING) -> None:
        """Asks for a look, at once: whatever waited out a backoff waits no longer."""
        if key in (EVERYTHING, DOCUMENT):
            self._backoff.clear()
        self._backoff.pop(key, None)
        self.queue.add(key)

    def watch_window(self, window: Window) -> None:
        """Watches a run's window to its end beside everything else."""
        if self._windows is not None:
            self._windows.start_soon(self._finish, window)

    async def tell_runs(self) -> None:
        """Tells how the runs stand that others lead, as it tells of its own: commands do, in this process or in another.

        A run is told of as it is found: that it is being watched may be missed, how it ended is not.
        """
        try:
            found = await trio.to_thread.run_sync(self._newest_runs)
        except (OpenClawError, OSError):
            # Whoever cannot do without the journal says so, and the next look tells.
            return
        for run, intents in found:
            if self._teller.knows(run):
                continue
            for intent in intents if not self._teller.knows_of(run) else ():
                self._teller.step(step_of(intent))
            generation = run.generation or run.target_generation or 0
            self._teller.run(run.id, run.cause, run.state, generation, run.reason)

    def _newest_runs(self) -> list[tuple[Run, tuple[Intent, ...]]]:
        """The newest runs that nobody works on at this moment, oldest first, each with its actions."""
        if not self.engine.is_open:
            return []
        journal = self.engine.journal()
        return [
            (run, journal.actions_of(run.id))
            for run in reversed(journal.runs(NEWEST_RUNS))
            if run.state not in (Result.APPLYING, Result.ROLLING_BACK) and not self._teller.knows(run)
        ]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; started once the first look is over."""
        async with trio.open_nursery() as nursery:
            self._windows = nursery
            # Watched before it is read: what is saved between the two would be missed.
            nursery.start_soon(self._watch_document)
            await self._watched.wait()
            nursery.start_soon(self._resync)
            nursery.start_soon(self._watch_kinds)
            await self._look(self.queue.take_nowait())
            task_status.started()
            while True:
                await self._look(await self.queue.take())

    async def _look(self, keys: tuple[Key, ...]) -> None:
        try:
            await self._reconcile()
            await self.tell_runs()
        except Exception as err:  # the boundary of the loop: the host must not be left alone because of one look
            self._failed(err)
            await self._keep_up(err)
        finally:
            for key in keys:
                self.queue.done(key)
        if self._windows is not None and not self._outlasting and self.engine.watching.elsewhere:
            self._outlasting = True
            self._windows.start_soon(self._outlast)
        await self._tell_loss()
        if await trio.to_thread.run_sync(watch_points, self._files) != self._points:
            self._points_moved.set()

    async def _outlast(self) -> None:
        """Has another look come once nobody else watches a window, or after a while: that one was killed, or is frozen, is in no
        event.
        """
        with trio.move_on_after(OVERDUE_SECONDS):
            while self.engine.watching.elsewhere:  # noqa: ASYNC110 - nor that it has ended
                await trio.sleep(OUTLAST_SECONDS)
        self._outlasting = False
        self.queue.add(EVERYTHING)

    async def _tell_loss(self) -> None:
        if self.engine.is_open:
            journal = self.engine.journal()
            with suppress(OpenClawError, OSError):
                lost = await trio.to_thread.run_sync(lambda: journal.history_lost)
                self._teller.history(lost, str(self.engine.host.state.journal))

    def _failed(self, failure: Exception) -> None:
        """Says what a look failed of, and arranges the next one."""
        match innermost(failure):
            case LockedError() as err:
                if not self.engine.is_writing:
                    self._teller.say("waiting_for_lock", err.message)
                self.queue.add_after(EVERYTHING, LOCK_SECONDS)
            case DocumentError() as err:
                self._invalid(err)
            case _NotRestorableError() as err:
                self._teller.say("not_restored", err.message, problems=problems_of(err.cause))
            case _OvertakenError():
                # A person went back while this look was under way, or applied what was held back: that is theirs to know.
                self.queue.add(EVERYTHING)
            case OpenClawError() as err:
                self._teller.say("not_applied", err.message, hint=err.hint)
                if isinstance(err, JournalFullError) or is_full(err):
                    self.queue.add_after(EVERYTHING, SHORT_SECONDS)
                else:
                    self._retry(EVERYTHING, RESYNC_SECONDS)
            case err if reason := shortage(err):
                self._teller.say("not_applied", f"cannot look: {reason}")
                self.queue.add_after(EVERYTHING, SHORT_SECONDS)
            case err:
                name = self._crashed(failure)
                self._teller.say("look_failed", f"a bug of ours: {type(err).__name__} (id {name})")
                self._retry(EVERYTHING, RESYNC_SECONDS)

    async def _keep_up(self, failure: Exception) -> None:
        """Where it cannot be known what is wanted, or nothing can be written down, or all that is known is refused, what was
        applied last is not let fall.
        """
        err = innermost(failure)
        refused = isinstance(err, BlockedError) and await trio.to_thread.run_sync(self._is_ours)
        known = isinstance(err, (DocumentError, _NotRestorableError, JournalFullError)) or is_full(err)
        if not (known or refused):
            return
        last = self._backoff.get(EVERYTHING) if self._ended_for_good else None
        if last is not None and last.until > trio.current_time():
            # Its own end brought this look; the one that the backoff asks for comes.
            return
        self._ended_for_good = False
        try:
            done, seen = await self.engine.do(self._keep, LOCK_SECONDS)
        except OpenClawError as failed:
            if not (isinstance(failed, LockedError) and self.engine.is_writing):
                self._teller.say("not_kept", failed.message, hint=failed.hint)
            if isinstance(failed, TerminalError):
                # It was started, and ended for good: each try costs what a start costs.
                self._retry(EVERYTHING, RESYNC_SECONDS)
                self._ended_for_good = True
            else:
                self.queue.add_after(EVERYTHING, SHORT_SECONDS)
        else:
            self._teller.over("not_kept")
            if not refused:
                self._backoff.pop(EVERYTHING, None)
            if done:
                self._log.info("kept", what=done)
            # Nobody else says it: nothing is planned.
            self._report_degraded([(key, item) for key, found in seen.items() for item in found], seen)
            journal = self.engine.host.state.journal
            if self.kept is None and (seen or await trio.to_thread.run_sync(Journal.is_there, journal)):
                # Without a document no kind is watched: nothing but this look hears that what is kept up has ended.
                self.queue.add_after(EVERYTHING, SHORT_SECONDS)

    def _is_ours(self) -> bool:
        """Whether the state directory belongs to this document, as far as its journal tells."""
        engine = self.engine
        try:
            if (reader := Journal.open_reader(engine.host.state.journal)) is not None:
                refuse_stranger(reader, str(engine.document), engine.host.state.root)
                reader.close()
        except OpenClawError:
            return False
        return True

    async def _reconcile(self) -> None:
        found, cause = await self._document()
        source, back = await self._held_back(found.source)
        waiting = frozenset(key for key, state in self._backoff.items() if state.until > trio.current_time())
        request = Request(cause=cause, approvals=Approvals(person=False), waiting=waiting)
        if back:
            # It was a person's word, of which not all was done: it holds. What they granted by name is not known any more.
            request = replace(request, cause=f"rollback to {back}", approvals=Approvals(way_back=True))
        try:
            outcome, window = await self.engine.begin(source, request, wait_seconds=LOCK_SECONDS)
        except BlockedError as err:
            if self.kept is None and self.engine.is_open:
                # What hinders it may go: that is to be seen.
                self._keeps(source)
            await self._keep_in_force(found, source, request, err)
            return
        self._good, self._refused = found, None
        if not outcome.plan.unknown:
            self._done = found.mark
        self._keeps(found.source)
        await trio.to_thread.run_sync(found.remember)
        self._settle(outcome, waiting)
        if window is not None:
            self.watch_window(window)

    def _keeps(self, source: Source) -> None:
        self.kept = source
        self._applied.set()

    async def _keep_in_force(self, found: Found, refused: Source, request: Request, err: BlockedError) -> None:
        """What is in force stays so while a document is refused: its gateway runs, and what drifts is cured.

        Raises:
            BlockedError: `err` where there is nothing else in force; or that is refused as well.
        """
        instead = await self._in_force()
        if instead is None:
            raise err
        salt = self.engine.journal().salt
        if await trio.to_thread.run_sync(lambda: instead.source(salt).digest == refused(salt).digest):
            raise err
        cure = replace(request, cause="drift", approvals=Approvals(person=False))
        outcome, window = await self.engine.begin(instead.source, cure, wait_seconds=LOCK_SECONDS)
        self._keeps(instead.source)
        self._settle(outcome, request.waiting)
        if window is not None:
            self.watch_window(window)
        # Once for each save, although that what is in force is well counts as good news of it.
        if self._refused != (told := (found.mark, err.message)):
            self._refused = told
            self._teller.over("not_applied")
            self._teller.say("not_applied", err.message, hint=err.hint)
        self._retry(EVERYTHING, RESYNC_SECONDS)

    async def _document(self) -> tuple[Found, str]:
        """The document to lead to, and why: what was saved just now, or the last good one while it is not valid."""
        invalid: DocumentError | None = None
        try:
            found = await self._load()
        except DocumentError as err:
            invalid = err
        if invalid is not None:
            # Where it was as well: one that is gone is looked for elsewhere, and may come back to its place.
            self._files = tuple(dict.fromkeys((*invalid.files, *self._files)))
            self._looked = None
            if self._first is not None:
                self._first = ""
            try:
                good = self._good if self._good is not None else await self._in_force()
            except _NotRestorableError:
                self._invalid(invalid)
                raise
            if good is None:
                raise invalid
            self._invalid(invalid)
            # It is no document of now: what is valid next was saved, be it the same as before, and is told anew.
            return replace(good, mark=""), "drift"
        self._teller.valid()
        if self._first is None:
            self._first = found.mark
        elif self._first != found.mark:
            self._first = ""
        if self._done is None:
            # Nothing was applied since this began, whatever hindered it: what has been saved meanwhile was saved all the same.
            cause = "start" if self._first else "save"
        else:
            cause = "save" if found.mark != self._done else "drift"
        if found.mark != self._looked:
            # A change of the document is a reason to try at once what failed before; that it is still not applied is none.
            self._looked = found.mark
            self._backoff.clear()
            self._teller.over("held_back")
        self._files = found.files
        return found, cause

    async def _in_force(self) -> Found | None:
        """What is to be in force without the document: for a start with one that is not valid, or is refused."""
        engine = self.engine
        if not await trio.to_thread.run_sync(Journal.is_there, engine.host.state.journal):
            return None
        await engine.open_journal(LOCK_SECONDS)

        def found() -> Found | None:
            generation = led_to(engine.journal())
            if generation is None:
                return None
            goal = self._goal_back(generation)
            return Found(source=lambda _salt: goal, mark="", files=self._files, remember=lambda: None)

        return await trio.to_thread.run_sync(found)

    def _goal_back(self, generation: Generation) -> Goal:
        try:
            return self.engine.goal_of(generation)[0]
        except DocumentError as err:
            raise _NotRestorableError(generation, err) from err

    def _invalid(self, err: DocumentError) -> None:
        self._teller.say("document_invalid", err.message, problems=problems_of(err))

    async def _held_back(self, source: Source) -> tuple[Source, int]:
        """`source`, unless its document is quarantined: then what came instead of it stays in force, or is led to where a person
        goes back to it and whoever did that died (the generation with this number, else 0).
        """
        engine = self.engine
        if not await trio.to_thread.run_sync(Journal.is_there, engine.host.state.journal):
            return source, 0
        await engine.open_journal(LOCK_SECONDS)

        def instead() -> tuple[Source, int | None, str, int]:
            journal = engine.journal()
            names = source(journal.salt).names
            number, reason = self._number_instead(names)
            generation = journal.generation(number) if number else None
            goal = self._goal_back(generation) if generation is not None else None

            def unless_overtaken(salt: bytes) -> Goal:
                # Asked again under the writer lock: a person may have gone back while this look waited for it.
                if self._number_instead(names)[0] != number:
                    raise _OvertakenError("cannot apply: what is to be in force has changed meanwhile")
                return goal if goal is not None else source(salt)

            return unless_overtaken, number, reason, number if number == journal.going_back else 0

        chosen, number, reason, back = await trio.to_thread.run_sync(instead)
        # Said here: whoever listens to events cannot be woken from a thread.
        if number is not None:
            self._teller.say("held_back", f"the document is held back: {reason}")
        if number == 0:
            raise await trio.to_thread.run_sync(lambda: nothing_instead(engine.journal()))
        return chosen, back

    def _number_instead(self, names: tuple[str, ...]) -> tuple[int | None, str]:
        """The generation to keep in force instead of a document that is held back (0: there is none), and why it is; None where
        it is not.
        """
        journal = self.engine.journal()
        rejected = journal.quarantined(*names)
        if rejected is None:
            return None, ""
        instead = led_to(journal)
        return instead.number if instead is not None else 0, rejected.reason

    def _settle(self, outcome: Outcome, waiting: frozenset[Key]) -> None:
        """Says what happened and arranges the next look. `waiting` are the keys whose backoff the look left alone."""
        now = trio.current_time()
        failures = {step.action.key for step in outcome.steps if step.result == "failed"}
        for key in failures:
            self._retry(key, self._cap_seconds(key))
        # What was left out is neither well nor tried: its backoff stands, and somebody must look again.
        left = waiting if outcome.run else waiting | {action.key for action in outcome.plan.actions}
        for key in left - failures:
            until = self._backoff[key].until if key in self._backoff else 0.0
            self.queue.add_after(EVERYTHING, until - now if until > now else self._cap_seconds(key))
        for key in self._backoff.keys() - failures - left:
            self._backoff[key] = held(self._backoff[key], now=now)
        if outcome.result in (Result.ROLLED_BACK, Result.ROLLBACK_FAILED):
            # It did not come to its window: what is in force is looked after from now on.
            self.queue.add(EVERYTHING)
        if outcome.plan.unknown:
            self.queue.add_after(EVERYTHING, UNKNOWN_SECONDS)
            self._teller.say("unknown", "; ".join(f"{item.key}: {item.reason}" for item in outcome.plan.unknown))
        elif outcome.result is Result.FAILED and not outcome.run:
            self.queue.add_after(EVERYTHING, UNKNOWN_SECONDS)
            self._teller.say("not_ready", outcome.reason)
        elif not failures and not (outcome.run and outcome.result is Result.VERIFYING and not outcome.steps):
            # A window that another process left has shown nothing yet.
            self._teller.over("not_applied", "not_restored", "unknown", "not_ready", "look_failed", "waiting_for_lock")
        self._report_degraded(outcome.conditions, None if not outcome.plan.unknown else ())
        self._teller.ended(outcome.ends, now, self.queue.add_after)
        news = [self._teller.step(step) for step in outcome.steps]
        if outcome.run and any(news):
            self._teller.announce(outcome)
        elif outcome.run:
            self._teller.mark(outcome.run, outcome.result)

    def _report_degraded(self, seen: Iterable[tuple[Key, Condition]], looked_at: Collection[Key] | None) -> None:
        degraded = {key: item for key, item in seen if item.type == "Degraded"}
        for key in degraded:
            # That it is over may be in no event.
            self.queue.add_after(EVERYTHING, self._cap_seconds(key))
        self._teller.degraded(degraded, looked_at)

    async def _report_silent(self) -> None:
        """Says of what does not serve, though nothing is to be done about it, that it does not: no plan sees that.

        Only what was so the last time as well: it may just be started again. A window has a word of its own for what it sees.
        """
        engine, before = self.engine, self._silent
        if self.kept is None or not engine.is_open or engine.watching.here or engine.is_writing:
            return
        try:
            goal = self.kept(engine.journal().salt)
            health = await probe_all(goal.resources, engine.kinds, engine.world(goal))
        except Exception as err:  # as in a look, which comes soon and says the same
            self._failed(err)
            return
        self._silent = frozenset(
            key for key, found in health.items() if not (found.ready or found.excused or found.lagging)
        )
        silent = {
            key: Condition(type="Degraded", status=Status.TRUE, reason=health[key].reason, message=health[key].message)
            for key in self._silent & before
            if not self._teller.is_degraded(key, "observation")
        }
        self._teller.degraded(silent, health, by="probe")

    def _cap_seconds(self, key: Key) -> float:
        return next((kind.backoff_cap_seconds for kind in self.engine.kinds if kind.name == key.kind), RESYNC_SECONDS)

    def _retry(self, key: Key, cap: float) -> None:
        state = failed(
            self._backoff.get(key, Backoff()), now=trio.current_time(), cap_seconds=cap, random=random.random()
        )
        self._backoff[key] = state
        self.queue.add_after(key, state.until - trio.current_time())

    async def _finish(self, window: Window) -> None:
        try:
            outcome = await self.engine.finish(window)
        except Exception as err:  # as in a look: one window that cannot be watched must not end the supervisor
            self._failed(err)
            return
        self._teller.announce(outcome)
        if window.inherited:
            self._teller.over("not_applied")
        if outcome.result is Result.FAILED:
            # Nothing is taken back, and another window would follow at once.
            self._retry(EVERYTHING, RESYNC_SECONDS)
        elif outcome.result is not Result.CONFIRMED or await self._leaves_open():
            # One that a killed command left counted as watched, as long as something was.
            self.queue.add(EVERYTHING)
        self._idle()

    async def _leaves_open(self) -> bool:
        engine = self.engine
        return engine.is_open and bool(await trio.to_thread.run_sync(lambda: engine.journal().open_runs()))

    async def _watch_document(self) -> None:
        """Watches what the document is made of, and begins anew wherever that comes to lie elsewhere."""
        while True:
            self._points_moved = trio.Event()
            self._points = await trio.to_thread.run_sync(watch_points, self._files)
            async with trio.open_nursery() as nursery:
                begun = trio.Event()
                nursery.start_soon(self._watch_points, self._points, begun)
                await begun.wait()
                # What was saved before this watch began is read now.
                self.queue.add(DOCUMENT)
                self._watched.set()
                await self._points_moved.wait()
                nursery.cancel_scope.cancel()

    async def _watch_points(self, points: WatchPoints, begun: trio.Event) -> None:
        def changed(paths: set[str]) -> None:
            if not points.directories.isdisjoint(paths):
                self._points_moved.set()
            elif not points.names.isdisjoint(paths):
                self.queue.add(DOCUMENT)

        try:
            await watch_directories(points.directories, changed, begun.set)
        except FileNotFoundError:
            # A directory went away in this moment: look where it is now.
            self._points_moved.set()
            begun.set()
        except OSError as err:
            self._teller.say(
                "watch_failed", f"cannot watch the document: {err.strerror}; it is read every {RESYNC_SECONDS:g} s"
            )
            begun.set()
            # What the system has no more of may be there again by then.
            await trio.sleep(RESYNC_SECONDS)
            self._points_moved.set()

    async def _watch_kinds(self) -> None:
        # Before anything was applied there is nothing to watch, and no journal whose salt a world could have.
        await self._applied.wait()
        async with trio.open_nursery() as nursery:
            for kind in self.engine.kinds:
                nursery.start_soon(self._watch_kind, kind)

    async def _watch_kind(self, kind: Kind) -> None:
        while True:
            try:
                assert self.kept is not None
                world = self.engine.world(self.kept(self.engine.journal().salt))
                return await kind.watch(world, self.queue.add)
            except Exception as err:  # every kind works without its watch: the resync finds what it would have told
                found = innermost(err)
                known = isinstance(found, OSError | OpenClawError)
                reason = str(found) if known else f"a bug of ours: {type(found).__name__} (id {self._crashed(err)})"
                self._teller.say(
                    "watch_failed", f"cannot watch {kind.name}: {reason}; it is looked at every {RESYNC_SECONDS:g} s"
                )
            await trio.sleep(RESYNC_SECONDS)

    async def _resync(self) -> None:
        steps = max(1, round(RESYNC_SECONDS / ASTRAY_SECONDS))
        while True:
            for _ in range(steps):
                await trio.sleep(RESYNC_SECONDS / steps)
                await self._look_around()
                await self._report_silent()
                if await trio.to_thread.run_sync(lambda: self.engine.is_astray):
                    break
            self.queue.add(EVERYTHING)
