"""YAML text to a small tree of nodes with positions, by the rules of YAML 1.2 (core schema).

Composed from libyaml's events, because they carry marks and cost a tenth of a round trip. What libyaml would let grow is
bounded here: depth (its flow context is quadratic in it), the number of values, and what aliases expand to. Of the document's
meaning it knows only where secrets stand. Everything wrong becomes a `Problem` in our words; only one stop per text is a
syntax error, the rest is collected.

The syntax is the plain part of YAML: anchors and aliases are allowed, but no tags, no directives but `%YAML 1.2`, no merge
keys, no second document, and keys are texts.
"""

from __future__ import annotations

import gc
import re
from typing import Any, Final, NoReturn

from reconciler.document.marks import mark, mark_below, mark_secrets
from reconciler.document.masking import (
    hides,
    is_below_secret,
    is_doubtful,
    is_lost_value,
    mask_name,
    shown_name,
    shown_path,
)
from reconciler.document.nodes import Mapping, Node, Scalar, Sequence, Source, is_unusable
from reconciler.document.problems import MAX_PROBLEMS, Problem, safe
from reconciler.model import MASK

# A document for people nests six deep; openclaw.json settings twice that. Python's stack allows a thousand.
MAX_DEPTH: Final = 60
# Five times what the longest document that anybody wrote by hand held; 0.25 s of work at the most, so that a slow and busy
# machine still answers within a second.
MAX_NODES: Final = 50_000
# A 64-bit number has at most 20 digits; more is a mistake, and costs Python quadratic time.
_MAX_DIGITS: Final = 20

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
_DIRECTIVE = re.compile(r"^%.*", re.MULTILINE)
# Everything YAML 1.2 calls not printable (5.1), surrogates, and the three line ends of YAML 1.1 that editors do not show.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class _Stop(Exception):
    """Reading on would be pointless or dangerous; the problem is recorded."""


def compose(source: Source) -> tuple[Node | None, tuple[Problem, ...]]:
    """The tree of `source.text`, None when there is no telling what it means (then there is a problem), and all problems."""
    composer = _Composer(source)
    stopped = False
    # A tree has no cycles, and the collector would walk it again and again as it grows: a quarter of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        composer.check_characters()
        composer.run()
    except _Stop:
        stopped = True
    finally:
        if collecting:
            gc.enable()
    composer.mark()
    source.mapped = not stopped
    return None if stopped else composer.root, composer.problems()


class _Composer:
    """Builds one tree from the events of one text."""

    def __init__(self, source: Source) -> None:
        self.source = source
        # What `Source.problem` takes. A line is quoted when all its secrets are known: some come after the place of the problem.
        self.reports: list[tuple[tuple[int, int, str, str], dict[str, Any]]] = []
        self.syntax: Any = None
        # The values of names that came again and may be secrets: nobody knows their place.
        self.doubtful: dict[int, Node] = {}
        self.again = False
        # The values that the tree has no place for, with the names above them.
        self.lost: list[tuple[tuple[str, ...], Node]] = []
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
        self.by_aliases = 0

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

    def mark(self) -> None:
        """Marks the secrets among all values that came, also those that a text holds in vain."""
        if self.root is not None:
            mark_secrets(self.root)
        for path, node in self.lost:
            mark_secrets(node, path)
        for node in self.doubtful.values():
            mark_below(node)

    def problems(self) -> tuple[Problem, ...]:
        """All that was reported, in that order."""
        found = [self.source.problem(*place, **words) for place, words in self.reports]
        if self.syntax is not None:
            from reconciler.document.syntax import explain_syntax

            found.append(explain_syntax(self.source, self.syntax))
        return tuple(found)

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
        if (
            event.tag not in (None, "!")
            and self.stack
            and isinstance(self.stack[-1], Mapping)
            and self.names[-1] is None
        ):
            # The tag may be the name, and this the value.
            mark(node)
            self.names[-1], self.dropped[-1] = Scalar(self.source, line, column, "", True, line, column), True
            return
        self._add(node, text)
        if event.anchor:
            self.anchors[event.anchor] = node

    def _open(self, event: Any, kind: type[Mapping] | type[Sequence]) -> None:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        self._tagged(event, line, column)
        if (event.tag or event.anchor) and self._awaits_secret():
            self.source.masked.setdefault(line, set()).add((column, None))
        if len(self.stack) >= MAX_DEPTH:
            self._stop(line, column, "too_deep", f"read more than {MAX_DEPTH} levels, one inside the other")
        node = kind(self.source, line, column)
        node.flow = bool(event.flow_style)
        part, is_inside = self._part(), bool(self.stack)
        self._add(node, None)
        if is_inside:
            self.outer.append(part)
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
            self.by_aliases += target.size - 1
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
                hint="aliases count as what they stand for" if self.by_aliases else "",
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
            else:
                self._lose(node, name.value)
                if self.again or not name.value or not isinstance(node, Scalar):
                    self.doubtful[id(node)] = node
                    self.again = False
                if not name.value:
                    # The names below a merge key are those of the mapping that it stands in.
                    self._lose(node)
            self.names[-1] = None

    def _name(self, parent: Mapping, node: Node, text: str | None, line: int, column: int) -> tuple[Scalar, bool]:
        """The name of the pair that begins here, and whether the pair must be dropped because the name is no use."""
        ignored = Scalar(self.source, line, column, "", True, line, column)
        if not isinstance(node, Scalar):
            self.doubtful[id(node)] = node
            self._report(line, column, "bad_key", "use a list or a mapping as a name", expected="a text before the ':'")
            return ignored, True
        if text is None and not isinstance(node.value, str):
            text = str(node.value)
        if isinstance(node.value, str) and mask_name(node.value) != node.value:
            mark(node)
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
            shown = shown_name(text or "")
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
            first, value = parent.entries[node.value]
            self.again = len(self.reports) < MAX_PROBLEMS and is_doubtful((*self._names(), node.value))
            if self.again:
                self.doubtful[id(value)] = value
            is_secret = isinstance(value, Scalar) and is_lost_value(self._names(), node.value, value.value)
            if is_secret:
                mark(node)
            self._report(
                line,
                column,
                "duplicate_key",
                f"use the name '{MASK if is_secret else shown_name(node.value)}' twice: it is already on line {first.line}",
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
        path = self._names()
        return any(map(hides, path)) or is_below_secret(path)

    def _names(self) -> tuple[str, ...]:
        return tuple(part for part in (*self.outer, self._part()) if isinstance(part, str))

    def _lose(self, node: Node, *name: str) -> None:
        self.lost.append(((*(part for part in self.outer if isinstance(part, str)), *name), node))

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
        return shown_path(tuple(part for part in (*self.outer, self._part()) if part is not None))

    def _part(self) -> str | int | None:
        """By what the next node hangs in the innermost open collection; None for a name, and for what has none of use."""
        if not self.stack:
            return None
        if isinstance(node := self.stack[-1], Sequence):
            return len(node.items)
        name = self.names[-1]
        return name.value or None if name is not None else None

    def _report(self, line: int, column: int, code: str, message: str, *, expected: str = "", hint: str = "") -> None:
        if len(self.reports) < 1000:
            words = {"path": self._path(), "expected": expected, "hint": hint}
            self.reports.append(((line, column, code, message), words))

    def _stop(self, line: int, column: int, code: str, message: str, *, expected: str = "", hint: str = "") -> NoReturn:
        words = {"path": self._path(), "expected": expected, "hint": hint}
        self.reports.append(((line, column, code, message), words))
        raise _Stop

    def _syntax_error(self, err: Any) -> NoReturn:
        self.syntax = err
        raise _Stop from None
