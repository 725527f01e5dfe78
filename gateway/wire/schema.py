"""A closed-schema check whose complaints read like those of the real product (Ajv with all errors).

Only what the protocol's schemas use: types, required and unknown keys, minimum and maximum, non-empty strings, one of
some constants. Pure. A schema is data; `problems` says everything that is wrong with a value, in the order in which the
real product says it: required keys, unknown keys, then the known keys in the schema's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """A string; `non_empty` wants at least one character, `one_of` one of some constants."""

    non_empty: bool = False
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer within bounds, both inclusive."""

    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON value."""


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array, each item by the same schema."""

    item: Schema


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with free keys, each value by the same schema."""

    value: Schema


@dataclass(frozen=True, slots=True)
class Record:
    """An object with these keys and no others."""

    required: Mapping[str, Schema] = field(default_factory=dict)
    optional: Mapping[str, Schema] = field(default_factory=dict)


Schema: TypeAlias = Text | Whole | Flag | Anything | ListOf | MapOf | Record


def complaints(schema: Schema, value: object) -> str | None:
    """All that is wrong with `value`, de-duplicated and joined by `; `, or None."""
    found = list(dict.fromkeys(_problems(schema, value, "")))
    return "; ".join(found) or None


def _problems(schema: Schema, value: object, path: str) -> Iterator[str]:
    match schema:
        case Text():
            yield from _text(schema, value, path)
        case Whole():
            yield from _whole(schema, value, path)
        case Flag():
            if not isinstance(value, bool):
                yield _at(path, "must be boolean")
        case ListOf(item=item):
            if not isinstance(value, list):
                yield _at(path, "must be array")
                return
            for index, entry in enumerate(value):
                yield from _problems(item, entry, f"{path}/{index}")
        case MapOf(value=inner):
            if not isinstance(value, dict):
                yield _at(path, "must be object")
                return
            for key, entry in value.items():
                yield from _problems(inner, entry, f"{path}/{_pointer(key)}")
        case Record():
            yield from _record(schema, value, path)
        case Anything():
            pass


def _text(schema: Text, value: object, path: str) -> Iterator[str]:
    if schema.one_of:
        if value not in schema.one_of:
            yield _at(path, "must be equal to constant")
            yield _at(path, "must match a schema in anyOf")
    elif not isinstance(value, str):
        yield _at(path, "must be string")
    elif schema.non_empty and not value:
        yield _at(path, "must NOT have fewer than 1 characters")


def _whole(schema: Whole, value: object, path: str) -> Iterator[str]:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of number: 3.0 is an integer there
    if isinstance(value, bool) or not isinstance(value, int):
        yield _at(path, "must be integer")
        return
    if schema.maximum is not None and value > schema.maximum:
        yield _at(path, f"must be <= {schema.maximum}")
    if schema.minimum is not None and value < schema.minimum:
        yield _at(path, f"must be >= {schema.minimum}")


def _record(schema: Record, value: object, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _at(path, "must be object")
        return
    for key in schema.required:
        if key not in value:
            yield _at(path, f"must have required property '{key}'")
    for key in value:
        if key not in schema.required and key not in schema.optional:
            yield f"at {path or 'root'}: unexpected property '{key}'"
    for key, inner in (*schema.required.items(), *schema.optional.items()):
        if key in value:
            yield from _problems(inner, value[key], f"{path}/{_pointer(key)}")


def _at(path: str, message: str) -> str:
    return f"at {path}: {message}" if path else message


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
