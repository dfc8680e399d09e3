"""`pipeline summary`."""

from __future__ import annotations

import click

from pipeline.commands import workspace_of


@click.command(
    short_help="Show the network, layer by layer.", epilog="Example:  pipeline summary --classes 2"
)
@click.option(
    "--classes",
    type=click.IntRange(2),
    help="Outputs of the head.  [default: as many as the manifest has, or 2]",
)
@click.pass_context
def command(ctx: click.Context, classes: int | None) -> None:
    """Show the network with its head, layer by layer, with shapes and parameters."""
    from pipeline.results.summary import summary

    click.echo(summary(workspace_of(ctx), classes))
