"""Changing single values in the text of openclaw.json and leaving every other byte as it is. Pure: text in, text out.

Comments, order, quoting and white space of all that is not touched stay. What `set_value` added, `remove_value` takes
away again without a trace; what it replaced comes back when the replaced source text (`source_at`) is put in as `Source`.

How both keep that promise: an insertion never rewrites anything, it only adds a comma after the last member and the
new member behind the comments of that line. An object that was there without members gets its first one right behind
the brace; an object that is made for the sake of a deeper path has white space there. By that mark the removal knows
which empty object to take along.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from gateway.wire.json5 import Json5Error, Member, Node, Object, Scalar, parse

Path = tuple[str, ...]

_SAME_LINE_COMMENTS = re.compile(r"(?:[ \t]*(?:/\*(?:[^*]|\*(?!/))*\*/))*(?:[ \t]*//[^\n\r\u2028\u2029]*)?")
_COMMENT = re.compile(r"//[^\n\r\u2028\u2029]*|/\*.*?\*/", re.DOTALL)
_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_INDENTED = re.compile(r"\n([ \t]+)[^ \t\r\n/]")
_BLANK = " \t\r\n\v\f\u00a0\ufeff\u2028\u2029"


class NoObjectError(ValueError):
    """Something on the way to a path is no object, so that the path cannot exist. `path` is that something's."""

    def __init__(self, path: Path) -> None:
        super().__init__(".".join(path) or "the whole file")
        self.path = path


@dataclass(frozen=True, slots=True)
class Source:
    """A value as source text, to be put in as it stands."""

    text: str


def node_at(root: Node, path: Path) -> Node | None:
    """The value at `path`, None where there is none."""
    node: Node | None = root
    for part in path:
        if not isinstance(node, Object):
            return None
        node = node.get(part)
    return node


def scalar_at(root: Node | None, path: str) -> object:
    """The text, number or flag at a path of names joined by dots; None where there is none."""
    node = node_at(root, tuple(path.split("."))) if root is not None else None
    return node.value if isinstance(node, Scalar) else None


def source_at(text: str, path: Path) -> str | None:
    """The source text of the value at `path`, None where there is none. Raises Json5Error as `parse` does."""
    node = node_at(parse(text), path)
    return None if node is None else text[slice(*node.span)]


def set_value(text: str, path: Path, value: Any) -> str:
    """`text` with `value` (plain data or `Source`) at `path`; objects on the way are made where they are missing.

    Raises:
        Json5Error: the text is not JSON5.
        NoObjectError: something on the way is no object.
    """
    node = parse(text)
    for depth, part in enumerate(path):
        if not isinstance(node, Object):
            raise NoObjectError(path[:depth])
        member = _member(node, part)
        if member is None:
            return _insert(text, node, path[depth:], value)
        node = member.value
    start, end = node.span
    return text[:start] + _render(value, _line_indent(text, start), _style(text)) + text[end:]


def remove_value(text: str, path: Path) -> str:
    """`text` without `path`; objects that `set_value` made for it and that are empty now go too. Absent: unchanged.

    Raises:
        Json5Error: the text is not JSON5.
    """
    chain: list[tuple[Object, Member]] = []
    node = parse(text)
    for part in path:
        member = _member(node, part) if isinstance(node, Object) else None
        if member is None:
            return text
        assert isinstance(node, Object)
        chain.append((node, member))
        node = member.value
    while len(chain) > 1 and _made_for(text, *chain[-1]):
        chain.pop()
    parent, member = chain[-1]
    for twin in reversed([item for item in parent.members if item.key == member.key]):
        parent_now = node_at(parse(text), path[: len(chain) - 1])
        assert isinstance(parent_now, Object)
        text = _cut(text, parent_now, parent.members.index(twin))
    return text


def render_file(values: dict[Path, Any]) -> str:
    """The text of a new file: two-space JSON as the real product writes it."""
    root: dict[str, Any] = {}
    for path, value in values.items():
        place = root
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def _member(node: Object, key: str) -> Member | None:
    return next((member for member in reversed(node.members) if member.key == key), None)


@dataclass(frozen=True, slots=True)
class _Style:
    """How the rest of the file is written: one level of indentation, and the end of a line."""

    unit: str
    newline: str


def _style(text: str) -> _Style:
    match = _INDENTED.search(text)
    return _Style(match.group(1) if match else "  ", "\r\n" if "\r\n" in text else "\n")


def _line_indent(text: str, at: int) -> str:
    """The white space that begins the line of `at`."""
    start = text.rfind("\n", 0, at) + 1
    return text[start : start + len(text[start:at]) - len(text[start:at].lstrip(" \t"))]


def _render(value: Any, indent: str, style: _Style) -> str:
    if isinstance(value, Source):
        return value.text
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (dict, list, tuple)) for item in value):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, indent=style.unit, ensure_ascii=False).replace("\n", style.newline + indent)


def _insert(text: str, node: Object, path: Path, value: Any) -> str:
    """Adds the member path[0] to `node`, with objects around `value` for the rest of the path."""
    style = _style(text)
    if not node.members:
        return _insert_first(text, node, path, value, style)
    last = node.members[-1]
    lines = _has_lines(text, node)
    indent = _line_indent(text, last.key_span[0]) if _starts_line(text, last.key_span[0]) else None
    if indent is None:
        indent = _line_indent(text, node.span[0]) + style.unit
    entry = _entry(text, node, path, value, indent if lines else None, style)
    after = last.value.span[1]
    comma = _comma_after(text, after, node.span[1])
    place = _behind_comments(text, after if comma is None else comma + 1)
    gap = style.newline + indent if lines or _ends_in_line_comment(text, after, place) else " "
    if comma is None:
        return text[:after] + "," + text[after:place] + gap + entry + text[place:]
    return text[:place] + gap + entry + "," + text[place:]


def _insert_first(text: str, node: Object, path: Path, value: Any, style: _Style) -> str:
    start, end = node.span
    inside = text[start + 1 : end - 1]
    comments = list(_COMMENT.finditer(inside))
    place = start + 1 + (comments[-1].end() if comments else 0)
    indent = _line_indent(text, start) + style.unit
    lines = "\n" in inside
    entry = _entry(text, node, path, value, indent if lines else None, style)
    # Behind a comment it needs a line of its own; else it follows the brace (see the module).
    return text[:place] + (style.newline + indent if comments and lines else "") + entry + text[place:]


def _entry(text: str, node: Object, path: Path, value: Any, indent: str | None, style: _Style) -> str:
    """`"key": value`, with the objects of a longer path: on lines of their own, or in one line (`indent` None)."""
    key, *rest = path
    name = json.dumps(key, ensure_ascii=False)
    if node.members and _PLAIN_KEY.fullmatch(key):
        quoted = text[node.members[-1].key_span[0]] in "\"'"
        name = name if quoted else key
    if not rest:
        return f"{name}: {_render(value, indent or '', style) if indent is not None else _one_line(value)}"
    empty = Object((), (0, 0)) if not node.members else node
    if indent is None:
        return f"{name}: {{ {_entry(text, empty, tuple(rest), value, None, style)} }}"
    deeper = indent + style.unit
    inner = _entry(text, empty, tuple(rest), value, deeper, style)
    return f"{name}: {{{style.newline}{deeper}{inner}{style.newline}{indent}}}"


def _one_line(value: Any) -> str:
    return value.text if isinstance(value, Source) else json.dumps(value, ensure_ascii=False)


def _has_lines(text: str, node: Object) -> bool:
    """Whether the members stand on lines of their own: seen at the gaps around the last one."""
    last = node.members[-1]
    before = node.members[-2].value.span[1] if len(node.members) > 1 else node.span[0]
    return "\n" in text[before : last.key_span[0]] or "\n" in text[last.value.span[1] : node.span[1]]


def _starts_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t")


def _comma_after(text: str, at: int, end: int) -> int | None:
    """Where the comma behind the value that ends at `at` stands, looking past comments; None where there is none."""
    while at < end:
        comment = _COMMENT.match(text, at)
        if comment:
            at = comment.end()
        elif text[at] == ",":
            return at
        elif text[at] in _BLANK or text[at].isspace():
            at += 1
        else:
            return None
    return None


def _behind_comments(text: str, at: int) -> int:
    match = _SAME_LINE_COMMENTS.match(text, at)
    assert match is not None  # it matches the empty text
    return match.end()


def _ends_in_line_comment(text: str, start: int, end: int) -> bool:
    """Whether what stands between swallows the rest of its line."""
    comments = list(_COMMENT.finditer(text, start, end))
    return bool(comments) and comments[-1].group().startswith("//")


def _made_for(text: str, parent: Object, member: Member) -> bool:
    """Whether `parent` was made by `set_value` for `member` and holds nothing else (see the module)."""
    before = text[parent.span[0] + 1 : member.key_span[0]]
    after = text[member.value.span[1] : parent.span[1] - 1]
    return len(parent.members) == 1 and before != "" and not before.strip() and not after.strip(_BLANK + ",")


def _cut(text: str, parent: Object, index: int) -> str:
    """Takes one member out, with the comma and the white space that belong to it; comments stay."""
    member = parent.members[index]
    start, end = member.key_span[0], member.value.span[1]
    following = parent.members[index + 1] if index + 1 < len(parent.members) else None
    if index == 0 and following is not None and not text[end : following.key_span[0]].strip(_BLANK + ","):
        # The next one takes the place of the first, so that what stands behind the brace stays.
        return text[:start] + text[following.key_span[0] :]
    before = parent.members[index - 1].value.span[1] if index else parent.span[0] + 1
    comma = _comma_after(text, end, parent.span[1])
    head = text[:start]
    tail = text[end:] if comma is None else text[end:comma] + text[comma + 1 :]
    if (index or following is None) and (tail[:1] in "\r\n" or not _ends_in_line_comment(text, before, start)):
        head = head.rstrip(_BLANK)
    if comma is None and index:
        previous = _comma_after(text, before, start)
        assert previous is not None  # two members have a comma between them
        head = head[:previous] + head[previous + 1 :]
    return head + tail


__all__ = ["Json5Error", "NoObjectError", "Source", "node_at", "remove_value", "render_file", "set_value", "source_at"]
