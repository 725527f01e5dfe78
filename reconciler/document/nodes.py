"""One text with its lines, and the tree of its values with their positions.

What a tree may hold is bounded by `compose`, which builds it. It knows nothing of the document's meaning. A line is only ever
quoted with its secrets masked: by their spans where these are known, by what is surely none where the text could not be read.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from reconciler.document.masking import Unread, mask_text
from reconciler.document.problems import Problem, quote
from reconciler.model import MASK, DocumentPath

# Lines beyond this are quoted from a part of them, so that masking does not search megabytes for each problem.
_LONG: Final = 2_000
# As far as a text that could not be read is looked through, in a quarter of a second at the most. Lines beyond are masked whole.
_LOOKED_THROUGH: Final = 131_072

_BREAK = re.compile("\r\n|\r|\n")
_NEWLINE = re.compile("\n")


@dataclass(slots=True, eq=False)
class Source:
    """One text: `name` as the operator knows it, `key` as the journal stores it.

    `masked` holds the spans (line, start column, end column; from 1, end exclusive, None for all) that no message may show;
    `mapped` says that all of them are known, so that all else may be shown.
    """

    name: str
    key: str
    text: str
    masked: dict[int, set[tuple[int, int | None]]] = field(default_factory=dict)
    mapped: bool = False
    _line_starts: array[int] | None = None
    _lines: list[str] | None = None

    def line(self, number: int, start: int = 0, most: int | None = None) -> str:
        """The text of one line (from 1) without its end, empty beyond the last; of it `most` characters from `start` on."""
        starts = self._starts
        if not 0 < number <= len(starts):
            return ""
        first = starts[number - 1] + start
        end = starts[number] if number < len(starts) else len(self.text)
        return self.text[first : end if most is None else min(end, first + most)].rstrip("\r\n")

    @property
    def line_count(self) -> int:
        """How many lines there are: one more than line ends."""
        return len(self._starts)

    def place(self, index: int) -> tuple[int, int]:
        """Line and column (from 1) of a character, or of the end of the text."""
        line = bisect_right(self._starts, index)
        return line, index - self._starts[line - 1] + 1

    @property
    def _starts(self) -> array[int]:
        """Where each line begins. Texts of lines would take twenty times what the document does, where lines are short."""
        if self._line_starts is None:
            ends = _BREAK if "\r" in self.text else _NEWLINE
            self._line_starts = array("I", (0,))
            self._line_starts.extend(match.end() for match in ends.finditer(self.text))
        return self._line_starts

    def shown(self, number: int, column: int) -> tuple[str, int]:
        """One line with every secret in it masked, and where `column` went."""
        # No more of it than tells that it is long: a line of megabytes may have a thousand problems.
        if len(self.line(number, most=_LONG + 1)) > _LONG:
            return self._shown_of_long(number, column)
        text, at = self._marked(number, column)
        if self.mapped:
            masked = mask_text(text)
        else:
            lines = self._unread()
            masked = lines[number - 1] if number <= len(lines) else MASK if text.strip() else text
        return masked, min(at, len(masked) + 1)

    def _marked(self, number: int, column: int) -> tuple[str, int]:
        line, at = self.line(number), column
        text = line
        for start, until in reversed(self._spans(number, len(line) + 1)):
            text = text[: start - 1] + MASK + text[until - 1 :]
            if column > start:
                at = at - (until - start) + len(MASK) if column >= until else start
        return text, at

    def _spans(self, number: int, after: int) -> list[tuple[int, int]]:
        """What is masked in a line that ends before `after`: one span where several lie over each other."""
        spans: list[tuple[int, int]] = []
        for start, until in sorted(
            (start, after if end is None else end) for start, end in self.masked.get(number, ())
        ):
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(until, spans[-1][1]))
            else:
                spans.append((start, until))
        return spans

    def _unread(self) -> list[str]:
        """The first lines of a text that could not be read, as they may be shown."""
        if self._lines is None:
            unread, left, self._lines = Unread(), _LOOKED_THROUGH, []
            for number in range(1, self.line_count + 1):
                line = self.line(number, most=_LONG + 1)
                left -= len(line) + 1
                if left < 0:
                    break
                self._lines.append(unread.show(line, self._marked(number, 1)[0]) if len(line) <= _LONG else MASK)
        return self._lines

    def _shown_of_long(self, number: int, column: int) -> tuple[str, int]:
        """The surroundings of a column in a line that no person wrote; masked whole where a secret is near."""
        start = max(0, column - 1 - _LONG // 2)
        window = self.line(number, start, _LONG)
        near = any(
            first <= start + _LONG and (end is None or end > start) for first, end in self.masked.get(number, ())
        )
        if near or not self.mapped:
            return MASK, 1
        return mask_text(window), column - start

    def problem(
        self, line: int, column: int, code: str, message: str, *, path: str = "", expected: str = "", hint: str = ""
    ) -> Problem:
        """A problem at a place of this text; `message` follows "cannot "."""
        if line == 0:
            return Problem(
                file=self.name,
                line=0,
                column=0,
                path=path,
                code=code,
                message=f"cannot {message}",
                expected=expected,
                hint=hint,
            )
        text, caret = quote(*self.shown(line, column))
        return Problem(
            file=self.name,
            line=line,
            column=column,
            path=path,
            code=code,
            message=f"cannot {message}",
            expected=expected,
            hint=hint,
            text=text,
            caret=caret,
        )


# The three node classes are no frozen dataclasses: freezing doubles the time to build a tree. Nobody changes one
# after its end event.
@dataclass(slots=True, eq=False)
class Scalar:
    """A single value; `plain` tells an unquoted one. Lines and columns count from 1, the end is exclusive."""

    source: Source
    line: int
    column: int
    value: Any
    plain: bool
    end_line: int
    end_column: int


@dataclass(slots=True, eq=False)
class Mapping:
    """Names to nodes, each with the node of its name. The end is the parser's: exclusive, and after a block's last line."""

    source: Source
    line: int
    column: int
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    size: int = 1
    height: int = 1
    flow: bool = False
    end_line: int = 0
    end_column: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """Nodes in their order."""

    source: Source
    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 1
    flow: bool = False
    end_line: int = 0
    end_column: int = 0


Node = Scalar | Mapping | Sequence


def is_unusable(node: Node) -> bool:
    """Whether what stands here is a number that cannot be used, whoever asks for what: it has its problem already."""
    return isinstance(node, Scalar) and node.value != node.value


def plain(node: Node) -> Any:
    """The tree as plain data. Bounded by what `compose` lets through."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Mapping):
        return {name: plain(item) for name, (_, item) in node.entries.items()}
    return [plain(item) for item in node.items]


def find(root: Node, path: DocumentPath) -> tuple[Node, Scalar | None, int]:
    """The node at `path` or its nearest parent, the node of its name if it has one, and how many parts were found."""
    node, name = root, None
    for count, part in enumerate(path):
        if isinstance(node, Mapping) and isinstance(part, str) and part in node.entries:
            name, node = node.entries[part]
        elif isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
            name, node = None, node.items[part]
        else:
            return node, name, count
    return node, name, len(path)


def walk(node: Node, path: DocumentPath = ()) -> Iterator[tuple[DocumentPath, Node]]:
    """Every node below and including `node` with its path, in the order of the text."""
    yield path, node
    if isinstance(node, Mapping):
        for name, (_, item) in node.entries.items():
            yield from walk(item, (*path, name))
    elif isinstance(node, Sequence):
        for number, item in enumerate(node.items):
            yield from walk(item, (*path, number))
