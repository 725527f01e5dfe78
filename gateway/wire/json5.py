"""A JSON5 reader that remembers where everything stands, so that others can change a text without rewriting it.

`parse` gives a tree with spans, `load` gives plain data. Comments, trailing commas, single quotes, unquoted keys,
hexadecimal numbers and the like are read as https://spec.json5.org/ says; of equal keys in one object the last one
holds. Pure: it knows nothing of files, of `$include`, of `${NAME}`, and nothing of the gateway.

Spans are `(start, end)` offsets into the text, in characters, end exclusive. Line and column of an error count from 1;
only a line feed ends a line there, as in the reader that the real product uses, so that both name the same place.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

# Two Python frames a level; half of the interpreter's own limit of 1,000 stays free for the caller. No config nests a
# tenth of it.
MAX_DEPTH = 200
# Python refuses to read very long integers (sys.set_int_max_str_digits); JSON5 numbers are doubles: 309 digits.
_MAX_INTEGER_DIGITS = 309

_LINE_ENDS = "\n\r\u2028\u2029"
_GAP = re.compile(
    r"(?:[\t\n\v\f\r \u00a0\ufeff\u2028\u2029\u1680\u2000-\u200a\u202f\u205f\u3000]+"
    r"|//[^\n\r\u2028\u2029]*"
    r"|/\*.*?\*/)*",
    re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_ASCII_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_PLAIN_CHARS = {'"': re.compile(r'[^"\\\n\r]*'), "'": re.compile(r"[^'\\\n\r]*")}
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS: dict[str, tuple[str, Plain]] = {
    "t": ("true", True),
    "f": ("false", False),
    "n": ("null", None),
    "I": ("Infinity", float("inf")),
    "N": ("NaN", float("nan")),
}
_NAME_START = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nl"})
_NAME_PART = _NAME_START | {"Mn", "Mc", "Nd", "Pc"}


class Json5Error(ValueError):
    """The text is not JSON5. `str()` is the whole message with its place, `message` the same without it.

    Attributes:
        line: counted from 1.
        column: counted from 1; for a text that ends too early, one past its last character.
        message: for example `JSON5: invalid end of input`.
    """

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"{message} at {line}:{column}")
        self.line = line
        self.column = column
        self.message = message


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, number, boolean or null; the span of a string includes its quotes, that of a number its sign."""

    value: bool | int | float | str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Array:
    """The items in order; the span includes both brackets."""

    items: tuple[Node, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Member:
    """One `key: value` of an object; `key_span` includes the quotes where there are any."""

    key: str
    key_span: Span
    value: Node


@dataclass(frozen=True, slots=True)
class Object:
    """The members in the order of the text, equal keys kept; the span includes both braces."""

    members: tuple[Member, ...]
    span: Span

    def get(self, key: str) -> Node | None:
        """The value that holds for `key` (the last one of that name), or None."""
        for member in reversed(self.members):
            if member.key == key:
                return member.value
        return None


Node: TypeAlias = Object | Array | Scalar


def parse(text: str) -> Node:
    """The tree of a whole JSON5 text.

    Raises:
        Json5Error: at the first place that is not JSON5, or where the nesting passes `MAX_DEPTH`.
    """
    reader = _Reader(text)
    node, end = reader.value(reader.gap(0), 0)
    rest = reader.gap(end)
    if rest != len(text):
        raise reader.unexpected(rest)
    return node


def load(text: str) -> Plain:
    """The plain data of a JSON5 text: dict, list, str, int, float, bool, None.

    Raises:
        Json5Error: as `parse`.
    """
    return to_plain(parse(text))


def to_plain(node: Node) -> Plain:
    """The data that a node stands for, without its places."""
    match node:
        case Scalar(value=value):
            return value
        case Array(items=items):
            return [to_plain(item) for item in items]
        case Object(members=members):
            return {member.key: to_plain(member.value) for member in members}


class _Reader:
    """Recursive descent over one text. Every method takes an offset and returns the one behind what it read."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def gap(self, at: int) -> int:
        """Behind white space and comments."""
        match = _GAP.match(self._text, at)
        assert match is not None  # the pattern matches the empty text
        end = match.end()
        if self._text.startswith("/*", end):
            raise self.unexpected(len(self._text))
        if self._text.startswith("/", end):
            raise self.unexpected(end + 1)
        return end

    def value(self, at: int, depth: int) -> tuple[Node, int]:
        char = self._text[at : at + 1]
        if char == "{":
            return self._object(at, depth + 1)
        if char == "[":
            return self._array(at, depth + 1)
        if char in ('"', "'"):
            string, end = self._string(at)
            return Scalar(string, (at, end)), end
        return self._number_or_word(at)

    def _object(self, start: int, depth: int) -> tuple[Object, int]:
        self._check_depth(start, depth)
        members: list[Member] = []
        at = self.gap(start + 1)
        while not self._text.startswith("}", at):
            key, key_end = self._key(at)
            colon = self.gap(key_end)
            if not self._text.startswith(":", colon):
                raise self.unexpected(colon)
            node, end = self.value(self.gap(colon + 1), depth)
            members.append(Member(key, (at, key_end), node))
            at = self._next(end, "}")
        return Object(tuple(members), (start, at + 1)), at + 1

    def _array(self, start: int, depth: int) -> tuple[Array, int]:
        self._check_depth(start, depth)
        items: list[Node] = []
        at = self.gap(start + 1)
        while not self._text.startswith("]", at):
            node, end = self.value(at, depth)
            items.append(node)
            at = self._next(end, "]")
        return Array(tuple(items), (start, at + 1)), at + 1

    def _next(self, end: int, closing: str) -> int:
        """Behind the comma after an element, or at the closing bracket."""
        at = self.gap(end)
        if self._text.startswith(",", at):
            return self.gap(at + 1)
        if self._text.startswith(closing, at):
            return at
        raise self.unexpected(at)

    def _check_depth(self, at: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._error(at, f"JSON5: nested deeper than {MAX_DEPTH} levels")

    def _key(self, at: int) -> tuple[str, int]:
        if self._text[at : at + 1] in ('"', "'"):
            return self._string(at)
        match = _ASCII_NAME.match(self._text, at)
        end = match.end() if match else at
        following = self._text[end : end + 1]
        if match and following != "\\" and following < "\x80":
            return match.group(), end
        return self._unicode_name(at)

    def _unicode_name(self, start: int) -> tuple[str, int]:
        """An identifier with letters beyond ASCII or with `\\uXXXX` escapes (ECMAScript 5.1, 7.6)."""
        name: list[str] = []
        at = start
        while at < len(self._text):
            char, end = self._text[at], at + 1
            if escaped := char == "\\":
                if not self._text.startswith("u", end):
                    raise self.unexpected(end)
                code, end = self._hex(end + 1, 4)
                char = chr(code)
            if not _is_name_char(char, first=not name):
                if escaped:
                    raise self._error(at, "JSON5: invalid identifier character")
                break
            name.append(char)
            at = end
        if not name:
            raise self.unexpected(at)
        return "".join(name), at

    def _string(self, start: int) -> tuple[str, int]:
        quote = self._text[start]
        plain = _PLAIN_CHARS[quote]
        parts: list[str] = []
        at = start + 1
        while True:
            match = plain.match(self._text, at)
            assert match is not None  # the pattern matches the empty text
            parts.append(match.group())
            at = match.end()
            following = self._text[at : at + 1]
            if following == quote:
                return _join_surrogates("".join(parts)), at + 1
            if following != "\\":
                raise self.unexpected(at)
            part, at = self._escape(at + 1)
            parts.append(part)

    def _escape(self, at: int) -> tuple[str, int]:
        """What a backslash at `at - 1` stands for."""
        char = self._text[at : at + 1]
        if not char:
            raise self.unexpected(at)
        if char in _ESCAPES:
            return _ESCAPES[char], at + 1
        if char in "xu":
            code, end = self._hex(at + 1, 2 if char == "x" else 4)
            return chr(code), end
        if char == "\r" and self._text.startswith("\n", at + 1):
            return "", at + 2
        if char in _LINE_ENDS:
            return "", at + 1
        if char == "0":
            if self._text[at + 1 : at + 2].isdecimal():
                raise self.unexpected(at + 1)
            return "\0", at + 1
        if char in "123456789":
            raise self.unexpected(at)
        return char, at + 1

    def _hex(self, at: int, digits: int) -> tuple[int, int]:
        for place in range(at, at + digits):
            if self._text[place : place + 1] not in _HEX:
                raise self.unexpected(place)
        return int(self._text[at : at + digits], 16), at + digits

    def _number_or_word(self, at: int) -> tuple[Scalar, int]:
        match = _NUMBER.match(self._text, at)
        if match:
            return Scalar(_number(match.group()), match.span()), match.end()
        sign = self._text[at : at + 1]
        word_at = at + 1 if sign in ("+", "-") else at
        word = _WORDS.get(self._text[word_at : word_at + 1])
        if word is None or (word_at > at and not isinstance(word[1], float)):
            raise self.unexpected(word_at)
        text, value = word
        for offset, char in enumerate(text):
            if self._text[word_at + offset : word_at + offset + 1] != char:
                raise self.unexpected(word_at + offset)
        end = word_at + len(text)
        if sign == "-":
            assert isinstance(value, float)  # only Infinity and NaN carry a sign
            value = -value
        assert not isinstance(value, (list, dict))  # words are scalars
        return Scalar(value, (at, end)), end

    def unexpected(self, at: int) -> Json5Error:
        """The error for what stands at `at`, or for the text's end there."""
        if at >= len(self._text):
            return self._error(len(self._text), "JSON5: invalid end of input")
        return self._error(at, f"JSON5: invalid character '{_shown(self._text[at])}'")

    def _error(self, at: int, message: str) -> Json5Error:
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        return Json5Error(line, column, message)


def _number(text: str) -> int | float:
    sign = -1 if text[0] == "-" else 1
    digits = text.lstrip("+-")
    if digits[:2] in ("0x", "0X"):
        return sign * int(digits, 16)
    if digits.isdigit() and len(digits) <= _MAX_INTEGER_DIGITS:
        return sign * int(digits)
    return sign * float(digits)


def _is_name_char(char: str, *, first: bool) -> bool:
    if char in "$_" or (not first and char in "\u200c\u200d"):
        return True
    return unicodedata.category(char) in (_NAME_START if first else _NAME_PART)


def _join_surrogates(text: str) -> str:
    """Two `\\u` escapes may make one character; a lone half becomes U+FFFD, as it can be written in no encoding."""
    if text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _shown(char: str) -> str:
    shown = {
        "'": "\\'",
        '"': '\\"',
        "\\": "\\\\",
        "\b": "\\b",
        "\f": "\\f",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\v": "\\v",
    }
    if char in shown:
        return shown[char]
    if char < " ":
        return f"\\x{ord(char):02x}"
    return {"\0": "\\0", "\u2028": "\\u2028", "\u2029": "\\u2029"}.get(char, char)
