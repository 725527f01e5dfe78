"""The generator of the reference pages, on schemas small enough to read."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    path = Path(__file__).parents[1] / "docs/generate.py"
    spec = importlib.util.spec_from_file_location("docs_generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_generate"] = module
    spec.loader.exec_module(module)
    return module


SECRET: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": "x"},
        {"type": "object", "properties": {"env": {"type": "string"}}},
        {"type": "object", "properties": {"exec": {"type": "array"}}},
    ]
}
SCHEMA: dict[str, Any] = {
    "properties": {
        "version": {"const": 1, "description": "Mandatory."},
        "service": {"anyOf": [{"$ref": "#/$defs/Service"}, {"type": "null"}], "default": None},
        "tunnels": {"type": "object", "description": "By name.", "additionalProperties": {"$ref": "#/$defs/Tunnel"}},
    },
    "$defs": {
        "Service": {
            "description": "What runs.",
            "properties": {
                "runtime": {"enum": ["builtin", "openclaw"], "default": "builtin", "description": "Which\none."},
                "restart": {"$ref": "#/$defs/Restart"},
                "token": {"anyOf": [SECRET, {"type": "null"}], "default": None, "description": "Who it is."},
                "age": {
                    "anyOf": [{"type": "string", "description": "a duration"}, {"type": "null"}],
                    "description": "Old.",
                },
            },
        },
        "Restart": {
            "type": "object",
            "properties": {
                "burst": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 100,
                    "default": 5,
                    "description": "Tries | at most.",
                },
                "codes": {"type": "array", "items": {"type": "integer"}, "default": [78], "examples": [[78, 2]]},
            },
        },
        "Tunnel": {"oneOf": [{"$ref": "#/$defs/Ssh"}, {"$ref": "#/$defs/Funnel"}]},
        "Ssh": {
            "required": ["type", "host", "port"],
            "properties": {"type": {"const": "ssh"}, "host": {"type": "string"}, "port": {"type": "integer"}},
        },
        "Funnel": {"required": ["port"], "properties": {"type": {"const": "funnel"}, "port": {"type": "integer"}}},
    },
}


def test_settings_are_listed_by_path_with_value_default_and_meaning(generate: ModuleType) -> None:
    page = generate.render_settings(SCHEMA, "| variable | sets |\n")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `version` | `1` |  | Mandatory. |",
        "| `service.runtime` | `builtin`, `openclaw` | `builtin` | Which one. |",
        "| `service.restart` | section |  |  |",
        "| `service.restart.burst` | integer 1..100 | `5` | Tries \\| at most. |",
        "| `service.restart.codes` | list of integer | `[78]` |  Example: `[78, 2]`. |",
        "| `service.token` | a reference to a secret |  | Who it is. |",
        "| `service.age` | a duration |  | Old. |",
        "| `tunnels.<name>` | section |  |  |",
        "| `tunnels.<name>.type` | `ssh` or `funnel` |  |  |",
        "| `tunnels.<name>.host` | text |  |  |",
        "| `tunnels.<name>.port` | integer | required |  |",
    ]
    assert "## service\n\nWhat runs.\n" in page


def test_each_exit_code_stands_once_with_the_first_sentence_of_its_error(generate: ModuleType) -> None:
    class Root(Exception):
        exit_code = 1

    class Moved(Root):
        """It moved
        meanwhile.

        More words."""

        exit_code = 4

    class MovedFar(Moved):
        """Handled like its parent."""

    page = generate.render_exit_codes(Root)
    assert "| 4 | It moved meanwhile. |\n" in page
    assert "Handled like" not in page
    assert page.index("| 0 |") < page.index("| 4 |") < page.index("| 143 |")


def test_the_table_of_a_module_is_taken_up_to_what_only_its_readers_need(generate: ModuleType) -> None:
    assert (
        generate.table_of("Words.\n\n| a | b |\n|---|---|\n\nMore.\n\nPure: no clock.")
        == "| a | b |\n|---|---|\n\nMore.\n"
    )


def test_outputs_are_listed_by_key_with_what_each_may_hold(generate: ModuleType) -> None:
    item = {"type": "object", "properties": {"since": {"type": ["string", "null"]}}, "required": ["since", "more"]}
    page = generate.render_outputs(
        {
            "config-get": {
                "title": "One setting",
                "properties": {
                    "schema": {"const": "openclaw.config-get/1"},
                    "cause": {"enum": ["change", "drift"]},
                    "items": {"type": "array", "items": item},
                    "ok": {"type": "boolean"},
                },
            }
        }
    )
    assert "## config-get\n\nOne setting: `config get`.\n" in page
    assert [line for line in page.splitlines() if line.startswith("| `")] == [
        "| `schema` | `openclaw.config-get/1` |",
        "| `cause` | `change`, `drift` |",
        "| `items` | list of object |",
        "| `items[].since` | text or `null` |",
        "| `items[].more` | any |",
        "| `ok` | `true`, `false` |",
    ]
