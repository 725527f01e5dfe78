"""Small pieces of text that every command shares: values, durations, sizes, colour. Pure."""

from __future__ import annotations

from typing import Any

from reconciler.model import ABSENT, MASK, Secret, Value
from reconciler.values import dump, public

# SGR codes; used only where a terminal asked for colour.
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34"}


def paint(text: str, style: str, colour: bool) -> str:
    """`text` in a style where colour is wanted, else as it is."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if colour else text


def shown(value: Value) -> str:
    """A field's value for people: JSON in one line, the mask for a secret, `(absent)` for none."""
    if value is ABSENT:
        return "(absent)"
    if isinstance(value, Secret):
        return MASK
    return dump(public(value))


def seconds(amount: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `5 min`, `3.2 h`."""
    if amount < 10:
        return f"{amount:.1f} s"
    if amount < 120:
        return f"{amount:.0f} s"
    return f"{amount / 60:.0f} min" if amount < 7200 else f"{amount / 3600:.1f} h"


def size(amount: float) -> str:
    """A number of bytes for people: `812 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def plural(count: int, word: str) -> str:
    """`1 action`, `2 actions`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def json_text(data: Any) -> str:
    """One JSON document as a command prints it: two spaces, keys in the order given, a newline at the end."""
    import json

    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
