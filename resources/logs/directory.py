"""The log directory as the system shows it, and the few calls that change it. Blocking; run it in a thread.

Every access goes through a descriptor of the directory itself (openat(2)), opened without following a link: what a path
means may change between two calls, what a descriptor means does not. Deleting checks device, inode, size and time of
each file right before, so that only what the plan listed goes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import BinaryIO

from reconciler.errors import StaleError, TemporaryError, TerminalError, lacking
from reconciler.files import write_all
from resources.logs.retention import LEFTOVER, OWNED, Identity, LogFile

CHUNK_BYTES = 1 << 20
# zstd at 3 is four times as fast as gzip -6 at the same size.
LEVEL = 3
# So many files are looked at, and then deleted: in turns each would find the other's part of the kernel in the processor's
# caches. They are a tenth of a millisecond apart then.
TOGETHER = 32
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the directory. Raises FileNotFoundError, NotADirectoryError (also for a link), PermissionError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_again(path: str, dev: int, inode: int) -> Iterator[int]:
    """The directory that was seen before.

    Raises:
        StaleError: the path leads to another one now, to a link, or nowhere.
    """
    try:
        with opened(path) as descriptor:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != (dev, inode):
                raise StaleError(f"cannot use log directory {path!r}: it is another one since the plan")
            yield descriptor
    except (FileNotFoundError, NotADirectoryError) as err:
        raise StaleError(f"cannot use log directory {path!r}: {err.strerror} since the plan") from err


def listed(directory: int) -> tuple[list[LogFile], list[LogFile]]:
    """The owned files that may be touched, and what killed compressions left behind.

    A link, a file with a second name, one of another owner (unless we are root), anything but a regular file: not ours.
    """
    owner = os.geteuid()
    owned: list[LogFile] = []
    leftovers: list[LogFile] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            found = owned if OWNED.fullmatch(name) else leftovers if LEFTOVER.fullmatch(name) else None
            if found is None:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and (owner in (0, status.st_uid)):
                found.append(LogFile(name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return owned, leftovers


def in_use(files: Iterable[LogFile]) -> frozenset[str]:
    """The names of those that some process has open, as far as we may look into others."""
    held = held_files()
    return frozenset(file.name for file in files if (file.dev, file.inode) in held) if held else frozenset()


def held_files() -> frozenset[tuple[int, int]]:
    """Device and inode of every file under a name like ours, anywhere, that some process has open (proc(5), /proc/PID/fd).

    It asks who is open and not which of our files are: there are few of the one, and there may be a hundred thousand of the
    other.

    Raises:
        OSError: this process lacks what it takes to look: then nothing may be taken for closed.
    """
    return frozenset(found for path in _open_paths() if (found := _identity(path)) is not None)


def _open_paths() -> Iterator[str]:
    """The open descriptors of all processes that lead to a file with a name like ours, as paths in /proc."""
    for pid in os.listdir("/proc"):
        if not pid.isdecimal():
            continue
        # A process may end, or be another user's, at any of these calls.
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError as err:
            if lacking(err):
                raise
            continue
        for number in numbers:
            path = f"/proc/{pid}/fd/{number}"
            with suppress(OSError):
                if _ours(os.readlink(path).rpartition("/")[2]):
                    yield path


def _ours(name: str) -> bool:
    return (OWNED.fullmatch(name) or LEFTOVER.fullmatch(name)) is not None


def _identity(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None


def unchanged(directory: int, file: LogFile) -> bool:
    """Whether the name still leads to the very file that was listed, with nothing written to it since."""
    if not _ours(file.name):
        return False
    try:
        return _same(os.lstat(file.name, dir_fd=directory), file)
    except FileNotFoundError:
        return False


def _same(status: os.stat_result, file: Identity) -> bool:
    seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return seen == file[1:] and stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def delete(directory: int, files: Iterable[Identity], checkpoint: Callable[[], None]) -> list[str]:
    """Deletes those that are unchanged and that nobody has open; returns the names of those that stay for it. Needs no space: it
    works on a full disk.

    In the order of their inodes they go in two thirds of the time: what the kernel needs of them lies side by side.
    `checkpoint` is called now and then, and may raise to end it there.
    """
    held, left = held_files(), list[str]()
    rest = iter(files)
    while batch := list(islice(rest, TOGETHER)):
        checkpoint()
        for name in _deletable(directory, batch, held, left):
            # Not `suppress`: it would cost a twentieth of it all.
            try:
                os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                continue
    os.fsync(directory)
    return left


def _deletable(directory: int, files: list[Identity], held: frozenset[tuple[int, int]], left: list[str]) -> list[str]:
    """The names of those that are `unchanged` and not `held`, in one function: it may be about a hundred thousand. Others that
    are there are added to `left`.
    """
    lstat, owned, regular = os.lstat, OWNED.fullmatch, stat.S_ISREG
    names = []
    for file in files:
        name = file[0]
        if not owned(name) and not LEFTOVER.fullmatch(name):
            continue
        if held and file[1:3] in held:
            left.append(name)
            continue
        try:
            status = lstat(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        seen = (name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == file and regular(status.st_mode) and status.st_nlink == 1:
            names.append(name)
        else:
            left.append(name)
    return names


def compress(directory: int, files: list[LogFile], checkpoint: Callable[[], None]) -> list[str]:
    """Puts NAME.zst in the place of each NAME that is unchanged and that nobody has open; keeps mode, owner and time. Returns the
    names of those that stay as they are.

    Raises:
        TemporaryError: the disk is full; the file at hand is as it was, and no part of a new one is left.
    """
    # Loaded here: a plan without anything to compress must not pay for it.
    from zstandard import ZstdCompressor

    compressor = ZstdCompressor(level=LEVEL)

    def pack(source: BinaryIO, target: int) -> None:
        with compressor.stream_writer(_Whole(target), closefd=False) as writer:  # type: ignore[arg-type]
            while chunk := source.read(CHUNK_BYTES):
                checkpoint()
                writer.write(chunk)

    return _transform(directory, files, lambda name: f"{name}.zst", pack, checkpoint)


class _Whole:
    """A file that takes all it is given: a raw one may take less when the disk is nearly full, and zstandard
    does not look at how much it took."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> int:
        write_all(self._descriptor, data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def expand(directory: int, files: list[LogFile], checkpoint: Callable[[], None]) -> list[str]:
    """The way back of `compress`: `files` as they were before it. Returns the names of the compressed ones that stay.

    Raises:
        TemporaryError: the disk is full.
        TerminalError: a compressed file is damaged; it stays as it is.
    """
    from zstandard import ZstdDecompressor, ZstdError

    decompressor = ZstdDecompressor()

    def unpack(source: BinaryIO, target: int) -> None:
        try:
            with decompressor.stream_reader(source, closefd=False) as reader:
                while chunk := reader.read(CHUNK_BYTES):
                    checkpoint()
                    write_all(target, chunk)
        except ZstdError as err:
            raise TerminalError(f"cannot expand a log file: {err}") from err

    owned, _ = listed(directory)
    packed = {file.name: file for file in owned}
    back = [packed[f"{file.name}.zst"] for file in files if f"{file.name}.zst" in packed]
    return _transform(directory, back, lambda name: name.removesuffix(".zst"), unpack, checkpoint)


_Transform = Callable[[BinaryIO, int], None]


def _transform(
    directory: int,
    files: list[LogFile],
    rename: Callable[[str], str],
    transform: _Transform,
    checkpoint: Callable[[], None],
) -> list[str]:
    busy, left = in_use(files), []
    for file in files:
        checkpoint()
        target = rename(file.name)
        if file.name in busy or not unchanged(directory, file) or not is_free(directory, target, file):
            left += [file.name] if _exists(directory, file.name) else []
            continue
        try:
            if not _transform_one(directory, file, target, transform):
                left.append(file.name)
        except OSError as err:
            if err.errno in _FULL:
                raise TemporaryError(
                    f"cannot write log file {target!r}: {err.strerror}", hint="free some space, or lower the retention"
                ) from err
            raise TemporaryError(f"cannot write log file {target!r}: {err.strerror}") from err
    return left


def _exists(directory: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def is_free(directory: int, name: str, source: LogFile) -> bool:
    """Whether what is made of `source` may be put at `name`: nothing is there, or what an earlier try made of it and died.

    That has the time of its source (`_dress`). Whatever else has that name holds other lines: it stays, and so does `source`.
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_mtime_ns == source.mtime_ns


def _transform_one(directory: int, file: LogFile, target: str, transform: _Transform) -> bool:
    """False where somebody wrote to it meanwhile: then it stays as it is."""
    base = file.name.removesuffix(".zst")
    temporary = f".{base}.zst.tmp"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)
    number = os.open(file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    with open(number, "rb", buffering=0) as source:
        before = os.fstat(number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            written = os.open(temporary, flags, 0o600, dir_fd=directory)
            try:
                transform(source, written)
                _dress(written, before)
            finally:
                os.close(written)
            # Whoever wrote to it in the meantime keeps the file as it is; the next run looks again.
            if not _same(os.fstat(number), file):
                os.unlink(temporary, dir_fd=directory)
                return False
            os.rename(temporary, target, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
    # The new file must be there for good before the old one goes.
    os.fsync(directory)
    if unchanged(directory, file):
        os.unlink(file.name, dir_fd=directory)
    os.fsync(directory)
    return True


def _dress(descriptor: int, like: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
    os.utime(descriptor, ns=(like.st_atime_ns, like.st_mtime_ns))
    os.fsync(descriptor)
