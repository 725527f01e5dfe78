"""Generations, and what lies between two of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.cli.render.text import paint
from reconciler.model import ABSENT, Generation, Result, Value
from reconciler.values import dump, join_path, public, same

Change = tuple[str, Value, Value]


def history_json(generations: Sequence[Generation], in_force: int | None) -> dict[str, Any]:
    """What `openclaw history --json` prints (schema `openclaw.history/1`), newest first."""
    return {
        "schema": "openclaw.history/1",
        "in_force": in_force,
        "generations": [
            {
                "number": item.number,
                "digest": item.digest,
                "at": item.at,
                "cause": item.cause,
                "author": item.author,
                "commit": item.commit,
                "result": item.result.value,
                "reason": item.reason,
            }
            for item in generations
        ],
    }


def history_text(generations: Sequence[Generation], in_force: int | None, *, colour: bool) -> str:
    """What `openclaw history` prints; the generation in force has a star."""
    if not generations:
        return "No generations: nothing was applied yet.\n"
    lines = []
    for item in generations:
        good = item.result is Result.CONFIRMED
        by = f" by {item.author}" if item.author else ""
        commit = f", commit {item.commit}" if item.commit else ""
        result = paint(item.result.value, "green" if good else "yellow", colour)
        mark = "*" if item.number == in_force else " "
        lines.append(f"{mark}{item.number:>4}  {item.at}  {result}  {item.cause}{by}{commit}  {item.digest[:12]}")
        if item.reason:
            lines.append(f"       {item.reason}")
    return "\n".join(lines) + "\n"


def fields_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """The leaves in which two canonical documents differ, by path."""
    before, after = dict(_leaves(old, ())), dict(_leaves(new, ()))
    return tuple(
        (path, before.get(path, ABSENT), after.get(path, ABSENT))
        for path in sorted(before.keys() | after.keys())
        if not same(before.get(path, ABSENT), after.get(path, ABSENT))
    )


def fields_json(found: Sequence[Change], old: str, new: str) -> dict[str, Any]:
    """What `openclaw diff --json` prints (schema `openclaw.diff/1`)."""
    return {
        "schema": "openclaw.diff/1",
        "from": old,
        "to": new,
        "differences": [{"path": path, "from": public(left), "to": public(right)} for path, left, right in found],
    }


def fields_text(found: Sequence[Change], old: str, new: str) -> str:
    """What `openclaw diff` prints: one line for each leaf that differs."""
    if not found:
        return f"No differences between {old} and {new}.\n"
    return "".join(f"{path}: {_shown(left)} -> {_shown(right)}\n" for path, left, right in found)


def text_diff(old: Mapping[str, str], new: Mapping[str, str], old_name: str, new_name: str) -> str:
    """The unified difference of the files of two documents."""
    from difflib import unified_diff

    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before = old.get(name, "").splitlines(keepends=True)
        after = new.get(name, "").splitlines(keepends=True)
        for line in unified_diff(before, after, f"{name} ({old_name})", f"{name} ({new_name})"):
            lines.append(line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n")
    return "".join(lines)


def _shown(value: Value) -> str:
    return "(absent)" if value is ABSENT else dump(public(value))


def _leaves(data: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping) and data:
        for name, item in data.items():
            yield from _leaves(item, (*path, name))
    else:
        yield join_path(path), data
