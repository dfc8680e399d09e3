"""`pipeline show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from pipeline.commands import complete_model, workspace_of
from pipeline.console import printable
from pipeline.params import SPLITS

if TYPE_CHECKING:
    from pipeline.params import Split


@click.command(
    short_help="Draw images with their labels, or mistakes.",
    epilog="Example:  pipeline show -n 12 --errors logreg",
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, 1000),
    default=24,
    show_default=True,
    metavar="N",
    help="At most so many images.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    help="Images of this split only; of test images never mistakes.  [default: train and val]",
)
@click.option(
    "--label", "labels", multiple=True, metavar="NAME", help="Images of this class only; may be repeated."
)
@click.option(
    "--errors",
    metavar="HEAD",
    shell_complete=complete_model,
    help="Show the mistakes of this model, the surest first.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there instead of reports/contact-sheet.png.",
)
@click.option("--open", "show", is_flag=True, help="Open the picture.")
@click.option("--trust", is_flag=True, help="Load a model that is a pickle, which can run any code.")
@click.pass_context
def command(
    ctx: click.Context,
    count: int,
    split: str | None,
    labels: tuple[str, ...],
    errors: str | None,
    output: Path | None,
    show: bool,
    trust: bool,
) -> None:
    """Draw a contact sheet: the first images of each class in turn, as the network sees them, with labels.

    With --errors the mistakes of a head, with its own label, the one that it was given and how probable
    that was said to be. They are out of fold: each is of a head that had not learned from the image. The
    picture is reports/contact-sheet.png.
    """
    if errors is not None and split == "test":
        raise click.UsageError("--errors looks at no test image: give --split train or val, or leave it out.")
    if output is not None and output.suffix.lower() != ".png":
        raise click.BadParameter("expected a name that ends in .png", param_hint="--output")
    if output is not None and output.exists() and not output.is_file():
        raise click.BadParameter("expected a regular file, or a new one", param_hint="--output")
    from pipeline.results.contact_sheet import contact_sheet

    sheet = contact_sheet(
        workspace_of(ctx),
        count=count,
        split=cast("Split | None", split),
        labels=tuple(dict.fromkeys(labels)),
        errors=errors,
        output=output,
        trust=trust,
    )
    click.echo(f"{printable(str(sheet.path))}: {printable(sheet.title)}")
    if show:
        click.launch(sheet.path.resolve().as_uri())
