"""Loads a document: files, includes, environment, schema, rules; or all that is wrong with it.

The one entry for everybody else. Importing this module is cheap, and so is `load` when a cache of an earlier success fits: then
neither pydantic nor YAML is imported, and positions are composed only when somebody asks for one. It resolves no secret.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from reconciler.desired import Desired, from_canonical
from reconciler.errors import DocumentError
from reconciler.model import DocumentPath, Position
from reconciler.values import digest

if TYPE_CHECKING:
    from reconciler.document.edit import Edit
    from reconciler.document.environment import Override
    from reconciler.document.fields import Explained
    from reconciler.document.nodes import Mapping as MappingNode
    from reconciler.document.problems import Problem
    from reconciler.document.sources import Reading

# One document is taken apart at a time: a supervisor answers any number of clients, and its memory is bounded by what one of
# the largest needs. Secrets are resolved outside of it, so that nobody waits for somebody else's program.
_LOADING: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One valid document.

    Attributes:
        path: the main file as it is opened.
        name: the main file as the operator named it; every place is shown with it.
        desired: the desired state.
        digest: of the desired state with its overrides, without secrets.
        texts: each file's text; the key is its path relative to the main file's directory.
        overrides: what the environment sets.
        files: absolute paths of all files, the main one first.
        names: the environment variables that matter: overrides that may apply, and references to secrets.
        contents: the files' bytes by absolute path, as they were read.
        cached: whether the cache made it; then there is no need to write it again.
    """

    path: str
    name: str
    desired: Desired
    digest: str
    texts: Mapping[str, str]
    overrides: tuple[Override, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    contents: Mapping[str, bytes] = field(repr=False)
    cached: bool = False
    _tree: list[MappingNode] = field(default_factory=list, repr=False, compare=False)

    def locate(self, path: DocumentPath, *, value: bool = False) -> Position | None:
        """Where the document sets `path`, or its nearest parent that is set; None when not even its section is.

        That is the name, which tells a reader more; with `value` what stands behind it, as in all problems.

        The text is masked where it holds a literal that could be a secret. A field that the environment sets has the file
        `environment NAME` and line 0.
        """
        return _position(self._root(), path, value=value)

    def explain(self, path: DocumentPath) -> Explained:
        """The value at `path`, as a document has it, and where it comes from. What is not set has its default.

        Raises:
            UsageError: the schema has no such field.
        """
        from reconciler.document.fields import Explained, as_written, explain_unset, has
        from reconciler.document.nodes import find, plain

        root, canonical = self._root(), self.desired.canonical
        if path[0] == "include":
            # What the whole is made of is no part of what it says.
            root = self._main()
            canonical = plain(root)
        value: Any = canonical
        for part in path:
            value = value[part] if has(value, part) else None
        if find(root, path)[2] < len(path):
            unset = explain_unset(path, canonical)
            # An agent has what holds for all of them.
            of_all = path[:2] == ("heartbeats", "agents") and len(path) == 4
            return self.explain(("heartbeats", "defaults", path[3])) if of_all else unset
        place = _position(root, path)
        assert place is not None
        return Explained(value=as_written(path, value), origin=str(place) if place.line else place.file)

    def _main(self) -> MappingNode:
        """The tree of the main file alone, with its `include`; empty for a text that is no file, which includes nothing."""
        from reconciler.document.compose import compose
        from reconciler.document.nodes import Mapping as MappingNode
        from reconciler.document.sources import decode

        source, _ = decode(next(iter(self.contents.values()), b""), self.name, "")
        root, _ = compose(source)
        return root if isinstance(root, MappingNode) else MappingNode(source, 0, 0)

    def _root(self) -> MappingNode:
        if not self._tree:
            from reconciler.document.sources import read_document

            with _LOADING:
                root = read_document(self.path, self.contents, name=self.name).root
            assert root is not None, "these very bytes were valid before"
            _override(root, self.overrides)
            self._tree.append(root)
        return self._tree[0]


def load(
    path: str | os.PathLike[str], environ: Mapping[str, str], *, cache: Path | None = None, name: str | None = None
) -> Loaded:
    """The document at `path` under the environment `environ`; texts call it `name`, else as `path` does.

    `cache` is a file that `write_cache` may have written; it is only read, and ignored unless it is ours, private and
    fits every byte. Blocks on files; up to a second for the largest document, and as long as another thread loads one.

    Raises:
        DocumentError: with all problems, in the order of their places.
    """
    with _LOADING:
        try:
            return _load(path, environ, cache, name)
        except DocumentError as err:
            # Its frames hold the text and the tree, for as long as somebody holds the error.
            raise err.with_traceback(None) from None


def _load(path: str | os.PathLike[str], environ: Mapping[str, str], cache: Path | None, name: str | None) -> Loaded:
    opened = os.fspath(path)
    name = opened if name is None else name
    if cache is not None:
        from reconciler.document.cache import read_cache

        cached = read_cache(cache, os.path.abspath(opened) if "\0" not in opened else opened, environ)
        if cached is not None:
            found = _loaded(
                opened, name, cached.canonical, cached.declared, cached.contents, cached.texts, cached.overrides
            )
            return replace(found, cached=True)
    from reconciler.document.sources import read_document

    return _validated(opened, name, read_document(opened, name=name), environ)


def load_text(text: str, environ: Mapping[str, str], *, name: str = "openclaw.yaml") -> Loaded:
    """The same for a text that is no file (yet): an editor's buffer, a commit's blob. It must include nothing.

    Raises:
        DocumentError: with all problems, in the order of their places.
    """
    from reconciler.document.sources import read_text

    return _validated(name, name, read_text(text, name), environ)


def load_edited(
    path: str | os.PathLike[str], environ: Mapping[str, str], edit: Edit, *, name: str | None = None
) -> Loaded:
    """What `load` would give if `edit` were written; for checking an edit before it is.

    Raises:
        DocumentError: with all problems, in the order of their places.
    """
    from reconciler.document.sources import read_document

    opened = os.fspath(path)
    name = opened if name is None else name
    return _validated(opened, name, read_document(opened, {edit.file: edit.text.encode()}, name=name), environ)


def write_cache(cache: Path, loaded: Loaded, environ: Mapping[str, str]) -> bool:
    """Writes what lets the next `load` skip the schema; False when that was not possible, which is no failure.

    Only commands that write anyway call it; its directory must exist. What came from the cache is there already.
    """
    if loaded.cached:
        return True
    from reconciler.document import cache as store

    desired = loaded.desired
    return store.write_cache(
        cache,
        store.Cached(
            main=os.path.abspath(loaded.path),
            canonical=desired.canonical,
            declared=desired.declared,
            contents=loaded.contents,
            texts=loaded.texts,
            overrides=loaded.overrides,
        ),
        environ,
    )


def _validated(path: str, name: str, reading: Reading, environ: Mapping[str, str]) -> Loaded:
    problems: list[Problem] = list(reading.problems)
    root = reading.root
    if root is None or not reading.whole:
        _fail(name, problems, reading)
    from reconciler.document.environment import read_overrides
    from reconciler.document.validate import validate

    overrides = read_overrides(environ, frozenset(root.entries))
    overrides = _override(root, overrides)
    result = validate(root)
    problems += result.problems
    if problems:
        _fail(name, problems, reading, result.uncounted)
    texts = {source.key: source.text for source in reading.sources}
    return _loaded(path, name, result.canonical, result.declared, reading.contents, texts, overrides, root)


def _loaded(
    path: str,
    name: str,
    canonical: Mapping[str, Any],
    declared: frozenset[DocumentPath],
    contents: Mapping[str, bytes],
    texts: Mapping[str, str],
    overrides: tuple[Override, ...],
    root: MappingNode | None = None,
) -> Loaded:
    from reconciler.document.environment import VARIABLES
    from reconciler.document.references import references

    named = {reference.value for _, reference in references(canonical) if reference.source == "env"}
    return Loaded(
        path=path,
        name=name,
        desired=from_canonical(canonical, declared),
        digest=digest({"canonical": canonical, "declared": sorted(map(list, declared))}),
        texts=texts,
        overrides=overrides,
        files=tuple(contents),
        names=tuple(sorted({*VARIABLES, *(value for value in named if isinstance(value, str))})),
        contents=contents,
        _tree=[] if root is None else [root],
    )


def _override(root: MappingNode, overrides: tuple[Override, ...]) -> tuple[Override, ...]:
    """Lays the overrides on the tree and returns those that found their place."""
    from reconciler.document.nodes import Mapping as MappingNode
    from reconciler.document.nodes import Scalar, Source

    applied = []
    for override in overrides:
        source = Source(override.file, "", "")
        parent: Any = root
        for part in override.path[:-1]:
            name = Scalar(source, 0, 0, part, False, 0, 0)
            _, child = parent.entries.setdefault(part, (name, MappingNode(source, 0, 0)))
            if not isinstance(child, MappingNode):
                # A section that is no mapping is a problem of the file; the override has nowhere to go.
                break
            parent = child
        else:
            name = Scalar(source, 0, 0, override.path[-1], False, 0, 0)
            parent.entries[override.path[-1]] = (name, Scalar(source, 0, 0, override.value, False, 0, 0))
            applied.append(override)
    return tuple(applied)


def _fail(name: str, problems: list[Problem], reading: Reading, uncounted: int = 0) -> NoReturn:
    from reconciler.document.problems import named, sort_problems

    ordered = sort_problems(problems, [source.name for source in reading.sources], uncounted=uncounted)
    count = len(set(problems)) + uncounted
    raise DocumentError(
        f"cannot use {named(name)}: {count} problem{'s' if count > 1 else ''}", ordered, files=tuple(reading.paths)
    )


def _position(root: MappingNode, path: DocumentPath, *, value: bool = False) -> Position | None:
    from reconciler.document.nodes import Scalar, find

    node, name, found = find(root, path)
    if found == 0 and path:
        return None
    place = node if value or name is None or (isinstance(node, Scalar) and node.line == 0) else name
    if place.line == 0:
        return Position(file=place.source.name, line=0, column=0, text="")
    text, _ = place.source.shown(place.line, place.column)
    return Position(file=place.source.name, line=place.line, column=place.column, text=text)
