"""libyaml's complaints in our words. Pure: an error with marks comes in, a `Problem` goes out."""

from __future__ import annotations

from typing import Any

from reconciler.document.nodes import Source
from reconciler.document.problems import Problem, safe

# What libyaml says -> what we say after "cannot ", what was expected, the hint. Its texts are those of scanner.c and parser.c.
_TEXTS: dict[str, tuple[str, str, str]] = {
    "mapping values are not allowed in this context": (
        "read a second ':' here",
        "",
        "quote a text that has ': ' in it, and give the names of one mapping the same indentation",
    ),
    "found unexpected ':'": ("read ':' here", "", "quote a text that has a ':' in it"),
    "mapping keys are not allowed in this context": ("read '?' here", "", "quote a text that begins with '? '"),
    "block sequence entries are not allowed in this context": (
        "begin a list on the line of its name",
        "the first '- ' on a line of its own",
        "",
    ),
    "could not find expected ':'": ("find the ':' after a name", "name: value", ""),
    "did not find expected key": (
        "read this as part of the mapping",
        "a name with the same indentation as the names above",
        "is a quote or a bracket closed too early, or the indentation wrong?",
    ),
    "did not find expected '-' indicator": (
        "read this as part of the list",
        "'- ' with the same indentation as the items above",
        "",
    ),
    "did not find expected ',' or ']'": ("find the end of the list that begins here", "',' or ']'", ""),
    "did not find expected ',' or '}'": ("find the end of the mapping that begins here", "',' or '}'", ""),
    "did not find expected node content": ("find a value here", "a value", "quote a text that begins with a sign"),
    "found unexpected end of stream": ("find the end of the text that begins here", "the closing quote", ""),
    "found unexpected document indicator": ("find the end of the text that begins here", "the closing quote", ""),
    "found unknown escape character": (
        "use this escape",
        r"one of \n \t \" \\ \xNN \uNNNN",
        "use single quotes for a text with backslashes",
    ),
    "did not find expected hexdecimal number": ("read this escape", "hexadecimal digits", ""),
    "found invalid Unicode character escape code": ("use this escape", "the number of a Unicode character", ""),
    "found a tab character where an indentation space is expected": (
        "use a tab for indentation",
        "spaces",
        "replace the tab by spaces",
    ),
    "found a tab character that violates indentation": (
        "use a tab for indentation",
        "spaces",
        "replace the tab by spaces",
    ),
    "found a tab character that violate indentation": (
        "use a tab for indentation",
        "spaces",
        "replace the tab by spaces",
    ),
    "did not find expected comment or line break": (
        "read the rest of this line",
        "a comment or the end of the line",
        "",
    ),
    "found an indentation indicator equal to 0": ("use 0 as an indentation", "a number from 1 to 9", ""),
    "did not find expected alphabetic or numeric character": (
        "read the name of an anchor or an alias",
        "letters and digits",
        "quote a text that begins with & or *",
    ),
    "did not find expected <document start>": (
        "read what follows the end of the document",
        "one mapping and nothing after it",
        "",
    ),
    "found undefined tag handle": ("use a tag: tags are not supported", "", "quote a text that begins with !"),
    "did not find expected tag URI": ("use a tag: tags are not supported", "", "quote a text that begins with !"),
}
# Complaints about something that was begun and never ended: the place to look at is where it began.
_UNCLOSED = frozenset(
    {
        "could not find expected ':'",
        "did not find expected ',' or ']'",
        "did not find expected ',' or '}'",
        "found unexpected end of stream",
        "found unexpected document indicator",
    }
)


def explain_syntax(source: Source, err: Any) -> Problem:
    """The problem behind a `MarkedYAMLError`; at the end of the text it says that the file may be cut."""
    said = err.problem or ""
    mark = err.problem_mark or err.context_mark
    at_end = mark is not None and mark.index >= len(source.text.rstrip())
    if said in _UNCLOSED and err.context_mark is not None:
        mark = err.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    line = min(line, source.line_count)
    message, expected, hint = _TEXTS.get(said, ("read this as YAML", "", ""))
    if said == "found character that cannot start any token":
        message, expected, hint = _bad_start(source.line(line)[column - 1 : column])
    elif said == "did not find expected ',' or ']'" and not at_end:
        hint = "quote a text that has ': ' or a bracket in it"
    if at_end:
        hint = "the file ends too early: was it cut off?"
        if said == "did not find expected node content":
            message, expected = "find the rest of the document", "a value"
            line, column = source.place(len(source.text.rstrip()))
    return source.problem(line, column, "syntax", message, expected=expected, hint=hint)


def _bad_start(char: str) -> tuple[str, str, str]:
    if char == "\t":
        return "use a tab for indentation", "spaces", "replace the tab by spaces"
    return f"begin a value with '{safe(char)}'", "", "quote a text that begins with this sign"
