"""`pipeline scores`."""

from __future__ import annotations

import click

from pipeline.commands import workspace_of


@click.command(short_help="Compare the heads.", epilog="Example:  pipeline scores --json")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Compare the heads that were evaluated, and say where to look next.

    The interval says how far the accuracy can be trusted: with few images, heads whose intervals
    overlap are not told apart.
    """
    import json
    from dataclasses import asdict

    from pipeline.results.scores import scores, scores_table

    workspace = workspace_of(ctx)
    found = scores(workspace)
    if as_json:
        click.echo(json.dumps([asdict(score) for score in found], indent=2))
    elif not found:
        click.echo("no scores yet: run `dvc repro`, or `pipeline evaluate HEAD`")
    else:
        click.echo(scores_table(found))
        if not found[-1].current:
            click.echo(
                "\nout of date: of another model, or of other images. `dvc repro` scores the heads of "
                "params.yaml anew, `pipeline evaluate HEAD --split SPLIT` any."
            )
        click.echo(
            f"\nPer class and confusion: reports/metrics/*.json, or `dvc plots show`.\n"
            f"Try another classifier:  pipeline train rbf-svm && pipeline evaluate rbf-svm\n"
            f"Find the best one:       pipeline sweep --save-best best\n"
            f"Label an image:          pipeline predict {found[0].head} IMAGE"
        )
