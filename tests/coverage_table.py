"""Which test proves which behaviour: reads the marks of all tests and writes docs/reference/coverage.md.

    python -m tests.coverage_table            writes the table
    python -m tests.coverage_table --check    exit 1 where it is out of date or a mark names no behaviour

The marks are read from the syntax tree, so that nothing has to be imported. It must not know what any test does.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
REQUIREMENTS: Final = ROOT / "docs/reference/requirements.md"
COVERAGE: Final = ROOT / "docs/reference/coverage.md"
NOT_YET: Final = "not yet"

_SECTION: Final = re.compile(r"^## (?P<title>.+)$")
_ROW: Final = re.compile(r"^\| (?P<id>[A-Z]+-\d+) \| (?P<text>.+) \|$")

HEAD: Final = """\
# What is proven

Generated from the marks of the tests (`make docs`); do not edit. The behaviours are those of [requirements.md](requirements.md).
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def read_requirements(text: str) -> dict[str, dict[str, str]]:
    """Section title to id to behaviour, in the order of the page.

    Raises:
        ValueError: an id stands there twice.
    """
    sections: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    title = ""
    for line in text.splitlines():
        if match := _SECTION.match(line):
            title = match["title"]
        elif match := _ROW.match(line):
            if match["id"] in seen:
                raise ValueError(f"cannot read the behaviours: {match['id']} stands there twice")
            seen.add(match["id"])
            sections.setdefault(title, {})[match["id"]] = match["text"]
    return sections


def marks_in(source: str) -> Iterator[tuple[str, str, int]]:
    """(id, test name, line) for every `req` mark of a test function, of its class or of its module.

    Raises:
        ValueError: a mark's argument is no string constant.
    """
    tree = ast.parse(source)
    yield from _marks_below(tree.body, _module_marks(tree.body), "")


def _marks_below(body: Sequence[ast.stmt], inherited: Sequence[str], prefix: str) -> Iterator[tuple[str, str, int]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            own = [*inherited, *_ids(node.decorator_list), *_module_marks(node.body)]
            yield from _marks_below(node.body, own, f"{node.name}::")
        elif isinstance(node, Function) and node.name.startswith("test"):
            for row in dict.fromkeys([*inherited, *_ids(node.decorator_list), *_ids(_parameters(node))]):
                yield row, prefix + node.name, node.lineno


def _module_marks(body: Sequence[ast.stmt]) -> list[str]:
    """Ids in `pytestmark = ...` of a module or a class."""
    found: list[str] = []
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets):
            found += _ids(node.value.elts if isinstance(node.value, (ast.List, ast.Tuple)) else [node.value])
    return found


def _parameters(node: Function) -> list[ast.expr]:
    """The marks inside `pytest.param(..., marks=...)` of a test's decorators."""
    found: list[ast.expr] = []
    for call in (
        inner for decorator in node.decorator_list for inner in ast.walk(decorator) if isinstance(inner, ast.Call)
    ):
        for keyword in call.keywords:
            if keyword.arg == "marks":
                found += keyword.value.elts if isinstance(keyword.value, (ast.List, ast.Tuple)) else [keyword.value]
    return found


def _ids(expressions: Sequence[ast.expr]) -> list[str]:
    found: list[str] = []
    for call in expressions:
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("pytest.mark.req", "mark.req"):
            for argument in call.args:
                if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                    raise ValueError(f"line {argument.lineno}: a req mark takes string constants only")
                found.append(argument.value)
    return found


def collect(tests: Path) -> dict[str, list[str]]:
    """Id to the tests that name it (`tests/x/test_y.py::test_z`), in the order of their paths and lines."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(tests.rglob("*.py")):
        for row, name, _ in marks_in(path.read_text(encoding="utf-8")):
            found[row].append(f"{path.relative_to(tests.parent).as_posix()}::{name}")
    return dict(found)


def unknown_ids(sections: Mapping[str, Mapping[str, str]], found: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each mark that names no behaviour."""
    known = {row for rows in sections.values() for row in rows}
    return [
        f"{row} is no behaviour of requirements.md, named by {', '.join(tests)}"
        for row, tests in found.items()
        if row not in known
    ]


def render(sections: Mapping[str, Mapping[str, str]], found: Mapping[str, Sequence[str]]) -> str:
    """The page."""
    lines = [HEAD]
    proven = sum(row in found for rows in sections.values() for row in rows)
    total = sum(len(rows) for rows in sections.values())
    lines.append(f"{proven} of {total} behaviours have a test that names them.\n")
    for title, rows in sections.items():
        lines += [f"## {title}\n", "| id | behaviour | proven by |", "|---|---|---|"]
        lines += [f"| {row} | {text} | {_proof(found.get(row, ()))} |" for row, text in rows.items()]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _proof(tests: Sequence[str]) -> str:
    return "<br>".join(f"[{test.rpartition('::')[2]}](../../{test.partition('::')[0]})" for test in tests) or NOT_YET


def problems() -> list[str]:
    """What `--check` complains about, in sentences."""
    sections = read_requirements(REQUIREMENTS.read_text(encoding="utf-8"))
    found = collect(ROOT / "tests")
    wrong = unknown_ids(sections, found)
    if not COVERAGE.exists() or COVERAGE.read_text(encoding="utf-8") != render(sections, found):
        wrong.append("docs/reference/coverage.md is out of date: run `make docs`")
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Writes the page, or with `--check` compares it; the exit status."""
    if "--check" in arguments:
        wrong = problems()
        print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
        return bool(wrong)
    sections = read_requirements(REQUIREMENTS.read_text(encoding="utf-8"))
    found = collect(ROOT / "tests")
    COVERAGE.write_text(render(sections, found), encoding="utf-8")
    wrong = unknown_ids(sections, found)
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
