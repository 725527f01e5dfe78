"""`openclaw logs`: the gateway's log files, newest last, filtered and followed. Reads files; asks no gateway."""

from __future__ import annotations

import click

from reconciler.cli.options import Number, long_file_option
from reconciler.cli.session import Session


@click.command("logs")
@long_file_option
@click.option("-n", "--lines", type=Number(1), default=200, show_default=True, help="How many lines to begin with.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "--level", type=click.Choice(["fatal", "error", "warn", "info", "debug", "trace"]), help="This level or graver."
)
@click.option("--subsystem", metavar="NAME", help="Only this subsystem and those below it (gateway/ws).")
@click.option("--since", metavar="DURATION", help="Only what is younger: 30s, 5m, 2h.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they stand in the file.")
@click.pass_obj
def logs_command(
    session: Session,
    lines: int,
    follow: bool,
    level: str | None,
    subsystem: str | None,
    since: str | None,
    as_json: bool,
) -> int:
    """Show the gateway's log."""
    from reconciler.cli import tail
    from reconciler.document.units import parse_duration

    seconds = tail.duration(since, parse_duration) if since is not None else None
    wanted = tail.Filter(level=level, subsystem=subsystem, since_seconds=seconds)
    directory = tail.directory_of(session)
    return tail.show(session.console, directory, wanted, lines=lines, follow=follow, as_json=as_json)
