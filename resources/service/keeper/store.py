"""What the keeper knows of a child, and its two files in `<state>/reconciler/keeper/children/`. Standard library only.

The record is all that a successor has: it is there before what it announces happens.

- `NAME.json` is the record, whole and flushed: what a power cut leaves.
- `NAME.now` is what changed since, all but the spec: overwritten in place and not flushed, so that no start waits for a disk.
  Whoever reads in the same boot sees it, whatever became of the keeper. It holds for one `NAME.json` alone, which it names by the
  number that each writing of that gets: as soon as there is another one, by this program or by one that does not know the second
  file, it holds no longer. In another boot it never does: what it says of processes means nothing then, and it may be torn.
"""

from __future__ import annotations

import errno
import json
import os

# A builtin module of CPython, as in `program`.
from _blake2 import blake2b
from contextlib import suppress
from typing import Any

from resources.service import proc
from resources.service.keeper.policy import History, Policy
from resources.service.shortage import is_shortage

FORMAT = 1
# Enough to see a pattern, and a record stays a few kilobytes.
MAX_EXITS = 20
MAX_RECORD_BYTES = 1 << 20
# One page: the kernel takes a write of so much whole or not at all, also from a process that is killed in it.
MAX_NOW_BYTES = 4096


class Record:
    """One child. Attributes that are None are not known or do not apply.

    Attributes:
        name: names it in commands and files.
        spec: what to run (`protocol.check_spec`).
        goal: `up` or `down`: what was last asked for.
        state: `stopped`, `starting`, `ready`, `stopping`, `waiting` (for a restart), `broken` (waiting for a probe), `held`.
        hold: who asked for `down` and why (`{"by", "who", "why", "at", "section"}`), or that the policy holds it down.
        attempt: names the last spawn; stands in the environment of the process.
        pid, start_ticks, boot: the process of that attempt.
        digest: `spec_digest` of the spec that the running process was started with.
        restarts: how often it was started again without being asked to, over all keepers.
        exits: the last ones, newest last: `{"at", "code", "signal", "reason", "pid", "asked", "adopted", "unseen",
            "ready_seconds", "uptime_seconds"}` (`unseen`: it ended at some time before `at`, while no keeper ran), and of one
            that nobody asked for `restart_after`, once that is decided: after how many seconds it is started again, None where it
            is held down.
        history: what the restart policy remembers.
        spawned_at, ready_at, since: wall clock, seconds; `since` is when `state` changed.
        spawned_boot, ready_boot, next_boot: the same on CLOCK_BOOTTIME; `next_boot` is when the next start is due.
        startup_seconds: from the last start to Ready.
        adopted: this keeper did not start the process.
        last_refusal: why the last start failed before there was a process.
        output_start: where in its output file begins what the process of the last spawn printed, bytes.
    """

    __slots__ = (
        "adopted",
        "attempt",
        "boot",
        "digest",
        "exits",
        "goal",
        "history",
        "hold",
        "last_refusal",
        "name",
        "next_boot",
        "output_start",
        "pid",
        "ready_at",
        "ready_boot",
        "restarts",
        "since",
        "spawned_at",
        "spawned_boot",
        "spec",
        "start_ticks",
        "startup_seconds",
        "state",
    )

    def __init__(self, name: str, spec: dict[str, Any]) -> None:
        self.name = name
        self.spec = spec
        self.goal = "down"
        self.state = "stopped"
        self.hold: dict[str, Any] | None = None
        self.attempt: str | None = None
        self.pid: int | None = None
        self.start_ticks: int | None = None
        self.boot = ""
        self.digest: str | None = None
        self.restarts = 0
        self.exits: list[dict[str, Any]] = []
        self.history = History()
        self.spawned_at: float | None = None
        self.spawned_boot: float | None = None
        self.ready_at: float | None = None
        self.ready_boot: float | None = None
        self.next_boot: float | None = None
        self.since = 0.0
        self.startup_seconds: float | None = None
        self.adopted = False
        self.last_refusal: str | None = None
        self.output_start: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, all attributes; also what `status` shows."""
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        data["history"] = {
            "early": list(self.history.early),
            "doublings": self.history.doublings,
            "waited": self.history.waited,
            "broken": self.history.broken,
        }
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """The record that `to_json` made; unknown attributes (of a newer version) are dropped, missing ones are default."""
        record = cls(data["name"], data["spec"])
        for name in cls.__slots__:
            if name in data and name not in ("name", "spec", "history"):
                setattr(record, name, data[name])
        history = data.get("history") or {}
        record.history = History(
            early=tuple(history.get("early", ())),
            doublings=history.get("doublings", 0),
            waited=history.get("waited", 0.0),
            broken=history.get("broken", False),
        )
        return record


def policy_of(spec: dict[str, Any]) -> Policy:
    """The restart policy of a spec."""
    restart = spec["restart"]
    return Policy(
        delay=restart["delay"],
        max_delay=restart["max_delay"],
        burst=restart["burst"],
        window=restart["window"],
        never_on_exit=frozenset(restart["never_on_exit"]),
    )


class Store:
    """The folder of records. All calls block; a keeper has nothing else to do meanwhile."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.boot = proc.boot_id()
        # Of each record that was saved: its number, and its last exit.
        self._saved: dict[str, tuple[str, dict[str, Any] | None]] = {}
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def make_anew(self) -> bool:
        """Makes the folder again where it was deleted: empty, so that every record is to be saved; False where it is there.

        Raises:
            OSError: it cannot be made; where the directory around it is gone too, that is another's to make.
        """
        if os.path.isdir(self.directory):
            return False
        os.mkdir(self.directory, 0o700)
        self._saved.clear()
        sync_directory(os.path.dirname(self.directory))
        return True

    def save(self, record: Record) -> None:
        """Puts the record on disk for good: temporary file, fsync, rename, fsync of the directory.

        Raises:
            OSError: the disk does not take it; the old record stands.
        """
        number = os.urandom(8).hex()
        self._saved.pop(record.name, None)
        replace_file(f"{self.directory}/{record.name}.json", _encoded({**record.to_json(), "number": number}))
        self._saved[record.name] = (number, record.exits[-1] if record.exits else None)

    def show(self, record: Record) -> bool:
        """Lets a successor in this boot see the record, all but its spec, and waits for no disk; `save` is to follow.

        Where that is not possible it is a `save` itself, and returns True: for the first time, for too much at once, without a
        file to write to, and where the kernel does not tell one boot from another.

        Raises:
            OSError: the disk does not take it; the old record stands.
        """
        saved = self._saved.get(record.name)
        if saved is not None and self.boot:
            line = _now_line(record, *saved, self.boot)
            if len(line) <= MAX_NOW_BYTES and _overwrite(f"{self.directory}/{record.name}.now", line):
                return False
        self.save(record)
        return True

    def remove(self, name: str) -> None:
        """Forgets a child; one that is not there is fine."""
        self._saved.pop(name, None)
        for path in (f"{self.directory}/{name}.json", f"{self.directory}/{name}.now"):
            with suppress(FileNotFoundError):
                os.unlink(path)
        sync_directory(self.directory)

    def load(self) -> tuple[list[Record], list[str]]:
        """All records, by name, and what could not be read, as sentences. A broken file is kept aside, not deleted.

        Raises:
            OSError: it is only this process that lacks something (`is_shortage`).
        """
        return load_records(self.directory, set_aside=True)


_JSON = json.JSONEncoder(separators=(",", ":"))


def _encoded(data: dict[str, Any]) -> bytes:
    return _JSON.encode(data).encode("utf-8", "surrogatepass")


def load_records(directory: str, *, set_aside: bool = False) -> tuple[list[Record], list[str]]:
    """Reads the records of a folder; with `set_aside` a broken one is renamed to `*.broken` so that it is seen once.

    Raises:
        OSError: it is only this process that lacks something (`is_shortage`).
    """
    records, problems = [], []
    boot = proc.boot_id()
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return [], []
    for name in names:
        path = f"{directory}/{name}"
        if not name.endswith(".json") or name.startswith("."):
            continue
        try:
            with open(path, "rb") as file:
                data = json.loads(file.read(MAX_RECORD_BYTES))
            now = _read_now(f"{path.removesuffix('.json')}.now", data.get("number"), boot)
            record = Record.from_json(
                {**data, **now, "exits": [*data.get("exits", ()), *now.get("exits", ())][-MAX_EXITS:]}
            )
            if f"{record.name}.json" != name:
                raise ValueError("it names another child")
            records.append(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            if is_shortage(err):
                raise
            problems.append(f"cannot read the record {path}: {type(err).__name__}: {err}")
            if set_aside:
                os.replace(path, f"{path}.broken")
    return records, problems


def _now_line(record: Record, number: str, last_exit: dict[str, Any] | None, boot: str) -> bytes:
    """What changed since the record was saved: a checksum and a JSON object."""
    data = record.to_json()
    del data["spec"]
    exits: list[dict[str, Any]] = []
    for item in reversed(record.exits):
        if item is last_exit:
            break
        exits.insert(0, item)
    text = _encoded({**data, "exits": exits, "number": number, "only_in_boot": boot})
    return b"%b %b\n" % (_checksum(text), text)


def _read_now(path: str, number: str | None, boot: str) -> dict[str, Any]:
    """What `show` wrote; empty where there is nothing that holds for the record with this number, in this boot."""
    try:
        with open(path, "rb") as file:
            checksum, _, text = file.read(MAX_NOW_BYTES).partition(b"\n")[0].partition(b" ")
    except OSError as err:
        if is_shortage(err):
            raise
        return {}
    if checksum != _checksum(text):
        return {}
    data: dict[str, Any] = json.loads(text)
    return data if number is not None and (data["number"], data["only_in_boot"]) == (number, boot) else {}


def _checksum(text: bytes) -> bytes:
    return blake2b(text, digest_size=8).hexdigest().encode()


def _overwrite(path: str, line: bytes) -> bool:
    """Puts `line` at the beginning of a file of one page, so that a full disk has room for it; False where it has not.

    In place: what makes, renames or cuts a file waits for whatever the disk's journal does at that moment.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            return os.pwrite(fd, line, 0) == len(line)
        finally:
            os.close(fd)
    except OSError:
        return False


def replace_file(path: str, data: bytes) -> None:
    """Makes `path` a 0600 file with `data`; at any instant it is the old or the new, whole, also after a power cut.

    On a full disk it is overwritten in place, where its own blocks hold `data`: a child whose record cannot be written is not
    started, and a gateway that stays down until somebody tidies up is worse than the chance of a power cut in just this moment.

    Raises:
        OSError: the disk does not take it; the old file stands.
    """
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/.{name}.tmp"
    try:
        _write(temporary, data, os.O_CREAT | os.O_TRUNC)
        os.rename(temporary, path)
    except OSError as err:
        with suppress(OSError):
            os.unlink(temporary)
        if err.errno not in (errno.ENOSPC, errno.EDQUOT) or not _holds(path, len(data)):
            raise
        _write(path, data, 0)
        return
    sync_directory(directory)


def _write(path: str, data: bytes, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)


def _holds(path: str, size: int) -> bool:
    """Whether the file has blocks for `size` bytes already."""
    try:
        return os.lstat(path).st_blocks * 512 >= size
    except OSError:
        return False


def sync_directory(directory: str) -> None:
    """Makes renames and removals in the directory durable (fsync(2): the entry needs its own)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
