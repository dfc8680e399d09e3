"""`pipeline finetune`."""

from __future__ import annotations

import click

from pipeline.commands import complete_model, network_options, workspace_of
from pipeline.console import counted, printable


@click.command(
    short_help="Train the network's last blocks together with a trained head.",
    epilog="Example:  pipeline finetune logreg --unfreeze block4 --epochs 5",
)
@click.argument("head", metavar="HEAD", shell_complete=complete_model)
@click.option(
    "--unfreeze",
    metavar="BLOCK",
    default="block5",
    show_default=True,
    help="The first block that learns, block5 to block2, or all.",
)
@click.option("--name", metavar="NAME", help="Save the model under this name.  [default: HEAD-finetuned]")
@click.option(
    "--epochs", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Passes at most."
)
@click.option(
    "--learning-rate",
    type=float,
    default=3e-6,
    show_default=True,
    help="By how much one step of AdamW may move a weight of the network.",
)
@click.option(
    "--head-learning-rate",
    type=float,
    default=0.01,
    show_default=True,
    help="By how much one step may move an image's score through the head.",
)
@click.option(
    "--weight-decay", type=float, default=0.01, show_default=True, help="How strongly weights are held small."
)
@click.option(
    "--warmup", type=float, default=0.1, show_default=True, help="Share of the steps in which the rates rise."
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Stop when the loss on val has not fallen for so many epochs.",
)
@click.option(
    "--prefix/--no-prefix",
    default=True,
    show_default=True,
    help="Store what the frozen part makes of the images; without, they go through it in every epoch.",
)
@click.option("--trust", is_flag=True, help="Load a head that is a pickle, which can run any code.")
@network_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    head: str,
    name: str | None,
    device: str,
    workers: int | None,
    fresh: bool,
    trust: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Let the last blocks of VGG16 learn on, together with the trained HEAD: models/HEAD-finetuned/.

    For images that are unlike photographs. HEAD must be a linear one (linear, logreg, linear-svm, ridge, lda)
    without pooling max and without l2. What the frozen blocks make of the images is stored once under
    cache/prefixes/, so that an epoch, and an evaluation, costs only what learns. The epoch with the lowest
    loss on the validation images is kept; where none is better than HEAD, that is. Stopped half-way, the same
    command goes on where it was.

    The model brings its network: evaluate, predict, report and export take it like any other. Its features
    are never mixed with those of the original; to train other heads on them, set extract.weights to
    models/NAME/backbone.safetensors and run `pipeline extract --fresh`.
    """
    import json
    from dataclasses import asdict

    from pipeline.features.extractor import Execution
    from pipeline.networks.finetune import finetune
    from pipeline.networks.options import FinetuneOptions

    report = finetune(
        workspace_of(ctx),
        head,
        name=name,
        options=FinetuneOptions(**options),  # type: ignore[arg-type]
        execution=Execution(device, workers=workers),
        fresh=fresh,
        trust=trust,
    )
    if as_json:
        click.echo(json.dumps(asdict(report) | {"folder": str(report.folder)}, indent=2))
        return
    if report.best_epoch:
        kept = f"epoch {report.best_epoch} kept"
    else:
        kept = f"none better than {head}, which is kept with the network as it was"
    click.echo(
        f"fine-tuned {head} from {report.training['unfreeze']} on, on {counted(report.images, 'image')} of "
        f"{report.classes} classes, {counted(report.epochs, 'epoch')} in {report.seconds:.1f} s, {kept} "
        f"-> {printable(str(report.folder))}"
    )
    now, before = report.metrics["accuracy"], report.training["before"]["val_accuracy"]
    click.echo(f"accuracy {now:.4f} on {report.metrics['n']} images of val, {before:.4f} before")
