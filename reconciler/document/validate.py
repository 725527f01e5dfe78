"""From the merged tree to the canonical document, or to everything that is wrong with it, each with its place.

Runs the schema section by section (`fast` spares the valid ones the models), translates pydantic's words into ours, asks
`rules` for contradictions, and marks what else no message may show. Opens nothing but the schema's own data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, get_args

from reconciler.document.checked import check_version
from reconciler.document.fast import canonical_section
from reconciler.document.marks import mark_below
from reconciler.document.masking import (
    is_doubtful,
    is_lost_choice,
    is_lost_value,
    is_sensitive,
    shown_name,
    shown_path,
)
from reconciler.document.nodes import Mapping, Node, Scalar, find, is_unusable, plain
from reconciler.document.problems import MAX_PROBLEMS, Problem, Suggestions, safe
from reconciler.document.rules import Issue, check_rules
from reconciler.document.units import BadValue, kind_of
from reconciler.model import MASK, DocumentPath

_NO_RETENTION = {"age": None, "total": None, "files": None, "compress_after": None}
# Union members are named in pydantic's places, after this many parts: tunnels.NAME.<type>, auth.profiles.NAME.<type>.
_TAGGED = {"tunnels": 2, "auth": 3}
# Mistakes of one sort that are looked at; far more than are shown, so that those that come first in the text are among them.
_MAX_ISSUES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The canonical document with the paths that were declared, and the problems; canonical means nothing with problems.

    `uncounted` is how many more there are beyond those that can be shown.
    """

    canonical: dict[str, Any]
    declared: frozenset[DocumentPath]
    problems: tuple[Problem, ...]
    uncounted: int = 0


def validate(root: Mapping) -> Validated:
    """Checks a merged tree against the schema and the rules."""
    data: dict[str, Any] = plain(root)
    issues: list[Issue] = []
    suggestions = Suggestions()
    canonical = _sections(data, issues, suggestions)
    contradictions = check_rules(data, canonical, suggestions)
    suggestions.skipped += max(0, len(contradictions) - _MAX_ISSUES)
    issues += contradictions[:_MAX_ISSUES]
    placed = sorted(((_place(root, issue), issue) for issue in dict.fromkeys(issues)), key=_order)
    placed = [(place, issue) for place, issue in placed if not is_unusable(place)]
    shown = placed[: MAX_PROBLEMS + 1]
    for _, issue in shown:
        if issue.code == "unknown_key" and (issue.beside_secret or is_doubtful(issue.path)):
            # A mistyped name beside a secret's own, or in a section that is about them, may well stand before a secret.
            mark_below(find(root, issue.path)[0])
    return Validated(
        canonical=canonical,
        declared=frozenset(_declared(root)),
        problems=tuple(_problem(place, issue) for place, issue in shown),
        uncounted=len(placed) - len(shown) + suggestions.skipped,
    )


def _sections(data: dict[str, Any], issues: list[Issue], suggestions: Suggestions) -> dict[str, Any]:
    """The canonical form of all sections that are valid; what is wrong goes to `issues`."""
    canonical: dict[str, Any] = {}
    if "version" in data:
        try:
            canonical["version"] = check_version(data["version"])
        except BadValue as err:
            issues.append(Issue(("version",), err.code, err.message, err.expected, err.hint))
    else:
        issues.append(
            Issue(
                ("version",),
                "missing",
                "find 'version'",
                "version: 1",
                "begin the document with the line 'version: 1'",
            )
        )
    for name, value in data.items():
        if name == "version":
            continue
        if name.startswith("x-"):
            canonical[name] = value
            continue
        section = _section(name, value, issues, suggestions)
        if section is not None:
            canonical[name] = section
    if "policy" not in data:
        canonical["policy"] = _section("policy", {}, issues, suggestions)
    if (logging := canonical.get("logging")) is not None and logging["retention"] is None:
        # Undeclared retention must delete nothing: its declaration is the consent.
        logging["retention"] = dict(_NO_RETENTION)
    return canonical


def empty_section(name: str) -> Any:
    """The canonical form of a section in which nothing is written; None where it may not be so."""
    return _sections({"version": 1, name: {}}, [], Suggestions()).get(name)


def _section(name: str, value: Any, issues: list[Issue], suggestions: Suggestions) -> Any:
    section = canonical_section(name, value)
    return _by_models(name, value, issues, suggestions) if section is None else section


def _by_models(name: str, value: Any, issues: list[Issue], suggestions: Suggestions) -> Any:
    """As the models see a section; None when it is none, or not valid."""
    from reconciler.document.schema import SECTIONS

    if name not in SECTIONS and len(issues) >= _MAX_ISSUES:
        suggestions.skipped += 1
    elif name not in SECTIONS:
        near = suggestions.near(name, [*SECTIONS, "version", "include"])
        issues.append(_unknown((name,), near, "a section of the document, or a name that begins with x-"))
    elif not isinstance(value, dict):
        hint = f"write '{name}: {{}}', or remove the line" if value is None else ""
        issues.append(Issue((name,), "wrong_type", f"use {kind_of(value)} as a section", "a mapping", hint))
    else:
        return _dumped(name, value, issues, suggestions)
    return None


def _dumped(name: str, value: dict[str, Any], issues: list[Issue], suggestions: Suggestions) -> Any:
    from pydantic import ValidationError

    from reconciler.document.schema import SECTIONS

    try:
        dumped = SECTIONS[name].model_validate({name: value} if name == "tunnels" else value).model_dump()
    except ValidationError as err:
        errors = err.errors(include_url=False, include_context=True, include_input=True)
        suggestions.skipped += max(0, len(errors) - _MAX_ISSUES)
        for error in errors[:_MAX_ISSUES]:
            path = error["loc"] if name == "tunnels" else (name, *error["loc"])
            issues.append(_issue(path, error, suggestions))
        return None
    return dumped[name] if name == "tunnels" else dumped


def _issue(path: tuple[str | int, ...], error: Any, suggestions: Suggestions) -> Issue:
    """One of pydantic's errors in our words."""
    real = _untagged(path)
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            name = str(real[-1])
            inside = shown_path(real[:-1])
            return Issue(real, "missing", f"find '{name}' in '{inside}'", f"{name}: ...")
        case "extra_forbidden":
            known = _fields(path[:-1]) if suggestions.left > 0 else []
            near = suggestions.near(str(real[-1]), known)
            expected = f"one of {', '.join(sorted(known))}" if known else ""
            is_secret = is_lost_value(_names(real[:-1]), str(real[-1]), error["input"])
            return _unknown(real, near, expected, beside_secret=any(map(_holds_secret, known)), is_secret=is_secret)
        case "union_tag_not_found":
            inside = shown_path(real)
            return Issue((*real, "type"), "missing", f"find 'type' in '{inside}'", f"type: one of {_tags(real)}")
        case "union_tag_invalid":
            words = _tags(real)
            near = suggestions.near(str(context.get("tag", "")), words.split(", "))
            hint = f"did you mean '{near}'?" if near else ""
            return Issue((*real, "type"), "bad_value", "use this type", f"one of {words}", hint)
        case "list_type" | "too_short":
            return Issue(real, "wrong_type", f"use {_empty_or_kind(error['input'])} here", "a list with an item")
        case "dict_type" | "model_type" | "model_attributes_type":
            hint = "write {} or remove the line" if error["input"] is None else ""
            return Issue(real, "wrong_type", f"use {kind_of(error['input'])} here", "a mapping", hint)
        case _ if "message" in context:
            hint = context["hint"]
            if context["given"] and (near := suggestions.near(context["given"], context["words"]())):
                hint = f"did you mean '{safe(near)}'?"
            message = "use this value here" if is_lost_choice(_names(real), error["input"]) else context["message"]
            return Issue(real, error["type"], message, context["expected"], hint)
        case _:
            return Issue(real, "bad_value", "use this value here", "")


def _empty_or_kind(value: Any) -> str:
    return "an empty list" if value == [] else kind_of(value)


def _holds_secret(field: str) -> bool:
    return is_sensitive(field) or field in {"key", "access", "refresh", "url"}


def _names(path: DocumentPath) -> tuple[str, ...]:
    return tuple(part for part in path if isinstance(part, str))


def _unknown(
    path: DocumentPath, near: str | None, expected: str, *, beside_secret: bool = False, is_secret: bool = False
) -> Issue:
    hint = f"did you mean '{near}'?" if near else ""
    return Issue(
        path,
        "unknown_key",
        f"use the name '{MASK if is_secret else shown_name(str(path[-1]))}' here",
        expected,
        hint,
        on_name=True,
        beside_secret=beside_secret,
        name_is_secret=is_secret,
    )


def _untagged(path: tuple[str | int, ...]) -> DocumentPath:
    at = _TAGGED.get(str(path[0]))
    if at is None or len(path) <= at or (path[0] == "auth" and path[1] != "profiles"):
        return path
    return path[:at] + path[at + 1 :]


def _tags(path: DocumentPath) -> str:
    return _tags_of(path[0] == "tunnels")


@cache
def _tags_of(tunnels: bool) -> str:
    from reconciler.document import schema

    union = schema.Tunnel if tunnels else schema.Profile
    models = get_args(get_args(union)[0])
    return ", ".join(get_args(model.model_fields["type"].annotation)[0] for model in models)


@lru_cache(maxsize=64)
def _fields(path: tuple[str | int, ...]) -> list[str]:
    """The names that a mapping at `path` (with union tags, as pydantic gives it) may have."""
    from pydantic import BaseModel

    from reconciler.document import schema

    annotation: Any = schema.SECTIONS[str(path[0])]
    parts = path if path[0] == "tunnels" else path[1:]
    for part in parts:
        options = [annotation, *_inside(annotation)]
        model = next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)
        tagged = [
            each
            for each in options
            if isinstance(each, type)
            and issubclass(each, BaseModel)
            and "type" in each.model_fields
            and get_args(each.model_fields["type"].annotation) == (part,)
        ]
        if tagged:
            annotation = tagged[0]
        elif (
            model is not None and part in model.model_fields and not (len(options) > 3 and "type" in model.model_fields)
        ):
            annotation = model.model_fields[str(part)].annotation
        else:
            values = [each for each in options if getattr(each, "__origin__", None) in (dict, list)]
            if not values:
                return []
            annotation = get_args(values[0])[-1]
    options = [annotation, *_inside(annotation)]
    model = next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)
    return list(model.model_fields) if model is not None else []


def _inside(annotation: Any) -> Iterator[Any]:
    """The members of a union or an Annotated, all levels of them, but not what a list or dict holds."""
    if getattr(annotation, "__origin__", None) in (dict, list):
        return
    for each in get_args(annotation):
        yield each
        yield from _inside(each)


# -- places --


def _place(root: Mapping, issue: Issue) -> Node:
    node, name, found = find(root, issue.path)
    if name is None:
        return node
    if issue.on_name or found != len(issue.path):
        return name
    if isinstance(node, Scalar) and node.value is None and node.plain and node.line != name.line:
        # An empty value stands where the next thing begins; its name is what people look for.
        return name
    return node


def _order(pair: tuple[Node, Issue]) -> tuple[str, int, int, str, str]:
    place, issue = pair
    return place.source.name, place.line, place.column, issue.code, issue.message


def _problem(place: Node, issue: Issue) -> Problem:
    return place.source.problem(
        place.line,
        place.column,
        issue.code,
        issue.message,
        path=shown_path((*issue.path[:-1], MASK) if issue.name_is_secret else issue.path),
        expected=issue.expected,
        hint=issue.hint,
    )


def _declared(root: Mapping) -> Iterator[DocumentPath]:
    """Every path of names that is set; what is below a list or a free `x-` section is not listed."""
    waiting: list[tuple[DocumentPath, Mapping]] = [((), root)]
    while waiting:
        path, mapping = waiting.pop()
        for name, (_, node) in mapping.entries.items():
            below = (*path, name)
            yield below
            if isinstance(node, Mapping) and not str(below[0]).startswith("x-"):
                waiting.append((below, node))
