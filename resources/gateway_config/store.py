"""openclaw.json and what is kept of it, on disk. Blocking; run it in a thread.

Kept below `<state>/reconciler/backups`, 0600: the whole file before the first write to one that was there before us
(`openclaw.json.<digest>`), and the source text of every value that a write replaced (`gateway-config.json`), by path and
by digest of the value. From there a value comes back byte for byte, a secret too, which no journal or plan may hold.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from gateway.wire.json5 import Json5Error, Node, Object, load, parse, to_plain
from reconciler.errors import NotPermittedError, OpenClawError, StaleError, TemporaryError, TerminalError
from reconciler.files import open_regular, private_directory, remedy_of_refusal, remove_file, replace_file
from reconciler.host import Host
from reconciler.model import ABSENT, Secret, Value
from reconciler.values import digest, encode
from resources.gateway_config.edit import (
    NoObjectError,
    Source,
    node_at,
    remove_value,
    render_file,
    set_value,
)
from resources.gateway_config.fields import guarded, holds_secret, nested, parts

# A hundred times the largest config seen; the gateway reads no larger one either.
MAX_BYTES = 4 << 20
# Of a file that nobody can read nothing is planned: what stands in it may be somebody's.
_REMEDY = "repair it, or move it away: then what is declared is written anew"
# Of one path; the first, which was there before us, always stays.
MAX_KEPT = 32

Kept = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """openclaw.json at one moment. `text` None: there is none. The text is never shown: it may hold secrets.

    `damage`: why the file itself cannot be used; the rest is then of the copy that the gateway last ran by.
    """

    path: Path
    text: str | None = field(default=None, repr=False)
    root: Node | None = field(default=None, repr=False)
    mode: int = 0o600
    owner: tuple[int, int] | None = None
    link: str | None = None
    damage: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes, as the gateway reports it (of none for no file)."""
        return sha256((self.text or "").encode()).hexdigest()

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it that could be somebody's."""
        return self.root is None or (isinstance(self.root, Object) and not self.root.members)


class DamagedError(TerminalError):
    """openclaw.json is there, and what stands in it is no config."""


def read_in_force(path: Path) -> File:
    """As `read_config`; where the file is damaged, what the built-in gateway last ran by, and goes on by, in its place."""
    try:
        return read_config(path)
    except DamagedError as err:
        copy = read_last_good(path)
        if copy is None:
            raise
        return replace(copy, path=path, damage=f"{err.message}; repair it, or copy {copy.path} over it")


def read_last_good(path: Path) -> File | None:
    """The copy of what the built-in gateway last ran by; None where there is none that can be read."""
    # Loaded here: it comes with all that the gateway knows of its config.
    from gateway.last_good import copy_path

    try:
        copy = read_config(copy_path(path))
    except OpenClawError:
        return None
    return copy if copy.text is not None else None


def read_config(path: Path) -> File:
    """The file, followed through a link (which is noted in `link`).

    Raises:
        DamagedError: it is no JSON5 text in UTF-8; with line and column.
        TerminalError: it is a link to nothing.
        NotPermittedError: this user may not read it.
        TemporaryError: the system does not let us read it.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_BYTES + 1)
        link = os.readlink(path) if path.is_symlink() else None
    except FileNotFoundError:
        if path.is_symlink():
            raise TerminalError(f"cannot read {path}: it is a link to nothing") from None
        return File(path=path)
    except PermissionError as err:
        raise NotPermittedError(
            f"cannot read {path}: {err.strerror}", hint=remedy_of_refusal(path, reading=True)
        ) from err
    except OSError as err:
        raise TemporaryError(f"cannot read {path}: {err.strerror}") from err
    if len(data) > MAX_BYTES:
        raise DamagedError(f"cannot read {path}: it has more than {MAX_BYTES >> 20} MiB", hint=_REMEDY)
    try:
        text = data.decode()
        return File(
            path=path,
            text=text,
            root=parse(text),
            mode=stat.S_IMODE(status.st_mode),
            owner=(status.st_uid, status.st_gid),
            link=link,
        )
    except UnicodeDecodeError as err:
        raise DamagedError(f"cannot read {path}: it is not UTF-8 at byte {err.start}", hint=_REMEDY) from err
    except Json5Error as err:
        raise DamagedError(f"cannot read {path}:{err.line}:{err.column}: {err.message}", hint=_REMEDY) from err


def read_kept(host: Host) -> Kept:
    """The source texts that writes replaced; empty where nothing was, or where it cannot be read."""
    try:
        data = json.loads(_kept_path(host).read_bytes())
    except (OSError, ValueError):
        # Only what is given back needs it, and that says by itself what is missing.
        return {}
    return data if isinstance(data, dict) else {}


def edited(file: File, changes: Mapping[str, Value], kept: Kept) -> str:
    """The text of the file with `changes` made, ABSENT for a removal; byte for byte the same where there are none. Pure.

    Raises:
        NoObjectError: something on the way to a path is no object.
        TerminalError: a secret is to come back whose text is not kept.
    """
    # A secret that cannot come back must fail before anything is done.
    sources = {path: _source(path, value, kept) for path, value in to_do(file, changes).items()}
    if file.text is None:
        return render_file(
            {
                parts(path): load(value.text) if isinstance(value, Source) else value
                for path, value in sources.items()
                if value is not ABSENT
            }
        )
    text = file.text
    for path, value in sources.items():
        text = remove_value(text, parts(path)) if value is ABSENT else set_value(text, parts(path), value)
    return text


def to_do(file: File, changes: Mapping[str, Value]) -> dict[str, Value]:
    """`changes` in the order in which each one finds its way free: what goes first, then from above to below. Pure.

    An object that is there already, and gets a member, is not made anew: then nothing but its members is changed.
    """
    parents = {above for above, below in nested(changes) if changes[below] is not ABSENT}
    left = [
        path
        for path in changes
        if path not in parents or file.root is None or not isinstance(node_at(file.root, parts(path)), Object)
    ]
    return {path: changes[path] for path in sorted(left, key=lambda path: _turn(path, changes[path]))}


def _turn(path: str, value: Value) -> int:
    return 0 if value is ABSENT else len(parts(path))


def apart(file: File, paths: Iterable[str], former: Mapping[str, Value], kept: Kept) -> dict[str, File]:
    """For each of `paths` above or below which a value of ours stands: the file as it is without that, by which it is seen what
    others have there. Pure.

    `former` are the paths where a value of ours stands, with what was there before us.
    """
    others: dict[str, dict[str, Value]] = {}
    for two in nested(paths):
        for path, other in (two, two[::-1]):
            if other in former:
                others.setdefault(path, {})[other] = former[other]
    return {path: _without(file, ours, kept) for path, ours in others.items()}


def _without(file: File, former: Mapping[str, Value], kept: Kept) -> File:
    try:
        text = edited(file, former, kept)
    except OpenClawError:
        # A secret whose text is gone: then nothing is what can be put there.
        text = edited(file, dict.fromkeys(former, ABSENT), kept)
    return replace(file, text=text, root=parse(text))


def write_config(
    host: Host,
    file: File,
    text: str,
    replaced: Mapping[str, tuple[File, Value]],
    digest_text: Callable[[str], Secret],
) -> None:
    """Puts `text` in the place of `file`, keeping what it replaces. Stricter modes stay, others become 0600.

    `replaced` are the paths, each with the file in which it was looked at (see `apart`) and with what was seen there.

    Raises:
        StaleError: somebody wrote to the file since it was read; nothing was done.
        TemporaryError: the system refuses; nothing was done.
    """
    try:
        private_directory(file.path.parent)
        private_directory(host.state.backups)
        _keep(host, replaced, digest_text)
        # Without a right to read nobody could; what is stricter than ours in another way stays.
        mode = file.mode & 0o600 if file.mode & 0o400 else 0o600
        replace_file(file.path, text.encode(), mode, owner=file.owner, before_rename=lambda: _check_unmoved(file))
    except OSError as err:
        raise TemporaryError(f"cannot write {file.path}: {err.strerror}") from err


def keep_whole(host: Host, file: File) -> None:
    """Keeps the whole file under its digest; does nothing where that is done already. Raises TemporaryError."""
    path = host.state.backups / f"openclaw.json.{file.digest[:12]}"
    if file.text is None or path.exists():
        return
    try:
        private_directory(path.parent)
        replace_file(path, file.text.encode(), 0o600)
    except OSError as err:
        raise TemporaryError(f"cannot keep {file.path} as {path}: {err.strerror}") from err


def remove_config(file: File) -> None:
    """Takes away a file that we made and that holds nothing any more, and the gateway's copy: it is no accident."""
    from gateway.last_good import copy_path

    try:
        remove_file(copy_path(file.path))
        remove_file(file.path)
    except OSError as err:
        raise TemporaryError(f"cannot remove {file.path}: {err.strerror}") from err


def _kept_path(host: Host) -> Path:
    return host.state.backups / "gateway-config.json"


def _name(value: Value) -> str:
    """What a replaced value is found by; `digest` of plain data, where a secret is its own digest."""
    return digest(encode(value))


def _source(path: str, value: Value, kept: Kept) -> Any:
    """What to write for `value`: the text that it once had in this file, else the value itself."""
    if value is ABSENT:
        return ABSENT
    text = kept.get(path, {}).get(_name(value))
    if text is not None:
        return Source(text)
    if holds_secret(value):
        raise TerminalError(
            f"cannot put {path} back: its former value was a secret, and the text that was kept of it is gone",
            hint="write it into openclaw.json by hand, or declare it",
        )
    return _plain(value)


def _plain(value: Value) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _keep(host: Host, replaced: Mapping[str, tuple[File, Value]], digest_text: Callable[[str], Secret]) -> None:
    kept = {path: dict(texts) for path, texts in read_kept(host).items()}
    before = json.dumps(kept, ensure_ascii=False)
    for path, (file, value) in replaced.items():
        keys = parts(path)
        node = node_at(file.root, keys) if file.root is not None else None
        if node is None or file.text is None:
            continue
        texts = kept.setdefault(path, {})
        text, plain = file.text[slice(*node.span)], to_plain(node)
        # Whether the value was taken for a secret depends on what was declared there: it is found by every name.
        guesses = [guarded(keys, plain, digest_text, sensitive=sensitive) for sensitive in (False, True)]
        for each in (value, *guesses):
            texts.setdefault(_name(each), text)
        if len(texts) > MAX_KEPT:
            first = next(iter(texts.values()))
            for name in [name for name, each in texts.items() if each != first][:2]:
                del texts[name]
    if (after := json.dumps(kept, ensure_ascii=False)) != before:
        replace_file(_kept_path(host), after.encode(), 0o600)


def _check_unmoved(file: File) -> None:
    try:
        now = read_config(file.path)
    except OpenClawError as err:
        raise StaleError(f"cannot write {file.path}: it changed since it was read ({err.message})") from err
    if (now.text, now.link) != (file.text, file.link):
        raise StaleError(f"cannot write {file.path}: it changed since it was read", hint="plan again")


__all__ = [
    "File",
    "Kept",
    "NoObjectError",
    "apart",
    "edited",
    "keep_whole",
    "read_config",
    "read_in_force",
    "read_kept",
    "read_last_good",
    "remove_config",
    "to_do",
    "write_config",
]
