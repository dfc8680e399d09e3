"""`pipeline init`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from pipeline.commands import complete_file
from pipeline.console import printable


@click.command(
    short_help="Make a workspace in DIR.", epilog="Example:  pipeline init pets --source ~/photos/pets"
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--source",
    shell_complete=complete_file,
    metavar="SOURCE",
    help="A folder or archive of labelled images, `digits` or `cats-dogs`. Default: digits.",
)
def command(folder: Path, source: str | None) -> None:
    """Make a workspace in DIR: params.yaml, dvc.yaml and the settings of DVC and git.

    Images stay where they are; nothing that exists is overwritten.
    """
    from pipeline.scaffold import create_workspace

    written = create_workspace(folder, source)
    click.echo(f"made a workspace in {printable(str(folder))}: {', '.join(written)}")
    enter = "" if folder == Path() else f"cd {printable(shlex.quote(str(folder)))} && "
    click.echo(f"next:  {enter}dvc repro && pipeline scores")
