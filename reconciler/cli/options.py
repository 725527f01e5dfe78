"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FILE_HELP = "The document [default: OPENCLAW_FILE, else ./openclaw.yaml]."


class Number(click.types.IntParamType):
    """A whole number from `low` to `high`. By default that is what SQLite and the system can count to."""

    def __init__(self, low: int, high: int = (1 << 63) - 1) -> None:
        self.low = low
        self.high = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number that `value` is; wrong usage where it is none, or out of range."""
        if isinstance(value, int):
            return value
        # Python takes underscores and the digits of every script, and refuses more than some thousand of them.
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
        if number is None or not self.low <= number <= self.high:
            self.fail(f"{_shortened(value)!r} is no whole number from {self.low} to {self.high}", param, ctx)
        return number


PORT = Number(1, 65535)


class Line(click.types.StringParamType):
    """A text for the history, in one line (`values.one_line`)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is; wrong usage where it is not fit to be printed."""
        from reconciler.values import one_line

        try:
            # An empty one, of a script's variable for example, was always taken for none.
            return one_line(value) if value else value
        except ValueError as err:
            self.fail(str(err), param, ctx)


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


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
        help=FILE_HELP,
    )


def json_option(command: F) -> F:
    """`--json`: one JSON document on stdout, whose first key is `schema`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
