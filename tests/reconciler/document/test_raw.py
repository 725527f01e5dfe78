"""A document that is not valid is shown beside one that was: whole, and without what a valid one cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.document.raw import texts_beside

pytestmark = pytest.mark.req("PLAN-8", "DOC-4")

GOOD = "version: 1\r\ngateway:\r\n  auth: {token: {env: TOKEN}}\r\n"


def texts(tmp_path: Path, data: str | bytes, **known: str) -> dict[str, str] | None:
    path = tmp_path / "openclaw.yaml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return texts_beside(str(path), {"openclaw.yaml": GOOD, **known}, name="openclaw.yaml")


@pytest.mark.parametrize(
    "rest", ["", "\r\n", "  port: many\r\n", "gateway: [\r\n", "# no end", "# old Mac\r# one line\n"]
)
def test_what_holds_no_secret_is_the_same_byte_for_byte(tmp_path: Path, rest: str) -> None:
    assert texts(tmp_path, GOOD + rest) == {"openclaw.yaml": GOOD + rest}


def test_without_a_text_there_is_an_empty_one_and_without_a_file_none(tmp_path: Path) -> None:
    assert texts(tmp_path, "") == {"openclaw.yaml": ""}
    assert texts_beside(str(tmp_path / "none"), {}, name="none") is None
    assert texts_beside(str(tmp_path), {}, name="a directory") is None


@pytest.mark.parametrize(
    "literal",
    [
        "gateway:\n  auth: {token: canary-4711}\n",
        "gateway: [\n  token: canary-4711\n",
        "gateway:\n  auth:\n    token: |\n      one\n      canary-4711\n",
        "gateway:\n  auth:\n    token:\n      canary-4711\n",
        "bad: [\ngateway:\n  auth:\n    token: |\n      one\n      two\n\n      user: canary-4711\n  port: 1\n",
        "bad: [\ngateway:\n  auth:\n    token:\n      one\n      canary-4711\n",
        "gateway:\n  auth: {mode: token, tokne: canary-4711}\n",
        "gateway:\n  auth:\n    passwrod: canary-4711\n",
        "gateway: {prot: 1} # token: canary-4711\n",
        "gateway: {prot: 1}\n# password = canary-4711\n",
    ],
)
def test_a_literal_secret_is_masked(tmp_path: Path, literal: str) -> None:
    found = texts(tmp_path, "version: 1\n" + literal)
    assert found is not None
    assert "canary" not in found["openclaw.yaml"]
    assert found["openclaw.yaml"].splitlines()[:1] == ["version: 1"]
    assert len(found["openclaw.yaml"].splitlines()) == len(literal.splitlines()) + 1


def test_what_a_terminal_would_obey_is_spelt_out_and_what_is_no_utf_8_replaced(tmp_path: Path) -> None:
    assert texts(tmp_path, "version: 1\nx-a: \u202eb\n") == {"openclaw.yaml": "version: 1\nx-a: \\u202eb\n"}
    # Whatever else would be obeyed keeps the text from being read.
    assert texts(tmp_path, b"version: 1\nlogging: \x1b[2J\n") == {"openclaw.yaml": "version: 1\nlogging: ********\n"}
    assert texts(tmp_path, b"version: 1\nx-a: \xff\n") == {"openclaw.yaml": "version: 1\nx-a: \ufffd\n"}


def test_its_includes_are_there_also_where_it_does_not_tell_which(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/common.yaml").write_text("logging: {}\n")
    known = {"parts/common.yaml": "logging: {}\n", "parts/gone.yaml": "policy: {}\n"}
    common = {"parts/common.yaml": "logging: {}\n"}
    for whole, included in (
        ("", common),
        ("include: [\n", common),
        ("version: 2\ninclude: parts/common.yaml\n", common),
        ("version: 2\n", {}),
    ):
        assert texts(tmp_path, whole, **known) == {"openclaw.yaml": whole, **included}, whole
