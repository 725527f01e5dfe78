"""An edit changes the lines that hold the value and no other byte, and gives exactly what was asked for."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.document.edit import get_value, set_in_files, set_value
from reconciler.document.nodes import Source, compose, plain
from reconciler.errors import DocumentError, UsageError
from reconciler.model import DocumentPath
from reconciler.values import same

TEXT = """\
# top
version: 1   # v
gateway:     # gw
    port: 18789  # p
    bind: "loopback"
    'host': '::1'
    auth: {mode: token,   other: [1,  2]}  # a
    settings:
        a: [1,
            2]
        note: |
          two
          lines

# tail comment

logging: {}
service:
audit:
    fix:
        - a
        -   b   # c
        # between
        - {x: 1}
x-last: end # no newline follows"""

CASES: list[tuple[DocumentPath, Any, int]] = [
    # path, value, and how many old lines may go
    (("gateway", "port"), 1, 1),
    (("gateway", "bind"), "lan", 1),
    (("gateway", "host"), "it's", 1),
    (("gateway", "auth", "token"), {"env": "X"}, 1),
    (("gateway", "auth", "other", 1), 3, 1),
    (("gateway", "auth"), None, 1),
    (("gateway", "tls", "cert"), "a.pem", 0),
    (("gateway", "settings", "a"), [1], 2),
    (("gateway", "settings", "note"), "one line", 3),
    (("gateway", "settings", "b", "c", "d"), True, 0),
    (("logging", "level"), "no", 1),
    (("logging", "retention", "age"), "7d", 1),
    (("service", "restart", "delay"), "5s", 0),
    (("service",), {}, 1),
    (("audit", "fix"), ["x y", "5", 5, 1.5, ""], 6),
    (("audit", "fix", 1), "z: z", 1),
    (("audit", "fix", 2, "y"), "1", 1),
    (("audit", "every"), "6h", 0),
    (("policy", "verify"), "15s", 0),
    (("x-last",), "é\U0001f980\n\t\"'\\", 1),
    (("x-new",), "true", 0),
]


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("path", "value", "lost"), CASES)
def test_other_lines_stay_byte_for_byte(path: DocumentPath, value: Any, lost: int, newline: str) -> None:
    text = TEXT.replace("\n", newline)
    result = set_value(text, path, value)
    assert same(get_value(result, path), value)
    old, new = text.splitlines(keepends=True), result.splitlines(keepends=True)
    gone = [line for line in difflib.ndiff(old, new) if line.startswith("- ")]
    # A line added after the last one gives that one its end.
    assert len(gone) <= lost + (1 if path[0] in {"policy", "x-new"} else 0)
    if newline == "\r\n":
        assert "\n" not in result.replace("\r\n", "")
    assert set_value(result, path, value) == result


@pytest.mark.req("DOC-6")
def test_comments_and_quotes_on_the_line_survive() -> None:
    result = set_value(TEXT, ("gateway", "port"), 19000)
    assert "    port: 19000  # p\n" in result
    assert '    bind: "lan"\n' in set_value(TEXT, ("gateway", "bind"), "lan")
    assert "    'host': 'it''s'\n" in set_value(TEXT, ("gateway", "host"), "it's")
    assert "        -   z   # c\n" in set_value(TEXT, ("audit", "fix", 1), "z")


def test_byte_order_mark_survives() -> None:
    assert set_value("\ufeffversion: 1\n", ("x-a",), 1) == "\ufeffversion: 1\nx-a: 1\n"


def test_setting_in_an_empty_text_begins_it() -> None:
    assert set_value("# nothing yet\n", ("version",), 1) == "# nothing yet\nversion: 1\n"


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a: 1\n", (), 1),
        ("a: 1\n", ("a", "b"), 1),
        ("a: [1]\n", ("a", 1), 1),
        ("a: [1]\n", ("a", "b"), 1),
        ("a: {b: 1}\n", ("a", 0), 1),
        ("a: &x {b: 1}\nc: *x\n", ("c", "b"), 2),
        ("a: &x {b: 1}\nc: *x\n", ("a", "b"), 2),
        ("a: &x 1\nc: *x\n", ("a",), 2),
        ("a: &x 1\nc: *x\n", ("c",), 2),
    ],
)
def test_what_would_change_more_is_refused(text: str, path: DocumentPath, value: Any) -> None:
    with pytest.raises(UsageError):
        set_value(text, path, value)


def test_a_broken_text_is_refused_with_its_problems() -> None:
    with pytest.raises(DocumentError):
        set_value("a: [1\n", ("a",), 1)


@pytest.mark.req("DOC-6", "DOC-5")
def test_an_included_key_is_changed_in_its_file(tmp_path: Path) -> None:
    main = tmp_path / "openclaw.yaml"
    main.write_text("version: 1\ninclude: parts/gateway.yaml\nlogging: {}\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/gateway.yaml").write_text("# g\ngateway:\n  port: 1 # p\n")
    known = set_in_files(str(main), ("gateway", "port"), 2)
    assert (known.file, known.text) == (str(tmp_path / "parts/gateway.yaml"), "# g\ngateway:\n  port: 2 # p\n")
    beside = set_in_files(str(main), ("gateway", "bind"), "lan")
    assert (beside.file, beside.text) == (
        str(tmp_path / "parts/gateway.yaml"),
        "# g\ngateway:\n  port: 1 # p\n  bind: lan\n",
    )
    new = set_in_files(str(main), ("policy", "verify"), "15s")
    assert (new.file, new.text) == (str(main), main.read_text() + "policy:\n  verify: 15s\n")


names = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
trees = st.dictionaries(names, st.dictionaries(names, values, max_size=3) | values, min_size=1, max_size=4)


def block(data: Any, indent: int = 0) -> str:
    """A text with block mappings for `data`, a comment on each line."""
    from reconciler.document.edit import _render

    lines = []
    for name, value in data.items():
        if isinstance(value, dict) and value:
            lines.append(" " * indent + f"{_render(name, '')}:   # {name}\n" + block(value, indent + 3))
        else:
            lines.append(" " * indent + f"{_render(name, '')}: {_render(value, '')}  # c\n")
    return "".join(lines)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(tree=trees, path=st.lists(names, min_size=1, max_size=3), value=values)
def test_any_edit_does_just_that_or_is_refused(tree: Any, path: list[str], value: Any) -> None:
    text = block(tree)
    node, problems = compose(Source("t", "t", text))
    assert node is not None
    assert problems == ()
    assert same(plain(node), tree)
    try:
        result = set_value(text, tuple(path), value)
    except UsageError:
        return
    assert same(get_value(result, tuple(path)), value)
    old, new = text.splitlines(), result.splitlines()
    touched = [line for line in difflib.ndiff(old, new) if line.startswith("- ")]
    below: Any = tree
    for part in path:
        below = below.get(part) if isinstance(below, dict) else None
    assert len(touched) <= max(1, len(block({"x": below}).splitlines()))
