"""`pipeline report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from pipeline.commands import complete_model, workspace_of
from pipeline.console import printable

if TYPE_CHECKING:
    from pipeline.results.report.feature_map import Method


@click.command(
    short_help="Make a page of all there is to see.",
    epilog="Example:  pipeline report --head logreg",
)
@click.option(
    "--head",
    metavar="NAME",
    shell_complete=complete_model,
    help="The model to look into.  [default: evaluate.head of params.yaml]",
)
@click.option(
    "--map",
    "method",
    type=click.Choice(["pca", "umap"]),
    default="pca",
    show_default=True,
    help="How images are put on the map; umap needs the extra `umap`, and a minute.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there instead of reports/index.html.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@click.option("--trust", is_flag=True, help="Load a model that is a pickle, which can run any code.")
@click.pass_context
def command(
    ctx: click.Context, head: str | None, method: str, output: Path | None, show: bool, trust: bool
) -> None:
    """Show scores, confusions, mistakes, curves and data as one page: reports/index.html.

    The page is a single file that needs no network. What it shows of a head, thumbnails of mistakes
    included, is out of fold on train and val; the test split is not read.
    """
    from pipeline.heads.memory import said_size
    from pipeline.results.report.report import report

    if output is not None and output.exists() and not output.is_file():  # such as /dev/null
        raise click.BadParameter("expected a regular file, or a new one", param_hint="--output")
    path = report(workspace_of(ctx), head=head, method=cast("Method", method), output=output, trust=trust)
    click.echo(f"{printable(str(path))} ({said_size(path.stat().st_size)})")
    if show:
        click.launch(path.resolve().as_uri())
