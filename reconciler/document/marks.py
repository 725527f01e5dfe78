"""Marks in a text what no message may show, by what its values mean. Knows the tree and the shape of the schema."""

from __future__ import annotations

from typing import Any, Final

from reconciler.document.masking import (
    assigns_secret,
    is_below_secret,
    is_harmless,
    is_lost_choice,
    is_lost_value,
    is_secret_holder,
    is_secret_place,
    is_sensitive_list,
    looks_secret,
    mask_name,
    mask_words,
    resembles_secret,
)
from reconciler.document.nodes import Mapping, Node, Scalar, Sequence

_FREE: Final = {"any": True}
_REFERENCES: Final = frozenset({"env", "file", "exec"})


def mark_secrets(root: Node, above: tuple[str, ...] = ()) -> None:
    """Marks the spans of all literals that stand where a secret may stand, so that no quoted line shows them.

    `above` are the names that lead to `root`, without the numbers of lists.
    """
    hidden = is_below_secret(above) or any(map(is_sensitive_list, above))
    waiting: list[tuple[tuple[str, ...], Node, bool]] = [(above, root, hidden)]
    while waiting:
        path, node, hidden = waiting.pop()
        if isinstance(node, Scalar):
            if hidden or _is_secret(path, node.value):
                if not is_harmless(path, node.value):
                    mark(node)
                elif node.value is None and node.plain and "#" in node.source.line(node.line)[node.column - 1 :]:
                    # It may have become a comment.
                    node.source.masked.setdefault(node.line, set()).add((node.column, None))
        elif isinstance(node, Sequence):
            hidden = hidden or is_secret_holder(path) or (bool(path) and is_sensitive_list(path[-1]))
            # A name or a path is no list: whatever stands in one is not taken for either.
            below = path[:-1] if path and path[-1] in {"env", "file"} else path
            waiting.extend((below, item, hidden) for item in node.items)
            if below[-1:] == ("exec",) and node.items:
                # The program is named as a file is, and only it.
                waiting.append(((*below[:-1], "file"), node.items[0], hidden))
        else:
            for name, (name_node, item) in node.entries.items():
                below = (*path, name)
                if isinstance(item, Scalar) and (
                    is_lost_value(path, name, item.value) or (hidden and item.value is None and name not in _REFERENCES)
                ):
                    # `{abc}` is a mapping with a name and nothing.
                    mark(name_node)
                # A name that holds a secret, or a part of one, is followed by the rest of it.
                is_marked = name_node.line in name_node.source.masked and mask_name(name) != name
                waiting.append((below, item, hidden or is_marked or is_secret_place(below)))


def _is_secret(path: tuple[str, ...], value: Any) -> bool:
    if is_secret_holder(path) or looks_secret(value) or assigns_secret(value) or is_lost_choice(path, value):
        return True
    if path[:1] in {("auth",), ("notifications",)} and isinstance(value, str) and mask_name(value) != value:
        # What should be the name of a profile or a channel is the key or the address itself.
        return True
    # Where a section stands, or a tunnel, `token abc` is the rest of a mapping.
    is_section = len(path) <= 1 and not "".join(path).startswith("x-")
    is_tunnel = len(path) == 2 and path[0] == "tunnels"
    return (is_section or is_tunnel) and isinstance(value, str) and mask_words(value) != value


def mark_below(node: Node) -> None:
    """Marks every value that is `node` or stands below it."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting.extend(item for _, item in each.entries.values())
        elif isinstance(each, Sequence):
            waiting.extend(each.items)
        elif isinstance(each.value, (str, int, float)) and not isinstance(each.value, bool):
            mark(each)


def mark_doubtful(root: Node) -> None:
    """Marks every literal that stands where the schema has no value, or below a name that may be a mistyped one of a secret: for
    a document that was not found valid.
    """
    from reconciler.document.fast import shape_data

    shape = shape_data()
    sections = {"mapping": {"version": _FREE, "include": _FREE, **shape["sections"]}}
    # With each value what may stand in its place, and whether nobody can know what it is.
    waiting: list[tuple[tuple[str, ...], Node, list[Any], bool]] = [((), root, [sections], False)]
    while waiting:
        path, node, places, hidden = waiting.pop()
        if isinstance(node, Mapping):
            for name, (_, item) in node.entries.items():
                below = [_FREE] if not path and name.startswith("x-") else _places_at(name, places, shape["models"])
                is_free = _FREE in below or any("map" in place for place in places)
                waiting.append(((name,), item, below, hidden or not below or (is_free and resembles_secret(name))))
        elif isinstance(node, Sequence):
            items = [
                _FREE if place == _FREE else place["list"] for place in places if place == _FREE or "list" in place
            ]
            waiting.extend((path, item, items, hidden or not items) for item in node.items)
        else:
            has_place = any(place == _FREE or "check" in place or "word" in place for place in places)
            if (hidden or not has_place) and not is_harmless(path, node.value):
                mark(node)


def _places_at(name: str, places: list[Any], models: Any) -> list[Any]:
    """What the schema has behind `name` in a mapping that stands in one of `places`."""
    found = []
    for place in places:
        names = place.get("models", {}).values() if "tag" in place else [place["model"]] if "model" in place else []
        fields = [models[each] for each in names] or [place.get("mapping", {})]
        found += [each[name] or _FREE for each in fields if name in each]
        found += [{"word": name}] if name == place.get("tag") else []
        found += [place["map"]] if "map" in place else [_FREE] if place == _FREE else []
    return found


def mark(node: Scalar) -> None:
    """Marks this value, or this name."""
    masked = node.source.masked
    if node.line == node.end_line:
        masked.setdefault(node.line, set()).add((node.column, node.end_column))
        return
    masked.setdefault(node.line, set()).add((node.column, None))
    for line in range(node.line + 1, node.end_line):
        masked.setdefault(line, set()).add((1, None))
    if node.end_column > 1:
        # To the end of the line: where a closing quote was forgotten this ends at the next opening one, behind a name.
        masked.setdefault(node.end_line, set()).add((1, None))
