import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.log import DailyFile, Log, log_directory

NOON = time.mktime((2026, 11, 21, 12, 0, 0, 0, 0, -1))


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def make(directory: Path | None, clock: Clock, *, level: str = "info", console: str = "silent", style: str = "compact",
         out: int = 1, err: int = 2, secrets: tuple[str, ...] = ()) -> Log:  # fmt: skip
    log = Log(stdout=out, stderr=err, clock=clock)
    log.configure(level=level, console_level=console, console_style=style, directory=directory, secrets=secrets)
    return log


def lines(directory: Path) -> list[dict[str, object]]:
    (path,) = directory.glob("*.log")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.req("LOG-1", "LOG-2")
def test_lines_have_the_real_products_shape_in_a_private_file_of_the_day(tmp_path: Path) -> None:
    log = make(tmp_path / "logs", Clock())
    log.logger("gateway/ws").warn("closed", code=1008)
    log.logger("gateway").info("plain")
    path = tmp_path / "logs" / "openclaw-2026-11-21.log"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    first, second = lines(tmp_path / "logs")
    assert (first["0"], first["1"], first["2"]) == ('{"subsystem":"gateway/ws"}', {"code": 1008}, "closed")
    assert (second["0"], second["1"]) == ('{"subsystem":"gateway"}', "plain")
    meta = first["_meta"]
    assert isinstance(meta, dict)
    assert (meta["logLevelId"], meta["logLevelName"], meta["parentNames"]) == (4, "WARN", ["openclaw"])
    assert meta["name"] == first["0"]
    assert first["time"] == meta["date"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(NOON))


@pytest.mark.req("LOG-1")
@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("silent", []),
        ("fatal", ["fatal"]),
        ("error", ["fatal", "error"]),
        ("warn", ["fatal", "error", "warn"]),
        ("info", ["fatal", "error", "warn", "info"]),
        ("debug", ["fatal", "error", "warn", "info", "debug"]),
    ],
)
def test_the_level_filters_by_meaning(tmp_path: Path, level: str, written: list[str]) -> None:
    logger = make(tmp_path, Clock(), level=level).logger("x")
    for name in ("fatal", "error", "warn", "info", "debug"):
        getattr(logger, name)(name)
    assert [line["1"] for line in (lines(tmp_path) if written else [])] == written


@pytest.mark.req("LOG-2")
def test_a_moved_or_deleted_file_and_midnight_open_a_new_one(tmp_path: Path) -> None:
    clock = Clock()
    logger = make(tmp_path, clock).logger("x")
    logger.info("one")
    today = tmp_path / "openclaw-2026-11-21.log"
    today.rename(tmp_path / "moved")
    logger.info("two")
    today.unlink()
    logger.info("three")
    clock.now += 12 * 3600
    logger.info("four")
    assert "one" in (tmp_path / "moved").read_text()
    assert json.loads(today.read_text())["1"] == "three"
    assert json.loads((tmp_path / "openclaw-2026-11-22.log").read_text())["1"] == "four"


class FullDisk(DailyFile):
    """A file whose disk is full for a while, torn lines included."""

    full = False

    def _append(self, line: bytes) -> int:
        return super()._append(line[:10]) if self.full else super()._append(line)


@pytest.mark.req("LOG-2")
def test_a_full_disk_loses_lines_and_says_so_once_when_it_has_room_again(tmp_path: Path, pipe: tuple[int, int]) -> None:
    clock = Clock()
    log = make(tmp_path, clock, console="error", err=pipe[1])
    file = log.file = FullDisk(tmp_path, clock=clock)
    logger = log.logger("x")
    logger.info("before")
    file.full = True
    for number in range(3):
        logger.info(f"lost {number}")
    assert log.state() == {"ok": False, "file": str(file.path), "lost": 3, "error": "No space left on device"}
    file.full = False
    logger.info("after")
    texts = file.path.read_text().splitlines()
    assert [json.loads(text)["1"] for text in texts] == [
        "before",
        "log lines were lost: 3 (No space left on device)",
        "after",
    ]
    assert log.state()["ok"]
    said = os.read(pipe[0], 65536).decode().splitlines()
    assert [line.partition("] ")[2] for line in said] == [
        "cannot write the log: No space left on device; lines are lost"
    ]


@pytest.mark.req("LOG-2")
def test_a_line_that_another_process_left_unfinished_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    clock = Clock()
    file = DailyFile(tmp_path, clock=clock)
    file.path.write_bytes(b'{"0":"cut o')
    log = make(tmp_path, clock)
    log.logger("x").info("whole")
    log.logger("x").info("next")
    first, *rest = file.path.read_text().splitlines()
    assert first == '{"0":"cut o'
    assert [json.loads(text)["1"] for text in rest] == ["whole", "next"]


@pytest.mark.req("LOG-2")
def test_a_directory_that_goes_away_comes_back_and_a_link_is_not_followed(tmp_path: Path) -> None:
    log = make(tmp_path / "logs", Clock())
    logger = log.logger("x")
    logger.info("one")
    assert log.file is not None
    log.file.path.unlink()
    (tmp_path / "logs").rmdir()
    logger.info("two")
    assert [line["1"] for line in lines(tmp_path / "logs")] == ["two"]
    log.file.path.unlink()
    log.file.path.symlink_to(tmp_path / "elsewhere")
    logger.info("three")
    assert not (tmp_path / "elsewhere").exists()
    assert log.state()["lost"] == 1


@pytest.mark.req("LOG-4", "DOC-4")
def test_a_secret_is_masked_in_every_sink(tmp_path: Path, pipe: tuple[int, int]) -> None:
    secret = 'pass"word\\1'
    log = make(tmp_path, Clock(), console="info", out=pipe[1], secrets=(secret,))
    log.logger("x").info(f"the secret is {secret}", nested={"a": [secret]})
    text = next(tmp_path.glob("*.log")).read_text() + os.read(pipe[0], 65536).decode()
    assert secret not in text
    assert json.dumps(secret)[1:-1] not in text
    assert text.count("***") >= 3


@pytest.mark.req("LOG-4", "DOC-4")
@pytest.mark.parametrize("style", ["compact", "pretty", "json"])
def test_a_secret_with_bytes_that_are_no_utf8_is_masked_too(tmp_path: Path, pipe: tuple[int, int], style: str) -> None:
    secret = "canary\udcff\udcfe"
    log = make(tmp_path, Clock(), console="info", style=style, out=pipe[1], secrets=(secret,))
    log.logger("x").info(f"the secret is {secret}", nested={"a": [secret]})
    text = next(tmp_path.glob("*.log")).read_text() + os.read(pipe[0], 65536).decode()
    assert "canary" not in text + log.masked(secret)
    assert text.count("***") >= 3


@pytest.mark.req("LOG-1")
@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("compact", f"{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(NOON))} [reload] hello"),
        ("pretty", "12:00:00 [reload] hello"),
        (
            "json",
            (
                f'{{"time":"{time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(NOON))}","level":"info",'
                '"subsystem":"gateway/reload","message":"hello","n":1}'
            ),
        ),
    ],
)
def test_the_console_has_three_styles(style: str, expected: str, pipe: tuple[int, int]) -> None:
    log = make(None, Clock(), console="info", style=style, out=pipe[1])
    log.logger("gateway/reload").info("hello", n=1)
    assert os.read(pipe[0], 65536).decode() == expected + "\n"


def test_a_full_pipe_and_a_closed_one_never_block_or_raise() -> None:
    read, write = os.pipe()
    log = make(None, Clock(), console="info", out=write)
    for _ in range(5000):
        log.logger("x").info("y" * 100)  # far more than a pipe holds
    os.close(read)
    log.logger("x").info("nobody reads")
    os.close(write)


def test_what_cannot_be_printed_is_still_a_line(tmp_path: Path) -> None:
    make(tmp_path, Clock()).logger("x").info("odd", name="\ud800", number=2**80, path=tmp_path)
    assert len(lines(tmp_path)) == 1


@pytest.mark.req("LOG-2")
def test_the_directory_is_that_of_the_configured_file_then_that_of_the_environment(tmp_path: Path) -> None:
    assert log_directory(str(tmp_path / "a" / "x.log"), {"OPENCLAW_LOG_DIR": "/b"}) == tmp_path / "a"
    assert log_directory(None, {"OPENCLAW_LOG_DIR": str(tmp_path / "b")}) == tmp_path / "b"


@pytest.mark.req("LOG-2")
def test_a_file_that_grew_too_large_is_turned_aside_and_five_older_parts_are_kept(tmp_path: Path) -> None:
    file = DailyFile(tmp_path, max_bytes=100, clock=Clock())
    written = [f"line {number:04}\n".encode() for number in range(80)]
    for line in written:
        assert file.write(line)
    name = "openclaw-2026-11-21.log"
    names = [f"{name}.{number}" for number in range(5, 0, -1)] + [name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / each).stat().st_size <= 100 for each in names)
    assert all((tmp_path / each).stat().st_mode & 0o777 == 0o600 for each in names)
    # In the order of their age the parts are the end of all that was written, without a gap.
    whole = b"".join((tmp_path / each).read_bytes() for each in names)
    assert whole == b"".join(written)[-len(whole) :]
    assert len(whole) > 500
    assert file.lost == 0


@pytest.mark.req("LOG-2")
def test_parts_that_were_compressed_keep_their_place_among_the_others(tmp_path: Path) -> None:
    file = DailyFile(tmp_path, max_bytes=100, clock=Clock())
    name = "openclaw-2026-11-21.log"
    written = []
    for number in range(80):
        line = f"line {number:04}\n".encode()
        assert file.write(line)
        written.append(line)
        part = tmp_path / f"{name}.1"
        # Every other one is compressed as soon as it was turned aside (what is in it does not matter here).
        if part.exists() and int(part.read_bytes()[5:9]) // 10 % 2:
            part.rename(tmp_path / f"{name}.1.zst")
    parts = {path.name.removeprefix(name).removesuffix(".zst"): path for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == len(parts), "two forms of one part"
    assert sorted(parts) == ["", ".1", ".2", ".3", ".4", ".5"]
    whole = b"".join(parts[each].read_bytes() for each in (".5", ".4", ".3", ".2", ".1", ""))
    assert whole == b"".join(written)[-len(whole) :]


@pytest.mark.req("LOG-2")
def test_a_line_larger_than_the_cap_is_written_whole_and_a_changed_cap_holds_at_once(tmp_path: Path) -> None:
    log = make(tmp_path, Clock())
    log.logger("gateway").info("x" * 5000)
    log.configure(
        level="info", console_level="silent", console_style=None, directory=tmp_path, secrets=(), max_file_bytes=1000
    )
    log.logger("gateway").info("y" * 5000)
    log.logger("gateway").info("short")
    assert sorted(path.name.rpartition(".log")[2] for path in tmp_path.iterdir()) == ["", ".1", ".2"]
    assert "short" in (tmp_path / "openclaw-2026-11-21.log").read_text()


@pytest.mark.req("LOG-2")
def test_a_file_that_cannot_be_turned_aside_goes_on_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: str, target: str) -> None:
        raise PermissionError(1, "not permitted")

    file = DailyFile(tmp_path, max_bytes=10, clock=Clock())
    monkeypatch.setattr(os, "rename", refused)
    assert all(file.write(b"twelve bytes\n") for _ in range(3))
    assert (tmp_path / "openclaw-2026-11-21.log").read_bytes() == b"twelve bytes\n" * 3
