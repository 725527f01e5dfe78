"""The retention decides by age, number and size, oldest first, and never takes what is being written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import Retention
from resources.logs.retention import LEFTOVER, OWNED, Decision, LogFile, decide, spared

NOW = 1_800_000_000.0
DAYS = frozenset({"2027-01-15"})


def retention(
    age: float | None = None, total: int | None = None, files: int | None = None, compress: float | None = None
) -> Retention:
    return Retention(age_seconds=age, total_bytes=total, files=files, compress_after_seconds=compress)


def file(day: int, *, age: float, size: int = 10, suffix: str = "") -> LogFile:
    return LogFile(f"openclaw-2026-12-{day:02}.log{suffix}", 1, day, size, int((NOW - age) * 1e9))


FILES = st.lists(
    st.builds(
        lambda day, age, size, suffix: LogFile(
            f"openclaw-2027-01-{day:02}.log{suffix}", 1, day, size, int((NOW - age) * 1e9)
        ),
        st.integers(1, 15),
        st.floats(0, 1000),
        st.integers(0, 1000),
        st.sampled_from(["", ".1", ".2.gz", ".zst"]),
    ),
    unique_by=lambda one: one.name,
)
LIMITS = st.builds(
    retention,
    st.none() | st.floats(0, 1000),
    st.none() | st.integers(0, 3000),
    st.none() | st.integers(0, 10),
    st.none() | st.floats(0, 1000),
)


@pytest.mark.req("LOG-2", "LOG-3")
@given(FILES, LIMITS, st.randoms())
def test_what_every_decision_keeps_to(files: list[LogFile], limits: Retention, random: object) -> None:
    kept = spared(files, DAYS)
    decision = decide(files, NOW, limits, kept)
    gone = [deletion.file for deletion in decision.deletions]
    rest = [one for one in files if one not in gone]
    # Never today's file, never the newest, never one twice.
    assert not kept & {one.name for one in decision.files}
    assert len({one.name for one in decision.files}) == len(list(decision.files))
    # The oldest go first: nothing that stays and could go is older than something that went.
    free = [one for one in rest if one.name not in kept]
    assert not gone or all((one.mtime_ns, one.name) >= (gone[-1].mtime_ns, gone[-1].name) for one in free)
    # Every limit is respected, or nothing is left that may go.
    if free:
        assert limits.files is None or len(rest) <= limits.files
        assert limits.total_bytes is None or sum(one.size for one in rest) <= limits.total_bytes
        assert limits.age_seconds is None or all(NOW - one.mtime_ns / 1e9 <= limits.age_seconds for one in free)
    # The order of the listing does not matter, and a second look has nothing to do.
    assert decide(files[::-1], NOW, limits, kept) == decision
    assert decide(rest, NOW, limits, kept).deletions == ()
    # No more goes than must: with the last deletion taken back, a limit is exceeded.
    if gone:
        with_last = [*rest, gone[-1]]
        assert decide(with_last, NOW, limits, kept).deletions != ()


def reasons(decision: Decision) -> dict[str, str]:
    return {deletion.file.name: deletion.reason for deletion in decision.deletions}


def test_each_limit_names_itself() -> None:
    files = [file(1, age=500), file(2, age=50), file(3, age=40), file(4, age=30, size=1)]
    assert reasons(decide(files, NOW, retention(age=100), frozenset())) == {"openclaw-2026-12-01.log": "age"}
    assert set(reasons(decide(files, NOW, retention(files=2), frozenset())).values()) == {"count"}
    assert reasons(decide(files, NOW, retention(total=21), frozenset())) == {"openclaw-2026-12-01.log": "total"}
    assert reasons(decide(files, NOW, retention(), frozenset())) == {}


def test_what_is_compressed_already_is_not_compressed_again() -> None:
    files = [file(1, age=50, suffix=".zst"), file(2, age=50, suffix=".1.gz"), file(3, age=50), file(4, age=5)]
    assert [one.name for one in decide(files, NOW, retention(compress=10), frozenset()).compressions] == [
        "openclaw-2026-12-03.log"
    ]


@pytest.mark.req("LOG-3")
@pytest.mark.parametrize(
    "name",
    [
        "openclaw-2026-12-01.log",
        "openclaw-2026-12-01.log.1",
        "openclaw-2026-12-01.log.12.zst",
        "openclaw-2026-12-01.log.gz",
        "gateway.out.log.1",
        "gateway.out.log.3.zst",
    ],
)
def test_names_that_are_ours(name: str) -> None:
    assert OWNED.fullmatch(name)


@pytest.mark.req("LOG-3")
@pytest.mark.parametrize(
    "name",
    [
        "openclaw.log",
        "openclaw-YYYY-MM-DD.log",
        "openclaw-2026-13-01.log",
        "openclaw-2026-12-01.log.bak",
        "openclaw-2026-12-01.log/../x",
        "openclaw-2026-12-01.log\n",
        "myopenclaw-2026-12-01.log",
        "gateway.out.log",
        "gateway.log",
        "config-audit.jsonl",
        ".openclaw-2026-12-01.log.zst.tmp",
    ],
)
def test_names_that_are_foreign(name: str) -> None:
    assert not OWNED.fullmatch(name)


def test_the_remains_of_a_compression_are_known_by_their_name() -> None:
    assert LEFTOVER.fullmatch(".openclaw-2026-12-01.log.1.zst.tmp")
    assert not LEFTOVER.fullmatch(".openclaw-2026-12-01.log.swp")
