"""The command line's root: which commands there are, and how errors become texts and exit codes.

Commands are imported when they are called: what one of them needs costs the others nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from reconciler import paths
from reconciler.cli.console import Console, Local
from reconciler.cli.options import FILE_HELP
from reconciler.cli.session import Session
from reconciler.errors import DocumentError, OpenClawError, UsageError, innermost

if TYPE_CHECKING:
    from reconciler.kinds import Kind

USAGE = 64

# Command name to module below `reconciler.cli.commands`, and the line that `--help` shows.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("document", "Write a first document and a random token."),
    "validate": ("document", "Check the document; change nothing."),
    "schema": ("document", "Print the JSON Schema of the document or of an output."),
    "config": ("config", "Get, set and explain settings of the document."),
    "plan": ("plan", "Show what an apply would do."),
    "apply": ("apply", "Make the host what the document declares."),
    "drift": ("plan", "Show what moved on the host since the last apply."),
    "run": ("run", "Watch the document and the host, and apply what moves."),
    "status": ("status", "Show every resource and its conditions."),
    "why": ("status", "Tell why a resource is as it is, with the evidence."),
    "history": ("history", "List the generations that were in force."),
    "diff": ("history", "Compare two generations."),
    "rollback": ("apply", "Go back to an earlier generation."),
    "service": ("service", "Start, stop, restart the service, or show it."),
    "gateway": ("gateway", "Run the built-in gateway, or talk to a running one."),
    "logs": ("logs", "Show the gateway's log."),
    "completion": ("completion", "Print the completion script of a shell."),
}


class Commands(click.Group):
    """Imports a command when it is asked for, and guesses what was meant by one that there is not."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"reconciler.cli.commands.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Never falls through to another program: an unknown command is wrong usage, with a guess."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command: {args[0]!r}{meant(args[0], list(COMMANDS))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, text) in COMMANDS.items()])


def meant(word: str, words: Sequence[str]) -> str:
    """`; did you mean 'plan'?`, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, words, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from shutil import which

    from reconciler.version import version

    click.echo(f"openclaw-reconciler {version()}")
    # The real product's command has the same name, and whoever types it must know which one answers.
    first, mine = which("openclaw"), os.path.realpath(sys.argv[0])
    if first is not None and os.path.realpath(first) != mine:
        click.echo(f"`openclaw` on PATH is another one: {first}")
    ctx.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--file", metavar="PATH", help=FILE_HELP)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_obj
def cli(session: Session, file: str | None) -> None:
    """Runs an OpenClaw AI gateway around the clock, from one file.

    Without --file the document is what OPENCLAW_FILE names, else ./openclaw.yaml, else ~/.config/openclaw/openclaw.yaml. State
    lies in OPENCLAW_STATE_DIR [default: ~/.openclaw].
    """
    if file is not None:
        session.file = file


def main(
    argv: Sequence[str] | None = None, *, kinds: Callable[[], tuple[Kind, ...]] | None = None, prog: str = "openclaw"
) -> int:
    """Runs one command line of this process and returns its exit code. `kinds` replaces the kinds (for tests)."""
    return invoke(_session(kinds or all_kinds), list(sys.argv[1:] if argv is None else argv), prog=prog)


def document_refused(file: str | None) -> int | None:
    """Tells what is wrong with the document (`file` is what `--file` names) and returns the exit code; None where it is valid."""
    session = _session(all_kinds)
    session.file = file
    try:
        session.load()
    except OpenClawError as err:
        return explain(session.console, err)
    return None


def _session(kinds: Callable[[], tuple[Kind, ...]]) -> Session:
    from reconciler.cli.entry import terminal

    return Session(environ=dict(os.environ), directory=paths.here(), console=Local(terminal()), kinds=kinds)


def invoke(session: Session, argv: list[str], *, prog: str = "openclaw") -> int:
    """Runs one command line for `session`, errors told on its console. Inside a supervisor the work itself is left pending."""
    try:
        require_utf8(argv)
        result: Any = cli.main(args=argv, prog_name=prog, obj=session, standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return 130
    except click.ClickException as err:
        return usage(session.console, err)
    except BaseExceptionGroup as group:
        known, rest = group.split(OpenClawError)
        if rest is not None or known is None:
            raise
        return explain(session.console, known)
    except OpenClawError as err:
        return explain(session.console, err)
    return result if isinstance(result, int) else 0


def require_utf8(argv: Sequence[str]) -> None:
    """Refuses what no JSON, no journal and no log takes: also a path, which would be refused where it is written down.

    Raises:
        UsageError: an argument holds bytes that are not UTF-8.
    """
    if odd := next(filter(None, map(paths.not_utf8, argv)), ""):
        raise UsageError(f'cannot read the argument "{odd}": it is not UTF-8')


def explain(console: Console, failure: OpenClawError | BaseExceptionGroup[OpenClawError]) -> int:
    """Tells an error (or what a group is about) on stderr and returns its exit code."""
    err = innermost(failure)
    assert isinstance(err, OpenClawError)
    if isinstance(err, DocumentError):
        from reconciler.document.problems import Problem, render_problem

        for problem in err.problems:
            assert isinstance(problem, Problem)
            console.err(render_problem(problem) + "\n")
    console.err(f"openclaw: {err.message}\n")
    if err.hint:
        console.err(f"  hint: {err.hint}\n")
    return err.exit_code


def usage(console: Console, err: click.ClickException) -> int:
    """Tells wrong usage on stderr and returns 64."""
    if isinstance(err, click.exceptions.NoArgsIsHelpError):
        console.err(err.format_message() + "\n")
        return USAGE
    ctx = getattr(err, "ctx", None)
    text = err.format_message().removesuffix(".")
    console.err(f"openclaw: {text[:1].lower()}{text[1:]}\n")
    if ctx is not None:
        console.err(f"  hint: `{ctx.command_path} --help` tells how it is used\n")
    return USAGE


def all_kinds() -> tuple[Kind, ...]:
    """Every resource kind of this version, in planning order: the service first, because a restart makes a reload needless."""
    from resources.gateway_config.kind import GatewayConfigKind
    from resources.logs.kind import LogsKind
    from resources.service.kind import ServiceKind

    return (ServiceKind(), GatewayConfigKind(), LogsKind())
