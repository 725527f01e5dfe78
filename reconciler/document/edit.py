"""Changes a value in the text of a document and leaves every other line as it is, byte for byte.

The text is spliced at the positions that the reader found, and then read again: only what was asked for may have
changed, else the edit is refused. (A round trip through a YAML library keeps comments, but re-wraps, re-indents and
re-quotes what it passes over.) Knows YAML and files, not the schema.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from reconciler.document.compose import compose
from reconciler.document.nodes import Mapping, Node, Scalar, Sequence, Source, find, plain, walk
from reconciler.document.problems import named, safe
from reconciler.document.sources import read_document
from reconciler.errors import DocumentError, UsageError
from reconciler.model import DocumentPath
from reconciler.values import join_path, same

# Words that need no quotes anywhere, in flow collections too.
_PLAIN: Final = re.compile(r"[A-Za-z_/.~][A-Za-z0-9_./@+\-:]*|[0-9]+[A-Za-z]+[A-Za-z0-9]*")
# Texts in YAML 1.2, but other values to readers of YAML 1.1.
_OLD_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off"})
_BREAKS: Final = re.compile("\r\n|\r|\n")
_MARK: Final = "\ufeff"
# Lines of comments and blank ones.
_LEAD: Final = re.compile(r"(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n))*")
# Lists in which more pairs would have to be compared are exchanged from the first difference to the last.
_MOST_COMPARED: Final = 1_000_000
# The comment at the end of a line, with the blanks in front.
_TRAILING: Final = re.compile(r"[ \t]+#[^\r\n]*")
_COMMENT: Final = re.compile(r"(?:^|(?<=\s))#")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One file with its new text, not written yet.

    Attributes:
        file: its absolute path.
        name: what the operator would call it.
        before: its bytes as they were read; what is there by now may be somebody else's.
        lost: how many comments stood inside the value that was replaced, and are gone.
    """

    file: str
    name: str
    text: str
    before: bytes
    lost: int = 0


def set_value(text: str, path: DocumentPath, value: Any, *, name: str = "document") -> str:
    """The text with `value` (plain data) at `path`; missing mappings on the way are added.

    Comments, order, quoting, line ends and indentation stay as they are; lines that do not hold the value are the same bytes.

    Raises:
        DocumentError: the text cannot be read.
        UsageError: there is no place for such a value, or it cannot be changed without changing something else.
    """
    if not path:
        raise UsageError("cannot set the whole document")
    mark = _MARK if text.startswith(_MARK) else ""
    text = text.removeprefix(_MARK)
    root = _read(text, name)
    expected = _with(plain(root) if root is not None else {}, path, value)
    # As it is written on a line of its own; where that means something else, as it stands in brackets.
    for brackets in (False, True):
        splice = _Splice(text, root, brackets)
        for result in (splice.set_items(path, value), splice.set(path, value)):
            if result is not None and _means(result, name, expected):
                return mark + result
    return _refuse(path, "it would change more than that")


def set_in_files(main: str, path: DocumentPath, value: Any, *, name: str | None = None) -> Edit:
    """The same for a document with includes, called `name`: what an include sets is changed there, what nothing sets yet is
    added to the document itself, for an include may belong to other hosts as well. `include` is the document's own.

    Raises:
        DocumentError: the document cannot be read.
        UsageError: as `set_value`; or several files set a part of it.
    """
    import os

    name = main if name is None else name
    reading = read_document(main, name=name)
    if reading.root is None or not reading.whole:
        from reconciler.document.problems import sort_problems

        problems = sort_problems(reading.problems, [source.name for source in reading.sources])
        raise DocumentError(f"cannot read {named(name)}", problems)
    node, label, found = find(reading.root, path)
    source = (label or node).source if found == len(path) else reading.sources[0]
    directory = os.path.dirname(os.path.abspath(main))
    file = os.path.normpath(os.path.join(directory, source.key))
    mark = _MARK if reading.contents[file].startswith(_MARK.encode()) else ""
    text = set_value(mark + source.text, path, value, name=source.name)
    lost = max(0, comments(source.text) - comments(text))
    edit = Edit(file=file, name=source.name, text=text, before=reading.contents[file], lost=lost)
    if path[0] == "include":
        # What it is made of is no part of what the whole says: `load_edited` tells what comes of it.
        return edit
    after = read_document(main, {**reading.contents, file: text.encode()}, name=name).root
    if after is None or not _gives(after, path, value):
        _refuse(path, "several files set a part of it")
    return edit


def value_text(value: Any) -> str:
    """Plain data in one line that means just it as YAML: a text as it is where that can be, all else as JSON."""
    return value if isinstance(value, str) and _is_text(value) else _quoted(value)


def comments(text: str) -> int:
    """How many lines of a text in YAML have a comment; 0 where it cannot be read."""
    text = text.removeprefix(_MARK)
    root, _ = compose(Source("", "", text))
    if root is None:
        return 0
    splice, left = _Splice(text, None), list(text)
    for _, node in walk(root):
        names = [name for name, _ in node.entries.values()] if isinstance(node, Mapping) else []
        for scalar in (*names, *([node] if isinstance(node, Scalar) else [])):
            start, end = (
                splice.index(scalar.line, scalar.column),
                splice.index(scalar.end_line, scalar.end_column),
            )
            left[start:end] = [char if char in "\r\n" else "x" for char in left[start:end]]
    return sum(1 for line in _BREAKS.split("".join(left)) if _COMMENT.search(line))


def _gives(root: Node, path: DocumentPath, value: Any) -> bool:
    node, _, found = find(root, path)
    return found == len(path) and same(plain(node), value)


def _means(text: str, name: str, expected: Any) -> bool:
    try:
        node = _read(text, name)
    except DocumentError:
        return False
    return node is not None and same(plain(node), expected)


def _read(text: str, name: str) -> Mapping | None:
    node, problems = compose(Source(name, name, text.removeprefix(_MARK)))
    if problems:
        raise DocumentError(f"cannot read {named(name)}", problems)
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return None
    if not isinstance(node, Mapping):
        raise UsageError(f"cannot edit {named(name)}: it is no mapping")
    return node


def _with(data: Any, path: DocumentPath, value: Any) -> Any:
    """A copy of `data` with `value` at `path`."""
    data = copy.deepcopy(data)
    at: Any = data
    for part, below in itertools.pairwise(path):
        child = at.get(part) if isinstance(at, dict) and isinstance(part, str) else None
        if _has_item(at, part):
            child = at[part]
        if child is None and isinstance(at, dict) and isinstance(below, str):
            child = at[part] = {}
        if not isinstance(child, (dict, list)):
            _refuse(path, f"'{safe(str(part))}' holds no other values")
        at = child
    last = path[-1]
    if (isinstance(at, dict) and isinstance(last, str)) or _has_item(at, last):
        at[last] = value
    else:
        _refuse(path, "there is no such place")
    return data


def _has_item(at: Any, part: str | int) -> bool:
    return isinstance(at, list) and isinstance(part, int) and 0 <= part < len(at)


def _refuse(path: DocumentPath, why: str) -> NoReturn:
    raise UsageError(f"cannot set '{safe(join_path(path))}': {why}", hint="edit the file by hand")


class _Splice:
    """One change of one text. `brackets`: what is written stands in brackets."""

    def __init__(self, text: str, root: Mapping | None, brackets: bool = False) -> None:
        self.text = text
        self.root = root
        self.brackets = brackets
        self.starts = [0, *(match.end() for match in _BREAKS.finditer(text))]
        first = _BREAKS.search(text)
        self.newline = first[0] if first else "\n"

    def set(self, path: DocumentPath, value: Any) -> str:
        if self.root is None:
            return self._insert_lines(len(self.text), self._block(path, value, 0))
        node, name, found = find(self.root, path)
        if name is not None and self._start(node) < self._start(name):
            _refuse(path, f"'{safe(join_path(path[:found]))}' is an alias of another value")
        if found == len(path):
            return self._replace(node, name, value)
        rest = path[found:]
        if isinstance(node, Mapping):
            return self._add_flow(node, rest, value) if node.flow else self._add_block(node, rest, value)
        if isinstance(node, Scalar) and node.value is None and name is not None:
            if node.line == node.end_line and node.column == node.end_column:
                indent = name.column - 1 + self._step()
                return self._insert_lines(
                    self._line_end(self.index(node.line, node.column)), self._block(rest, value, indent)
                )
            return self._replace(node, name, _nest(rest, value))
        return _refuse(path, "its parent holds no other values")

    def set_items(self, path: DocumentPath, value: Any) -> str | None:
        """A list in the place of a list, of which only the items that differ are touched. None where there is none to keep."""
        node, _, found = find(self.root, path) if self.root is not None else (None, None, -1)
        if found != len(path) or not isinstance(node, Sequence) or not isinstance(value, (list, tuple)):
            return None
        old, new = node.items, list(value)
        if not old or not new:
            return None
        head = _common(old, new)
        tail = _common(old[head:][::-1], new[head:][::-1])
        gone, come = old[head : len(old) - tail], new[head : len(new) - tail]
        if not gone:
            return self._insert_items(node, head, come)
        if not come:
            return self._delete_items(node, head, len(gone))
        return (
            self._exchange_in_brackets(node, head, come, tail) if node.flow else self._exchange(node, head, come, tail)
        )

    def _exchange_in_brackets(self, node: Sequence, head: int, come: list[Any], tail: int) -> str:
        text = self.text
        gone = node.items[head : len(node.items) - tail]
        # From the end to the beginning, so that the places in front stay right.
        for _, low, high, first, last in reversed(_steps(gone, come)):
            both = min(high - low, last - first)
            here = _Splice(text, self.root, self.brackets)
            if last - first > both:
                text = here._insert_items(node, head + low + both, come[first + both : last])
            elif high - low > both:
                text = here._delete_items(node, head + low + both, high - low - both)
            for item, wanted in reversed(list(zip(gone[low : low + both], come[first : first + both], strict=True))):
                text = _Splice(text, self.root, self.brackets)._replace(item, None, wanted)
        return text

    def _exchange(self, node: Sequence, head: int, come: list[Any], tail: int) -> str | None:
        """Puts `come` in the place of the items of a block between `head` and `tail`.

        An item that stays keeps its lines and the comments in front, wherever it goes to (those in front of the first are the
        list's). One that is exchanged for another lends it its own; others go, but for comments on lines in front of them.
        """
        gone = node.items[head : len(node.items) - tail]
        begin = self._next_line(self._content_end(node.items[head - 1])) if head else self.starts[node.line - 1]
        if not head and self.text[begin : self._start(node)].strip():
            return None
        leads, bodies, at = [], [], begin
        for item in gone:
            end = self._next_line(self._content_end(item))
            if end <= at or self._start(item) < at:
                # An alias stands elsewhere.
                return None
            lead = _LEAD.match(self.text, at, end)
            assert lead is not None
            leads.append(lead[0])
            bodies.append((lead.end(), end))
            at = end
        lines: list[str] = []
        commented = {number for number, (low, high) in enumerate(bodies) if "#" in self.text[low:high]}
        chosen = _places(gone, come, commented)
        for number in sorted(set(range(len(gone))) - {index for index, _ in chosen if index is not None}):
            # What stood in front of one that goes stands in front of the next.
            if number + 1 < len(gone):
                leads[number + 1] = leads[number] + leads[number + 1]
            else:
                lines.append(leads[number])
        written = []
        for (index, stays), value in zip(chosen, come, strict=True):
            if index is None:
                written.append(" " * (node.column - 1) + "- " + _render(value, "", flow=self.brackets) + self.newline)
                continue
            low, high = bodies[index]
            body = self.text[low:high]
            if not stays:
                other = self._replace(gone[index], None, value)
                body = other[low : high + len(other) - len(self.text)]
            written.append(leads[index] + (body if body.endswith(("\n", "\r")) else body + self.newline))
        text = "".join([*written, *lines])
        if not self.text[:at].endswith(("\n", "\r")):
            text = text.removesuffix(self.newline)
        return self.text[:begin] + text + self.text[at:]

    def _next_line(self, at: int) -> int:
        """Where the line after the one of `at` begins."""
        match = _BREAKS.search(self.text, at)
        return match.end() if match else len(self.text)

    def _insert_items(self, node: Sequence, at: int, values: list[Any]) -> str:
        rendered = [_render(value, "", flow=self.brackets) for value in values]
        if node.flow and at:
            end = self._content_end(node.items[at - 1])
            return self.text[:end] + "".join(f", {each}" for each in rendered) + self.text[end:]
        if node.flow:
            start = self._start(node.items[0])
            return self.text[:start] + "".join(f"{each}, " for each in rendered) + self.text[start:]
        lines = [" " * (node.column - 1) + "- " + each for each in rendered]
        place = self._line_end(self._content_end(node.items[at - 1])) if at else self.starts[node.items[0].line - 1]
        return self._insert_lines(place, lines)

    def _delete_items(self, node: Sequence, at: int, count: int) -> str:
        """Takes neighbours out; of a block each with its own lines, so that comments on lines between them stay."""
        items = node.items[at : at + count]
        if node.flow and at:
            return self.text[: self._content_end(node.items[at - 1])] + self.text[self._content_end(items[-1]) :]
        if node.flow:
            return self.text[: self._start(items[0])] + self.text[self._start(node.items[count]) :]
        text = self.text
        for item in reversed(items):
            end = self._line_end(self._content_end(item))
            text = text[: self.starts[item.line - 1]] + _BREAKS.sub("", text[end : end + 2], count=1) + text[end + 2 :]
        return text

    def _start(self, node: Node) -> int:
        return self.index(node.line, node.column)

    def _replace(self, node: Node, name: Scalar | None, value: Any) -> str:
        start = self.index(node.line, node.column)
        end = self._content_end(node)
        quote = self.text[start : start + 1] if isinstance(node, Scalar) and not node.plain else ""
        rendered = _render(value, quote, flow=self.brackets)
        if name is not None and not isinstance(node, Scalar) and not node.flow:
            # A block collection begins below its name; its replacement stands beside it, in front of the comment of the name.
            # Those of the items go with them, that of the last one too.
            start = self.text.index(":", self.index(name.end_line, name.end_column)) + 1
            own = _TRAILING.search(self.text, start, self._line_end(start))
            rendered = " " + rendered + (own[0] if own else "")
            end = self._line_end(end)
        elif start == end:
            rendered = " " + rendered
        return self.text[:start] + rendered + self.text[end:]

    def _add_flow(self, node: Mapping, path: DocumentPath, value: Any) -> str:
        pair = f"{_render(path[0], '', flow=True)}: {_render(_nest(path[1:], value), '', flow=True)}"
        if not node.entries:
            start = self.text.index("{", self.index(node.line, node.column)) + 1
            return self.text[:start] + pair + self.text[start:].lstrip(" ")
        end = self._content_end(next(reversed(node.entries.values()))[1])
        return self.text[:end] + ", " + pair + self.text[end:]

    def _add_block(self, node: Mapping, path: DocumentPath, value: Any) -> str:
        first = next(iter(node.entries.values()))[0]
        at = self._line_end(self._content_end(node))
        return self._insert_lines(at, self._block(path, value, first.column - 1))

    def _insert_lines(self, at: int, lines: list[str]) -> str:
        """Puts lines where a line ends (before its break, if it has one)."""
        before, after = self.text[:at], self.text[at:]
        if before and not before.endswith(("\n", "\r")):
            return before + "".join(self.newline + line for line in lines) + after
        return before + "".join(line + self.newline for line in lines) + after

    def _block(self, path: DocumentPath, value: Any, indent: int) -> list[str]:
        lines = []
        step = self._step()
        for depth, part in enumerate(path):
            last = depth == len(path) - 1
            lines.append(
                " " * (indent + depth * step) + _render(part, "") + ":" + (" " + _render(value, "") if last else "")
            )
        return lines

    def _step(self) -> int:
        """How far this document indents."""
        for _, node in self.root.entries.values() if self.root is not None else ():
            if isinstance(node, Mapping) and not node.flow and node.entries:
                return max(1, next(iter(node.entries.values()))[0].column - 1)
        return 2

    def index(self, line: int, column: int) -> int:
        return min(self.starts[line - 1] + column - 1, len(self.text)) if line <= len(self.starts) else len(self.text)

    def _line_end(self, at: int) -> int:
        match = _BREAKS.search(self.text, at)
        return match.start() if match else len(self.text)

    def _content_end(self, node: Node) -> int:
        """Where the text of a node ends, without the break, the comments and the blank lines that follow."""
        if isinstance(node, Scalar) or node.flow:
            end = self.index(node.end_line, node.end_column)
            start = self.index(node.line, node.column)
            return start + len(self.text[start:end].rstrip()) if end > start else end
        children = [item for _, item in node.entries.values()] if isinstance(node, Mapping) else node.items
        return max(self._content_end(child) for child in children)


def _common(old: list[Node], new: list[Any]) -> int:
    """How many items both begin with."""
    count = 0
    for item, value in zip(old, new, strict=False):
        if not same(plain(item), value):
            break
        count += 1
    return count


def _steps(old: list[Node], new: list[Any]) -> list[tuple[str, int, int, int, int]]:
    """The steps from one list to the other, in the form of `difflib.SequenceMatcher.get_opcodes`, without those that are none."""
    if len(old) * len(new) > _MOST_COMPARED:
        return [("replace", 0, len(old), 0, len(new))]
    matcher = difflib.SequenceMatcher(
        None, [_canonical(plain(item)) for item in old], list(map(_canonical, new)), False
    )
    return [step for step in matcher.get_opcodes() if step[0] != "equal"]


def _places(old: list[Node], new: list[Any], commented: Set[int]) -> list[tuple[int | None, bool]]:
    """For each of `new` the old item in whose place it stands, and whether it is that item; None for none.

    Where not as many come as go, nobody knows which is which: a comment then is lent to none.
    """
    waiting: dict[str, list[int]] = {}
    for number, item in enumerate(old):
        waiting.setdefault(_canonical(plain(item)), []).append(number)
    places: list[tuple[int | None, bool]] = []
    for value in new:
        same_ones = waiting.get(_canonical(value))
        places.append((same_ones.pop(0), True) if same_ones else (None, False))
    left = {number for numbers in waiting.values() for number in numbers}
    for _, low, high, first, last in _steps(old, new):
        gone = [number for number in range(low, high) if number in left]
        come = [number for number in range(first, last) if places[number][0] is None]
        for number, place in zip(come, gone, strict=False):
            if len(gone) == len(come) or place not in commented:
                places[number] = (place, False)
    return places


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _nest(path: DocumentPath, value: Any) -> Any:
    for part in reversed(path):
        value = {part: value}
    return value


def _render(value: Any, quote: str, *, flow: bool = False) -> str:
    """A value on one line, as YAML 1.2; `quote` is the sort of quotes that the old text had, `flow`: it stands in brackets."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _render_text(value, quote, flow=flow)
    if isinstance(value, dict):
        pairs = [f"{_render(name, '', flow=True)}: {_render(item, '', flow=True)}" for name, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_render(item, "", flow=True) for item in value) + "]"
    raise TypeError(f"not plain data: {type(value).__name__}")


def _render_text(text: str, quote: str, *, flow: bool) -> str:
    printable = text.isprintable()
    if quote == "'" and printable:
        return "'" + text.replace("'", "''") + "'"
    if (
        quote != '"'
        and printable
        and _PLAIN.fullmatch(text)
        # In brackets readers of YAML 1.1 (libyaml is one) take it for the end of a name.
        and not (":" in text if flow else text.endswith(":"))
        and text.lower() not in _OLD_WORDS
        and _is_text(text)
    ):
        return text
    return _quoted(text)


def _quoted(value: Any) -> str:
    """Plain data as JSON, in which nothing stands that YAML or a terminal would take for something else."""
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() or char == " " else _escape(char) for char in quoted)


def _escape(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _is_text(text: str) -> bool:
    """True when YAML 1.2 takes the bare word for a text."""
    node, problems = compose(Source("", "", text))
    return not problems and isinstance(node, Scalar) and node.value == text
