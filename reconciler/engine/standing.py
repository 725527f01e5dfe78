"""How a document stands by the journal: new or in force, proven or never seen to serve, held back. Synchronous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.engine.goal import Goal, is_named
from reconciler.engine.requests import Request
from reconciler.errors import BlockedError
from reconciler.journal import UNDECIDED, Journal, Quarantined
from reconciler.model import Generation, Result


def is_document(goal: Goal, request: Request) -> bool:
    """Whether what is asked for is the document as it is now: neither a generation, nor what is kept while it cannot be had."""
    return goal.document is not None and request.cause != "drift"


def is_to_release(journal: Journal, goal: Goal, request: Request) -> bool:
    """Whether something that is held back is so no longer once `goal` is in force."""
    if any(goal.is_named(held.digest) for held in journal.quarantines()):
        return True
    return is_document(goal, request) and bool(journal.superseded())


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """What is held back, and the generation that a person goes back to instead (0: that is done)."""

    quarantined: tuple[Quarantined, ...]
    going_back: int


def settle_holds(journal: Journal, goal: Goal, request: Request, at: float) -> None:
    """What is held back from now on, when `request` leads to `goal`, and what is so no longer; in one commit.

    With the hold stands where a person goes back to: whoever dies before that is in force leaves a journal that says where to go.
    """
    with journal.transaction():
        over: list[str] = []
        if request.approvals.person:
            # They mean it, whether they ask for it as a document or as a generation.
            over += [held.digest for held in journal.quarantines() if goal.is_named(held.digest)]
        if is_document(goal, request):
            # What a person went back from is held back until the document changes, as it has. Who saves it again means it.
            over += [held.digest for held in journal.superseded()]
        _release(journal, over)
        if request.holds_back is not None:
            _hold_back(journal, *request.holds_back, at)
        if over or request.holds_back is not None or is_document(goal, request):
            present = journal.in_force()
            is_there = present is not None and present.digest == goal.digest
            journal.set_going_back(0 if is_there else request.goes_back_to)


def holds(journal: Journal) -> Holds:
    """All that is held back."""
    return Holds(quarantined=journal.quarantines(), going_back=journal.going_back)


def put_back(journal: Journal, names: Sequence[str], before: Holds) -> None:
    """Makes all as it was `before` a wish of which nothing was done, which held back by `names`; in one commit."""
    with journal.transaction():
        _hold_again(journal, names, before.quarantined)
        journal.set_going_back(before.going_back)


def let_go(journal: Journal, names: Sequence[str], before: Sequence[Quarantined]) -> None:
    """Lets go of what is held back by `names`, where what was to take its place did not, and holds back again what was so
    `before`; but nothing that is in force.
    """
    with journal.transaction():
        present = journal.in_force()
        own = of_one_hold(before, present) if present is not None else ()
        _hold_again(journal, names, [held for held in before if held not in own])


def of_one_hold(held: Sequence[Quarantined], generation: Generation) -> tuple[Quarantined, ...]:
    """What of `held` is held back together with the document of `generation`: by all its names, of which one has the secrets of
    then.
    """
    found = {(each.reason, each.at) for each in held if is_named(generation, each.digest)}
    return tuple(each for each in held if (each.reason, each.at) in found)


def led_to(journal: Journal) -> Generation | None:
    """What is to be in force where the document is not: what a person goes back to, or what is in force."""
    return journal.generation(journal.going_back) or journal.in_force()


def _hold_again(journal: Journal, names: Sequence[str], before: Sequence[Quarantined]) -> None:
    _release(journal, names)
    for held in before:
        journal.quarantine(held.digest, held.reason, held.run_id, held.at)


def _hold_back(journal: Journal, names: Sequence[str], reason: str, at: float) -> None:
    """Holds a document back by the word of a person. What was seen to fail stays known as that, however often they go back."""
    failed = {held.digest for held in journal.quarantines() if held.run_id}
    for name in names:
        if name not in failed:
            journal.quarantine(name, reason, "", at)


def _release(journal: Journal, names: Sequence[str]) -> None:
    if names:
        journal.release(*names)


def is_nobodys(journal: Journal, number: int) -> bool:
    """Whether a generation was recorded without a person's word, and still waits to be named by a commit."""
    generation = journal.generation(number)
    return generation is not None and generation.author is None and generation.commit is None


def is_new(journal: Journal, digest: str) -> bool:
    """Whether the document with this digest is another one than that in force."""
    confirmed, last = journal.last_confirmed(), journal.last_generation()
    if last is not None and last.result in UNDECIDED:
        return True
    if last is not None and last.result is Result.SUPERSEDED and last.digest != digest:
        # The host was led elsewhere in between.
        return True
    return confirmed is None or confirmed.digest != digest


def is_unknown(journal: Journal, digest: str) -> bool:
    """Whether neither the generation in force nor one that is being tried is of the document with this digest."""
    confirmed, last = journal.last_confirmed(), journal.last_generation()
    tried = last if last is not None and last.result in UNDECIDED else None
    return all(generation is None or generation.digest != digest for generation in (confirmed, tried))


def is_unproven(journal: Journal, run: str = "") -> bool:
    """Whether what the newest generation did, or the newest run (before `run`), was never seen to serve to the end of its window:
    as far as this journal knows, which knows nothing of what it lost.
    """
    if journal.history_lost is not None:
        return True
    last = journal.last_generation()
    seen = (Result.CONFIRMED, Result.ROLLED_BACK)
    # What a run did that died on its way was seen by nobody, and has no generation of its own.
    newest = next((each for each in journal.runs(2) if each.id != run), None)
    died = newest is not None and newest.state is Result.INTERRUPTED
    # What a person keeps from serving has its window once it is started.
    return died or (last is not None and last.result not in (*seen, Result.UNCONFIRMED))


def is_spoilt(journal: Journal) -> bool:
    """Whether the newest generation is one that could not be taken back."""
    last = journal.last_generation()
    return last is not None and last.result is Result.ROLLBACK_FAILED


def is_failed(journal: Journal, digest: str) -> bool:
    """Whether the newest generation is of the document with this digest, and was sick in its window."""
    last = journal.last_generation()
    return last is not None and last.digest == digest and last.result is Result.FAILED


def nothing_instead(journal: Journal) -> BlockedError:
    """Why a document is not applied that is held back while no generation is known that could be kept in force instead."""
    lost = journal.history_lost is not None
    before = "the history of what was before it is lost" if lost else "no generation was ever confirmed"
    return BlockedError(
        f"cannot apply: the document is held back, and {before}: what was applied last is kept up as it is",
        hint="correct the document; `openclaw apply` tries this one again",
    )
