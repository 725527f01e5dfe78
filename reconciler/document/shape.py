"""The schema's sections as plain data, for `fast`: what a valid section looks like, and nothing about what is wrong with others.

Made from the core schemas that pydantic itself validates by, so that it cannot say anything else than the models do. Only what is
known here is described, down to the options of each construct: a section with anything else in it (a validator of a model, a
serializer, another alias or mode) is null, and always goes the way through pydantic.

`{"sections": {NAME: NODE or null}, "models": {NAME: {FIELD: NODE}}}`, a NODE being one of

| node | accepts |
|---|---|
| `{"check": SPEC}` | what `checked.from_spec` of it does |
| `{"model": NAME}` | a mapping of this model's fields; a field without `default` must be there |
| `{"list": NODE, "at_least": N}` | a list of at least so many of these |
| `{"map": NODE}` | a mapping of free names to these |
| `{"tag": FIELD, "models": {WORD: NAME}}` | the model that the field's word names |
| `{"word": WORD}` | this text |
| `{"any": true}` | plain data as it is |

with `"null": true` where null is accepted too, and in a field with its `default` in canonical form. Where that is null because
the host shares the field, `shown` is the default that holds there: canonical, and no part of what is accepted. The data is
written to shape.json by `make docs` and checked to be up to date, like the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from reconciler.document.checked import Checked, from_spec

# Words for tools: no part of what is accepted.
_IDLE: Final = {"type", "ref", "metadata"}
_MODEL_CONFIG: Final = {"extra_fields_behavior": "forbid", "strict": True}


class _NotDescribedError(Exception):
    """A construct that this module does not know."""


def document_shape() -> dict[str, Any]:
    """The shape of all sections; the same bytes on every run."""
    from reconciler.document.schema import SECTIONS

    models: dict[str, Any] = {}
    sections = {name: describe(name, model, models) for name, model in SECTIONS.items()}
    return {"sections": sections, "models": dict(sorted(models.items()))}


def describe(name: str, model: Any, models: dict[str, Any]) -> Any:
    """The node of one section; what it needs goes to `models`. None where it holds anything that is not known here."""
    model.model_rebuild(force=True)
    describer = _Describer()
    try:
        node = describer.node(model.__pydantic_core_schema__)
    except _NotDescribedError:
        return None
    if name == "tunnels":
        # Its model is a wrapper with this one field: the section is a mapping of free names.
        node = describer.models.pop(node["model"])[name]
    models.update(describer.models)
    return node


class _Describer:
    """Describes one section; `models` are those that it came across."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self._definitions: dict[str, Any] = {}

    def node(self, schema: Any) -> dict[str, Any]:
        """The node for a core schema."""
        match schema["type"]:
            case "definitions":
                _only(schema, "definitions", "schema")
                self._definitions |= {each["ref"]: each for each in schema["definitions"]}
                return self.node(schema["schema"])
            case "definition-ref":
                _only(schema, "schema_ref")
                return self.node(self._definitions[schema["schema_ref"]])
            case "model":
                return {"model": self._model(schema)}
            case "function-plain":
                return _check(schema)
            case "nullable":
                _only(schema, "schema")
                return {**self.node(schema["schema"]), "null": True}
            case "list":
                _only(schema, "items_schema", "min_length")
                return {"list": self.node(schema["items_schema"]), "at_least": schema.get("min_length", 0)}
            case "dict":
                _only(schema, "keys_schema", "values_schema")
                _must(schema["keys_schema"] == {"type": "str"})
                return {"map": self.node(schema["values_schema"])}
            case "tagged-union":
                return self._tagged(schema)
            case "literal":
                _only(schema, "expected")
                (word,) = schema["expected"]
                _must(type(word) is str)
                return {"word": word}
            case "any":
                _only(schema)
                return {"any": True}
        raise _NotDescribedError

    def _tagged(self, schema: Any) -> dict[str, Any]:
        # The two last say what is taken beside mappings, and `fast` takes nothing else.
        _only(schema, "discriminator", "choices", "strict", "from_attributes")
        _must(type(schema["discriminator"]) is str)
        choices = {word: self.node(choice) for word, choice in schema["choices"].items()}
        _must(all(type(word) is str and list(choice) == ["model"] for word, choice in choices.items()))
        return {"tag": schema["discriminator"], "models": {word: choice["model"] for word, choice in choices.items()}}

    def _model(self, schema: Any) -> str:
        _only(schema, "cls", "config", "custom_init", "root_model", "schema")
        _must(not schema.get("custom_init") and not schema.get("root_model"))
        _must({name: value for name, value in schema["config"].items() if name != "title"} == _MODEL_CONFIG)
        inner = schema["schema"]
        _must(inner["type"] == "model-fields")
        _only(inner, "fields", "model_name", "computed_fields")
        _must(not inner.get("computed_fields"))
        name: str = schema["cls"].__name__
        self.models[name] = {field: self._field(each) for field, each in inner["fields"].items()}
        return name

    def _field(self, schema: Any) -> dict[str, Any]:
        _must(schema["type"] == "model-field")
        _only(schema, "schema")
        inner = schema["schema"]
        if inner["type"] != "default":
            return self.node(inner)
        _only(inner, "schema", "default", "default_factory", "default_factory_takes_data", "copy_default")
        _must(not inner.get("default_factory_takes_data"))
        default = inner["default_factory"]().model_dump() if "default_factory" in inner else inner["default"]
        _must(_is_plain(default))
        node = {**self.node(inner["schema"]), "default": default}
        written = schema.get("metadata", {}).get("pydantic_js_extra", {}).get("default")
        if default is None and written is not None:
            node["shown"] = from_spec(*node["check"]).check(written)
        return node


def _check(schema: Any) -> dict[str, Any]:
    _only(schema, "function")
    checked = getattr(schema["function"]["function"], "__self__", None)
    if schema["function"]["type"] != "no-info" or type(checked) is not Checked:
        raise _NotDescribedError
    node: dict[str, Any] = {"check": list(checked.spec)}
    return {**node, "null": True} if checked.nullable else node


def _only(schema: Mapping[str, Any], *known: str) -> None:
    """Any other option may change what is accepted."""
    _must(set(schema) <= {*_IDLE, *known})


def _must(known: bool) -> None:
    if not known:
        raise _NotDescribedError


def _is_plain(value: Any) -> bool:
    """Whether JSON gives back exactly this."""
    if type(value) is dict:
        return all(type(name) is str and _is_plain(item) for name, item in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in {str, int, float, bool}
