"""What is wrong with a document, as data and as the text that people read. Pure: knows no file, no YAML, no schema.

A problem's `text` is one line of the document, already made safe to print by whoever builds it (`quote`): clipped,
control characters made visible, secrets masked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Wide enough for any line that a person writes; a line of a megabyte must not become a megabyte of error.
MAX_QUOTED = 160
# The longest path that Linux takes (PATH_MAX).
MAX_PATH = 4096
# A file of nothing but mistakes would otherwise print as many pages as it has lines; the rest is counted.
MAX_PROBLEMS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake and its place.

    `file` is the file as the operator named it, or `environment NAME`; `line` and `column` count from 1, and are 0 where
    the whole file is meant. `path` is the document path in words (`gateway.port`), empty where there is none. `code` is
    one of the constant words of docs/reference. `text` is the quoted line, and `caret` the offset in it, -1 for none.
    """

    file: str
    line: int
    column: int
    path: str
    code: str
    message: str
    expected: str = ""
    hint: str = ""
    text: str = ""
    caret: int = -1

    @property
    def place(self) -> str:
        """`file:line:column`, or the file alone where no line is to blame."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


def sort_problems(problems: Iterable[Problem], files: Sequence[str] = (), *, uncounted: int = 0) -> tuple[Problem, ...]:
    """`problems` without repetitions, by place: files in the order of `files`, others (the environment) after them.

    More than `MAX_PROBLEMS` are cut, and the last one says how many were left out, with the `uncounted` that were never
    made into problems.
    """
    rank = {name: number for number, name in enumerate(files)}
    last = len(rank)
    ordered = sorted(
        set(problems),
        key=lambda each: (
            rank.get(each.file, last),
            each.file,
            each.line,
            each.column,
            each.path,
            each.code,
            each.message,
            each.hint,
        ),
    )
    if len(ordered) <= MAX_PROBLEMS:
        return tuple(ordered)
    left_out = len(ordered) - MAX_PROBLEMS + uncounted
    more = Problem(
        file=ordered[MAX_PROBLEMS].file,
        line=ordered[MAX_PROBLEMS].line,
        column=ordered[MAX_PROBLEMS].column,
        path="",
        code="more",
        message=f"cannot show {left_out} more problem{'s' if left_out > 1 else ''}",
        hint="mend the first ones and validate again",
    )
    return (*ordered[:MAX_PROBLEMS], more)


def render_problem(problem: Problem) -> str:
    """The problem as lines of text, without a newline at the end."""
    lines = [f"{problem.place}: {problem.message}"]
    if problem.line and problem.caret >= 0:
        number = str(problem.line)
        indent = display_width(problem.text[: problem.caret])
        lines.append(f"  {number} | {problem.text}".rstrip())
        lines.append(f"  {' ' * len(number)} | {' ' * indent}^")
    if problem.path:
        lines.append(f"  at: {problem.path}")
    if problem.expected:
        lines.append(f"  expected: {problem.expected}")
    if problem.hint:
        lines.append(f"  hint: {problem.hint}")
    return "\n".join(lines)


def render_problems(problems: Iterable[Problem]) -> str:
    """All problems, one after the other."""
    return "\n".join(map(render_problem, problems))


def problem_json(problem: Problem) -> Mapping[str, Any]:
    """The problem as plain JSON data (`validate --json`)."""
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "code": problem.code,
        "message": problem.message,
        "expected": problem.expected,
        "hint": problem.hint,
    }


def quote(line: str, column: int) -> tuple[str, int]:
    """One line of a document as it may be printed, and the caret's offset in it for `column` (from 1).

    Long lines are clipped around the column, tabs become one space, and what a terminal would obey is spelt out.
    """
    at = min(max(column - 1, 0), len(line))
    start = 0
    if len(line) > MAX_QUOTED:
        start = max(0, min(at - MAX_QUOTED // 2, len(line) - MAX_QUOTED))
    window = line[start : start + MAX_QUOTED]
    head = ("..." if start else "") + _printable(window[: at - start])
    tail = _printable(window[at - start :]) + ("..." if start + MAX_QUOTED < len(line) else "")
    return head + tail, len(head)


def _printable(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else " "
        if char == "\t"
        else f"\\u{ord(char):04x}"
        if ord(char) > 0xFF
        else f"\\x{ord(char):02x}"
        for char in text
    )


def safe(text: str) -> str:
    """`text` of unknown origin for use inside a message: clipped and printable."""
    return _printable(text if len(text) <= MAX_QUOTED // 2 else text[: MAX_QUOTED // 2] + "...")


def named(path: str) -> str:
    """A path inside a message: printable, and whole, as whoever reads it has to find the file; longer ones no system has."""
    return _printable(path if len(path) <= MAX_PATH else path[:MAX_PATH] + "...")


def display_width(text: str) -> int:
    """The columns that `text` takes in a terminal: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


class Suggestions:
    """Finds what was probably meant, as long as that stays cheap: a document may hold 50,000 mistakes.

    `skipped` counts the mistakes that nobody looked at because there were too many before.
    """

    def __init__(self, comparisons: int = 5_000) -> None:
        self.left = comparisons
        self.skipped = 0

    def near(self, word: str, words: Collection[str]) -> str | None:
        """As `closest`; None once the comparisons are used up."""
        self.left -= len(words) + 1
        return closest(word, words) if self.left >= 0 else None


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant, if any; the same whatever the order of `words`."""
    candidates = sorted(set(words))
    folded = word.replace("-", "_").lower()
    for candidate in candidates:
        if candidate.replace("-", "_").lower() == folded:
            return candidate
    if len(word) > MAX_QUOTED // 2 or len(word) < 2:
        return None
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, candidates, n=1, cutoff=0.6)), None)
