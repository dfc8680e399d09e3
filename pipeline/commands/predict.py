"""`pipeline predict`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands import DEVICES, complete_file, complete_model, workspace_of
from pipeline.console import note, printable


@click.command(
    short_help="Label images.",
    epilog="Example:  pipeline predict logreg holiday/ cat.jpg --format json --output labels.json",
)
@click.argument("model", metavar="MODEL", shell_complete=complete_model)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, shell_complete=complete_file)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    help="json: a list of objects with path, label and probabilities. csv: a cell that a spreadsheet would "
    "run as a formula gets an apostrophe in front.  [default: as FILE ends, .json, .csv or .txt; else table]",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    metavar="K",
    help="Show the K most probable labels.  [default: 3 in a table, else all]",
)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE instead."
)
@click.option("--device", type=DEVICES, default="auto", show_default=True, help="Where the network runs.")
@click.option("--trust", is_flag=True, help="Load a model that is a pickle, which can run any code.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    images: tuple[str, ...],
    form: str | None,
    top: int | None,
    output: Path | None,
    device: str,
    trust: bool,
) -> None:
    """Predict the label of images with MODEL, a name in models/ or the path of such a folder.

    IMAGE is a file, a folder, or a quoted pattern such as 'holiday/*.jpg'. Features that are
    stored already are not computed again. Where the head demands a probability (unsure_below) that
    the best label does not reach, the label is "unsure". A file that is no image is listed with the
    reason, and the exit code is then 1.
    """
    from pipeline.errors import SourceError
    from pipeline.files import replacing
    from pipeline.results.formats import ENDINGS, FORMATS
    from pipeline.results.predict import predict

    workspace = workspace_of(ctx)
    ending = output.suffix.lower() if output else ""
    if form is None and ending not in ENDINGS:
        raise click.BadParameter(
            f"what {printable(ending)} is to hold is not known. Name a file that ends in "
            f"{', '.join(filter(None, ENDINGS))}, or say --format {' or '.join(FORMATS)}.",
            param_hint="--output",
        )
    form = form or ENDINGS[ending]
    if output is None:
        predictions = predict(workspace, model, images, device=device, trust=trust)
        click.echo(FORMATS[form](predictions, top))
    else:
        if output.exists() and not output.is_file():  # /dev/null must not be replaced by a file
            raise click.BadParameter("expected a regular file, or a new one", param_hint="--output")
        with replacing(output) as temporary:
            temporary.touch()  # what cannot be written is known before the work, not after
            predictions = predict(workspace, model, images, device=device, trust=trust)
            if any(_is_same(output, prediction.path) for prediction in predictions):
                raise click.BadParameter(
                    f"{printable(str(output))} is one of the images, which are never changed. Name another.",
                    param_hint="--output",
                )
            temporary.write_text(FORMATS[form](predictions, top) + "\n", "utf-8")
        note(f"wrote {len(predictions)} predictions to {printable(str(output))}")
    failed = sum(prediction.error is not None for prediction in predictions)
    if failed:
        raise SourceError(f"{failed} of {len(predictions)} files could not be used; the reasons are listed.")


def _is_same(output: Path, image: str) -> bool:
    try:
        return output.samefile(image)
    except OSError:  # one of them is not there
        return False
