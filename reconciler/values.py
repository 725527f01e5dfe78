"""Values to and from JSON, their digest, dotted paths, and times as texts. Pure.

Two forms: `encode` keeps everything (plan files, journal), `public` is what people and other programs are shown: a
secret becomes the mask, an absent value null.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from reconciler.model import ABSENT, MASK, Secret, Value

# What is read of openclaw.json nests at most 200 deep, and a plan file puts some more around it. Python's stack allows a
# thousand calls, of which whoever walks through such data needs two for each level.
MAX_JSON_DEPTH = 250

# A name, a commit or a reason; git's own hashes have 40 or 64.
MAX_LINE = 200
# They change the shape of the letters beside them, in Persian and Malayalam names for example, and nothing else.
_JOINERS = "\u200c\u200d"

# The one-key objects that `encode` gives a meaning of its own; a mapping that looks like one travels inside `$map`.
_MARKS = ({"$secret"}, {"$absent"}, {"$map"})


def parse_json(text: str | bytes) -> Any:
    """The plain data that JSON from outside (a file, an argument) stands for, safe to be walked through recursively.

    Raises:
        ValueError: it is no JSON, or nested deeper than `MAX_JSON_DEPTH`.
    """
    too_deep = f"more than {MAX_JSON_DEPTH} levels, one inside the other"
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [data]
    for _depth in range(MAX_JSON_DEPTH + 1):
        level = [item for group in level if isinstance(group, dict | list) for item in _items(group)]
        if not level:
            return data
    raise ValueError(too_deep)


def _items(group: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return group.values() if isinstance(group, dict) else group


def one_line(text: str) -> str:
    """`text` from outside, when it is fit to be kept in the history and printed in the middle of a line on any terminal.

    Raises:
        ValueError: it is empty, too long, or holds what a terminal would obey or that ends a line; the text says which.
    """
    if not text.strip():
        raise ValueError("it is empty")
    if len(text) > MAX_LINE:
        raise ValueError(f"it has {len(text)} characters, at most {MAX_LINE} are kept")
    bad = next((char for char in text if not char.isprintable() and char not in _JOINERS), None)
    if bad is not None:
        raise ValueError(f"it holds the character U+{ord(bad):04X}, which is not printable")
    return text


def encode(value: Value) -> Any:
    """`value` as plain JSON data that `decode` turns back into an equal value."""
    if isinstance(value, Secret):
        return {"$secret": value.digest}
    if value is ABSENT:
        return {"$absent": True}
    if isinstance(value, Mapping):
        data = {name: encode(item) for name, item in value.items()}
        return {"$map": data} if data.keys() in _MARKS else data
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


def decode(data: Any) -> Value:
    """The value that `encode` made `data` from (sequences become tuples)."""
    if isinstance(data, dict):
        if data.keys() == {"$secret"}:
            return Secret(data["$secret"])
        if data.keys() == {"$absent"}:
            return ABSENT
        inner = data["$map"] if data.keys() == {"$map"} else data
        return {name: decode(item) for name, item in inner.items()}
    if isinstance(data, list):
        return tuple(decode(item) for item in data)
    return data  # type: ignore[no-any-return]


def public(value: Value) -> Any:
    """`value` as it may be shown: secrets masked, absent as null."""
    if isinstance(value, Secret):
        return MASK
    if value is ABSENT:
        return None
    if isinstance(value, Mapping):
        return {name: public(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [public(item) for item in value]
    return value


def dump(data: Any) -> str:
    """Canonical JSON text of plain data: sorted keys, no spaces, UTF-8 left as it is."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(data: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of plain data."""
    return sha256(dump(data).encode("utf-8", "surrogatepass")).hexdigest()


def digest_fields(fields: Mapping[str, Value]) -> str:
    """The digest of field values, in no particular order."""
    return digest({path: encode(value) for path, value in fields.items()})


def same(left: Value, right: Value) -> bool:
    """Equality of values as the document means it: 1 is not true, 1 equals 1.0, tuple and list are one."""
    if left is right:
        return True
    # Texts are most of what is compared: thousands in one plan.
    if type(left) is str:
        return left == right
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(item, right[name]) for name, item in left.items())
    if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


def join_path(parts: tuple[str | int, ...]) -> str:
    """A path for people: `gateway.auth.token`, `policy.windows[0]`, `settings["a.b"]`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and not any(char in part for char in ".[]\"' "):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text


def split_path(text: str) -> tuple[str | int, ...]:
    """The parts of a path as `join_path` prints it; ValueError where it is not one."""
    parts: list[str | int] = []
    rest = text
    decoder = json.JSONDecoder()
    while rest:
        if rest.startswith("["):
            try:
                part, end = decoder.raw_decode(rest, 1)
            except (ValueError, RecursionError) as err:
                raise ValueError(f"not a path: {text!r}") from err
            if isinstance(part, bool) or not isinstance(part, (str, int)) or rest[end : end + 1] != "]":
                raise ValueError(f"not a path: {text!r}")
            parts.append(part)
            rest = rest[end + 1 :]
        else:
            rest = rest.removeprefix(".") if parts else rest
            end = next((at for at, char in enumerate(rest) if char in ".["), len(rest))
            # One form for each path: a name with a quote or a blank stands in brackets.
            if join_path((rest[:end],)) != rest[:end]:
                raise ValueError(f"not a path: {text!r}")
            parts.append(rest[:end])
            rest = rest[end:]
    return tuple(parts)


def rfc3339(at: float) -> str:
    """`at` (seconds since the epoch) as RFC 3339 in UTC with milliseconds: `2026-11-21T08:54:47.123Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
