"""`openclaw completion`: the script that makes a shell complete commands."""

from __future__ import annotations

import click

from reconciler.cli.session import Session


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@click.pass_obj
def completion_command(session: Session, shell: str) -> int:
    """Print the completion script of SHELL: `eval "$(openclaw completion bash)"`."""
    from click.shell_completion import get_completion_class

    from reconciler.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    session.console.out(_source(completion(cli, {}, "openclaw", "_OPENCLAW_COMPLETE")))
    return 0


def _source(completion: object) -> str:
    from click.shell_completion import ShellComplete

    assert isinstance(completion, ShellComplete)
    # click asks bash for its version by running it, only to print a warning; the template needs none of that.
    return completion.source_template % completion.source_vars() + "\n"
