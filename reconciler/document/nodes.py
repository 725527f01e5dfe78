"""YAML text to a small tree of nodes with positions, by the rules of YAML 1.2 (core schema).

Composed from libyaml's events, because they carry marks and cost a tenth of a round trip. What libyaml would let grow is
bounded here: depth (its flow context is quadratic in it), the number of values, and what aliases expand to. It knows
nothing of the document's meaning. Everything wrong becomes a `Problem` in our words; only one stop per text is a
syntax error, the rest is collected.

The syntax is the plain part of YAML: anchors and aliases are allowed, but no tags, no directives but `%YAML 1.2`, no merge
keys, no second document, and keys are texts.
"""

from __future__ import annotations

import gc
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from reconciler.document.masking import hides, mask_line, mask_text
from reconciler.document.problems import Problem, quote, safe
from reconciler.model import MASK, DocumentPath
from reconciler.values import join_path

# A document for people nests six deep; openclaw.json settings twice that. Python's stack allows a thousand.
MAX_DEPTH: Final = 60
# Five times what the longest document that anybody wrote by hand held; 0.25 s of work at the most, so that a slow and busy
# machine still answers within a second.
MAX_NODES: Final = 50_000
# A 64-bit number has at most 20 digits; more is a mistake, and costs Python quadratic time.
_MAX_DIGITS: Final = 20
# Lines beyond this are quoted from a part of them, so that masking does not search megabytes for each problem.
_LONG: Final = 2_000
# Of the line above as much as masking looks at.
_LOOKED_BACK: Final = 10_000

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# In the place of a number that cannot be used, of which a problem tells already. No number that can is unequal to itself.
_UNUSABLE: Final = float("nan")
_WORDS: Final[dict[str, Any]] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_BREAK = re.compile("\r\n|\r|\n")
_NEWLINE = re.compile("\n")
_DIRECTIVE = re.compile(r"^%.*", re.MULTILINE)
# Everything YAML 1.2 calls not printable (5.1), surrogates, and the three line ends of YAML 1.1 that editors do not show.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


@dataclass(slots=True, eq=False)
class Source:
    """One text: `name` as the operator knows it, `key` as the journal stores it.

    `masked` holds the spans (line, start column, end column; from 1, end exclusive, None for all) that no message may show;
    `mapped` says that they are known, so that guessing from the line alone is not needed.
    """

    name: str
    key: str
    text: str
    masked: dict[int, set[tuple[int, int | None]]] = field(default_factory=dict)
    mapped: bool = False
    _line_starts: array[int] | None = None

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
        line, at = self.line(number, most=_LONG + 1), column
        if len(line) > _LONG:
            return self._shown_of_long(number, column)
        text = line
        for start, end in sorted(self.masked.get(number, ()), reverse=True):
            until = len(line) + 1 if end is None else end
            text = text[: start - 1] + MASK + text[until - 1 :]
            if column > start:
                at = at - (until - start) + len(MASK) if column >= until else start
        masked = mask_text(text) if self.mapped else mask_line(text, self.line(number - 1, most=_LOOKED_BACK))
        return masked, min(at, len(masked) + 1)

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


class _Stop(Exception):
    """Reading on would be pointless or dangerous; the problem is recorded."""


def compose(source: Source) -> tuple[Node | None, tuple[Problem, ...]]:
    """The tree of `source.text`, None when there is no telling what it means (then there is a problem), and all problems."""
    composer = _Composer(source)
    # A tree has no cycles, and the collector would walk it again and again as it grows: a quarter of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        composer.check_characters()
        composer.run()
    except _Stop:
        return None, tuple(composer.problems)
    finally:
        if collecting:
            gc.enable()
    return composer.root, tuple(composer.problems)


class _Composer:
    """Builds one tree from the events of one text."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self.stack: list[Mapping | Sequence] = []
        # For each open mapping: the name that waits for its value (None: a name comes next) and whether to drop the pair.
        self.names: list[Scalar | None] = []
        # By what each open collection but the first hangs in the one around it.
        self.outer: list[str | int | None] = []
        self.dropped: list[bool] = []
        self.anchors: dict[str, Node] = {}
        self.open_anchors: dict[str, int] = {}
        self.frame_anchors: list[str | None] = []
        self.count = 0

    def check_characters(self) -> None:
        """Refuses what libyaml would refuse without a line, read as a line break, or spend quadratic time on."""
        text = self.source.text
        if match := _FORBIDDEN.search(text):
            line, column = self.source.place(match.start())
            char = match[0]
            self._stop(
                line,
                column,
                "bad_character",
                f"read the character U+{ord(char):04X}",
                hint="a file of 16-bit characters? save it as UTF-8"
                if char == "\0"
                else "remove it, or write it as an escape in double quotes",
            )
        for match in _DIRECTIVE.finditer(text) if "%" in text else ():
            if match[0].rstrip() != "%YAML 1.2":
                line, column = self.source.place(match.start())
                self._stop(
                    line, column, "syntax", "use a line that begins with %", hint="YAML directives are not supported"
                )

    def run(self) -> None:
        """Feeds all events; raises `_Stop` at the first that makes the rest meaningless."""
        from _ruamel_yaml import (
            AliasEvent,
            CParser,
            DocumentStartEvent,
            MappingEndEvent,
            MappingStartEvent,
            ScalarEvent,
            SequenceEndEvent,
            SequenceStartEvent,
        )
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        parser = CParser(self.source.text)
        try:
            while parser.check_event():
                event = parser.get_event()
                kind = type(event)
                if kind is ScalarEvent:
                    self._scalar(event)
                elif kind is MappingStartEvent or kind is SequenceStartEvent:
                    self._open(event, Mapping if kind is MappingStartEvent else Sequence)
                elif kind is MappingEndEvent or kind is SequenceEndEvent:
                    self._close(event)
                elif kind is AliasEvent:
                    self._alias(event)
                elif kind is DocumentStartEvent and self.root is not None:
                    mark = event.start_mark
                    self._stop(
                        mark.line + 1,
                        mark.column + 1,
                        "several_documents",
                        "read more than one YAML document in a file",
                        hint="remove the line ---, or put the parts into files of their own and include them",
                    )
        except MarkedYAMLError as err:
            self._syntax_error(err)
        except YAMLError:
            self._stop(1, 1, "syntax", "read this as YAML")

    # -- building --

    def _scalar(self, event: Any) -> None:
        start, end = event.start_mark, event.end_mark
        text: str = event.value
        line, column = start.line + 1, start.column + 1
        is_plain = event.implicit[0] and not event.style
        if (event.tag or event.anchor) and self._awaits_secret():
            self._decorated_secret(event, line, column)
        self._tagged(event, line, column)
        value = self._resolve(text, line, column) if is_plain else text
        if not is_plain and "\0" in text:
            self._report(line, column, "bad_character", "use the character U+0000 in a text")
            value = text.replace("\0", "")
        node = Scalar(self.source, line, column, value, is_plain, end.line + 1, end.column + 1)
        self._add(node, text)
        if event.anchor:
            self.anchors[event.anchor] = node

    def _open(self, event: Any, kind: type[Mapping] | type[Sequence]) -> None:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        self._tagged(event, line, column)
        if len(self.stack) >= MAX_DEPTH:
            self._stop(line, column, "too_deep", f"read more than {MAX_DEPTH} levels, one inside the other")
        node = kind(self.source, line, column)
        node.flow = bool(event.flow_style)
        if self.stack:
            self.outer.append(self._part())
        self._add(node, None)
        self.stack.append(node)
        self.names.append(None)
        self.dropped.append(False)
        self.frame_anchors.append(event.anchor)
        if event.anchor:
            self.open_anchors[event.anchor] = line

    def _close(self, event: Any) -> None:
        node = self.stack.pop()
        node.end_line, node.end_column = event.end_mark.line + 1, event.end_mark.column + 1
        self.names.pop()
        self.dropped.pop()
        if self.outer:
            self.outer.pop()
        anchor = self.frame_anchors.pop()
        if anchor:
            self.open_anchors.pop(anchor, None)
            self.anchors[anchor] = node
        if self.stack:
            parent = self.stack[-1]
            parent.size += node.size
            parent.height = max(parent.height, node.height + 1)

    def _alias(self, event: Any) -> None:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        secret = self._awaits_secret()
        name = MASK if secret else safe(event.anchor)
        if event.anchor in self.open_anchors:
            self._stop(line, column, "bad_alias", f"use *{name} inside of what &{name} names")
        target = self.anchors.get(event.anchor)
        if target is None:
            from reconciler.document.problems import closest

            near = closest(event.anchor, self.anchors) if not secret else None
            hint = f"did you mean *{safe(near)}?" if near else 'quote a text that begins with *: "*..."'
            self._stop(line, column, "bad_alias", f"find the anchor &{name}", hint=hint)
        if not isinstance(target, Scalar):
            if len(self.stack) + target.height > MAX_DEPTH:
                self._stop(line, column, "too_deep", f"read more than {MAX_DEPTH} levels, one inside the other")
            if self.stack:
                self.stack[-1].size += target.size
                self.stack[-1].height = max(self.stack[-1].height, target.height + 1)
            self.count += target.size - 1
        self._add(target, None, line, column)

    def _add(self, node: Node, key_text: str | None, line: int = 0, column: int = 0) -> None:
        """Puts a node where the innermost open collection waits for one."""
        line, column = line or node.line, column or node.column
        self.count += 1
        if self.count > MAX_NODES:
            self._stop(
                line,
                column,
                "too_large",
                f"read more than {MAX_NODES:,} values",
                hint="aliases count as what they stand for",
            )
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        if isinstance(node, Scalar):
            parent.size += 1
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return
        name = self.names[-1]
        if name is None:
            self.names[-1], self.dropped[-1] = self._name(parent, node, key_text, line, column)
        else:
            if not self.dropped[-1]:
                parent.entries[name.value] = (name, node)
            self.names[-1] = None

    def _name(self, parent: Mapping, node: Node, text: str | None, line: int, column: int) -> tuple[Scalar, bool]:
        """The name of the pair that begins here, and whether the pair must be dropped because the name is no use."""
        ignored = Scalar(self.source, line, column, "", True, line, column)
        if not isinstance(node, Scalar):
            self._report(line, column, "bad_key", "use a list or a mapping as a name", expected="a text before the ':'")
            return ignored, True
        if text is None and not isinstance(node.value, str):
            text = str(node.value)
        if node.plain and text == "<<":
            self._report(
                line,
                column,
                "merge_key",
                "use the merge key '<<': it is no part of YAML 1.2",
                hint="write the fields out, or use include",
            )
            return ignored, True
        if is_unusable(node):
            return ignored, True
        if not isinstance(node.value, str):
            shown = safe(text or "")
            self._report(
                line,
                column,
                "bad_key",
                f"use {shown} as a name: it is not a text" if shown else "use nothing as a name",
                expected="a text before the ':'",
                hint=f'quote it: "{shown}"' if shown else "",
            )
            return ignored, True
        if node.value in parent.entries:
            first = parent.entries[node.value][0]
            self._report(
                line,
                column,
                "duplicate_key",
                f"use the name '{safe(node.value)}' twice: it is already on line {first.line}",
                hint="keep one of the two",
            )
            return node, True
        if (line, column) != (node.line, node.column):
            node = Scalar(self.source, line, column, node.value, node.plain, line, column)
        return node, False

    def _resolve(self, text: str, line: int, column: int) -> Any:
        """The value of a plain scalar by the YAML 1.2 core schema (10.3.2)."""
        if text in _WORDS:
            return _WORDS[text]
        first = text[0]
        if not (first in "+-." or "0" <= first <= "9"):
            return text
        if _INT.fullmatch(text):
            return self._number(text, 10, line, column)
        if first == "0" and _OCTAL.fullmatch(text):
            return self._number(text[2:], 8, line, column)
        if first == "0" and _HEX.fullmatch(text):
            return self._number(text[2:], 16, line, column)
        if _NOT_FINITE.fullmatch(text):
            self._report(line, column, "bad_value", f"use the number {text}", expected="a finite number")
            return _UNUSABLE
        if _FLOAT.fullmatch(text):
            value = float(text) if len(text) < 400 else float("inf")
            if value - value != 0:
                self._report(line, column, "bad_value", "use a number of this size", expected="a finite number")
                return _UNUSABLE
            return value
        return text

    def _number(self, digits: str, base: int, line: int, column: int) -> int | float:
        if len(digits) > _MAX_DIGITS:
            self._report(
                line,
                column,
                "bad_value",
                f"use a number of {len(digits)} digits",
                hint="quote it if it is meant as a text",
            )
            return _UNUSABLE
        return int(digits, base)

    def _tagged(self, event: Any, line: int, column: int) -> None:
        if event.tag is not None and event.tag != "!":
            tag = MASK if self._awaits_secret() else safe(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._report(
                line,
                column,
                "tag",
                f"use the tag {tag}: tags are not supported",
                hint="quote a value that is meant as a text",
            )

    def _awaits_secret(self) -> bool:
        """Whether the value that comes next stands below a name that says secret."""
        return any(isinstance(part, str) and hides(part) for part in (*self.outer, self._part()))

    def _decorated_secret(self, event: Any, line: int, column: int) -> None:
        """A secret that begins with `&` or `!` reads as an anchor or a tag; as such it must not be shown either."""
        end = event.end_mark
        if not event.value:
            until = end.column + 1 if end.line + 1 == line else None
            self.source.masked.setdefault(line, set()).add((column, until))
            if event.anchor:
                self._report(
                    line,
                    column,
                    "secret_literal",
                    "use an anchor without a value for a secret",
                    expected="{env: NAME}, {file: PATH}, {exec: [PROGRAM, ARGUMENT]} or ${NAME}",
                )

    # -- problems --

    def _path(self) -> str:
        return safe(join_path(tuple(part for part in (*self.outer, self._part()) if part is not None)))

    def _part(self) -> str | int | None:
        """By what the next node hangs in the innermost open collection; None for a name, and for what has none of use."""
        if not self.stack:
            return None
        if isinstance(node := self.stack[-1], Sequence):
            return len(node.items)
        name = self.names[-1]
        return name.value or None if name is not None else None

    def _report(self, line: int, column: int, code: str, message: str, *, expected: str = "", hint: str = "") -> None:
        if len(self.problems) < 1000:
            self.problems.append(
                self.source.problem(line, column, code, message, path=self._path(), expected=expected, hint=hint)
            )

    def _stop(self, line: int, column: int, code: str, message: str, *, expected: str = "", hint: str = "") -> NoReturn:
        self.problems.append(
            self.source.problem(line, column, code, message, path=self._path(), expected=expected, hint=hint)
        )
        raise _Stop

    def _syntax_error(self, err: Any) -> NoReturn:
        from reconciler.document.syntax import explain_syntax

        self.problems.append(explain_syntax(self.source, err))
        raise _Stop from None
