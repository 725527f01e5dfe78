"""The engine: plans, applies, verifies, and goes back by itself. One for each state directory and process.

Effects happen under the writer lock; the verify window does not, so that a save in it starts the next run at once. Whoever
watches a window holds a lock of its own (`verify.lock`), by which others see that somebody watches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import trio

from reconciler.engine import account, recovery, unchanged
from reconciler.engine.ballast import SPARE_BYTES, Ballast
from reconciler.engine.effects import perform
from reconciler.engine.goal import Goal, gone_sections, located, unmanaged_notes
from reconciler.engine.lock import WriterLock
from reconciler.engine.observe import observe, wanted_of
from reconciler.engine.requests import Outcome, Progress, Report, Request
from reconciler.engine.rollback import GoalOf
from reconciler.engine.settle import conclude, is_watched
from reconciler.engine.standing import (
    holds,
    is_nobodys,
    is_spoilt,
    is_to_release,
    is_unknown,
    let_go,
    put_back,
    settle_holds,
)
from reconciler.engine.steps import makers_of_room
from reconciler.engine.upkeep import Upkeep
from reconciler.engine.watching import Watching
from reconciler.engine.window import Window, begin_anew
from reconciler.errors import BlockedError, LockedError, OpenClawError, StaleError
from reconciler.files import place_of
from reconciler.host import Host
from reconciler.journal import PROVISIONAL_SALT, Journal, JournalError, JournalFullError, OpenRun, Quarantined
from reconciler.kinds import Applied, End, Kind, Observation, Wanted, World
from reconciler.model import Condition, Key, Note, Plan, Result
from reconciler.planning.agreed import as_agreed, compare, harmless, without
from reconciler.planning.plan import make_plan
from reconciler.planning.policy import check, hint_of

T = TypeVar("T")

# Does something to the host, and returns what takes it back.
First: TypeAlias = "Callable[[], Awaitable[Callable[[], Awaitable[None]]]]"

# What keeping up did, in words (empty for nothing), and the conditions that each resource it looked at is in then.
Kept: TypeAlias = "tuple[str, Mapping[Key, tuple[Condition, ...]]]"

# Keeps up what was applied last.
Keep: TypeAlias = "Callable[[], Awaitable[Kept]]"

# Makes the goal with the digests of its secrets under a salt: that of the journal, once there is one.
Source: TypeAlias = "Callable[[bytes], Goal]"

HOUR_SECONDS = 3600.0

# How often a run is planned anew because something moved between its plan and its first effect.
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan with all that it was made of. `spends`: it is worth the ballast, and what makes room comes first in it."""

    plan: Plan
    goal: Goal
    wanted: Mapping[Key, Wanted]
    observations: Mapping[Key, Observation]
    spends: bool = False

    @property
    def conditions(self) -> tuple[tuple[Key, Condition], ...]:
        """What was seen of each resource beside its fields, by key."""
        return tuple((key, item) for key, found in sorted(self.observations.items()) for item in found.conditions)

    @property
    def ends(self) -> dict[Key, tuple[End, ...]]:
        """What ended by itself, of each resource of which that is known."""
        return {key: found.ends for key, found in sorted(self.observations.items()) if found.ends}

    @property
    def suspended(self) -> bool:
        """Whether a person keeps something of it from running."""
        return any(item.type == "Suspended" for _key, item in self.conditions)

    @property
    def retried(self) -> frozenset[Key]:
        """The keys that something on the host tries again by itself: acting as well would outrun its restart policy."""
        return frozenset(key for key, observation in self.observations.items() if observation.retried)


class Engine:
    """Leads a host to a goal, under the journal's eyes.

    Args:
        kinds: the resource kinds, in planning order.
        host: the machine and the applying process's environment.
        document: the absolute path of the one document that this state directory belongs to.
        now: the wall clock, seconds since the epoch.
        goal_of: makes the goal that leads back to a generation (`GoalOf`).
        report: is told what goes on; must not block.
        command: how this process calls itself, for whoever waits for its lock.
    """

    def __init__(
        self,
        *,
        kinds: Sequence[Kind],
        host: Host,
        document: Path,
        now: Callable[[], float],
        goal_of: GoalOf,
        report: Report,
        command: str,
    ) -> None:
        self.kinds = tuple(kinds)
        self.host = host
        self.document = document
        self.now = now
        self.goal_of = goal_of
        self.report = report
        self.command = command
        self.stopping = trio.Event()
        self._journal: Journal | None = None
        # Files that are no longer where the journal has its place.
        self._astray: list[Journal] = []
        self.watching = Watching(host.state.ours / "verify.lock", command=command, now=now)
        # Whether this engine holds the writer lock: the end of a window may take its time.
        self.is_writing = False
        self.ballast = Ballast(host.state.ours / "ballast")

    def world(self, goal: Goal, run: str = "") -> World:
        """What the kinds act in for `goal`."""
        return World(host=self.host, secrets=goal.secrets, document=self.document, run=run, now=self.now)

    def journal(self) -> Journal:
        """The journal, open for writing; the caller holds the writer lock when it is opened first.

        Raises:
            BlockedError: the state directory belongs to another document.
            OpenClawError: it cannot be written.
        """
        if not self.is_open:
            if self._journal is not None:
                if not self._journal.save():
                    # Somebody may be reading in it.
                    self._astray.append(self._journal)
                self._journal = None
            opened = partial(Journal.open_writer, self.host.state.journal, now=self.now())
            # Whether the disk may be full is known by what is planned, and that only once the journal is read.
            journal = self.ballast.spend_on(opened)
            refuse_stranger(journal, str(self.document), self.host.state.root)
            journal.set_document(str(self.document))
            self._journal = journal
        assert self._journal is not None
        return self._journal

    @property
    def is_open(self) -> bool:
        """Whether the journal is open for writing, and still the file at its place."""
        return self._journal is not None and self._journal.in_place

    @property
    def is_astray(self) -> bool:
        """Whether the journal is open and no longer the file, or the log, at its place."""
        return self._journal is not None and not self._journal.in_place

    async def open_journal(self, wait_seconds: float) -> None:
        """Opens the journal for writing, if it is not open: from then on `journal` needs no lock.

        Raises:
            LockedError: another writer holds the lock for longer than `wait_seconds`.
            OpenClawError: as `journal`.
        """
        if not self.is_open:
            async with self._writer(wait_seconds):
                await _thread(self.journal)

    async def let_go(self, names: Sequence[str], before: Sequence[Quarantined]) -> None:
        """Holds a document back as it was `before`, or no longer: what was to take its place did not."""
        with trio.CancelScope(shield=True):
            async with self._writer(HOUR_SECONDS):
                await _thread(partial(let_go, self.journal(), names, before))

    async def do(self, act: Callable[[], Awaitable[T]], wait_seconds: float) -> T:
        """What `act` does and returns, under the writer lock: it is no plan, and in no run.

        Raises:
            LockedError: another writer holds the lock for longer than `wait_seconds`.
            OpenClawError: as `act`.
        """
        async with self._writer(wait_seconds):
            return await act()

    def close(self) -> None:
        """Closes the journal, if it was opened."""
        while self._astray:
            self._astray.pop().close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
            # What was given up and not needed is taken back before anybody else takes it.
            self.ballast.take_on(0 if self.ballast.spent else SPARE_BYTES)

    async def plan(self, goal: Goal, journal: Journal | None, notes: tuple[Note, ...] = ()) -> Planned:
        """Observes everything and plans. Changes nothing.

        Raises:
            BlockedError: the declared needs form a circle.
        """
        lost = await _thread(lambda: journal.history_lost) if journal is not None else None
        # On the word of an older journal nothing is withdrawn: what it knows may have been given back since.
        applied: Mapping[Key, Applied] = await _thread(journal.applied) if journal is not None and not lost else {}
        present = await _thread(journal.in_force) if journal is not None else None
        last = present
        if journal is not None and present is not None and present.result is not Result.CONFIRMED:
            last = await _thread(journal.last_confirmed)
        wanted = wanted_of(goal.resources, applied, self.kinds)
        observations = await observe(wanted, self.kinds, self.world(goal))
        plan = make_plan(
            kinds=self.kinds,
            wanted=wanted,
            observations=observations,
            generation=last.number if last is not None else 0,
            document_digest=goal.digest,
            notes=(*unmanaged_notes(goal.desired), *notes),
            gone=gone_sections(goal, present) if present is not None else frozenset(),
        )
        if journal is not None and lost is not None:
            plan = harmless(plan, ours=await _thread(lambda: journal.is_owner_known))
        return Planned(plan=located(plan, goal.locate), goal=goal, wanted=wanted, observations=observations)

    async def apply(self, source: Source, request: Request, *, wait_seconds: float = 0.0) -> Outcome:
        """Leads the host to the goal of `source`, verifies it, and goes back when it is not healthy.

        Raises:
            LockedError: another writer holds the lock for longer than `wait_seconds`.
            BlockedError: policy, an approval or a collision forbids it; nothing was written.
            StaleError: `request.expected` no longer holds; nothing was written.
        """
        outcome, window = await self.begin(source, request, wait_seconds=wait_seconds)
        return outcome if window is None else await self.finish(window)

    async def begin(
        self,
        source: Source,
        request: Request,
        *,
        wait_seconds: float = 0.0,
        first: First | None = None,
    ) -> tuple[Outcome, Window | None]:
        """The effects of an apply. With a window, they are done and it is the caller's to `finish` it.

        `first` is what a person wants done to the host before it is planned, under the same lock. What it returns takes that
        back, where something forbids the plan.

        Raises: as `apply`.
        """
        compared = False
        if self._journal is None and not await _thread(partial(Journal.is_known, self.host.state.journal)):
            # Nothing may be written before it is known that nothing forbids it, and a journal is something.
            with await _thread(partial(Journal.open_reader, self.host.state.journal)) or nullcontext() as lost:
                await self._refuse(await self.plan(source(PROVISIONAL_SALT), lost), request, lost)
            compared = True
        elif first is None and (outcome := await self._already(source, request)) is not None:
            return outcome, None
        async with self._writer(wait_seconds):
            journal = self.journal()
            goal = source(journal.salt)
            recovered = recovery.Recovered()
            if left_open := await _thread(journal.open_runs):
                recovered, over = await self._recover(goal, left_open, request, first)
                if over is not None:
                    return over
                # This very document may have been taken back just now.
                goal = source(journal.salt)
            planned, to_do = await self._allowed(goal, request, first, compared=compared)
            await recovery.give_way(self, recovered)
            # Before the first effect: whoever watches would take what a person wants for drift, and cure it.
            names = request.holds_back[0] if request.holds_back is not None else ()
            as_before = partial(put_back, journal, names, await _thread(partial(holds, journal)))
            await _thread(partial(settle_holds, journal, goal, request, self.now()))
            try:
                outcome, window = await self._lead_on(planned, to_do, request, journal)
            except (BlockedError, JournalFullError):
                # Nothing was done: what was to take the place of another document did not.
                with trio.CancelScope(shield=True):
                    await _thread(partial(self.ballast.spend_on, as_before))
                raise
            if names and outcome.result in (Result.FAILED, Result.INTERRUPTED):
                # The same, before anybody who watches takes it for what is still to be done.
                with trio.CancelScope(shield=True):
                    await _thread(partial(self.ballast.spend_on, as_before))
            return outcome, window

    async def _allowed(
        self, goal: Goal, request: Request, first: First | None, *, compared: bool
    ) -> tuple[Planned, Planned]:
        """The plan for `goal` after `first`, and what of it is to be done; `first` is taken back where something forbids that."""
        back = await first() if first is not None else None
        # A plan made before there was a journal has other digests of secrets; it was `compared` then.
        asked = replace(request, expected=None) if compared else request
        try:
            planned = await self.plan(goal, self.journal())
            await self._refuse(planned, asked, self.journal())
            return planned, await self._to_do(planned, request, self.journal())
        except OpenClawError:
            if back is not None:
                with trio.CancelScope(shield=True):
                    await back()
            raise

    async def _lead_on(
        self, planned: Planned, to_do: Planned, request: Request, journal: Journal
    ) -> tuple[Outcome, Window | None]:
        """As `_lead`, and again where what acts by itself (a keeper in a crash loop) came in between: nothing was done then."""
        outcome, window = await self._lead(planned, to_do, request, journal)
        for _ in range(_TRIES):
            # A plan that was agreed to holds to the letter.
            if request.expected is not None or not outcome.outrun:
                break
            again = await self.plan(planned.goal, journal)
            if again.plan.unknown:
                break
            planned = again
            await self._refuse(planned, request, journal)
            to_do = await self._to_do(planned, request, journal)
            outcome, window = await self._lead(planned, to_do, request, journal)
        return replace(outcome, conditions=planned.conditions, ends=planned.ends), window

    async def _recover(
        self, goal: Goal, left_open: Sequence[OpenRun], request: Request, first: First | None
    ) -> tuple[recovery.Recovered, tuple[Outcome, Window | None] | None]:
        """Ends what others left open; and how this begins then, where that leaves it nothing to do."""
        # What a person wants done to the host comes after the window, which is waited out then.
        recovered = await recovery.recover(self, goal, left_open, hands_over=first is None)
        if recovered.stopped is not None:
            return recovered, (recovered.stopped, None)
        if recovered.taken_back is not None and request.approvals.person and first is None:
            # What was just seen to fail is not tried again by the very word that found it open.
            await recovery.give_way(self, recovered)
            return recovered, (recovered.taken_back, None)
        if recovered.window is None or recovered.planned is None:
            return recovered, None
        window, seen = recovered.window, recovered.planned
        if request.expected is not None:
            # That there is nothing to do may not be what was agreed to.
            await self._refuse(seen, request, self.journal())
        await recovery.give_way(self, recovered)
        await _thread(partial(settle_holds, self.journal(), goal, request, self.now()))
        if request.commit is not None:
            attribute = partial(self.journal().attribute, window.generation, request.author, request.commit)
            await _thread(attribute)
        outcome = window.outcome(Result.VERIFYING, "")
        return recovered, (replace(outcome, conditions=seen.conditions, ends=seen.ends), window)

    async def _lead(
        self, planned: Planned, to_do: Planned, request: Request, journal: Journal
    ) -> tuple[Outcome, Window | None]:
        """What `planned` and the journal ask for: the effects of what is `to_do`, a window that nobody watched to its end, or a
        record.
        """
        if to_do.plan.actions:
            return await perform(self, to_do, request, journal)
        if (window := await unchanged.unfinished(self, planned, request, journal)) is not None:
            return window.outcome(Result.VERIFYING, ""), window
        return await unchanged.accept(self, planned, request, journal), None

    async def _to_do(self, planned: Planned, request: Request, journal: Journal) -> Planned:
        """What of a plan is to be done now: no more than was agreed to, and nothing that waits; on a full disk what makes room
        comes first.

        Raises:
            JournalFullError: there is too little room for it, and it makes none.
        """
        tried = request.approvals.person or await _thread(partial(is_unknown, journal, planned.goal.digest))
        waiting = request.waiting if tried else request.waiting | planned.retried
        to_do = replace(planned, plan=without(as_agreed(planned.plan, request.expected), waiting))
        room, rest = makers_of_room(to_do.plan.actions)
        if rest or (not room and await unchanged.records(planned, request, journal)):
            try:
                await self.keep_room()
                return to_do
            except JournalFullError:
                if not room:
                    raise
        return replace(to_do, plan=replace(to_do.plan, actions=(*room, *rest)), spends=bool(room))

    async def finish(self, window: Window, *, keeps_up: bool = False) -> Outcome:
        """Watches the window of a run to its end, then confirms it or goes back. With `keeps_up` what falls in it is started
        again as by a look: for who watches where maybe nobody looks.

        A run that came after it takes its place: then this one is superseded and nothing is done. On cancellation the run
        stays unconfirmed in the journal, and the next writer finishes its window.
        """
        self.report(Progress(what="verifying", text=f"{window.left_seconds:g}"))
        async with self.watching():
            prolong = partial(self._prolong, window)
            keep_up = partial(self._keep_up, window, Upkeep(self, window.goal, window.run)) if keeps_up else None
            verdict = await window.verdict(self.kinds, self.world(window.goal, window.run), prolong, keep_up)
            # Until its end is written: another writer that comes in between would take it for one that nobody watches.
            self.watching.begin()
        try:
            with trio.CancelScope(shield=True):
                async with self._writer(HOUR_SECONDS):
                    outcome = await conclude(self, window, verdict)
        finally:
            self.watching.end()
        return outcome

    async def _keep_up(self, window: Window, upkeep: Upkeep, down: Collection[Key]) -> None:
        """Has `upkeep` do its part, where nobody else is at it; what keeps it from that is for the window to judge."""
        with suppress(LockedError):
            async with self._writer(0.0):
                mine = await _thread(partial(self.journal().run, window.run))
                if mine is None or mine.state is not Result.VERIFYING:
                    return
                with trio.CancelScope(shield=True):
                    try:
                        await upkeep(down)
                    except JournalError:
                        # An effect may be without its result.
                        raise
                    except OpenClawError as err:
                        self.report(Progress(what="note", text=err.message))

    async def _prolong(self, window: Window, seconds: float) -> None:
        """Writes down that the window begins anew: whoever finds it does not take its watcher for frozen, or cut it short."""
        self.report(Progress(what="verifying", text=f"{seconds:g}"))
        async with self._writer(HOUR_SECONDS):
            mine = await _thread(partial(self.journal().run, window.run))
            if mine is not None and mine.state is Result.VERIFYING:
                await begin_anew(self, window.run, seconds)

    @asynccontextmanager
    async def _writer(self, wait_seconds: float) -> AsyncIterator[None]:
        async with WriterLock(self.host.state.lock, command=self.command, now=self.now).hold(wait_seconds):
            self.is_writing = True
            try:
                yield
            finally:
                self.is_writing = False
            if self._journal is not None:
                await _thread(self.ballast.take_on)

    async def _may_take_ballast(self) -> bool:
        """True where this process keeps the journal open and the ballast that it once gave up has room again."""
        return self._journal is not None and await _thread(lambda: self.ballast.wanting)

    async def keep_room(self) -> None:
        """Refuses on a disk that is full, or nearly, whatever makes no room: the ballast is for what does, and for a way back.
        What is let pass has it.

        Raises:
            JournalFullError: there is too little room beside the ballast's.
        """
        short = await _thread(lambda: self.ballast.is_short)
        # What was given up once says nothing of today: where its own room is there again, the disk is full no longer.
        if short or (not await _thread(partial(self.ballast.take_on, 0)) and self.ballast.spent):
            raise JournalFullError("cannot apply: the disk is full", hint="free some space, then try again")

    def make_room(self) -> None:
        """Gives up the ballast for a way back, where there is little room beside it."""
        if self.ballast.is_short and self.ballast.give_up():
            self.journal().fold()

    async def _refuse(self, planned: Planned, request: Request, journal: Journal | None) -> None:
        if request.expected is not None:
            digest = request.expected_digest or ""
            if journal is not None and await _thread(partial(journal.plan_used, digest)):
                raise StaleError("cannot apply this plan: it was used already", hint="plan again")
            compare(request.expected, planned.plan)
        restarts = 0
        if journal is not None:
            restarts = await _thread(partial(account.restarts_since, journal, self.now() - HOUR_SECONDS))
        policy = planned.goal.desired.policy
        if blocked := check(planned.plan, policy, request.approvals, restarts_last_hour=restarts):
            first, *more = blocked
            tail = f" (and {len(more)} more)" if more else ""
            raise BlockedError(first.message + tail, hint=hint_of(blocked) or None)

    async def _already(self, source: Source, request: Request) -> Outcome | None:
        """The outcome where there is nothing to do and nothing to record, found without the lock and without any write."""
        if await self._may_take_ballast() or (self._journal is not None and not self.is_open):
            return None
        reader = self._journal or await _thread(partial(Journal.open_reader, self.host.state.journal))
        if reader is None:
            return None
        refuse_stranger(reader, str(self.document), self.host.state.root)
        try:
            goal = source(reader.salt)
            planned = await self.plan(goal, reader)
            plan = planned.plan
            if plan.actions or plan.blocked or plan.unknown or request.expected is not None or request.holds_back:
                return None
            left_open = await _thread(reader.open_runs)
            if not all(is_watched(found.run, self.host.state, self.now()) for found in left_open):
                return None
            known = await unchanged.known(planned, reader)
            if request.approvals.person and await _thread(partial(is_spoilt, reader)):
                return None
            if known is None or account.outdated(planned.wanted, planned.observations):
                return None
            if await _thread(partial(is_to_release, reader, goal, request)):
                return None
            if request.commit is not None and await _thread(partial(is_nobodys, reader, known.generation)):
                return None
            return replace(known, conditions=planned.conditions, ends=planned.ends)
        finally:
            if reader is not self._journal:
                reader.close()


def refuse_stranger(journal: Journal, document: str, root: Path) -> None:
    """Closes `journal` and raises BlockedError where its state directory belongs to another document than `document`."""
    owner = journal.document
    if owner is not None and place_of(owner) != place_of(document):
        journal.close()
        raise BlockedError(
            f"cannot use {root}: it belongs to the document {owner}",
            hint="one state directory serves one document: set OPENCLAW_STATE_DIR for this one, or name that one by --file",
        )


async def _thread(call: Callable[[], T]) -> T:
    """Runs a journal call in a thread: a disk that hangs must not hang the loop."""
    return await trio.to_thread.run_sync(call)
