"""The logs kind on real directories: what it lists, what it takes, and what it never touches."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from zstandard import ZstdDecompressor

from reconciler.desired import Desired, Logging, Retention
from reconciler.errors import StaleError
from reconciler.kinds import World
from reconciler.model import Action, Impact
from resources.logs import directory as shell
from resources.logs.kind import LogsKind
from resources.testing import make_desired, make_world
from tests.beds.processes import Spawned, wait_until
from tests.beds.small_disk import run_on_small_disk
from tests.resources.contract import Case, KindContract, carry_out, look, snapshot


def logging(
    directory: Path | str | None,
    *,
    age: float | None = None,
    total: int | None = None,
    files: int | None = None,
    compress: float | None = None,
) -> Logging:
    return Logging(
        level=None,
        console_level=None,
        console_style=None,
        redact=None,
        redact_patterns=None,
        directory=None if directory is None else str(directory),
        max_file_bytes=None,
        retention=Retention(age_seconds=age, total_bytes=total, files=files, compress_after_seconds=compress),
    )


def write(directory: Path, name: str, *, age: float, size: int = 100, data: bytes | None = None) -> Path:
    path = directory / name
    path.write_bytes(b"x" * size if data is None else data)
    path.chmod(0o640)
    at = time.time() - age
    os.utime(path, (at, at))
    return path


def make_case(directory: Path, desired: Logging) -> Case:
    return Case(kind=LogsKind(), world=make_world(directory), desired=make_desired(logging=desired), root=directory)


def names(logs: Path) -> set[str]:
    return {path.name for path in logs.iterdir()}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    path = tmp_path / "logs"
    path.mkdir()
    return path


class TestLogsContract(KindContract):
    def make(self, directory: Path) -> Case:
        logs = directory / "logs"
        logs.mkdir()
        write(logs, "openclaw-2026-01-01.log", age=90_000)
        write(logs, "openclaw-2026-01-02.log", age=40_000, data=b"line\n" * 1000)
        write(logs, "openclaw-2026-01-02.log.1", age=50_000)
        write(logs, "openclaw-2026-01-03.log", age=1)
        write(logs, ".openclaw-2026-01-01.log.zst.tmp", age=1)
        write(logs, "foreign.log", age=1_000_000)

        def swap() -> None:
            logs.rename(directory / "moved")
            (directory / "elsewhere").mkdir()
            write(directory / "elsewhere", "openclaw-2026-01-01.log", age=90_000)
            logs.symlink_to(directory / "elsewhere")

        return Case(
            kind=LogsKind(),
            world=make_world(directory),
            desired=make_desired(logging=logging(logs, age=80_000, compress=20_000)),
            root=directory,
            move=swap,
            irreversible=frozenset({"prune"}),
            gives_back=False,
        )


@pytest.mark.req("LOG-3", "PLAN-16")
async def test_a_prune_lists_files_and_bytes_and_takes_exactly_those(tmp_path: Path, logs: Path) -> None:
    write(logs, "openclaw-2026-01-01.log", age=300, size=1000)
    write(logs, "openclaw-2026-01-02.log", age=200, size=2000)
    write(logs, "openclaw-2026-01-03.log", age=20)
    write(logs, "openclaw-2026-01-04.log", age=10)
    case = make_case(tmp_path, logging(logs, age=100))
    seen = await look(case, case.desired)
    (action,) = seen.actions
    assert (action.verb, action.impact, action.undo) == ("prune", Impact.NONE, None)
    assert {item.what: item.amount for item in action.consequences} == {"files_deleted": 2, "bytes_freed": 3000}
    assert "openclaw-2026-01-01.log, openclaw-2026-01-02.log" in action.consequences[0].text
    assert action.because.text == "2 files past the age"
    listed = action.arguments["files"]
    status = (logs / "openclaw-2026-01-01.log").stat()
    assert listed[0] == ["openclaw-2026-01-01.log", status.st_dev, status.st_ino, 1000, status.st_mtime_ns]
    await carry_out(case, seen)
    assert names(logs) == {"openclaw-2026-01-03.log", "openclaw-2026-01-04.log"}


@pytest.mark.req("LOG-3")
async def test_nothing_but_our_own_unused_files_is_ever_a_candidate(
    tmp_path: Path, logs: Path, spawned: Spawned
) -> None:
    outside = write(tmp_path, "openclaw-2026-01-01.log", age=9000)
    (logs / "openclaw-2026-01-01.log").symlink_to(outside)
    linked = write(tmp_path, "linked", age=9000)
    (logs / "openclaw-2026-01-02.log").hardlink_to(linked)
    (logs / "openclaw-2026-01-03.log").mkdir()
    os.mkfifo(logs / "openclaw-2026-01-04.log")
    write(logs, "foreign-2026-01-01.log", age=9000)
    write(logs, "gateway.out.log", age=9000)
    today = write(logs, time.strftime("openclaw-%Y-%m-%d.log"), age=9000)
    newest = write(logs, "openclaw-2026-01-06.log", age=8000)
    used = write(logs, "openclaw-2026-01-05.log", age=9500)
    holder = spawned.start(["tail", "-f", used])
    wait_until(lambda: str(used) in _open_files(holder.pid), 5, "tail to open the file")
    before = snapshot(tmp_path)
    case = make_case(tmp_path, logging(logs, age=100, total=0, files=0, compress=0))
    seen = await look(case, case.desired)
    assert seen.converged
    assert snapshot(tmp_path).keys() - {str(tmp_path / "state")} >= before.keys() - {str(tmp_path / "state")}
    assert {today.name, newest.name, used.name} <= names(logs)
    gone = write(logs, "openclaw-2026-01-07.log", age=9001)
    await carry_out(case, await look(case, case.desired))
    assert not gone.exists()
    assert {today.name, newest.name, used.name, "openclaw-2026-01-01.log", "openclaw-2026-01-02.log"} <= names(logs)
    assert outside.exists()
    assert linked.exists()


def _open_files(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        # A program that is just starting opens and closes some.
        with suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found


@pytest.mark.req("LOG-3")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_others_are_left_alone_unless_we_are_root(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = write(logs, "openclaw-2026-01-01.log", age=1)
    os.chown(theirs, 12345, 12345)
    with shell.opened(str(logs)) as descriptor:
        assert [file.name for file in shell.listed(descriptor)[0]] == [theirs.name]
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert shell.listed(descriptor)[0] == []


@pytest.mark.req("LOG-3")
@pytest.mark.parametrize("how", ["written", "replaced", "link", "opened"])
async def test_a_file_that_moved_since_the_plan_is_skipped(
    tmp_path: Path, logs: Path, how: str, spawned: Spawned
) -> None:
    path = write(logs, "openclaw-2026-01-01.log", age=300)
    other = write(logs, "openclaw-2026-01-02.log", age=250)
    write(logs, "openclaw-2026-01-03.log", age=1)
    case = make_case(tmp_path, logging(logs, age=100))
    seen = await look(case, case.desired)
    match how:
        case "written":
            with path.open("a") as file:
                file.write("more\n")
        case "replaced":
            path.rename(tmp_path / "kept")
            write(logs, path.name, age=300)
        case "link":
            path.unlink()
            path.symlink_to(write(tmp_path, "outside", age=300))
        case _:
            holder = spawned.start(["tail", "-f", path])
            wait_until(lambda: str(path) in _open_files(holder.pid), 5, "tail to open the file")
    (action,) = seen.actions
    told = await case.kind.apply(action, None, case.world)
    assert told == "1 file stays as it is, opened or changed since the plan: openclaw-2026-01-01.log"
    assert path.exists()
    assert not other.exists()


@pytest.mark.req("LOG-3")
async def test_a_file_that_is_gone_since_the_plan_is_nothing_to_tell(tmp_path: Path, logs: Path) -> None:
    gone = write(logs, "openclaw-2026-01-01.log", age=300)
    write(logs, "openclaw-2026-01-02.log", age=1)
    case = make_case(tmp_path, logging(logs, age=100))
    (action,) = (await look(case, case.desired)).actions
    gone.unlink()
    assert await case.kind.apply(action, None, case.world) is None


@pytest.mark.req("LOG-3")
async def test_a_compression_tells_what_stays_as_it_is(tmp_path: Path, logs: Path) -> None:
    written = write(logs, "openclaw-2026-01-01.log", age=300)
    write(logs, "openclaw-2026-01-02.log", age=250)
    write(logs, "openclaw-2026-01-03.log", age=1)
    case = make_case(tmp_path, logging(logs, compress=100))
    (action,) = (await look(case, case.desired)).actions
    written.write_text("more")
    told = await case.kind.apply(action, None, case.world)
    assert told == "1 file stays as it is, opened or changed since the plan: openclaw-2026-01-01.log"
    assert names(logs) == {"openclaw-2026-01-01.log", "openclaw-2026-01-02.log.zst", "openclaw-2026-01-03.log"}


@pytest.mark.req("LOG-3")
async def test_names_in_an_action_that_are_not_ours_are_never_followed(tmp_path: Path, logs: Path) -> None:
    victim = write(tmp_path, "victim", age=300)
    write(logs, "openclaw-2026-01-01.log", age=300)
    write(logs, "openclaw-2026-01-02.log", age=1)
    case = make_case(tmp_path, logging(logs, age=100))
    (action,) = (await look(case, case.desired)).actions
    status = victim.stat()
    forged = ["../victim", status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
    await case.kind.apply(_with_files(action, [forged]), None, case.world)
    assert victim.exists()


def replace_by_link(path: Path, moved: Path) -> None:
    path.rename(moved)
    path.symlink_to(moved)


def _with_files(action: Action, files: list[list[object]]) -> Action:
    return replace(action, arguments={**action.arguments, "files": files})


@pytest.mark.req("LOG-3")
async def test_a_link_in_place_of_the_directory_is_never_followed(tmp_path: Path, logs: Path) -> None:
    write(logs, "openclaw-2026-01-01.log", age=300)
    write(logs, "openclaw-2026-01-02.log", age=1)
    case = make_case(tmp_path, logging(logs, age=100))
    seen = await look(case, case.desired)
    replace_by_link(logs, tmp_path / "real")
    with pytest.raises(StaleError, match="since the plan"):
        await carry_out(case, seen)
    assert len(names(tmp_path / "real")) == 2
    again = await look(case, case.desired)
    assert "link" in (again.observations[0].unknown or "")
    assert not again.actions


@pytest.mark.req("LOG-2")
async def test_a_compressed_file_holds_the_same_with_mode_and_time(tmp_path: Path, logs: Path) -> None:
    data = os.urandom(1000) + b"line\n" * 1_000_000
    path = write(logs, "openclaw-2026-01-01.log", age=300, data=data)
    write(logs, "openclaw-2026-01-02.log", age=1)
    before = path.stat()
    case = make_case(tmp_path, logging(logs, compress=100))
    seen = await look(case, case.desired)
    (action,) = seen.actions
    assert action.verb == "compress"
    await carry_out(case, seen)
    packed = logs / "openclaw-2026-01-01.log.zst"
    assert names(logs) == {packed.name, "openclaw-2026-01-02.log"}
    assert ZstdDecompressor().stream_reader(packed.read_bytes()).read() == data
    after = packed.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert after.st_size < 10_000


@pytest.mark.req("LOG-2")
@pytest.mark.parametrize("other", ["older", "foreign", "link"])
async def test_what_has_the_name_of_the_compressed_file_stays_and_so_does_the_file(
    tmp_path: Path, logs: Path, other: str
) -> None:
    """A part of that name that was compressed before holds other lines: they are nowhere else."""
    path = write(logs, "openclaw-2026-01-01.log.1", age=300, data=b"new\n")
    write(logs, "openclaw-2026-01-02.log", age=1)
    packed = logs / f"{path.name}.zst"
    if other == "link":
        packed.symlink_to("nowhere")
    else:
        write(logs, packed.name, age=400 if other == "older" else 10, data=b"old\n")
    case = make_case(tmp_path, logging(logs, compress=100))
    seen = await look(case, case.desired)
    assert not seen.actions, "it would be planned for ever"
    with shell.opened(str(logs)) as descriptor:
        files = [file for file in shell.listed(descriptor)[0] if file.name == path.name]
        shell.compress(descriptor, files, lambda: None)
    assert path.read_bytes() == b"new\n"
    assert packed.is_symlink() if other == "link" else packed.read_bytes() == b"old\n"


@pytest.mark.req("LOG-2")
async def test_what_a_killed_compression_made_is_made_again_in_its_place(tmp_path: Path, logs: Path) -> None:
    path = write(logs, "openclaw-2026-01-01.log", age=300, data=b"line\n")
    write(logs, "openclaw-2026-01-02.log", age=1)
    packed = logs / f"{path.name}.zst"
    packed.write_bytes(b"its making")
    os.utime(packed, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    case = make_case(tmp_path, logging(logs, compress=100))
    await carry_out(case, await look(case, case.desired))
    assert not path.exists()
    assert ZstdDecompressor().stream_reader(packed.read_bytes()).read() == b"line\n"


@pytest.mark.req("LOG-2")
def test_a_file_that_is_written_while_it_is_compressed_stays(tmp_path: Path, logs: Path) -> None:
    path = write(logs, "openclaw-2026-01-01.log", age=300, data=b"line\n" * 1_000_000)
    write(logs, "openclaw-2026-01-02.log", age=1)
    with shell.opened(str(logs)) as descriptor:
        files = [file for file in shell.listed(descriptor)[0] if file.name == path.name]
        calls = []

        def append() -> None:
            calls.append(1)
            if len(calls) == 2:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
                os.write(descriptor, b"more\n")
                os.close(descriptor)

        shell.compress(descriptor, files, append)
    assert len(calls) > 1
    assert names(logs) == {path.name, "openclaw-2026-01-02.log"}
    assert path.read_bytes().endswith(b"more\n")


async def test_a_compression_that_is_cancelled_leaves_the_file_and_no_part(tmp_path: Path, logs: Path) -> None:
    path = write(logs, "openclaw-2026-01-01.log", age=300, data=os.urandom(8 << 20))
    write(logs, "openclaw-2026-01-02.log", age=1)
    case = make_case(tmp_path, logging(logs, compress=100))
    seen = await look(case, case.desired)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry_out, case, seen)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert path.exists()
    assert names(logs) == {path.name, "openclaw-2026-01-02.log"}


@pytest.mark.req("LOG-2")
async def test_total_size_and_number_are_limits_too(tmp_path: Path, logs: Path) -> None:
    for day in range(1, 6):
        write(logs, f"openclaw-2026-01-0{day}.log", age=100 - day, size=1000)
    case = make_case(tmp_path, logging(logs, total=2500))
    await carry_out(case, await look(case, case.desired))
    assert names(logs) == {"openclaw-2026-01-04.log", "openclaw-2026-01-05.log"}
    case = make_case(tmp_path, logging(logs, files=1))
    await carry_out(case, await look(case, case.desired))
    assert names(logs) == {"openclaw-2026-01-05.log"}


@pytest.mark.real
@pytest.mark.req("LOG-2", "LOG-3")
def test_on_a_full_disk_the_prune_runs_and_a_compression_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = run_on_small_disk(4, disk, [sys.executable, "-m", "tests.resources.logs.full_disk", disk])
    assert done.returncode == 0, done.stderr
    assert not any(disk.iterdir()), "the mount must be seen by that program only"


async def test_what_a_look_costs_grows_with_the_files_and_no_faster(logs: Path, tmp_path: Path) -> None:
    """In this process's own work, each at its best of three: what else the machine does must not decide."""
    case = make_case(tmp_path, logging(logs, age=100))

    async def cost() -> float:
        costs = []
        for _ in range(3):
            began = time.process_time()
            await look(case, case.desired)
            costs.append(time.process_time() - began)
        return min(costs)

    for number in range(1_000):
        write_fast(logs / f"openclaw-2026-01-{number % 28 + 1:02}.log.{number}")
    few = await cost()
    for number in range(1_000, 10_000):
        write_fast(logs / f"openclaw-2026-01-{number % 28 + 1:02}.log.{number}")
    # Ten times as many; what grew by their square would cost a hundred times as much.
    assert await cost() < 30 * few
    seen = await look(case, case.desired)
    assert len(seen.actions[0].arguments["files"]) == 9_999
    await carry_out(case, seen)
    assert len(names(logs)) == 1


def write_fast(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.utime(path, (1_600_000_000, 1_600_000_000))


def declared(directory: str | None, tmp_path: Path, environ: dict[str, str] | None = None) -> tuple[World, Desired]:
    return make_world(tmp_path, environ=environ), make_desired(logging=logging(directory, age=1))


@pytest.mark.parametrize(
    ("text", "place"),
    [(None, "state/logs"), ("~/l", "l"), ("${WHERE}/l", "w/l"), ("l", "state/l"), ("/abs", None)],
)
def test_where_the_directory_is(tmp_path: Path, text: str | None, place: str | None) -> None:
    world, desired = declared(text, tmp_path, {"WHERE": str(tmp_path / "w")})
    (resource,) = LogsKind().declare(desired, world.host, world.secrets)
    assert resource.spec.directory == (str(tmp_path / place) if place else "/abs")


async def test_an_unset_variable_in_the_directory_is_said(tmp_path: Path) -> None:
    world, desired = declared("${NOWHERE}/logs", tmp_path)
    case = Case(kind=LogsKind(), world=world, desired=desired, root=tmp_path)
    (observation,) = (await look(case, desired)).observations
    assert observation.unknown == "cannot find the log directory: 'NOWHERE' is not set"


async def test_a_directory_that_is_not_there_yet_has_nothing_to_do(tmp_path: Path) -> None:
    case = make_case(tmp_path, logging(tmp_path / "none", age=1, compress=1))
    seen = await look(case, case.desired)
    assert seen.converged
    assert seen.observations[0].shown["files"] == 0


@pytest.mark.req("LOG-3", "PLAN-12")
async def test_a_directory_that_cannot_be_read_is_not_ready_and_condemns_no_document(tmp_path: Path) -> None:
    case = make_case(tmp_path, logging("/dev/null", age=60))
    (resource,) = case.kind.declare(case.desired, case.world.host, case.world.secrets)
    health = await case.kind.probe(resource.key, resource, case.world)
    assert (health.ready, health.reason, health.lagging) == (False, "Unreadable", True)
