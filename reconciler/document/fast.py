"""The quick way to a section's canonical form: along the shape that was made from the models, without them.

Building pydantic's models costs twice what all else of a command does, and most documents are valid. So this is a door for
those only: it returns exactly what the models would, or None at the first doubt, and then they are asked. It says nothing
about what is wrong, knows no section, and must import nothing of pydantic's. See `shape` for the data that it walks along.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any, Final

from reconciler.document.checked import from_spec

SHAPE: Final = os.path.join(os.path.dirname(__file__), "shape.json")


class _Doubt(ValueError):
    """Let the models decide. The checks' own `BadValue` is a ValueError too."""


def canonical_section(name: str, value: Any) -> Any:
    """The canonical form of a section as its models would dump it, made of fresh values; None when they must be asked."""
    shape = shape_data()
    node = shape["sections"].get(name)
    if node is None:
        return None
    try:
        return _Walk(shape["models"]).canonical(node, value)
    except ValueError:
        return None


@cache
def shape_data() -> Any:
    """The data of shape.json, not to be changed; a shape that describes nothing where that cannot be read."""
    try:
        with open(SHAPE, "rb") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {"sections": {}, "models": {}}


class _Walk:
    """Goes down a value and its shape together; any doubt is a ValueError."""

    def __init__(self, models: Any) -> None:
        self._models = models

    def canonical(self, node: Any, value: Any) -> Any:
        """The canonical form of `value`, which must be what `node` describes."""
        if value is None and "null" in node:
            return None
        match node:
            case {"check": spec}:
                return from_spec(*spec).check(value)
            case {"model": model}:
                return self._model(model, value)
            case {"map": inner}:
                return {_name(name): self.canonical(inner, item) for name, item in _exactly(dict, value).items()}
            case {"list": inner, "at_least": least} if len(_exactly(list, value)) >= least:
                return [self.canonical(inner, item) for item in value]
            case {"tag": tag, "models": models}:
                return self._model(models.get(_exactly(str, _exactly(dict, value).get(tag))), value)
            case {"word": word} if type(value) is str and value == word:
                return value
            case {"any": True}:
                return copied(value)
        raise _Doubt

    def _model(self, model: str | None, value: Any) -> dict[str, Any]:
        fields = self._models.get(model)
        if fields is None or type(value) is not dict or not value.keys() <= fields.keys():
            raise _Doubt
        return {name: self._field(node, name, value) for name, node in fields.items()}

    def _field(self, node: Any, name: str, value: dict[str, Any]) -> Any:
        if name in value:
            return self.canonical(node, value[name])
        if "default" not in node:
            raise _Doubt
        return copied(node["default"])


def copied(value: Any) -> Any:
    """Plain data as a fresh copy.

    Raises:
        ValueError: it is not plain.
    """
    if value is None or type(value) in {str, int, float, bool}:
        return value
    if type(value) is dict:
        return {_name(name): copied(item) for name, item in value.items()}
    return [copied(item) for item in _exactly(list, value)]


def _exactly(kind: type, value: Any) -> Any:
    """Not a subclass either: what that does is its own."""
    if type(value) is not kind:
        raise _Doubt
    return value


def _name(name: Any) -> str:
    """A name that the models would take: a text, and one that can be written down."""
    text: str = _exactly(str, name)
    if not text.isascii():
        text.encode()
    return text
