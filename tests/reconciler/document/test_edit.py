"""An edit changes the lines that hold the value and no other byte, and gives exactly what was asked for."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.document.compose import compose
from reconciler.document.edit import comments, set_in_files, set_value, value_text
from reconciler.document.load import load_edited, load_text
from reconciler.document.nodes import Source, find, plain
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
    (("x-new",), ["https://etcd-1:2379"], 0),
    (("x-new",), {"anthropic:default": {"order": ["anthropic:default"]}}, 0),
    (("gateway", "auth", "token", "env"), "a:b", 1),
    (("audit", "fix", 2, "x"), "https://etcd-1:2379", 1),
    (("gateway", "host"), "host:1", 1),
]


def value_at(text: str, path: DocumentPath) -> Any:
    root, problems = compose(Source("t", "t", text))
    assert problems == ()
    assert root is not None
    node, _, found = find(root, path)
    assert found == len(path)
    return plain(node)


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("path", "value", "lost"), CASES)
def test_other_lines_stay_byte_for_byte(path: DocumentPath, value: Any, lost: int, newline: str) -> None:
    text = TEXT.replace("\n", newline)
    result = set_value(text, path, value)
    assert same(value_at(result, path), value)
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


@pytest.mark.parametrize(
    ("text", "path", "alias"),
    [
        ("x: &p 1\na:\n  port: *p\n", ("a", "port"), "a.port"),
        ("x: &p\na:\n  port: *p\n", ("a", "port", "b"), "a.port"),
        ("x: &p {port: 1}\na: {b: *p}\n", ("a", "b", "host"), "a.b"),
    ],
)
def test_an_alias_is_refused_by_its_whole_path(text: str, path: DocumentPath, alias: str) -> None:
    with pytest.raises(UsageError) as refused:
        set_value(text, path, 5)
    assert refused.value.message == f"cannot set '{'.'.join(map(str, path))}': '{alias}' is an alias of another value"


def test_a_broken_text_is_refused_with_its_problems() -> None:
    with pytest.raises(DocumentError):
        set_value("a: [1\n", ("a",), 1)


@pytest.mark.req("DOC-6", "DOC-5")
def test_an_included_key_is_changed_in_its_file_and_a_new_one_added_to_the_document(tmp_path: Path) -> None:
    main = tmp_path / "openclaw.yaml"
    main.write_text("version: 1\ninclude: parts/gateway.yaml\nlogging: {}\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/gateway.yaml").write_text("# g\ngateway:\n  port: 1 # p\n")
    known = set_in_files(str(main), ("gateway", "port"), 2, name="here/openclaw.yaml")
    assert (known.file, known.name) == (str(tmp_path / "parts/gateway.yaml"), "here/parts/gateway.yaml")
    assert known.text == "# g\ngateway:\n  port: 2 # p\n"
    for path, value, added in (
        (("gateway", "bind"), "lan", "gateway:\n  bind: lan\n"),
        (("policy", "verify"), "15s", "policy:\n  verify: 15s\n"),
    ):
        new = set_in_files(str(main), path, value, name="openclaw.yaml")
        assert (new.file, new.name, new.text) == (str(main), "openclaw.yaml", main.read_text() + added)


@pytest.mark.req("DOC-6", "DOC-5")
def test_what_several_files_set_a_part_of_is_refused_where_one_edit_does_not_give_it(tmp_path: Path) -> None:
    main = tmp_path / "openclaw.yaml"
    main.write_text("version: 1\ninclude: a.yaml\nlogging: {level: info}\n")
    (tmp_path / "a.yaml").write_text("logging: {redact: tools}\n")
    with pytest.raises(UsageError, match="several files set a part of it"):
        set_in_files(str(main), ("logging",), {"level": "warn"})
    whole = set_in_files(str(main), ("logging",), {"level": "warn", "redact": "off"})
    assert whole.text == 'version: 1\ninclude: a.yaml\nlogging: {level: warn, redact: "off"}\n'


@pytest.mark.req("DOC-6", "DOC-5")
@pytest.mark.parametrize("before", ["", "include: a.yaml\n", "include: [a.yaml]\n"])
def test_what_a_document_includes_is_set_in_the_document_itself(tmp_path: Path, before: str) -> None:
    main = tmp_path / "openclaw.yaml"
    main.write_text("version: 1\n" + before)
    (tmp_path / "a.yaml").write_text("logging: {redact: tools}\n")
    (tmp_path / "b.yaml").write_text("logging: {level: info}\n")
    edit = set_in_files(str(main), ("include",), ["b.yaml"], name="openclaw.yaml")
    assert (edit.file, edit.text) == (str(main), "version: 1\ninclude: [b.yaml]\n")
    assert (
        load_edited(main, {}, edit).desired.logging
        == load_text("version: 1\nlogging: {level: info}\n", {}).desired.logging
    )
    gone = set_in_files(str(main), ("include",), ["nofile.yaml"], name="openclaw.yaml")
    with pytest.raises(DocumentError) as caught:
        load_edited(main, {}, gone)
    assert "nofile.yaml" in str(caught.value.problems[0])


BLOCK = """\
codes:   # which
  # the first
  - 'one'   # 1
  - "two"
  # between
  - three   # 3
after: 1
"""


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize(
    ("value", "old", "new"),
    [
        (["one", "two", "three"], "", ""),
        (["one", "zwei", "three"], '"two"', '"zwei"'),
        (
            ["eins", "two", "drei"],
            "'one'   # 1\n  - \"two\"\n  # between\n  - three",
            "'eins'   # 1\n  - \"two\"\n  # between\n  - drei",
        ),
        (["one", "two", "three", 4, {"a": 1}], "# 3\n", "# 3\n  - 4\n  - {a: 1}\n"),
        (["zero", "one", "two", "three"], "  - 'one'", "  - zero\n  - 'one'"),
        (["one", "three"], '  - "two"\n', ""),
        (["two", "three"], "  - 'one'   # 1\n", ""),
        (["one"], '  - "two"\n  # between\n  - three   # 3\n', "  # between\n"),
        (["one", "x", "z", "three"], '"two"\n', '"x"\n  - z\n'),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_of_a_list_only_the_items_that_differ_are_touched(value: list[Any], old: str, new: str, newline: str) -> None:
    assert old in BLOCK
    wanted = BLOCK.replace(old, new, 1) if old else BLOCK
    assert set_value(BLOCK.replace("\n", newline), ("codes",), value) == wanted.replace("\n", newline)


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize(
    ("value", "result"),
    [
        (["a", "b", "c"], "x: ['a', \"b\" ,c]  # x\n"),
        (["a", "q", "c"], "x: ['a', \"q\" ,c]  # x\n"),
        (["a", "b", "c", "d", "e"], "x: ['a', \"b\" ,c, d, e]  # x\n"),
        (["0", "a", "b", "c"], 'x: ["0", \'a\', "b" ,c]  # x\n'),
        (["b", "c"], 'x: ["b" ,c]  # x\n'),
        (["a", "b"], "x: ['a', \"b\"]  # x\n"),
        (["a"], "x: ['a']  # x\n"),
        ([], "x: []  # x\n"),
    ],
)
def test_of_a_list_in_brackets_too(value: list[Any], result: str) -> None:
    assert set_value("x: ['a', \"b\" ,c]  # x\n", ("x",), value) == result


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a: 1\n", 0),
        ("# x\na: 1 # y\n  # z", 3),
        ("a: 'b # c'\nd: \"e # f\"\ng#h: i#j\n", 0),
        ("a: |\n  # text\n  more\n# one\nb: [1, # two\n  2] # three\n", 3),
        ("a: [", 0),
    ],
)
def test_comments_are_counted(text: str, count: int) -> None:
    assert comments(text) == count


def test_a_byte_order_mark_hides_no_comment(tmp_path: Path) -> None:
    main = tmp_path / "openclaw.yaml"
    main.write_text("\ufeff# first\nversion: 1  # kept\nlogging:\n  level: info  # kept\n")
    assert comments(main.read_text()) == 3
    edit = set_in_files(str(main), ("logging", "level"), "warn")
    assert edit.lost == 0
    assert edit.text == main.read_text().replace("info", "warn")


def test_an_edit_says_how_many_comments_it_takes_along(tmp_path: Path) -> None:
    main = tmp_path / "openclaw.yaml"
    main.write_text("version: 1\nlogging:  # its own\n  # gone\n  level: info  # kept with its line\n# kept\n")
    assert set_in_files(str(main), ("logging", "level"), "warn").lost == 0
    edit = set_in_files(str(main), ("logging",), {"level": "warn"})
    assert (edit.text, edit.lost) == ("version: 1\nlogging: {level: warn}  # its own\n# kept\n", 2)


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x:   # list\n  - a   # A\n  - c+   # C\n# after\ny: 1\n", "x: []   # list\n# after\ny: 1\n"),
        ("x:\n- a\n- c # C", "x: []"),
        ("x: &all  # list\n- {a: '#'}\n\ny: 1\n", "x: []  # list\n\ny: 1\n"),
        ("x:  # list\n- |\n  # text\n  more\n# after\n", "x: []  # list\n# after\n"),
        ("x:\n  # in front\n  - a\n", "x: []\n"),
        ('"x # y":\n  - a  # A\n', '"x # y": []\n'),
    ],
)
def test_a_list_in_lines_that_is_emptied_keeps_its_own_comment(text: str, wanted: str, newline: str) -> None:
    name = "x # y" if "x # y" in text else "x"
    assert set_value(text.replace("\n", newline), (name,), []) == wanted.replace("\n", newline)


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


@given(value=values)
def test_any_value_is_written_in_one_line_that_means_it(value: Any) -> None:
    text = value_text(value)
    node, problems = compose(Source("", "", text))
    assert (len(text.splitlines()), problems) == (1, ())
    assert node is not None
    assert same(plain(node), value)


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
    assert same(value_at(result, tuple(path)), value)
    old, new = text.splitlines(), result.splitlines()
    touched = [line for line in difflib.ndiff(old, new) if line.startswith("- ")]
    below: Any = tree
    for part in path:
        below = below.get(part) if isinstance(below, dict) else None
    assert len(touched) <= max(1, len(block({"x": below}).splitlines()))


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        (
            "codes:\n- 78   # invalid config\n- 64   # usage\n",
            [1, 2, 64, 78],
            "codes:\n- 1\n- 2\n- 64   # usage\n- 78   # invalid config\n",
        ),
        ("codes:\n- 1   # one\n- 2   # two\n", [3, 2, 4], "codes:\n- 3   # one\n- 2   # two\n- 4\n"),
        ("codes:\n- 1   # one\n- 2   # two", [3, 4, 5], "codes:\n- 3\n- 4\n- 5"),
        (
            "codes:\n# all\n- a: 0\n# x\n- a: 1   # one\n  b: 2\n\n# y\n- a: 2   # two\n- a: 3   # three\nend: 1\n",
            [{"a": 9}, {"a": 2}, {"a": 1, "b": 2}, {"a": 4}],
            "codes:\n# all\n- {a: 9}\n\n# y\n- a: 2   # two\n# x\n- a: 1   # one\n  b: 2\n- {a: 4}   # three\nend: 1\n",
        ),
        ("codes: [1, 2,\n  3, # three\n  4]\n", [9, 3, 8, 4], "codes: [9,\n  3, 8, # three\n  4]\n"),
    ],
)
def test_an_item_that_stays_keeps_its_lines_and_its_comments(text: str, value: list[Any], result: str) -> None:
    assert set_value(text, ("codes",), value) == result


@pytest.mark.req("DOC-6")
@settings(max_examples=300, deadline=None)
@given(
    old=st.lists(st.integers(0, 9), unique=True, min_size=1),
    new=st.lists(st.integers(0, 12), unique=True, min_size=1),
    mappings=st.booleans(),
)
def test_no_comment_of_a_list_changes_its_owner(old: list[int], new: list[int], mappings: bool) -> None:
    """Every item that is in both lists has the comment that it had; no other one of the old list has it."""
    items = [f"  - n: {each} # on {each}\n    of: 1\n" if mappings else f"  - {each} # on {each}\n" for each in old]
    value: list[Any] = [{"n": each, "of": 1} for each in new] if mappings else list(new)
    text = set_value("a:\n" + "".join(items) + "b: 1\n", ("a",), value)
    assert value_at(text, ("a",)) == value
    for item, block in zip(old, items, strict=True):
        if item in new:
            assert text.count(block) == 1
        elif f"# on {item}\n" in text:
            (line,) = [line for line in text.splitlines() if line.endswith(f"# on {item}")]
            assert int(line.partition(" #")[0].rpartition(" ")[2]) not in old
