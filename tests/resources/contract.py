"""What every kind promises (reconciler/kinds.py), as tests. A kind's own test subclasses `KindContract` and says how to make
a `Case`: a world in which its document has something to do.

    class TestFile(KindContract):
        def make(self, directory: Path) -> Case: ...
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from reconciler.desired import Desired
from reconciler.errors import StaleError
from reconciler.kinds import Applied, AppliedField, Kind, KindPlan, Observation, Resource, Step, Wanted, World
from reconciler.model import Action, Fields, Key
from reconciler.planning.differences import differences
from reconciler.planning.graph import order
from reconciler.values import decode, encode, public, same
from resources.testing import make_desired

# More checkpoints than any apply passes; the loop ends at the first apply that ends before its cancellation.
MOST_CHECKPOINTS = 200


@dataclass(slots=True, kw_only=True)
class Case:
    """One world with a document that it does not fulfil.

    `root` is the directory that holds all that the kind may touch. `move` changes the world so that every action of a
    plan made before is stale (None: the kind has nothing that could move). `withdrawn` is a document that declares the
    kind's things no longer. `canaries` are secrets: none of them may appear in anything that the kind hands out.
    `irreversible` names the verbs that cannot be taken back, which must say so; `gives_back` is False where a withdrawal
    leaves all as it is. `close` ends what the case left running.
    """

    kind: Kind
    world: World
    desired: Desired
    root: Path
    move: Callable[[], None] | None = None
    withdrawn: Desired = field(default_factory=make_desired)
    canaries: tuple[str, ...] = ()
    irreversible: frozenset[str] = frozenset()
    gives_back: bool = True
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One pass of observing and planning, key by key."""

    wanted: tuple[Wanted, ...]
    observations: tuple[Observation, ...]
    steps: tuple[Step, ...]
    plans: tuple[KindPlan, ...]

    @property
    def actions(self) -> tuple[Action, ...]:
        return order([action for plan in self.plans for action in plan.actions])

    @property
    def converged(self) -> bool:
        return not any(step.differences for step in self.steps) and not self.actions


async def look(case: Case, desired: Desired, applied: Mapping[Key, Applied] | None = None) -> Seen:
    """Observes and plans what `desired` declares and what was `applied`, as the engine does."""
    known = applied or {}
    declared = {resource.key: resource for resource in case.kind.declare(desired, case.world.host, case.world.secrets)}
    keys = sorted(declared.keys() | known.keys())
    wanted = tuple(Wanted(key=key, resource=declared.get(key), applied=known.get(key, {})) for key in keys)
    observations = await case.kind.observe(wanted, case.world)
    steps = tuple(
        Step(
            key=one.key,
            resource=one.resource,
            observation=observation,
            differences=differences(one.resource, observation, one.applied),
            applied=one.applied,
        )
        for one, observation in zip(wanted, observations, strict=True)
    )
    return Seen(wanted=wanted, observations=observations, steps=steps, plans=tuple(map(case.kind.plan, steps)))


async def carry_out(case: Case, seen: Seen) -> dict[Key, Applied]:
    """Applies all that was planned; returns what a journal would hold afterwards."""
    resources = {one.key: one.resource for one in seen.wanted}
    for action in seen.actions:
        await case.kind.apply(action, resources[action.key], case.world)
    return {step.key: recorded(step) for step in seen.steps if step.resource is not None}


def recorded(step: Step) -> Applied:
    """What the journal holds of a step that succeeded: our value, and what was there before us."""
    assert step.resource is not None
    earlier = step.applied
    return {
        path: AppliedField(
            value,
            earlier[path].former if path in earlier else step.observation.fields[path],
            path in step.resource.defaulted,
        )
        for path, value in step.resource.fields.items()
    }


def snapshot(root: Path) -> dict[str, tuple[int, ...]]:
    """Every entry below `root` with what would betray a change: kind and mode, inode, links, size, times of change."""
    found: dict[str, tuple[int, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in (".", *names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found[path] = (
                status.st_mode,
                status.st_ino,
                status.st_nlink,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
    return found


def fields_of(seen: Seen) -> dict[Key, Fields]:
    return {one.key: one.fields for one in seen.observations}


def agree(left: Fields, right: Fields) -> bool:
    """Equality of the paths that both know."""
    return all(same(left[path], right[path]) for path in left.keys() & right.keys())


class StepCanceller(trio.abc.Instrument):
    """Cancels `scope` when `task` comes to run for the nth time: the checkpoints of one call, one after the other."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, steps: int) -> None:
        self._task, self._scope, self._left = task, scope, steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at(steps: int, case: Case, action: Action, resource: Resource | None) -> bool:
    """Applies `action`, cancelled at its nth checkpoint; False when it ended before."""
    with trio.CancelScope() as scope:
        canceller = StepCanceller(trio.lowlevel.current_task(), scope, steps)
        if steps == 1:
            scope.cancel()
        trio.lowlevel.add_instrument(canceller)
        try:
            await case.kind.apply(action, resource, case.world)
        finally:
            trio.lowlevel.remove_instrument(canceller)
    return scope.cancel_called


class KindContract:
    """The promises. `make` builds a fresh, equal case in an empty directory each time."""

    def make(self, directory: Path) -> Case:
        raise NotImplementedError

    @pytest.fixture
    def case(self, tmp_path: Path) -> Iterator[Case]:
        case = self.make(tmp_path)
        with closing(_Closer(case)):
            yield case

    def test_declaring_is_deterministic_and_touches_nothing(self, case: Case) -> None:
        before = snapshot(case.root)
        first, second = (case.kind.declare(case.desired, case.world.host, case.world.secrets) for _ in range(2))
        assert first == second
        assert first, "the case must declare something"
        assert snapshot(case.root) == before
        for resource in first:
            assert resource.key.kind == case.kind.name
            assert resource.defaulted <= resource.fields.keys()
            assert resource.origins.keys() <= resource.fields.keys()
        assert not case.kind.declare(case.withdrawn, case.world.host, case.world.secrets)

    async def test_observing_changes_nothing_and_answers_in_order(self, case: Case) -> None:
        before = snapshot(case.root)
        seen = await look(case, case.desired)
        assert snapshot(case.root) == before
        assert [one.key for one in seen.observations] == [one.key for one in seen.wanted]
        backwards = await case.kind.observe(tuple(reversed(seen.wanted)), case.world)
        assert [one.key for one in backwards] == [one.key for one in reversed(seen.wanted)]
        for wanted, observation in zip(seen.wanted, seen.observations, strict=True):
            assert wanted.resource is not None
            assert observation.unknown is None
            assert wanted.resource.fields.keys() <= observation.fields.keys()
            json.dumps(observation.shown)

    async def test_observing_nothing_answers_nothing(self, case: Case) -> None:
        assert await case.kind.observe((), case.world) == ()

    async def test_planning_is_deterministic_and_covers_every_difference(self, case: Case) -> None:
        first, second = await look(case, case.desired), await look(case, case.desired)
        assert [action.id for action in first.actions] == [action.id for action in second.actions]
        assert [case.kind.plan(step) for step in first.steps] == list(first.plans)
        assert first.actions, "the case must have something to do"
        ids = [action.id for action in first.actions]
        assert len(ids) == len(set(ids))
        for step, plan in zip(first.steps, first.plans, strict=True):
            covered = {item.path for action in plan.actions for item in action.differences}
            if not plan.blocked and not plan.notes:
                assert {item.path for item in step.differences} <= covered
            for action in plan.actions:
                assert action.id == f"{step.key}:{action.verb}"
                assert action.key == step.key
                assert action.because.text
                assert all(item in step.differences for item in action.differences)
                assert set(action.needs) <= {one.id for one in plan.actions}
                assert (action.undo is None) == (action.verb in case.irreversible) or not action.differences

    async def test_what_travels_is_json_without_secrets(self, case: Case) -> None:
        seen = await look(case, case.desired)
        texts = [repr(seen)]
        for action in seen.actions:
            data = json.dumps(dict(action.arguments))
            assert json.loads(data) == _plain(action.arguments)
            undo = json.dumps(dict(action.undo.arguments)) if action.undo else ""
            for item in action.differences:
                for value in (item.desired, item.observed, item.last_applied):
                    assert same(decode(json.loads(json.dumps(encode(value)))), value)
                    texts.append(json.dumps(public(value)))
            texts += [data, undo, repr(action), *(one.text for one in action.consequences)]
        texts += [json.dumps(one.shown) for one in seen.observations]
        for canary in case.canaries:
            assert not any(canary in text for text in texts)

    async def test_applying_reaches_the_state_and_twice_is_harmless(self, case: Case) -> None:
        seen = await look(case, case.desired)
        applied = await carry_out(case, seen)
        assert (await look(case, case.desired, applied)).converged
        reached = snapshot(case.root)
        resources = {one.key: one.resource for one in seen.wanted}
        for action in seen.actions:
            await case.kind.apply(action, resources[action.key], case.world)
        assert (await look(case, case.desired, applied)).converged
        assert snapshot(case.root).keys() == reached.keys()
        # Without a journal the same world is converged all the same: nothing is planned from memory alone.
        assert (await look(case, case.desired)).converged

    async def test_a_moved_precondition_is_noticed(self, case: Case) -> None:
        if case.move is None:
            return
        seen = await look(case, case.desired)
        resources = {one.key: one.resource for one in seen.wanted}
        case.move()
        moved = snapshot(case.root)
        for action in seen.actions:
            if not action.differences:
                continue
            with pytest.raises(StaleError):
                await case.kind.apply(action, resources[action.key], case.world)
        # The directory's own times may move by a temporary file that came and went.
        assert _files(snapshot(case.root)) == _files(moved)

    async def test_undo_brings_back(self, case: Case) -> None:
        seen = await look(case, case.desired)
        applied = await carry_out(case, seen)
        for action in reversed(seen.actions):
            if action.undo is not None:
                back = replace(
                    action,
                    verb=action.undo.verb,
                    arguments=json.loads(json.dumps(dict(action.undo.arguments))),
                    precondition=None,
                    differences=(),
                )
                await case.kind.apply(back, None, case.world)
        again = await look(case, case.desired, applied)
        gone = {item.path for action in seen.actions if action.undo is None for item in action.differences}
        for key, fields in fields_of(seen).items():
            kept = {path: value for path, value in fields.items() if path not in gone}
            assert agree(kept, fields_of(again)[key])

    async def test_withdrawal_leads_back(self, case: Case) -> None:
        seen = await look(case, case.desired)
        applied = await carry_out(case, seen)
        back = await look(case, case.withdrawn, applied)
        assert bool(back.actions) == case.gives_back
        await carry_out(case, back)
        after = await look(case, case.withdrawn, applied)
        assert after.converged
        if case.gives_back:
            for key, fields in fields_of(seen).items():
                assert agree(fields, fields_of(after)[key])

    async def test_cancelled_at_any_checkpoint_the_next_plan_converges(self, tmp_path: Path) -> None:
        for steps in range(1, MOST_CHECKPOINTS):
            directory = tmp_path / str(steps)
            directory.mkdir()
            case = self.make(directory)
            with closing(_Closer(case)):
                if not await self._converges_after(case, steps):
                    return
        raise AssertionError(f"an apply passed more than {MOST_CHECKPOINTS} checkpoints")

    async def _converges_after(self, case: Case, steps: int) -> bool:
        """Whether the nth checkpoint was reached in any action; asserts that the state converges from there."""
        seen = await look(case, case.desired)
        resources = {one.key: one.resource for one in seen.wanted}
        # What ran before the cancelled action is done, what comes after it never began.
        reached = False
        for action in seen.actions:
            reached = await cancelled_at(steps, case, action, resources[action.key])
            if reached:
                break
        for _ in range(2):
            again = await look(case, case.desired)
            if again.converged:
                break
            await carry_out(case, again)
        assert (await look(case, case.desired)).converged, f"cancelled at checkpoint {steps}"
        return reached

    async def test_probing_answers_for_good_and_for_bad(self, case: Case) -> None:
        seen = await look(case, case.desired)
        for one in seen.wanted:
            assert one.resource is not None
            health = await case.kind.probe(one.key, one.resource, case.world)
            assert health.ready or (health.reason and health.message)
        await carry_out(case, seen)
        for one in seen.wanted:
            assert one.resource is not None
            assert (await case.kind.probe(one.key, one.resource, case.world)).ready

    async def test_watching_ends_with_its_cancellation(self, case: Case) -> None:
        reports: list[Key] = []
        with trio.move_on_after(0.05):
            await case.kind.watch(case.world, reports.append)
        assert all(key.kind == case.kind.name for key in reports)


class _Closer:
    def __init__(self, case: Case) -> None:
        self._case = case

    def close(self) -> None:
        self._case.close()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _files(listing: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {path: status for path, status in listing.items() if not path.endswith("/.")}
