"""Canary secrets: values that can be found again in whatever form a program might have let them out."""

from __future__ import annotations

import os
import random
import stat
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.beds.processes import processes_of_state

# None of them is a hexadecimal digit, so that no digest ever contains a canary by chance.
_LETTERS = "ghjkmnpqrstvwxyz"
_WINDOW = 8


@dataclass(frozen=True, slots=True)
class Canary:
    """One secret, named after the place where it stands. `core` is the part of `value` that is looked for."""

    place: str
    core: str
    value: str

    def needles(self) -> frozenset[bytes]:
        """What betrays it: any eight letters of it in a row, backwards too, and it in hexadecimal or base64."""
        core = self.core.encode()
        found = {core[at : at + _WINDOW] for at in range(len(core) - _WINDOW + 1)}
        found |= {needle[::-1] for needle in found}
        found |= {core.hex().encode(), core.hex().upper().encode()}
        for encode in (b64encode, urlsafe_b64encode):
            for shift in range(3):
                # The characters at either end also depend on what stands beside it.
                found.add(encode(b"\0" * shift + core)[shift and 4 : -4])
        return frozenset(found)


def canary(place: str, shape: str = "{}") -> Canary:
    """A new secret; `shape` is what stands around it (`https://u:{}@h/`)."""
    core = "".join(random.SystemRandom().choices(_LETTERS, k=24))
    return Canary(place, core, shape.format(core))


def leaks(data: bytes | str, canaries: Iterable[Canary]) -> list[str]:
    """The places of the canaries of which something stands in `data`."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return [each.place for each in canaries if any(needle in raw for needle in each.needles())]


def files_below(directory: Path) -> list[Path]:
    """Every regular file below `directory`."""
    return [path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()]


def leaking_files(directory: Path, canaries: Iterable[Canary]) -> dict[str, list[str]]:
    """Files below `directory` in which something of a canary stands (contents and names), with the canaries' places."""
    wanted = list(canaries)
    found = {}
    for path in files_below(directory):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        name = str(path.relative_to(directory))
        if places := leaks(data + os.fsencode(name), wanted):
            found[name] = places
    return found


def leaking_processes(state: Path, canaries: Iterable[Canary]) -> dict[int, list[str]]:
    """Processes of a state directory whose command line shows a canary."""
    wanted = list(canaries)
    found = {}
    for process in processes_of_state(state):
        try:
            argv = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if places := leaks(argv, wanted):
            found[process.pid] = places
    return found


def loose_modes(directory: Path) -> dict[str, str]:
    """Files and directories below `directory` (and itself) that somebody else than their owner may touch."""
    found = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if not path.is_symlink() and mode & 0o077:
            found[str(path)] = oct(mode)
    return found
