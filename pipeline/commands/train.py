"""`pipeline train`."""

from __future__ import annotations

import click

from pipeline.commands import workspace_of
from pipeline.console import printable


@click.command(
    short_help="Train a head on the stored features.",
    epilog="Example:  pipeline train logreg --set C=0.01 --name logreg-strong",
)
@click.argument("head", metavar="HEAD")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a parameter of the estimator for this run; may be repeated.",
)
@click.option("--name", metavar="NAME", help="Save the model under this name instead.")
@click.option("--trust", is_flag=True, help="Allow estimators from outside scikit-learn, and pickled models.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(
    ctx: click.Context, head: str, settings: tuple[str, ...], name: str | None, trust: bool, as_json: bool
) -> None:
    """Train HEAD, one of the heads in params.yaml, on the stored features: models/HEAD/.

    HEAD may also be an estimator by its short name: linear, logreg, linear-svm, ridge, knn,
    rbf-svm, lda, forest, boosting, naive-bayes or mlp.
    """
    import json
    from dataclasses import asdict

    from pipeline.edit_params import parsed_settings
    from pipeline.heads.train import train

    report = train(workspace_of(ctx), head, name=name, overrides=parsed_settings(settings), trust=trust)
    if as_json:
        click.echo(json.dumps(asdict(report) | {"folder": str(report.folder)}, indent=2))
    else:
        click.echo(
            f"trained {report.name} ({report.estimator}) on {report.rows} images of {report.classes} "
            f"classes in {report.seconds:.2f} s -> {printable(str(report.folder))}"
        )
