import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.json5 import MAX_DEPTH, Array, Json5Error, Node, Object, Scalar, load, parse, to_plain


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("null", None),
        (" true ", True),
        ("\ufefffalse", False),
        ("{}", {}),
        ("[]", []),
        ("{a: 1, 'b': 2, \"c\": 3,}", {"a": 1, "b": 2, "c": 3}),
        ("[1, 2, 3,]", [1, 2, 3]),
        ("// first\n{ /* in /* between */ $a_1: 'x' } // last", {"$a_1": "x"}),
        ("{ \u00e9t\u00e9: 1, \\u0061b: 2, a\u200d: 3 }", {"\u00e9t\u00e9": 1, "ab": 2, "a\u200d": 3}),
        ("{a\u00a0:\u20281}", {"a": 1}),
        ("{a: 1, a: 2}", {"a": 2}),
        ("{Infinity: Infinity, null: null}", {"Infinity": math.inf, "null": None}),
        ("[+1, -2, .5, 5., 1e3, -1.5E-1, 0x1F, -0Xff, +0]", [1, -2, 0.5, 5.0, 1000.0, -0.15, 31, -255, 0]),
        ("[Infinity, -Infinity, +Infinity]", [math.inf, -math.inf, math.inf]),
        (
            r"'it\'s \"x\" \q \0 \x41 \u00e9 \
joined'",
            'it\'s "x" q \0 A \u00e9 joined',
        ),
        ("'a\\\r\nb\\\u2028c\u2028d'", "abc\u2028d"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\ud83d"', "\ufffd"),
    ],
)
def test_reads_what_the_specification_allows(text: str, data: object) -> None:
    assert load(text) == data


def test_nan_is_read_as_not_a_number() -> None:
    values = load("[NaN, -NaN]")
    assert isinstance(values, list)
    assert all(isinstance(value, float) and math.isnan(value) for value in values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON5: invalid end of input at 1:1"),
        ("{", "JSON5: invalid end of input at 1:2"),
        ('{"gateway": {', "JSON5: invalid end of input at 1:14"),
        ("{a", "JSON5: invalid end of input at 1:3"),
        ("{a: 'x", "JSON5: invalid end of input at 1:7"),
        ("/* open", "JSON5: invalid end of input at 1:8"),
        ("{\n  a: 1\n  b: 2\n}", "JSON5: invalid character 'b' at 3:3"),
        ("{a: 01}", "JSON5: invalid character '1' at 1:6"),
        ("{a: tru }", "JSON5: invalid character ' ' at 1:8"),
        ("'a\nb'", "JSON5: invalid character '\\n' at 1:3"),
        ("[,]", "JSON5: invalid character ',' at 1:2"),
        ("{,}", "JSON5: invalid character ',' at 1:2"),
        ("{a: 1}}", "JSON5: invalid character '}' at 1:7"),
        ("{1a: 1}", "JSON5: invalid character '1' at 1:2"),
        (r"{\u0031: 1}", "JSON5: invalid identifier character at 1:2"),
        (r"'\1'", "JSON5: invalid character '1' at 1:3"),
        (r"'\00'", "JSON5: invalid character '0' at 1:4"),
        (r"'\xg0'", "JSON5: invalid character 'g' at 1:4"),
        ("+true", "JSON5: invalid character 't' at 1:2"),
        ("-", "JSON5: invalid end of input at 1:2"),
        ("/x", "JSON5: invalid character 'x' at 1:2"),
        ("\0", "JSON5: invalid character '\\x00' at 1:1"),
        ("[" * (MAX_DEPTH + 1), f"JSON5: nested deeper than {MAX_DEPTH} levels at 1:{MAX_DEPTH + 1}"),
    ],
)
def test_names_the_place_and_the_character_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(Json5Error) as caught:
        parse(text)
    assert str(caught.value) == message
    assert message == f"{caught.value.message} at {caught.value.line}:{caught.value.column}"


def test_an_integer_too_long_for_python_is_read_as_the_double_it_is() -> None:
    assert load("9" * 10_000) == math.inf
    assert load("1e999") == math.inf


def test_the_last_of_equal_keys_holds_and_both_keep_their_places() -> None:
    node = parse("{a: 1, 'a': 2}")
    assert isinstance(node, Object)
    assert [member.key_span for member in node.members] == [(1, 2), (7, 10)]
    last = node.get("a")
    assert last is not None
    assert to_plain(last) == 2
    assert node.get("b") is None


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)
_gap = st.sampled_from(["", " ", "\n", "\t", "// note\n", "/* { */", " \u00a0", "\r\n"])


@st.composite
def _written(draw: st.DrawFn) -> tuple[str, object]:
    """Data, and a JSON5 text of it with comments, other quotes and trailing commas strewn in."""

    def write(data: object) -> str:
        before, after = draw(_gap), draw(_gap)
        if isinstance(data, dict):
            body = ",".join(draw(_gap) + quoted(key) + draw(_gap) + ":" + write(value) for key, value in data.items())
            text = "{" + body + comma(data) + draw(_gap) + "}"
        elif isinstance(data, list):
            text = "[" + ",".join(write(item) for item in data) + comma(data) + draw(_gap) + "]"
        elif isinstance(data, str):
            text = quoted(data)
        else:
            text = json.dumps(data)
        return before + text + after

    def comma(data: object) -> str:
        return "," if data and draw(st.booleans()) else ""

    def quoted(text: str) -> str:
        if draw(st.booleans()):
            return json.dumps(text, ensure_ascii=draw(st.booleans()))
        return "'" + json.dumps(text)[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"

    data = draw(_plain)
    return write(data), data


@given(_written())
def test_reads_back_what_was_written_in_any_dress(case: tuple[str, object]) -> None:
    text, data = case
    assert load(text) == data


@given(_written())
def test_every_span_cuts_out_a_text_of_the_same_value(case: tuple[str, object]) -> None:
    text, _ = case

    def check(node: Node) -> None:
        piece = text[slice(*node.span)]
        assert piece == piece.strip()
        assert load(piece) == to_plain(node)
        match node:
            case Object(members=members):
                assert (piece[0], piece[-1]) == ("{", "}")
                for member in members:
                    assert load(text[slice(*member.key_span)]) == member.key
                    assert node.span[0] < member.key_span[0] < member.key_span[1] <= member.value.span[0] < node.span[1]
                    check(member.value)
            case Array(items=items):
                assert (piece[0], piece[-1]) == ("[", "]")
                for item in items:
                    check(item)
            case Scalar():
                pass

    check(parse(text))


@given(st.text(st.sampled_from(list("{}[]:,'\"\\/*+-.0123456789abxu \n\u2028tfnI")), max_size=40) | st.text())
def test_no_text_raises_anything_but_its_own_error(text: str) -> None:
    try:
        node = parse(text)
    except Json5Error as err:
        place = (err.line, err.column)
    else:
        to_plain(node)
        return
    assert (1, 1) <= place <= (text.count("\n") + 1, len(text) + 1)
