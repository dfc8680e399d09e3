"""`pipeline train`."""

from __future__ import annotations

import click

from pipeline.commands import complete_head, workspace_of
from pipeline.console import printable
from pipeline.params import NORMALIZATIONS, POOLINGS
from pipeline.views import VIEW_USES


@click.command(
    short_help="Train a head on the stored features.",
    epilog="Example:  pipeline train logreg --set C=0.01 --normalize l2 --name logreg-l2",
)
@click.argument("head", metavar="HEAD", shell_complete=complete_head)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a parameter of the estimator for this run; may be repeated.",
)
@click.option("--pooling", type=click.Choice(POOLINGS), help="Over the 7 x 7 positions of the features.")
@click.option("--normalize", type=click.Choice(NORMALIZATIONS), help="Rows, or columns, to one scale.")
@click.option(
    "--views",
    type=click.Choice(VIEW_USES),
    help="What is seen of an image: the centre, the mean of its views, or each of them to learn from.",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Fit a temperature, so that probabilities mean what they say; five trainings more.",
)
@click.option(
    "--unsure-below",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="P",
    help="Call images unsure whose best label is less probable.",
)
@click.option("--name", metavar="NAME", help="Save the model under this name instead.")
@click.option(
    "--memory",
    metavar="SIZE",
    help="Features larger than this, such as 4GB, go to a temporary file.  [default: half of what is free]",
)
@click.option("--trust", is_flag=True, help="Allow estimators from outside scikit-learn, and pickled models.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    head: str,
    settings: tuple[str, ...],
    name: str | None,
    memory: str | None,
    trust: bool,
    as_json: bool,
    **changes: object,
) -> None:
    """Train HEAD, one of the heads in params.yaml, on the stored features: models/HEAD/.

    HEAD may also be an estimator by its short name: linear, logreg, linear-svm, ridge, knn,
    rbf-svm, lda, forest, boosting, hist-boosting, naive-bayes or mlp. What the options say of the
    head takes the place of what params.yaml says, for this run.
    """
    import json
    from dataclasses import asdict

    from pipeline.edit_params import parsed_settings
    from pipeline.heads.memory import parsed_size
    from pipeline.heads.train import train

    report = train(
        workspace_of(ctx),
        head,
        name=name,
        overrides=parsed_settings(settings),
        changes={key: value for key, value in changes.items() if value is not None},
        memory=None if memory is None else parsed_size(memory),
        trust=trust,
    )
    if as_json:
        click.echo(json.dumps(asdict(report) | {"folder": str(report.folder)}, indent=2))
    else:
        click.echo(
            f"trained {report.name} ({report.estimator}) on {report.rows} images of {report.classes} "
            f"classes in {report.seconds:.2f} s -> {printable(str(report.folder))}"
        )
        if report.metrics:
            which = "of val" if report.metrics["rows"] == "val" else "out of fold"
            click.echo(f"accuracy {report.metrics['accuracy']:.4f} on {report.metrics['n']} images {which}")
