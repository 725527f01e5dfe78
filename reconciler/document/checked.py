"""The values that a schema field can take: each with its check, its canonical form and its JSON Schema.

Part of the door: pydantic ends here. A check takes the value as YAML gave it and returns the canonical value, or raises
`BadValue`; no coercion happens anywhere else, so every message is ours. pydantic calls in here and is imported only then, because
`fast` uses the same checks without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from reconciler.document import units
from reconciler.document.masking import REFERENCE, is_secret_itself, looks_secret, mask_words
from reconciler.document.problems import safe
from reconciler.document.units import BadValue, kind_of

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import core_schema

SECRET_EXPECTED = "{env: NAME}, {file: PATH}, {exec: [PROGRAM, ARGUMENT]} or ${NAME}"  # noqa: S105 - how a reference is written
_LIKE_A_FILE = "; what is really called so is written with its directory: ./NAME"
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, eq=False)
class Checked:
    """Annotation metadata: `check` replaces pydantic's own validation, `schema` its JSON Schema.

    `spec` says how it was made, so that `from_spec` can make it again; `nullable` that null is let through before that.
    """

    check: Callable[[Any], Any]
    schema: Mapping[str, Any]
    spec: tuple[Any, ...]
    nullable: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Validates by `check` alone."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._run)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The given schema, as it is."""
        return dict(self.schema)

    def _run(self, value: Any) -> Any:
        try:
            return self.check(value)
        except BadValue as err:
            from pydantic_core import PydanticCustomError

            raise PydanticCustomError(
                err.code,
                "{message}",
                {
                    "message": err.message,
                    "expected": err.expected,
                    "hint": err.hint,
                    "given": err.given,
                    "words": err.words,
                },
            ) from None


def _written(expected: str, pattern: str, *, zero: bool = False) -> dict[str, Any]:
    """The JSON Schema of a text with a form; `zero`: or the number 0, which needs no unit."""
    text = {"type": "string", "pattern": pattern, "description": expected}
    return {"description": expected, "anyOf": [text, {"const": 0}]} if zero else text


def or_null(checked: Checked) -> Checked:
    """The same, or null."""
    schema = {"anyOf": [dict(checked.schema), {"type": "null"}]}
    return Checked(lambda value: None if value is None else checked.check(value), schema, checked.spec, nullable=True)


def integer(low: int, high: int, what: str = "a whole number") -> Checked:
    """A whole number in a range, both ends included."""
    expected = f"{what} from {low} to {high}"

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            hint = "remove the quotes" if isinstance(value, str) and value.isdecimal() else ""
            raise BadValue(f"use {_shown(value)} here", expected=expected, hint=hint, code="wrong_type")
        if not low <= value <= high:
            raise BadValue(f"use {value}: out of range", expected=expected)
        return value

    spec = ("integer", low, high, what)
    return Checked(check, {"type": "integer", "minimum": low, "maximum": high}, spec)


def number(low: float, high: float) -> Checked:
    """A number in a range, both ends included."""
    expected = f"a number from {units.tidy(low)} to {units.tidy(high)}"

    def check(value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadValue(f"use {_shown(value)} here", expected=expected, code="wrong_type")
        if not low <= value <= high:
            raise BadValue(f"use {value}: out of range", expected=expected)
        return units.tidy(value)

    return Checked(check, {"type": "number", "minimum": low, "maximum": high}, ("number", low, high))


def size_from(low: int, least: str) -> Checked:
    """A size of at least `low` bytes, which a person writes as `least`."""
    expected = f"a size of at least {least}"

    def check(value: Any) -> int:
        size = units.parse_size(value)
        if size < low:
            raise BadValue(f"use {_shown(value)}: too small", expected=expected)
        return size

    return Checked(check, _written(units.SIZE_EXPECTED, units.SIZE_PATTERN), ("size_from", low, least))


def _check_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    hint = ""
    if isinstance(value, str) and value.lower() in {"yes", "on", "y", "true"}:
        hint = "write true, without quotes"
    elif isinstance(value, str) and value.lower() in {"no", "off", "n", "false"}:
        hint = "write false, without quotes"
    raise BadValue(f"use {_shown(value)} here", expected="true or false", hint=hint, code="wrong_type")


def choice(*words: str) -> Checked:
    """One of some words."""
    expected = f"one of {', '.join(words)}" if len(words) > 1 else words[0]

    def check(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        if not isinstance(value, str):
            hint = f'quote it: "{word}"' if (word := _word(value)) in words else ""
            raise BadValue(f"use {_shown(value)} here", expected=expected, hint=hint, code="wrong_type")
        raise BadValue(f"use {_shown(value)} here", expected=expected, given=value, words=lambda: words)

    return Checked(check, {"type": "string", "enum": list(words)}, ("choice", *words))


def text(what: str = "a text", *, pattern: str | None = None, limit: int = 4096, empty: bool = False) -> Checked:
    """A text; `pattern` must match all of it."""
    compiled = re.compile(pattern, re.ASCII) if pattern else None

    def check(value: Any) -> str:
        if not isinstance(value, str):
            simple = isinstance(value, (int, float)) and not isinstance(value, bool)
            raise BadValue(
                f"use {_shown(value)} here",
                expected=what,
                hint=f'quote it: "{value}"' if simple else "",
                code="wrong_type",
            )
        if not value and not empty:
            raise BadValue("use an empty text here", expected=what)
        if len(value) > limit:
            raise BadValue(f"use a text of {len(value)} characters here", expected=f"at most {limit} characters")
        if compiled is not None and compiled.fullmatch(value) is None:
            raise BadValue(f"use {_shown(value)} here", expected=what)
        # Addresses have rules of their own.
        if "://" not in value and looks_secret(value):
            raise BadValue("use a literal value that looks like a secret", expected=what, code="secret_literal")
        return value

    schema: dict[str, Any] = {"type": "string", "maxLength": limit}
    if not empty:
        schema["minLength"] = 1
    if pattern:
        schema["pattern"] = f"^(?:{pattern})$"
    return Checked(check, schema, ("text", what, pattern, limit, empty))


def check_version(value: Any) -> int:
    """1; nothing else is a version of this format."""
    if value == 1 and isinstance(value, int) and not isinstance(value, bool):
        return 1
    hint = "remove the quotes" if value == "1" else ""
    if isinstance(value, int) and not isinstance(value, bool) and value > 1:
        hint = "this document is for a newer openclaw"
    raise BadValue(f"use {_shown(value)} as the version", expected="1", hint=hint)


def _check_url(*schemes: str) -> Checked:
    expected = f"a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}"

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise BadValue(f"use {_shown(value)} here", expected=expected, code="wrong_type")
        if looks_secret(value):
            raise BadValue(
                "use a URL with a password in it",
                expected=expected,
                hint="a secret must be a reference",
                code="secret_literal",
            )
        scheme, separator, rest = value.partition("://")
        if (
            not separator
            or scheme.lower() not in schemes
            or not rest.strip("/")
            or any(char.isspace() for char in value)
        ):
            raise BadValue(f"use {_shown(value)} here", expected=expected)
        return value

    # JSON Schema's patterns know no case to ignore.
    either = "|".join("".join(f"[{char}{char.upper()}]" for char in scheme) for scheme in schemes)
    pattern = rf"^(?:{either}):///*[^\s/]\S*$"
    return Checked(check, {"type": "string", "format": "uri", "pattern": pattern}, ("url", *schemes))


def _check_address(value: Any) -> str:
    expected = "an IP address such as 192.168.1.10 or ::1"
    if not isinstance(value, str):
        raise BadValue(f"use {_shown(value)} here", expected=expected, code="wrong_type")
    from ipaddress import ip_address

    try:
        return str(ip_address(value))
    except ValueError:
        raise BadValue(f"use {_shown(value)} here", expected=expected) from None


def check_secret(value: Any) -> dict[str, Any]:
    """The canonical reference: `{"env": NAME}`, `{"file": PATH}` or `{"exec": [ARGV]}`. Never repeats a value."""
    if isinstance(value, str):
        match = REFERENCE.fullmatch(value)
        if match is None:
            raise BadValue(
                "use a literal value for a secret",
                expected=SECRET_EXPECTED,
                hint="keep the value in the environment or in a file, and refer to it",
                code="secret_literal",
            )
        return {"env": _no_secret(match[1], "the name of an environment variable")}
    if not isinstance(value, dict):
        code = "secret_literal" if isinstance(value, (int, float)) and not isinstance(value, bool) else "wrong_type"
        raise BadValue(f"use {kind_of(value)} for a secret", expected=SECRET_EXPECTED, code=code)
    if len(value) != 1 or next(iter(value)) not in {"env", "file", "exec"}:
        known = [name for name in value if name in {"env", "file", "exec"}]
        message = "use more than one source for a secret" if len(known) > 1 else "find the source of this secret"
        raise BadValue(message, expected=SECRET_EXPECTED, code="bad_reference")
    ((source, target),) = value.items()
    if source == "env":
        return {"env": _reference_name(target)}
    if source == "file":
        if not isinstance(target, str) or not target:
            raise BadValue("use this as the path of a secret", expected="{file: PATH}", code="bad_reference")
        return {"file": _no_secret(target, "the path of a secret", _LIKE_A_FILE)}
    words = target if isinstance(target, list) else None
    if not words or not all(isinstance(word, str) for word in words) or not words[0]:
        raise BadValue(
            "use this as a command",
            expected="{exec: [PROGRAM, ARGUMENT]}",
            hint="no shell is used: give the program and its arguments as a list of texts",
            code="bad_reference",
        )
    return {"exec": [_no_secret(words[0], "the program for a secret", _LIKE_A_FILE), *words[1:]]}


def _reference_name(target: Any) -> str:
    what = "the name of an environment variable"
    if isinstance(target, str) and _VARIABLE_NAME.fullmatch(target):
        return _no_secret(target, what)
    raise BadValue(f"use this as {what}", expected="{env: NAME}", code="bad_reference")


def _no_secret(target: str, what: str, unless: str = "") -> str:
    """`target`, which is to name where a secret is to be had."""
    if is_secret_itself(target):
        raise BadValue(
            f"use this as {what}: it looks like a secret or an address itself",
            expected=SECRET_EXPECTED,
            hint=f"keep the value in the environment or in a file, and refer to it{unless}",
            code="secret_literal",
        )
    return target


def check_variable(value: Any) -> str | dict[str, Any]:
    """A value of `service.environment`: a text as it is, or a reference to a secret."""
    if isinstance(value, dict) or (isinstance(value, str) and REFERENCE.fullmatch(value)):
        return check_secret(value)
    if not isinstance(value, str):
        simple = isinstance(value, (int, float)) and not isinstance(value, bool)
        raise BadValue(
            f"use {_shown(value)} here",
            expected="a text or a reference to a secret",
            hint="quote it" if simple or isinstance(value, bool) else "",
            code="wrong_type",
        )
    if len(value) > 32_768:
        raise BadValue(f"use a text of {len(value)} characters here", expected="at most 32768 characters")
    if looks_secret(value):
        raise BadValue("use a literal value that looks like a secret", expected=SECRET_EXPECTED, code="secret_literal")
    if REFERENCE.search(value):
        raise BadValue(
            "expand ${NAME} inside of a longer text",
            expected="exactly ${NAME}, or a text without it",
            hint="write the value out",
        )
    return value


def _word(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, (list, dict))
        else ""
    )


def _shown(value: Any) -> str:
    """A value inside a message: short, printable, and never something with the shape of a secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "this text" if mask_words(value) != value else f"'{safe(value)}'"
    return str(value) if isinstance(value, (int, float)) else kind_of(value)


_SECRET_SCHEMA: dict[str, Any] = {
    "description": f"a reference to a secret: {SECRET_EXPECTED}",
    "anyOf": [
        {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"},
        *(
            {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
            for name, schema in (
                (
                    "env",
                    {
                        "type": "string",
                        "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
                        "description": "The environment variable that holds it.",
                    },
                ),
                (
                    "file",
                    {
                        "type": "string",
                        "minLength": 1,
                        "description": "The file that holds it; relative to the document.",
                    },
                ),
                (
                    "exec",
                    {
                        "type": "array",
                        "items": {"type": "string"},
                        "prefixItems": [{"type": "string", "minLength": 1}],
                        "minItems": 1,
                        "description": "The program that prints it, with its arguments; no shell is used.",
                    },
                ),
            )
        ),
    ],
}

_DURATION = Checked(
    units.parse_duration, _written(units.DURATION_EXPECTED, units.DURATION_PATTERN, zero=True), ("duration",)
)
_SIZE = Checked(units.parse_size, _written(units.SIZE_EXPECTED, units.SIZE_PATTERN, zero=True), ("size",))
_PERCENT = Checked(units.parse_percent, {"type": "string", "pattern": units.PERCENT_PATTERN}, ("percent",))
_WINDOW = Checked(units.parse_window, _written(units.WINDOW_EXPECTED, units.WINDOW_PATTERN), ("window",))
_CRON = Checked(units.parse_cron, {"type": "string", "pattern": r"^\s*\S+(?:\s+\S+){4}\s*$"}, ("cron",))
_SECRET = Checked(check_secret, _SECRET_SCHEMA, ("secret",))
_VARIABLE = Checked(check_variable, {"anyOf": [{"type": "string"}, *_SECRET_SCHEMA["anyOf"]]}, ("variable",))
_ADDRESS = Checked(
    _check_address,
    {"type": "string", "pattern": r"^(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\S+)?)$"},
    ("address",),
)
_VERSION = Checked(check_version, {"const": 1}, ("version",))

FLAG = Checked(_check_flag, {"type": "boolean"}, ("flag",))
DATE = Checked(
    units.parse_date,
    {"type": "string", "format": "date", "pattern": r"^\s*[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])\s*$"},
    ("date",),
)
Flag = Annotated[bool, FLAG]
Version = Annotated[int, _VERSION]
Duration = Annotated[float, _DURATION]
DurationOrNull = Annotated[float | None, or_null(_DURATION)]
SizeOrNull = Annotated[int | None, or_null(_SIZE)]
PercentOrNull = Annotated[float | None, or_null(_PERCENT)]
WindowOrNull = Annotated[dict[str, str] | None, or_null(_WINDOW)]
Window = Annotated[dict[str, str], _WINDOW]
CronOrNull = Annotated[str | None, or_null(_CRON)]
Date = Annotated[str, DATE]
Secret = Annotated[dict[str, Any], _SECRET]
SecretOrNull = Annotated[dict[str, Any] | None, or_null(_SECRET)]
Variable = Annotated[str | dict[str, Any], _VARIABLE]
Port = Annotated[int, integer(1, 65535, "a port")]
PortOrNull = Annotated[int | None, or_null(integer(1, 65535, "a port"))]
CountOrNull = Annotated[int | None, or_null(integer(0, 1_000_000))]
Text = Annotated[str, text()]
TextOrNull = Annotated[str | None, or_null(text())]
_PATH = text("a path", pattern=r"[^\x00-\x1f\x7f]+")
Path = Annotated[str, _PATH]
PathOrNull = Annotated[str | None, or_null(_PATH)]
AddressOrNull = Annotated[str | None, or_null(_ADDRESS)]
HttpUrl = Annotated[str, _check_url("http", "https")]

_MAKERS: Mapping[str, Callable[..., Checked]] = {
    "integer": integer,
    "number": number,
    "choice": choice,
    "text": lambda what, pattern, limit, empty: text(what, pattern=pattern, limit=limit, empty=empty),
    "size_from": size_from,
    "url": _check_url,
}
_CONSTANT: Mapping[str, Checked] = {
    str(checked.spec[0]): checked
    for checked in (
        *(_DURATION, _SIZE, _PERCENT, _WINDOW, _CRON),
        *(_SECRET, _VARIABLE, _ADDRESS, _VERSION, FLAG, DATE),
    )
}


@cache
def from_spec(*spec: Any) -> Checked:
    """The check with this `Checked.spec`, without its `nullable`.

    Raises:
        KeyError: there is no such check.
    """
    name, *arguments = spec
    return _MAKERS[name](*arguments) if name in _MAKERS else _CONSTANT[name]
