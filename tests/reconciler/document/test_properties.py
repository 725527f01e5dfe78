"""Whatever stands in a file, loading gives a document or problems: no crash, no hang, no other exception, no terminal codes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.document.load import load, load_text
from reconciler.document.masking import Unread
from reconciler.document.problems import Problem, problem_json, quote, render_problem, render_problems, sort_problems
from reconciler.errors import DocumentError

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / "openclaw.yaml.example").read_text()
BITS = (
    "version: 1@\n@  @gateway:@port: @- @[@]@{@}@,@: @#@'@\"@&a @*a@!!str @<<: @? @|@>@\t@%@`"
    "@\0@\x1b@\ufeff@é@0x1@no@~@---@...@1e9@token: x@${A}@env: A"
)
PIECES = st.sampled_from(BITS.split("@"))


def survive(text: str) -> None:
    try:
        loaded = load_text(text, {"LOG_LEVEL": "info", "OPENCLAW_GATEWAY_PORT": "1"})
    except DocumentError as err:
        check(err, text)
    else:
        assert loaded.desired.canonical["version"] == 1
        loaded.locate(("gateway", "port"))


def check(error: DocumentError, text: str) -> None:
    shown = render_problems(error.problems)  # type: ignore[arg-type]
    assert error.problems
    assert all(char == "\n" or char.isprintable() for char in shown)
    for problem in error.problems:
        assert isinstance(problem, Problem)
        assert problem.message.startswith("cannot ")
        assert 0 <= problem.line <= len(text) + 1
        assert problem_json(problem)["code"]


@pytest.mark.req("DOC-9")
@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    survive(text)


@pytest.mark.req("DOC-9")
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECES, max_size=40))
def test_any_mixture_of_yaml(pieces: list[str]) -> None:
    survive("".join(pieces))
    survive("version: 1\n" + "".join(pieces))


@pytest.mark.req("DOC-9")
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(["cut", "drop", "double", "swap", "indent"]))
def test_any_damage_to_the_example(seed: int, how: str) -> None:
    chance = random.Random(seed)
    lines = EXAMPLE.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    match how:
        case "cut":
            survive(EXAMPLE[: chance.randrange(len(EXAMPLE))])
            return
        case "drop":
            del lines[at]
        case "double":
            lines.insert(at, lines[at])
        case "swap":
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case "indent":
            lines[at] = " " + lines[at]
    survive("".join(lines))


@pytest.mark.req("DOC-9")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "openclaw.yaml"
    path.write_bytes(data)
    try:
        load(path, {})
    except DocumentError as err:
        render_problems(err.problems)  # type: ignore[arg-type]


@given(st.text(), st.integers(-5, 500))
def test_a_quoted_line_is_printable_and_its_caret_inside(line: str, column: int) -> None:
    text, caret = quote(line, column)
    assert text.isprintable()
    assert 0 <= caret <= len(text)


def test_order_does_not_depend_on_how_problems_were_found() -> None:
    problems = [
        Problem(file=file, line=line, column=1, path="", code=code, message="cannot x")
        for file in ("b.yaml", "a.yaml", "environment X")
        for line in (2, 1)
        for code in ("z", "a")
    ]
    expected = sort_problems(problems, ("b.yaml", "a.yaml"))
    random.Random(1).shuffle(problems)
    assert sort_problems([*problems, *problems], ("b.yaml", "a.yaml")) == expected
    assert [each.file for each in expected[::4]] == ["b.yaml", "a.yaml", "environment X"]


def test_a_caret_stands_below_its_place_after_wide_characters() -> None:
    problem = Problem(file="f", line=1, column=4, path="", code="c", message="cannot x", text="漢字: x", caret=4)
    assert render_problem(problem).splitlines()[1:] == ["  1 | 漢字: x", "    |       ^"]


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("token: abc", "token: ********"),
        ("  botToken: 'a b' # c", "  botToken: ********"),
        ("a: {token: abc, b: 1", "a: {token: ********"),
        ("token: {env: ABC}", "token: {env: ABC}"),
        ("token: ${ABC}", "token: ${ABC}"),
        ("token: {value: abc}", "token: ********"),
        ("MY_API_KEY=abc", "MY_API_KEY=********"),
        ("x: sk-ant-0123456789", "x: ********"),
        ("url: https://u:pass@host/x", "url: ********"),
        ("Authorization: Bearer abcdefgh", "Authorization: ********"),
        ("port: 18789", "port: 18789"),
        ("password:", "password:"),
    ],
)
def test_lines_that_are_no_yaml_are_masked_too(line: str, shown: str) -> None:
    assert Unread().show(line) == shown
