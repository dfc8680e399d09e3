"""`pipeline extract`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from pipeline.commands import DEVICES, workspace_of


@click.command(
    short_help="Compute and store the features of new images.",
    epilog="Example:  pipeline extract --device cpu --batch-size 8",
)
@click.option(
    "--device",
    type=DEVICES,
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes CUDA, then MPS, then the CPU.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    help="Images pushed through at once. Changes speed and memory only.  [default: 4 on a CPU, else more]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Threads that read and decode.  [default: one a processor, at most 8]",
)
@click.option("--fresh", is_flag=True, help="Remove all stored features first.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(
    ctx: click.Context, device: str, batch_size: int | None, workers: int | None, fresh: bool, as_json: bool
) -> None:
    """Push every new image once through the frozen network: cache/features/.

    An image is known by its content: renamed, moved, relabelled or copied, it is not computed
    again. Stopped half-way, the same command goes on from the last finished shard.
    """
    from pipeline.features.extract import extract

    report = extract(workspace_of(ctx), device=device, batch_size=batch_size, workers=workers, fresh=fresh)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    elif report.computed:
        click.echo(f"{report.computed} images computed, {report.reused} taken from the store")
    else:
        click.echo(f"nothing to extract: the store holds all {report.images} images")
