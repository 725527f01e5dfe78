"""A keeper whose files were deleted, damaged or exchanged: what runs is found without them, and is never started twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.processes import Spawned, argv_of, processes_of_state
from tests.resources.service.beds import DEADLINE, Bed, kill

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]

SLEEP = ["sleep", "1000"]


@pytest.fixture
def bed(state: Path, spawned: Spawned) -> Bed:
    return Bed(state, spawned)


def copies(bed: Bed, word: str = "1000") -> list[int]:
    """The children of this state that run."""
    return sorted(found.pid for found in processes_of_state(bed.state) if word in " ".join(argv_of(found.pid)))


def children(bed: Bed) -> Path:
    return bed.state / "reconciler/keeper/children"


def without_lock(bed: Bed) -> None:
    for name in ("lock", "keeper.sock"):
        (children(bed).parent / name).unlink()


def another_directory(bed: Bed) -> None:
    """The same files, and none of them the one that the keeper has open."""
    directory = children(bed).parent
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(directory)
    copy.rename(directory)


def an_empty_directory(bed: Bed) -> None:
    directory = children(bed).parent
    shutil.rmtree(directory)
    directory.mkdir(mode=0o700)


LOSSES = [without_lock, another_directory, an_empty_directory]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_keeper_without_its_lock_lets_go_when_its_child_ends_and_starts_nothing(
    bed: Bed, lose: Callable[[Bed], None]
) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    lose(bed)
    left = {path: path.read_bytes() for path in children(bed).glob("*")}
    kill(child["pid"])
    assert keeper.wait(DEADLINE) == 0
    assert copies(bed) == []
    assert "lets go" in bed.log().splitlines()[-1]
    assert {path: path.read_bytes() for path in children(bed).glob("*")} == left


@pytest.mark.parametrize("lose", LOSSES[:2])
def test_a_keeper_without_its_lock_leaves_the_child_to_its_successor(bed: Bed, lose: Callable[[Bed], None]) -> None:
    first = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
        lose(bed)
        second = bed.keeper()
        with bed.client() as other:
            assert bed.up(other, bed.spec(SLEEP))["pid"] == child["pid"]
        # Asked something it finds that it holds nothing any more.
        with pytest.raises((EOFError, ConnectionResetError)):
            client.ok("status")
    assert first.wait(DEADLINE) == 0
    kill(child["pid"])
    after = bed.wait_child("ready", restarts=1)
    assert copies(bed) == [after["pid"]]
    assert bed.holder() == second.pid
