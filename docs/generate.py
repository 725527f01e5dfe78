"""Writes the reference pages that the code itself defines: settings.md from the schema, exit-codes.md from the errors, json.md
from the schemas of the outputs.

    python docs/generate.py             writes the pages
    python docs/generate.py --check     exit 1, naming each page that is out of date

Knows JSON Schema and the root of our errors, and nothing else of the program.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

REFERENCE: Final = Path(__file__).parent / "reference"
SETTINGS_HEAD: Final = """\
# Settings

Generated from the schema (`make docs`); do not edit. The same as JSON Schema, for an editor: `openclaw schema`. A section or
setting that the document does not name is neither read nor changed on the host; the defaults below hold inside of a section that
is there. In files that openclaw shares with others (`openclaw.json`) a default is used only where the host has no value.

**Units.** Durations are written `500ms`, `30s`, `5m`, `24h`, `7d`, sizes `512M`, `1GiB`, shares `150%`.

**Secrets** are references, never values: `{env: NAME}`, `{file: PATH}`, `{exec: [PROGRAM, ARGUMENT]}` (10 s to answer), or
`${NAME}` as the whole value. Only texts in `gateway.settings` may have `${NAME}` amid other text: they stand in `openclaw.json`
as they are, and the gateway puts the values in. Below a name that says secret (`botToken`) it must be the whole value there too,
or stand right behind `Bearer ` or `Basic `.

What a reference gives is UTF-8 text of at most 64 KiB that is more than white space; of a file, and of what a program prints, one
line break at the end is left out. The gateway's token and password are shown by clients in a header: one line without control
characters, without white space at either end and without a byte order mark. Umlauts, emoji and blanks inside are allowed there.
Any other secret may have several lines, as a PEM has. `openclaw validate --resolve` tells what is wrong, and where.

**Who wins.** `OPENCLAW_*` variables of the process that applies come before the file, the file before the defaults.
`openclaw config explain PATH` says where a value came from, and of a default on what condition it holds.
"""
EXIT_CODES_HEAD: Final = """\
# Exit codes

Generated from the errors (`make docs`); do not edit. Every command ends with one of these, so that a script can act on the
number alone; the words on stderr are for people.

| code | meaning |
|---|---|
"""
OUTPUTS_HEAD: Final = """\
# Outputs of `--json`

Generated from the schemas of the outputs (`make docs`); do not edit. Each is one document on stdout whose first key is
`schema`. Its JSON Schema is printed by `openclaw schema NAME`. A later version may add keys; anything else gets another
number behind the name. Diagnostics go to stderr, and the [exit code](exit-codes.md) is the same as without `--json`.

`[]` after a key stands for each item of a list. All keys are always there.

Not in this form: `openclaw gateway call` prints the gateway's own answer, and `openclaw logs --json` the lines as they stand
in the file. Where a command fails before it has a result, stdout is empty and the text on stderr is for people (`validate`
excepted).
"""
# Which command prints it, where that is not the output's own name.
PRINTED_BY: Final = {
    "service-status": "service status`, `service start`, `service stop`, `service restart",
    "gateway-health": "gateway health",
    "config-get": "config get",
    "config-explain": "config explain",
    "apply": "apply`, `rollback",
}
# What no error class stands for: outcomes, and ends that no `raise` announces.
OUTCOMES: Final = {
    0: "Done, or nothing to do.",
    1: "Failed, and none of the codes below says it better. Actions that did not depend on the failed one were done. Also what"
    " is not healthy and stays in force because `policy.rollback: false` says so.",
    2: "Differences are pending (`plan --detailed-exitcode`, `drift`).",
    70: "A fault of openclaw's own, with an id and the place of the trace.",
    130: "Interrupted (SIGINT).",
    143: "Terminated (SIGTERM).",
}

JSON = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of the settings page."""

    path: str
    kind: str
    default: str
    text: str


class Schema:
    """A JSON Schema document, walked from its top."""

    def __init__(self, document: JSON) -> None:
        self._definitions: JSON = document.get("$defs", {})
        self._document = document

    def sections(self) -> Iterator[tuple[str, JSON]]:
        """Top-level properties by name, each resolved."""
        for name, schema in self._document["properties"].items():
            yield name, self.resolve(schema)

    def resolve(self, schema: JSON) -> JSON:
        """`schema` with its reference followed; words beside the reference stay in force. `anyOf` with null is unwrapped."""
        if (reference := schema.get("$ref")) is not None:
            target = self.resolve(self._definitions[reference.rpartition("/")[2]])
            return {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
        if len(schema.get("allOf", ())) == 1:
            return {
                **self.resolve(schema["allOf"][0]),
                **{name: value for name, value in schema.items() if name != "allOf"},
            }
        choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
        if len(choices) == 1:
            outer = {name: value for name, value in schema.items() if name != "anyOf"}
            inner = self.resolve(choices[0])
            # The inner description says what form the value has, the outer one what it is for.
            form = {} if inner.get("properties") else {"x-form": inner.get("description")}
            return {**inner, **form, **outer}
        return schema

    def settings(self, path: str, schema: JSON) -> Iterator[Setting]:
        """All settings at and below `path`, in the schema's order."""
        needed = schema.get("required", ())
        for name, inner in schema.get("properties", {}).items():
            yield from self._setting(f"{path}.{name}" if path else name, self.resolve(inner), name in needed)
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping) and extra:
            yield from self._setting(f"{path}.<name>", self.resolve(extra), needed=False)

    def _setting(self, path: str, schema: JSON, needed: bool) -> Iterator[Setting]:
        if variants := self._variants(schema):
            yield Setting(path=path, kind="section", default="", text=_text(schema))
            yield from _merged([list(self.settings(path, variant)) for variant in variants])
            return
        has_own = bool(schema.get("properties"))
        default = "required" if needed and "const" not in schema else _default(schema, has_own)
        yield Setting(path=path, kind=self.kind(schema), default=default, text=_text(schema))
        yield from self.settings(path, schema)
        if schema.get("type") == "array" and isinstance(schema.get("items"), Mapping):
            yield from self.settings(f"{path}[]", self.resolve(schema["items"]))

    def _variants(self, schema: JSON) -> list[JSON]:
        """The sections of which one stands there, told apart by one of their settings; none for any other choice."""
        choices = [self.resolve(choice) for choice in schema.get("oneOf") or schema.get("anyOf") or ()]
        # The forms of a reference to a secret are one value, and not sections of settings.
        sections = all(choice.get("properties") for choice in choices)
        return choices if sections and not _is_reference(choices) else []

    def kind(self, schema: JSON) -> str:
        """What may stand there, in words."""
        schema = self.resolve(schema)
        if "const" in schema:
            return f"`{_plain(schema['const'])}`"
        if "enum" in schema:
            return ", ".join(f"`{_plain(value)}`" for value in schema["enum"])
        if form := schema.get("x-form"):
            return str(form).partition(": ")[0]
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            if _is_reference(choices):
                plain = any(choice.get("type") == "string" and "pattern" not in choice for choice in choices)
                return "text or a reference to a secret" if plain else "a reference to a secret"
            if forms := [
                str(choice["description"]) for choice in choices if "pattern" in choice and "description" in choice
            ]:
                return " or ".join(forms)
            return " or ".join(dict.fromkeys(self.kind(choice) for choice in choices))
        return self._plain_kind(schema)

    def _plain_kind(self, schema: JSON) -> str:
        match schema.get("type"):
            case "object":
                return "section" if schema.get("properties") else "mapping"
            case "array":
                return f"list of {self.kind(schema.get('items', {}))}"
            case "boolean":
                return "`true`, `false`"
            case "integer" | "number" as number:
                return f"{number}{_range(schema)}"
            case "string":
                return str(schema.get("format", "text"))
            case "null":
                return "`null`"
            case list() as several:
                return " or ".join(self._plain_kind({**schema, "type": one}) for one in several)
            case _:
                return "any"


def _is_reference(choices: Sequence[JSON]) -> bool:
    return any("exec" in choice.get("properties", {}) for choice in choices)


def _merged(variants: Sequence[Sequence[Setting]]) -> Iterator[Setting]:
    """Each path once; where variants differ in what may stand there, all of it."""
    by_path: dict[str, list[Setting]] = {}
    for setting in (setting for variant in variants for setting in variant):
        by_path.setdefault(setting.path, []).append(setting)
    for same in by_path.values():
        kinds = dict.fromkeys(setting.kind for setting in same)
        everywhere = len(same) == len(variants)
        default = same[0].default if everywhere or same[0].default != "required" else ""
        yield replace(same[0], kind=" or ".join(kinds), default=default)


def _range(schema: JSON) -> str:
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    if low is None and high is None:
        return ""
    return f" {low if low is not None else ''}..{high if high is not None else ''}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _default(schema: JSON, has_own: bool) -> str:
    if has_own or "default" not in schema or schema["default"] is None:
        return ""
    return f"`{_plain(schema['default'])}`"


def _text(schema: JSON) -> str:
    text = " ".join(str(schema.get("description", "")).split()).replace("|", "\\|")
    examples = ", ".join(f"`{_plain(example)}`" for example in schema.get("examples", ()))
    return f"{text} Example: {examples}." if examples else text


def table_of(docstring: str) -> str:
    """The first table of a module's docstring, with the paragraphs after it up to the one that begins with `Pure:`."""
    text = inspect.cleandoc(docstring)
    return text[text.index("| ") :].partition("\n\nPure:")[0] + "\n"


def render_settings(document: JSON, variables: str) -> str:
    """settings.md for a JSON Schema of the document, and the table of the variables that override it."""
    schema = Schema(document)
    parts = [SETTINGS_HEAD, variables]
    top: list[Setting] = []
    sections: list[str] = []
    for name, section in schema.sections():
        if section.get("properties") or isinstance(section.get("additionalProperties"), Mapping):
            sections.append(_section(schema, name, section))
        else:
            top.append(
                Setting(path=name, kind=schema.kind(section), default=_default(section, False), text=_text(section))
            )
    parts.append(_table("top level", "", top))
    return "\n".join(parts + sections)


def _section(schema: Schema, name: str, section: JSON) -> str:
    return _table(name, " ".join(str(section.get("description", "")).split()), list(schema.settings(name, section)))


def _table(title: str, text: str, settings: Sequence[Setting]) -> str:
    lines = [f"## {title}", ""]
    lines += [text, ""] if text else []
    lines += ["| setting | value | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{line.path}` | {line.kind} | {line.default} | {line.text} |" for line in settings]
    return "\n".join(lines) + "\n"


def render_exit_codes(root: type[Exception]) -> str:
    """exit-codes.md for the root of the errors; every subclass that has a code of its own gives its line."""
    meanings = dict(OUTCOMES)
    for error in _subclasses(root):
        code: int = error.__dict__.get("exit_code", root.__dict__["exit_code"])
        if code not in OUTCOMES:
            meanings[code] = " ".join((inspect.getdoc(error) or "").partition("\n\n")[0].split())
    return EXIT_CODES_HEAD + "".join(f"| {code} | {meanings[code]} |\n" for code in sorted(meanings))


def render_outputs(outputs: Mapping[str, JSON]) -> str:
    """json.md for the schemas of the outputs by name."""
    return "\n".join([OUTPUTS_HEAD, *(_output(name, schema) for name, schema in outputs.items())])


def _output(name: str, schema: JSON) -> str:
    lines = [f"## {name}", "", f"{schema['title']}: `{PRINTED_BY.get(name, name)}`.", ""]
    lines += ["| key | value |", "|---|---|"]
    lines += [f"| `{path}` | {kind} |" for path, kind in _keys("", schema)]
    return "\n".join(lines) + "\n"


def _keys(path: str, schema: JSON) -> Iterator[tuple[str, str]]:
    """Every key at and below `path` with what it may hold, in the schema's order."""
    properties = schema.get("properties", {})
    # A schema may require keys of which it says nothing more.
    for name in dict.fromkeys([*properties, *schema.get("required", ())]):
        inner = properties.get(name, {})
        below = f"{path}.{name}" if path else name
        yield below, _held_by(inner)
        items = inner.get("items", {})
        yield from _keys(below, inner)
        yield from _keys(f"{below}[]", items)


def _held_by(schema: JSON) -> str:
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_held_by(schema['items'])}"
        case "string":
            return "text"
        case "boolean":
            return "`true`, `false`"
        case list() as several:
            return " or ".join(_held_by({**schema, "type": one}) for one in several)
        case "null":
            return "`null`"
        case None:
            return "any"
        case other:
            return str(other)


def _subclasses(root: type[Exception]) -> Iterator[type[Exception]]:
    for error in root.__subclasses__():
        yield error
        yield from _subclasses(error)


def pages() -> dict[str, str]:
    """Every generated file by its path from docs/reference."""
    import json

    from reconciler import errors
    from reconciler.cli.schemas import OUTPUTS
    from reconciler.document import environment
    from reconciler.document.jsonschema import document_schema
    from reconciler.document.shape import document_shape

    schema = document_schema()
    return {
        # Shipped with the program: making it from the models costs ten times what reading it does.
        "../../reconciler/document/openclaw.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        # The same of the models, for the loader: reconciler/document/fast.py.
        "../../reconciler/document/shape.json": json.dumps(document_shape(), indent=1, ensure_ascii=False) + "\n",
        "settings.md": render_settings(schema, table_of(environment.__doc__ or "")),
        "exit-codes.md": render_exit_codes(errors.OpenClawError),
        "json.md": render_outputs(OUTPUTS),
    }


def main(arguments: Sequence[str]) -> int:
    """Writes the pages, or with `--check` compares them; the exit status."""
    if "--check" not in arguments:
        for name, text in pages().items():
            (REFERENCE / name).write_text(text, encoding="utf-8")
        return 0
    stale = [name for name, text in pages().items() if not _is(REFERENCE / name, text)]
    for name in stale:
        sys.stderr.write(f"docs/reference/{name} is out of date: run `make docs`\n")
    return bool(stale)


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
