"""Reads the files of a document: size cap, regular files only, a consistent content, includes and their merge.

Opens files only through `files`. It knows `version` and `include`, and nothing else of the meaning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping as Mapping_
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from reconciler.document.compose import MAX_NODES, compose
from reconciler.document.fast import shape_data
from reconciler.document.files import MAX_BYTES, ReadError, read_file
from reconciler.document.nodes import Mapping, Node, Scalar, Sequence, Source
from reconciler.document.problems import Problem, named
from reconciler.document.units import kind_of

# A person loses track long before; together they bound the work of a diamond of includes.
MAX_INCLUDE_DEPTH: Final = 10
MAX_INCLUDES: Final = 100


# The longer marks first: UTF-32 begins with the mark of UTF-16.
_OTHER_ENCODINGS: Final = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def decode(data: bytes, name: str, key: str) -> tuple[Source, Problem | None]:
    """The text of a file as a source; with a problem (and an empty or partial text) when it is not UTF-8."""
    for mark, encoding in _OTHER_ENCODINGS:
        if data.startswith(mark):
            source = Source(name, key, "")
            return source, source.problem(
                0, 0, "encoding", f"read {encoding}", expected="UTF-8", hint="save the file as UTF-8"
            )
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return Source(name, key, data.decode("utf-8")), None
    except UnicodeDecodeError as err:
        before = data[: err.start].decode("utf-8")
        line_end = min(
            (at for at in (data.find(b"\n", err.start), data.find(b"\r", err.start)) if at >= 0), default=len(data)
        )
        shown = Source(name, key, before + data[err.start : min(line_end, err.start + 400)].decode("utf-8", "replace"))
        return Source(name, key, ""), shown.problem(
            *shown.place(len(before)),
            "encoding",
            f"read the byte 0x{data[err.start]:02x}: it is no UTF-8",
            expected="UTF-8",
            hint="save the file as UTF-8",
        )


def is_part(data: bytes) -> bool:
    """Whether an included file may be part of a document: empty, or with the name of a section, or of something with more below
    it, so that what is wrong with it may be shown. Nobody knows what stands in any other.
    """
    if data.startswith(tuple(mark for mark, _ in _OTHER_ENCODINGS)):
        return True
    text = data.decode("utf-8", "replace")
    lines = (match[0].strip(" \t\ufeff") for match in _LINE.finditer(text))
    empty = all(not line or line.startswith("#") or line in _NOTHING for line in lines)
    return empty or _parts().search(text) is not None


_LINE: Final = re.compile(r"[^\r\n]+")
_NOTHING: Final = frozenset({"---", "...", "{}", "{ }", "~", "null"})


@cache
def _parts() -> re.Pattern[str]:
    names = "|".join(("version", "include", r"x-[\w-]+", *shape_data()["sections"]))
    # A name of ours anywhere (`{gateway: ...` too), or any with nothing behind it: a mistyped one is worth its hint.
    return re.compile(rf"""(?m)(?:^\ufeff?|[{{,])[ \t]*["']?(?:{names})["']?[ \t]*:|^[\w-]+[ \t]*:[ \t]*(?:\#.*)?$""")


@dataclass(slots=True, kw_only=True)
class Reading:
    """What was read: the merged tree (None without one), every source in reading order, absolute paths, problems.

    `whole` is False when a file could not be read or understood, so that what is missing from the tree means nothing.
    """

    root: Mapping | None = None
    sources: list[Source] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    whole: bool = True


def read_document(path: str, contents: Mapping_[str, bytes] | None = None, *, name: str | None = None) -> Reading:
    """Reads `path`, shown as `name`, and all that it includes. Never raises for what is in the files; see `Reading.problems`.

    A file in `contents` (absolute path to bytes) is not opened: as it was at an earlier reading, or as it shall be.

    Order of the merge: the including file wins over what it includes, a later include over an earlier one; mappings are
    merged, lists and values replaced. Relative names are relative to the directory of the file that names them (as it is
    named; a symbolic link is not resolved first).
    """
    reader = _Reader(path, contents)
    reader.reading.root = reader.read(path, path if name is None else name, None, None, ())
    return reader.reading


def read_text(text: str, name: str) -> Reading:
    """The same for a text without a file; an `include` in it is a problem."""
    reader = _Reader(None, None)
    source = Source(name, name, text)
    reader.reading.sources.append(source)
    reader.reading.root = reader.understand(source, None, ())
    return reader.reading


class _Reader:
    def __init__(self, main: str | None, contents: Mapping_[str, bytes] | None) -> None:
        self.main = main
        self.contents = contents or {}
        self.reading = Reading()
        self.budget = MAX_BYTES
        self.count = 0
        self.trees: dict[str, tuple[Source, Mapping | None]] = {}

    def read(
        self, path: str, name: str, place: Scalar | None, parent: Source | None, chain: tuple[tuple[str, str], ...]
    ) -> Mapping | None:
        """The merged tree of one file; problems with reading it stand where it is named (`place` in `parent`)."""
        absolute = os.path.abspath(path) if "\0" not in path else path
        try:
            real = os.path.realpath(absolute)
        except (OSError, ValueError):
            real = absolute
        if place is not None and parent is not None:
            names = [each for each, _ in chain]
            if real in [each for _, each in chain]:
                cycle = " -> ".join([*names[[each for _, each in chain].index(real) :], name])
                self._refuse(
                    parent,
                    place,
                    "include_cycle",
                    f"include '{named(name)}': {cycle}",
                    "a file must not include itself",
                )
                return None
            if len(chain) > MAX_INCLUDE_DEPTH:
                self._refuse(parent, place, "include_depth", f"follow includes deeper than {MAX_INCLUDE_DEPTH} files")
                return None
            self.count += 1
            if self.count > MAX_INCLUDES:
                self._refuse(parent, place, "include_count", f"follow more than {MAX_INCLUDES} includes")
                return None
        chain = (*chain, (name, real))
        known = self.trees.get(absolute)
        if known is None:
            source = self._source(path, absolute, name, place, parent)
            if source is None:
                return None
            tree = self._compose(source, main=place is None)
            known = self.trees[absolute] = (source, tree)
        source, tree = known
        return self._with_includes(source, tree, os.path.dirname(path), os.path.dirname(name), chain)

    def understand(self, source: Source, directory: str | None, chain: tuple[tuple[str, str], ...]) -> Mapping | None:
        tree = self._compose(source, main=True)
        return self._with_includes(source, tree, directory, "", chain)

    def _refuse(self, parent: Source, place: Scalar, code: str, message: str, hint: str = "") -> None:
        self.reading.problems.append(parent.problem(place.line, place.column, code, message, path="include", hint=hint))
        self.reading.whole = False

    def _source(
        self, path: str, absolute: str, name: str, place: Scalar | None, parent: Source | None
    ) -> Source | None:
        if absolute not in self.reading.paths:
            self.reading.paths.append(absolute)
        try:
            data = read_file(path, self.budget) if absolute not in self.contents else self.contents[absolute]
        except ReadError as err:
            self.reading.whole = False
            if place is None or parent is None:
                shown = Source(named(name), os.path.basename(name), "")
                self.reading.sources.append(shown)
                self.reading.problems.append(shown.problem(0, 0, err.code, err.message, hint=err.hint))
            else:
                self._refuse(
                    parent,
                    place,
                    err.code,
                    f"include '{named(name)}': {err.message.replace('read it: ', '', 1)}",
                    err.hint or ("only files of this host can be included" if "://" in name else ""),
                )
            return None
        self.budget -= len(data)
        if place is not None and parent is not None and not is_part(data):
            # Not a word of it is shown: it may be the file that a secret is in.
            self._refuse(
                parent,
                place,
                "include_foreign",
                f"include '{named(name)}': it has no section of a document",
                "a file with a secret is named where the secret belongs: {file: PATH}",
            )
            return None
        key = os.path.relpath(absolute, os.path.dirname(os.path.abspath(self.main or "")))
        source, problem = decode(data, named(name), key)
        self.reading.sources.append(source)
        self.reading.contents[absolute] = data
        if problem is not None:
            self.reading.problems.append(problem)
            self.reading.whole = False
            return None
        return source

    def _compose(self, source: Source, *, main: bool) -> Mapping | None:
        node, problems = compose(source)
        self.reading.problems.extend(problems)
        if node is None and problems:
            self.reading.whole = False
            return None
        if isinstance(node, Mapping):
            return node
        self.reading.whole = False
        if node is None or (isinstance(node, Scalar) and node.value is None):
            empty = source.problem(
                0,
                0,
                "empty",
                "use an empty document",
                expected="at least the line 'version: 1'" if main else "at least one section, or {}",
                hint="an empty file is never taken for a wish to remove everything",
            )
            self.reading.problems.append(empty)
            return None
        self.reading.problems.append(
            source.problem(
                node.line,
                node.column,
                "wrong_type",
                f"use {kind_of(node.value) if isinstance(node, Scalar) else 'a list'} as a document",
                expected="a mapping that begins with 'version: 1'",
            )
        )
        return None

    def _with_includes(
        self,
        source: Source,
        tree: Mapping | None,
        directory: str | None,
        shown: str,
        chain: tuple[tuple[str, str], ...],
    ) -> Mapping | None:
        if tree is None or "include" not in tree.entries:
            return tree
        _, node = tree.entries["include"]
        own = _copy(tree)
        del own.entries["include"]
        merged: Node | None = None
        for place in self._names(source, node):
            if directory is None:
                self._refuse(source, place, "include", "include a file from a text that is no file")
                continue
            included = self.read(
                os.path.join(directory, place.value),
                # An address is no path, and shown as it was written.
                place.value if "://" in place.value else os.path.normpath(os.path.join(shown, place.value)),
                place,
                source,
                chain,
            )
            if included is None:
                continue
            merged = included if merged is None else merge(merged, included)
            if isinstance(merged, Mapping) and merged.size + own.size > MAX_NODES:
                self._refuse(source, place, "too_large", f"read more than {MAX_NODES:,} values with this include")
                return own
        result = own if merged is None else merge(merged, own)
        return result if isinstance(result, Mapping) else own

    def _names(self, source: Source, node: Node) -> list[Scalar]:
        nodes = node.items if isinstance(node, Sequence) else [node]
        good = []
        for each in nodes:
            if isinstance(each, Scalar) and isinstance(each.value, str) and each.value:
                good.append(each)
            else:
                what = (
                    kind_of(each.value)
                    if isinstance(each, Scalar)
                    else "a list"
                    if isinstance(each, Sequence)
                    else "a mapping"
                )
                self.reading.problems.append(
                    each.source.problem(
                        each.line,
                        each.column,
                        "wrong_type",
                        f"use {what} as the name of a file"
                        if not (isinstance(each, Scalar) and each.value == "")
                        else "include a file without a name",
                        path="include",
                        expected="the name of a file, or a list of names",
                    )
                )
                self.reading.whole = False
        return good


def _copy(node: Mapping) -> Mapping:
    return Mapping(node.source, node.line, node.column, dict(node.entries), node.size, node.height)


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: mappings are merged by name, everything else is replaced. Neither is changed."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    merged = _copy(over)
    merged.entries = dict(base.entries)
    merged.size = base.size + over.size
    for name, (label, node) in over.entries.items():
        below = base.entries.get(name)
        merged.entries[name] = (label, node if below is None else merge(below[1], node))
    return merged
