"""`pipeline train-network`."""

from __future__ import annotations

import click

from pipeline.commands import network_options, workspace_of
from pipeline.console import counted, printable


@click.command(
    "train-network",
    short_help="Train a last layer on the images themselves, to compare.",
    epilog="Example:  pipeline train-network --epochs 3 --no-augment",
)
@click.argument("name", metavar="[NAME]", default="network")
@click.option(
    "--epochs",
    type=click.IntRange(1, 10_000),
    default=5,
    show_default=True,
    help="Passes over the training images.",
)
@click.option(
    "--learning-rate",
    type=float,
    default=0.5,
    show_default=True,
    help="By how much one step of Adam may move an image's score.",
)
@click.option(
    "--weight-decay", type=float, default=1e-5, show_default=True, help="How strongly weights are held small."
)
@click.option(
    "--augment/--no-augment",
    default=True,
    show_default=True,
    help="Crop, mirror and tint each image anew in each epoch.",
)
@network_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    name: str,
    device: str,
    workers: int | None,
    fresh: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Train the frozen VGG16 with a new last layer on the training images: models/NAME/.

    Every image goes through the network again in every epoch, which is what stored features spare: this is
    here to be compared with `pipeline train linear`, and for augmentation. The epoch with the lowest loss on
    the validation images is kept. Stopped half-way, the same command goes on where it was. The model is one
    like any other: evaluate, predict, report and export take it. NAME is "network" by default.
    """
    import json
    from dataclasses import asdict

    from pipeline.features.extractor import Execution
    from pipeline.networks.options import NetworkOptions
    from pipeline.networks.train_network import train_network

    report = train_network(
        workspace_of(ctx),
        name,
        NetworkOptions(**options),  # type: ignore[arg-type]
        Execution(device, workers=workers),
        fresh=fresh,
    )
    if as_json:
        click.echo(json.dumps(asdict(report) | {"folder": str(report.folder)}, indent=2))
        return
    click.echo(
        f"trained {report.name} on {counted(report.images, 'image')} of {report.classes} classes, "
        f"{counted(report.epochs, 'epoch')} in {report.seconds:.1f} s, epoch {report.best_epoch - 1} kept "
        f"-> {printable(str(report.folder))}"
    )
    if report.metrics:
        click.echo(f"accuracy {report.metrics['accuracy']:.4f} on {report.metrics['n']} images of val")
