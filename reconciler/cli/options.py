"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.obj.file = value


def file_option(command: F) -> F:
    """`--file` after the command's name as well as before it."""
    return _file_option("-f", "--file")(command)


def long_file_option(command: F) -> F:
    """`--file` without its short form, where `-f` means to follow."""
    return _file_option("--file")(command)


def _file_option(*names: str) -> Callable[[F], F]:
    return click.option(
        *names,
        metavar="PATH",
        expose_value=False,
        callback=_remember,
        help="The document [default: ./openclaw.yaml].",
    )


def json_option(command: F) -> F:
    """`--json`: one JSON document on stdout, whose first key is `schema`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
