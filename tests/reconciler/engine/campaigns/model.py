"""A world in memory that keeps its own account of who wrote what, beside that of the journal, and objects at once.

It is told nothing by the engine: it sees effects, and compares what the journal says of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from reconciler.engine.aftermath import UNDO
from reconciler.errors import TemporaryError, TerminalError
from reconciler.journal import Journal
from reconciler.kinds import Health, Resource, World
from reconciler.model import ABSENT, Action, Condition, Key, Status, Value
from reconciler.values import decode, same
from resources.testing import FakeKind
from tests.reconciler.engine.mortal import Fate

Place: TypeAlias = "tuple[str, str]"

# The value that makes the resource sick which has it.
BAD = "bad"


@dataclass
class Failure:
    """How the next applies of a resource fail: `times` times, before their effect or after it, maybe for good."""

    times: int
    after: bool = False
    for_good: bool = False

    def strike(self, *, after: bool) -> None:
        """Raises where this is the moment."""
        if self.times and self.after is after:
            self.times -= 1
            raise (TerminalError if self.for_good else TemporaryError)("cannot set it: the test says so")


class Witness(FakeKind):
    """A fake kind that watches over what is done to its world.

    Attributes:
        before: what was there before us, by place, as long as the place is ours.
        ours: what we last wrote to a place, or found there as we wanted it.
        theirs: what everybody else last put where; what must be there again once nothing is declared.
        given_back: what our value was where we gave back another, until somebody else writes there.
        regained: what others had written where this process wrote again: one run may have left it to them before the next.
        undone: where a run was taken back, to what was there before us.
        unclear: where an undo of this process may have made something ours again.
        unsettled: where a dead process may have written; the next one has to find out.
        unsure: those of them where nothing was ours before.
        failures: which resources fail, and how.
        sick: which resources are not well, whatever their fields say.
        resting: which resources a person keeps from serving, so that nothing can be seen of them.
        well: True where even a bad value makes nobody sick.
        fate: that of the process which lives now.
        effects: how many there were.
        objection: what was done that must not be: the engine takes whatever a kind raises for a failure of that kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[Place, Value] = {}
        self.ours: dict[Place, Value] = {}
        self.theirs: dict[Place, Value] = {}
        self.given_back: dict[Place, Value] = {}
        self.regained: dict[Place, Value] = {}
        self.undone: set[Place] = set()
        self.unclear: set[Place] = set()
        self.unsettled: set[Place] = set()
        self.unsure: set[Place] = set()
        self.failures: dict[str, Failure] = {}
        self.sick: set[str] = set()
        self.resting: set[str] = set()
        self.well = False
        self.fate = Fate()
        self.effects = 0
        self.objection: AssertionError | None = None

    def value(self, place: Place) -> Value:
        """What is at a place now."""
        return self.state.get(place[0], {}).get(place[1], ABSENT)

    def interfere(self, place: Place, value: Value) -> None:
        """Somebody else writes a value, or removes it."""
        self.theirs[place] = value
        self.given_back.pop(place, None)
        if place in self.unsettled:
            self.undone.discard(place)
        if place in self.unsure and not same(value, self.ours.get(place, ABSENT)):
            # Nobody can know any more that we ever wrote there: what is there from now on was there before us.
            self.before.pop(place, None)
            self.ours.pop(place, None)
        name, path = place
        fields = self.state.setdefault(name, {})
        if value is ABSENT:
            fields.pop(path, None)
        else:
            fields[path] = value
        if not fields:
            del self.state[name]

    async def apply(self, action: Action, resource: Resource | None, world: World) -> None:
        """The effect, unless the resource fails, with a look at what it did."""
        self.fate.step()
        failure = self.failures.get(action.key.name, Failure(0))
        failure.strike(after=False)
        was = {path: self.value((action.key.name, path)) for path in action.arguments["fields"]}
        await FakeKind.apply(self, action, resource, world)
        self.effects += 1
        try:
            self._judge(action, resource, was)
        except AssertionError as err:
            self.objection = self.objection or err
        self.fate.step()
        if failure.times and failure.after:
            # Recorded as failed it may be tried again.
            self.undone.difference_update((action.key.name, path) for path in was)
        failure.strike(after=True)

    def _judge(self, action: Action, resource: Resource | None, was: Mapping[str, Value]) -> None:
        undoing = action.id.endswith(UNDO)
        places = {path: (action.key.name, path) for path in was}
        if not undoing:
            # The undo of a step that failed comes without a look, because the step may have had half of its effect.
            assert any(not same(was[path], self.value(place)) for path, place in places.items()), (
                f"{action.id} was done although everything was so already"
            )
        for path, place in places.items():
            declared = resource is not None and path in resource.fields
            new = decode(action.arguments["fields"][path])
            if undoing:
                self._taken_back(place, was[path], new)
            elif declared:
                self.undone.discard(place)
                if place in self.before and not same(was[path], self.ours[place]):
                    self.regained[place] = was[path]
                self.before.setdefault(place, was[path])
                self.ours[place] = new
            else:
                self._given_back(place, was[path], new)

    def _given_back(self, place: Place, was: Value, new: Value) -> None:
        if place in self.unclear and place not in self.before:
            self.theirs[place] = new
            return
        assert place in self.before, f"{place} was never ours, and was set to {new!r}"
        assert same(was, self.ours[place]), (
            f"{place} was {was!r}, which is not our {self.ours[place]!r}, and was given back"
        )
        assert same(new, self.before[place]), (
            f"{place} was {self.before[place]!r} before us, and was given back as {new!r}"
        )
        self._release(place)

    def _taken_back(self, place: Place, was: Value, new: Value) -> None:
        if place not in self.before:
            # The state before the run comes back, and with it maybe that the place was ours: the journal knows.
            self.unclear.add(place)
        if same(was, new):
            return
        if place not in self.before and place in self.given_back and same(new, self.given_back[place]):
            # The run that is undone had withdrawn it.
            self.before[place], self.ours[place] = was, new
            return
        if place not in self.before:
            assert place not in self.undone, f"{place} was taken back, others wrote there, and it was taken back again"
            # Of a step that failed: it may have had an effect that its fields do not show, and is taken back unseen.
            self.theirs[place] = new
            return
        if same(new, self.before[place]):
            self._release(place)
            self.undone.add(place)
        elif not same(new, self.theirs.get(place, ABSENT)):
            # Else the run had overwritten what is others' anyway, and gives them that back.
            self.ours[place] = new

    def _release(self, place: Place) -> None:
        self.theirs[place] = self.before.pop(place)
        self.given_back[place] = self.ours.pop(place)

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        """Sick are those that the test made sick, and those with a bad value."""
        health = await FakeKind.probe(self, key, resource, world)
        if key.name in self.resting:
            return Health(ready=False, reason="Suspended", message="it rests", excused=True)
        return Health(ready=False, reason="Sick", message="no answer") if self.ails(key.name) else health

    def rest(self, name: str) -> None:
        """A person stops it."""
        self.resting.add(name)
        self.conditions[name] = (
            Condition(type="Suspended", status=Status.TRUE, reason="StoppedByOperator", message="it rests"),
        )

    def wake(self) -> None:
        """Nobody keeps anything from serving any more."""
        self.resting.clear()
        self.conditions.clear()

    def ails(self, name: str) -> bool:
        """Whether a resource is seen not to be well."""
        if name in self.resting:
            return False
        return name in self.sick or (BAD in self.state.get(name, {}).values() and not self.well)

    def compare(self, journal: Journal) -> None:
        """Compares the journal's account with our own, after a process has ended, well or not."""
        if self.objection is not None:
            raise self.objection
        self._compare(journal)
        self.unclear.clear()
        self.regained.clear()

    def _compare(self, journal: Journal) -> None:
        account = {
            (key.name, path): field for key, fields in journal.applied().items() for path, field in fields.items()
        }
        unsettled = self.unsettled = set(_unsettled(journal))
        self.unsure = unsettled - account.keys()
        for place, field in account.items():
            if place in unsettled:
                continue
            # Not written by us, but as we want it: then it is ours from now on.
            before = self.before.setdefault(place, field.former)
            if place in self.regained and same(field.former, self.regained[place]):
                before = self.before[place] = field.former
            assert same(field.former, before), f"{place} was {before!r} before us; the journal says {field.former!r}"
            if same(field.value, self.value(place)):
                self.ours[place] = field.value
            self.ours.setdefault(place, field.value)
        for place in [place for place in self.before if place not in account and place not in unsettled]:
            now = self.value(place)
            assert not same(now, self.ours[place]) or same(now, self.before[place]), (
                f"{place} still has our {now!r}, before us it was {self.before[place]!r}: the journal has forgotten it"
            )
            if same(now, self.before[place]):
                # As it was before us, although others may have been there since.
                self._release(place)
            else:
                del self.before[place], self.ours[place]


def _unsettled(journal: Journal) -> Iterable[Place]:
    """The places of which the next process has to find out whether they were written."""
    for found in journal.open_runs():
        for intent in found.intents:
            yield from ((intent.action.key.name, item.path) for item in intent.action.differences)


def as_declared(
    state: Mapping[str, Mapping[str, Value]], fakes: Mapping[str, Mapping[str, Mapping[str, Value]]]
) -> bool:
    """Whether every declared field has its value."""
    return all(
        same(state.get(name, {}).get(path, ABSENT), value)
        for name, entry in fakes.items()
        for path, value in entry["fields"].items()
    )
