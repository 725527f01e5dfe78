"""The kinds that tests register keep the contract themselves, and are what a thousand resources can be written with."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from reconciler.desired import SecretRef
from reconciler.errors import TemporaryError, TerminalError
from reconciler.kinds import Wanted, World
from reconciler.model import ABSENT, Action, Key
from resources.testing import ChildKind, FakeKind, FakeSecrets, FileKind, child, make_desired, make_world, pid_of
from resources.testing.child import ATTEMPT, start_time
from tests.beds.pace import slowness
from tests.beds.processes import Spawned
from tests.resources.contract import Case, KindContract, carry_out, look


class TestFileContract(KindContract):
    def make(self, directory: Path) -> Case:
        world = make_world(directory)
        present = directory / "present"
        present.write_text("mine")
        present.chmod(0o640)
        files = {
            "new": {"path": str(directory / "deep" / "new"), "content": "a\n", "needs": ["present"]},
            "present": {"path": str(present), "content": "b", "mode": "0600"},
            "mode": {"path": str(directory / "mode"), "content": "", "mode": "0400"},
        }
        (directory / "mode").touch()
        (directory / "deep").mkdir()

        def move() -> None:
            for path in (present, directory / "deep" / "new", directory / "mode"):
                path.write_text("theirs")

        return Case(
            kind=FileKind(),
            world=world,
            desired=make_desired(extra={"x-files": files}),
            root=directory,
            move=move,
        )


class TestFakeContract(KindContract):
    def make(self, directory: Path) -> Case:
        kind = FakeKind(state={"b": {"old": 1}})
        fakes = {"a": {"fields": {"x": [1, {"y": True}], "z": None}}, "b": {"fields": {"old": 2}, "needs": ["a"]}}
        return Case(
            kind=kind,
            world=make_world(directory),
            desired=make_desired(extra={"x-fakes": fakes}),
            root=directory,
            move=lambda: kind.state.update(a={"x": 7}, b={"old": 7}),
        )


@pytest.mark.real
class TestChildContract(KindContract):
    def make(self, directory: Path) -> Case:
        world = make_world(directory)
        children = {"one": {"argv": ["sleep", "1000"]}, "two": {"argv": ["sleep", "1001"]}, "off": {"state": "stopped"}}
        return Case(
            kind=ChildKind(),
            world=world,
            desired=make_desired(extra={"x-children": children}),
            root=directory,
            close=lambda: end_children(world, "one", "two"),
        )


def end_children(world: World, *names: str) -> None:
    for name in names:
        if pid := pid_of(world.host, name):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


async def test_a_thousand_files_are_observed_fast(tmp_path: Path) -> None:
    """Far below 0.3 s, so that a cold plan of a thousand resources can be."""
    files = {f"f{n}": {"path": str(tmp_path / f"f{n}"), "content": f"{n}"} for n in range(1000)}
    for n in range(1000):
        (tmp_path / f"f{n}").write_text(f"{n}")
        (tmp_path / f"f{n}").chmod(0o644)
    case = Case(
        kind=FileKind(), world=make_world(tmp_path), desired=make_desired(extra={"x-files": files}), root=tmp_path
    )
    began = time.perf_counter()
    seen = await look(case, case.desired)
    assert time.perf_counter() - began < 0.3 * slowness(time.perf_counter)
    assert seen.converged


async def test_a_file_moved_by_the_document_gives_its_former_place_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before us")
    first = make_desired(extra={"x-files": {"f": {"path": str(tmp_path / "a"), "content": "ours"}}})
    second = make_desired(extra={"x-files": {"f": {"path": str(tmp_path / "b"), "content": "ours"}}})
    case = Case(kind=FileKind(), world=make_world(tmp_path), desired=first, root=tmp_path)
    applied = await carry_out(case, await look(case, first))
    await carry_out(case, await look(case, second, applied))
    assert (tmp_path / "a").read_text() == "before us"
    assert (tmp_path / "b").read_text() == "ours"


@pytest.mark.parametrize("trouble", ["directory", "link", "binary"])
async def test_what_is_no_text_file_is_unknown_and_nothing_is_planned(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "it"
    match trouble:
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("/etc/passwd")
        case _:
            path.write_bytes(b"\xff\xfe")
    desired = make_desired(extra={"x-files": {"f": {"path": str(path), "content": "x"}}})
    seen = await look(Case(kind=FileKind(), world=make_world(tmp_path), desired=desired, root=tmp_path), desired)
    assert "it" in (seen.observations[0].unknown or "")
    assert not seen.actions


async def test_a_missing_directory_is_made_and_a_refused_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    desired = make_desired(extra={"x-files": {"f": {"path": str(tmp_path / "plain" / "f"), "content": "x"}}})
    case = Case(kind=FileKind(), world=make_world(tmp_path), desired=desired, root=tmp_path)
    seen = await look(case, desired)
    with pytest.raises(TemporaryError, match="cannot create"):
        await carry_out(case, seen)
    assert (tmp_path / "plain").read_text() == ""


@pytest.mark.real
async def test_a_child_is_detached_and_stopped_when_withdrawn(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    desired = make_desired(extra={"x-children": {"one": {"argv": ["sleep", "1000"]}}})
    case = Case(kind=ChildKind(), world=world, desired=desired, root=tmp_path)
    applied = await carry_out(case, await look(case, desired))
    pid = pid_of(world.host, "one")
    assert pid is not None
    assert os.getsid(pid) == pid
    await carry_out(case, await look(case, case.withdrawn, applied))
    assert pid_of(world.host, "one") is None
    assert start_time(pid) == ""


@pytest.mark.real
@pytest.mark.parametrize("second_line", ["", '{"pid": 1'])
async def test_a_start_that_was_cut_off_before_its_record_was_whole_is_found_again_and_not_repeated(
    tmp_path: Path, spawned: Spawned, second_line: str
) -> None:
    world = make_world(tmp_path)
    desired = make_desired(extra={"x-children": {"one": {"argv": ["sleep", "1000"]}}})
    case = Case(kind=ChildKind(), world=world, desired=desired, root=tmp_path)
    world.host.state.run.mkdir(parents=True)
    record = {"attempt": "ab12" * 4, "argv": ["sleep", "1000"]}
    (world.host.state.run / "child-one.json").write_text(f"{json.dumps(record)}\n{second_line}")
    assert (await look(case, desired)).actions
    process = spawned.start(["sleep", "1000"], env={**os.environ, ATTEMPT: "ab12" * 4})
    seen = await look(case, desired)
    assert seen.converged
    assert seen.observations[0].shown == {"pid": process.pid}


@pytest.mark.real
async def test_the_record_of_a_child_is_replaced_once_for_a_start_and_only_grows_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second replacement, killed before its rename, would leave a temporary file that no later write takes away."""
    desired = make_desired(extra={"x-children": {"one": {"argv": ["sleep", "1000"]}}})
    case = Case(kind=ChildKind(), world=make_world(tmp_path), desired=desired, root=tmp_path)
    inodes = []

    def spawn(*arguments: Any) -> int:
        inodes.append((case.world.host.state.run / "child-one.json").stat().st_ino)
        return original(*arguments)

    original = child._spawn
    monkeypatch.setattr(child, "_spawn", spawn)
    applied = await carry_out(case, await look(case, desired))
    assert [(case.world.host.state.run / "child-one.json").stat().st_ino] == inodes
    await carry_out(case, await look(case, case.withdrawn, applied))


@pytest.mark.real
async def test_a_pid_that_another_process_has_now_is_not_ours(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.host.state.run.mkdir(parents=True)
    lines = ({"attempt": "x", "argv": ["sleep", "1000"]}, {"pid": os.getpid(), "start": "1"})
    (world.host.state.run / "child-one.json").write_text("\n".join(map(json.dumps, lines)))
    wanted = Wanted(key=Key("child", "one"), resource=None)
    (observation,) = await ChildKind().observe((wanted,), world)
    assert observation.fields == {"state": "stopped", "argv": ABSENT}


@pytest.mark.real
async def test_a_missing_program_is_said_and_tried_no_more(tmp_path: Path) -> None:
    desired = make_desired(extra={"x-children": {"one": {"argv": ["no-such-program"]}}})
    case = Case(kind=ChildKind(), world=make_world(tmp_path), desired=desired, root=tmp_path)
    with pytest.raises(TerminalError, match="no-such-program"):
        await carry_out(case, await look(case, desired))


async def test_the_hooks_of_the_fake_raise_before_and_after_the_change(tmp_path: Path) -> None:
    async def fail(action: Action) -> None:
        await trio.lowlevel.checkpoint()
        raise TemporaryError(f"cannot {action.verb}: asked to fail")

    kind = FakeKind(before_apply=fail)
    desired = make_desired(extra={"x-fakes": {"a": {"fields": {"x": 1}}}})
    case = Case(kind=kind, world=make_world(tmp_path), desired=desired, root=tmp_path)
    seen = await look(case, desired)
    with pytest.raises(TemporaryError):
        await carry_out(case, seen)
    assert kind.state == {}
    kind.before_apply, kind.after_apply = None, fail
    with pytest.raises(TemporaryError):
        await carry_out(case, seen)
    assert kind.state == {"a": {"x": 1}}


def test_secrets_never_show_themselves() -> None:
    secrets = FakeSecrets({"env:TOKEN": "canary-1"})
    reference = SecretRef("env", "TOKEN")
    assert secrets.reveal(reference) == "canary-1"
    assert "canary-1" not in repr((secrets, secrets.digest(reference)))
    with pytest.raises(TerminalError, match="env:OTHER"):
        secrets.digest(SecretRef("env", "OTHER"))
