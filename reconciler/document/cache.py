"""A validated document on disk, so that the next command need not validate it again.

It is trusted only when it is a regular file of this user with no rights for others, and when its key fits: the key covers the
bytes of every file, this program, and the values of every variable that the loader reads. It holds no secret: the canonical
document has references only, and the key is a keyed digest with a salt of its own.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reconciler.document.environment import VARIABLES, Override
from reconciler.files import replace_file
from reconciler.model import DocumentPath

FORMAT: Final = 1
# The canonical form of the largest document, with room for its defaults.
_MAX_CACHE_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """What a load came to; `contents` and `texts` as in `Loaded`."""

    main: str
    canonical: Mapping[str, Any]
    declared: frozenset[DocumentPath]
    contents: Mapping[str, bytes]
    texts: Mapping[str, str]
    overrides: tuple[Override, ...]


def read_cache(cache: Path, main: str, environ: Mapping[str, str]) -> Cached | None:
    """What `write_cache` stored, if it is of this document as it is now; else None. Never raises."""
    try:
        data = json.loads(_read_private(cache))
        if data["format"] != FORMAT or data["main"] != main:
            return None
        contents = _read_files(data["files"])
        if data["key"] != _key(bytes.fromhex(data["salt"]), main, contents, environ):
            return None
        texts = {
            key: content.removeprefix(b"\xef\xbb\xbf").decode()
            for key, content in zip(data["keys"], contents.values(), strict=True)
        }
        return Cached(
            main=main,
            canonical=data["canonical"],
            declared=frozenset(map(tuple, data["declared"])),
            contents=contents,
            texts=texts,
            overrides=tuple(
                Override(name=name, path=tuple(path), value=value) for name, path, value in data["overrides"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Whatever is wrong with it, the document itself is there to be read.
        return None


def write_cache(cache: Path, cached: Cached, environ: Mapping[str, str]) -> bool:
    """Writes the file with mode 0600, whole or not at all. False when it could not be written."""
    salt = os.urandom(16)
    data = {
        "format": FORMAT,
        "main": cached.main,
        "files": list(cached.contents),
        "keys": list(cached.texts),
        "salt": salt.hex(),
        "key": _key(salt, cached.main, cached.contents, environ),
        "canonical": cached.canonical,
        "declared": sorted(map(list, cached.declared)),
        "overrides": [[each.name, list(each.path), each.value] for each in cached.overrides],
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    try:
        # Two commands may write it at the same moment, and a power cut may take it: then the next one writes it again.
        replace_file(cache, text.encode(), 0o600, temporary=Path(f"{cache}.{os.getpid()}.tmp"), durable=False)
    except OSError:
        return False
    return True


def _read_private(cache: Path) -> bytes:
    descriptor = os.open(cache, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_uid != os.geteuid()
            or status.st_mode & 0o077
            or status.st_size > _MAX_CACHE_BYTES
        ):
            raise ValueError("not a private file of ours")
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(_MAX_CACHE_BYTES)
    finally:
        os.close(descriptor)


def _read_files(paths: list[str]) -> dict[str, bytes]:
    from reconciler.document.files import MAX_BYTES, ReadError, read_file

    contents: dict[str, bytes] = {}
    left = MAX_BYTES
    for path in paths:
        try:
            contents[path] = read_file(path, left)
        except ReadError as err:
            raise ValueError(err.message) from err
        left -= len(contents[path])
    return contents


def _key(salt: bytes, main: str, contents: Mapping[str, bytes], environ: Mapping[str, str]) -> str:
    # _blake2 is a builtin module of CPython; it is what hashlib would give after several milliseconds of import.
    from _blake2 import blake2b

    key = blake2b(key=salt, digest_size=32)
    parts = [main.encode("utf-8", "surrogateescape"), _program()]
    for path, content in contents.items():
        parts += [path.encode("utf-8", "surrogateescape"), content]
    for name in VARIABLES:
        value = environ.get(name)
        parts += [name.encode(), b"" if value is None else b"=" + value.encode("utf-8", "surrogateescape")]
    for part in parts:
        key.update(len(part).to_bytes(8, "big"))
        key.update(part)
    return str(key.hexdigest())


def _program() -> bytes:
    """This program's version: the size and time of each file that decides what a document means.

    Sharper than the version's number, which does not move while it is being worked on, and cheaper than the 55 ms of
    importlib.metadata.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    with os.scandir(here) as entries:
        own = sorted(
            (each.name, each.stat().st_size, each.stat().st_mtime_ns)
            for each in entries
            if each.name.endswith((".py", "shape.json"))
        )
    desired = os.stat(os.path.join(os.path.dirname(here), "desired.py"))
    return repr((own, desired.st_size, desired.st_mtime_ns)).encode()
