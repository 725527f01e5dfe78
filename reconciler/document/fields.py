"""What holds for a field that the document does not set: what the schema says of it, and on what condition.

Walks along the shape (`shape`), so that no model is built. It knows no file and no position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from reconciler.document import units
from reconciler.document.fast import copied, shape_data
from reconciler.document.problems import closest, safe
from reconciler.document.validate import empty_section
from reconciler.errors import UsageError
from reconciler.model import DocumentPath
from reconciler.values import dump, join_path

DEFAULT: Final = "default"
NOT_DECLARED: Final = "not declared"
# What a document has as a text with a unit, and its canonical form has not.
_RENDERED: Final[Mapping[str, Callable[[Any], str]]] = {
    "duration": units.render_duration,
    "size": units.render_size,
    "size_from": units.render_size,
    "percent": units.render_percent,
    "window": units.render_window,
}
# What stands beside the sections, and is no part of the shape.
_BESIDE: Final[Mapping[str, Any]] = {
    "version": {"any": True},
    "include": {"list": {"any": True}, "at_least": 0, "default": []},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A field's value, as a document has it, and its origin: a position, `environment NAME`, `default` or `not declared`.

    `condition` says on what condition such a default holds, or why there is none; empty where nothing is to be said.
    """

    value: Any
    origin: str
    condition: str = ""

    def __str__(self) -> str:
        """The origin with its condition."""
        return ", ".join(filter(None, (self.origin, self.condition)))


def top_fields() -> dict[str, Any]:
    """All that may stand at the top of a document, each with its node of the shape."""
    return {**_BESIDE, **shape_data()["sections"]}


def fields_below(node: Any, value: Any = None) -> dict[str, Any]:
    """What may stand below a node of the shape, by name, each with its node; `*` for any name. `value` is what stands there."""
    models = shape_data()["models"]
    match node:
        case {"model": name}:
            fields: dict[str, Any] = models[name]
            return fields
        case {"tag": tag, "models": dict(by_word)}:
            word = value.get(tag) if isinstance(value, Mapping) else None
            return models[by_word[word]] if word in by_word else _of_any([models[name] for name in by_word.values()])
        case {"map": inner}:
            return {"*": inner}
        case {"any": True} | None:
            return {"*": {"any": True}}
    return {}


def _of_any(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields that one of `models` has; what not all of them say alike depends on which it is."""
    return {
        name: node if all(model.get(name) == node for model in models) else {"depends": True}
        for fields in models
        for name, node in fields.items()
    }


def explain_unset(path: DocumentPath, canonical: Mapping[str, Any]) -> Explained:
    """What holds for `path` in a canonical document, whose text does not set it; the value as one would write it.

    Raises:
        UsageError: the schema has no such field.
    """
    absent: DocumentPath = ()
    fields, node = top_fields(), None
    value: Any = canonical
    if len(path) > 1 and path[0] in fields and path[0] not in canonical:
        absent, value = path[:1], {path[0]: empty_section(str(path[0]))}
    for count, part in enumerate(path, 1):
        node = _below(node, fields, part)
        if has(value, part):
            value = value[part]
        elif node is None:
            _no_such_field(path, str(part), fields)
        else:
            value = copied(node.get("default"))
        if value is None and count < len(path):
            absent = path[:count]
        needed = count > 1 and part in fields
        fields = fields_below(node, value)
    return _explained(path, node or {}, value, absent, needed)


def as_written(path: DocumentPath, value: Any) -> Any:
    """A canonical value of `path` as one writes it into a document: with units."""
    fields, node = top_fields(), None
    for part in path:
        node = _below(node, fields, part)
        fields = fields_below(node, value)
    return _written(node, value)


def _written(node: Any, value: Any) -> Any:
    match node:
        case {"check": [name, *_]} if name in _RENDERED and value is not None:
            return _RENDERED[name](value)
        case {"list": inner} if isinstance(value, list):
            return [_written(inner, item) for item in value]
    if isinstance(value, Mapping):
        fields = fields_below(node, value)
        return {name: _written(fields.get(name, fields.get("*")), item) for name, item in value.items()}
    return value


def has(value: Any, part: str | int) -> bool:
    """Whether plain data has such a member."""
    if isinstance(part, int):
        return isinstance(value, list) and 0 <= part < len(value)
    return isinstance(value, Mapping) and part in value


def _below(node: Any, fields: Mapping[str, Any], part: str | int) -> Any:
    """The node of one part below `node`, whose fields these are; None where nothing of this name may stand there."""
    if isinstance(part, int):
        return (node or {}).get("list")
    return fields.get(part, fields.get("*"))


def _explained(path: DocumentPath, node: Any, value: Any, absent: DocumentPath, needed: bool) -> Explained:
    if value is not None:
        return Explained(value=_written(node, value), origin=DEFAULT, condition=_once(absent))
    above = path[:-1]
    match node:
        case {"shown": shown}:
            # Of what the host shares with others nothing is owned that the document does not write.
            return Explained(value=_written(node, shown), origin=DEFAULT, condition="where the host has no value")
        case {"depends": _}:
            condition = "its default depends on the type"
        case {"default": default} if default is not None:
            condition = f"its default is {dump(_written(node, default))} {_once(above)}"
        case {"default": None, "check": _} | {"default": None, "list": _}:
            condition = "it has no default"
        case _:
            condition = f"required {_once(above)}" if needed and "default" not in node else ""
    return Explained(value=None, origin=NOT_DECLARED, condition=condition)


def _once(absent: DocumentPath) -> str:
    return f"once the document has {join_path(absent)}" if absent else ""


def _no_such_field(path: DocumentPath, part: str, fields: Mapping[str, Any]) -> NoReturn:
    near = closest(part, [name for name in fields if name != "*"])
    hint = f"did you mean '{near}'?" if near else None
    raise UsageError(f"cannot find '{safe(join_path(path))}': there is no such field", hint=hint)
