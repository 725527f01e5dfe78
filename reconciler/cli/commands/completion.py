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


def output_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """What `openclaw schema` prints."""
    from reconciler.cli.schemas import OUTPUTS

    return [name for name in ("document", *OUTPUTS) if name.startswith(incomplete)]


def resource_keys(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The keys of what every document may declare. No kind of this version has more, and to look would cost a journal."""
    return [key for key in ("service/gateway", "gateway-config/gateway", "logs/gateway") if key.startswith(incomplete)]


def setting_paths(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The settings that begin so, down to the next dot; with those inside of it where there is but one.

    Names that a document is free to choose (of an agent, a tunnel) are not known here.
    """
    from reconciler.document.fields import fields_below, top_fields

    *above, begun = incomplete.split(".")
    fields = top_fields()
    for part in above:
        fields = fields_below(fields[name]) if (name := part if part in fields else "*") in fields else {}
    prefix = "".join(f"{part}." for part in above)
    found = [name for name in fields if name != "*" and name.startswith(begun)]
    inside = [f"{found[0]}.{name}" for name in fields_below(fields[found[0]]) if name != "*"] if len(found) == 1 else []
    return [prefix + name for name in (*found, *inside)]


def _source(completion: object) -> str:
    from click.shell_completion import ShellComplete

    assert isinstance(completion, ShellComplete)
    # click asks bash for its version by running it, only to print a warning; the template needs none of that.
    return completion.source_template % completion.source_vars() + "\n"
