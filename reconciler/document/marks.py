"""Marks in a text what no message may show, by what its values mean. Knows the tree, and of the schema what `masking` knows."""

from __future__ import annotations

from typing import Any, Final

from reconciler.document.masking import (
    is_below_secret,
    is_harmless,
    is_secret_holder,
    is_secret_place,
    is_sensitive_list,
    looks_secret,
    mask_name,
)
from reconciler.document.nodes import Mapping, Node, Scalar, Sequence

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
            if (hidden or _is_secret(path, node.value)) and not is_harmless(path, node.value):
                mark(node)
        elif isinstance(node, Sequence):
            hidden = hidden or is_secret_holder(path) or (bool(path) and is_sensitive_list(path[-1]))
            # A name or a path is no list: whatever stands in one is not taken for either.
            below = path[:-1] if path and path[-1] in {"env", "file"} else path
            waiting.extend((below, item, hidden) for item in node.items)
        else:
            for name, (name_node, item) in node.entries.items():
                below = (*path, name)
                if hidden and isinstance(item, Scalar) and item.value is None and name not in _REFERENCES:
                    # `{abc}` is a mapping with a name and nothing.
                    mark(name_node)
                waiting.append((below, item, hidden or is_secret_place(below)))


def _is_secret(path: tuple[str, ...], value: Any) -> bool:
    if is_secret_holder(path) or looks_secret(value):
        return True
    # Where a section stands, or a tunnel, `token abc` is the rest of a mapping.
    is_section = len(path) <= 1 and not "".join(path).startswith("x-")
    is_tunnel = len(path) == 2 and path[0] == "tunnels"
    return (is_section or is_tunnel) and isinstance(value, str) and mask_name(value) != value


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
