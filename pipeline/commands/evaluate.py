"""`pipeline evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from pipeline.commands import complete_model, workspace_of
from pipeline.console import table

if TYPE_CHECKING:
    from pipeline.results.metrics import Metrics

_CONFUSION_CLASSES = 12  # more columns than these do not fit a terminal; the metrics file has them all


@click.command(
    short_help="Score a head on images that it has not seen.",
    epilog="Example:  pipeline evaluate logreg --split val",
)
@click.argument("head", metavar="HEAD", shell_complete=complete_model)
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="Choose heads by val; look at test once, at the end. Each model's look is counted.",
)
@click.option("--trust", is_flag=True, help="Load a model that is a pickle, which can run any code.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.pass_context
def command(ctx: click.Context, head: str, split: str, trust: bool, as_json: bool) -> None:
    """Score the trained HEAD on images that it has not seen: reports/metrics/HEAD.SPLIT.json."""
    from pipeline.params import Split
    from pipeline.results.evaluate import evaluate

    workspace = workspace_of(ctx)
    metrics = evaluate(workspace, head, cast("Split", split), trust=trust)
    if as_json:
        click.echo(workspace.metrics_file(head, split).read_text("utf-8"), nl=False)
    else:
        click.echo(_told(metrics))


def _told(metrics: Metrics) -> str:
    """Say the scores: the total, then class by class with what each was taken for."""
    low, high = metrics.accuracy_95
    shown = metrics.classes if len(metrics.classes) <= _CONFUSION_CLASSES else ()
    probabilities = "" if metrics.log_loss is None else f", log loss {metrics.log_loss:.4f}"
    if metrics.ece is not None:
        probabilities += f", calibration error {metrics.ece:.4f}"
    learned = ", which it has learned from (scored out of fold)" if metrics.out_of_fold else ""
    lines = [
        f"{metrics.head} on {metrics.n} images of {metrics.split}{learned}: accuracy {metrics.accuracy:.4f} "
        f"(95 % interval {low:.3f} – {high:.3f}), macro F1 {metrics.macro_f1:.4f}{probabilities}",
        "",
        table(
            ("class", "images", "precision", "recall", *(f"→ {label}" for label in shown)),
            [
                (
                    label,
                    str(metrics.per_class[label]["n"]),
                    *(
                        f"{metrics.per_class[label][of]:.3f}" if metrics.per_class[label]["n"] else "-"
                        for of in ("precision", "recall")
                    ),
                    *map(str, taken_for[: len(shown)]),
                )
                for label, taken_for in zip(metrics.classes, metrics.confusion, strict=True)
            ],
        ),
    ]
    if metrics.unsure_below is not None and metrics.coverage is not None:
        right = (
            "" if metrics.accuracy_covered is None else f"; accuracy of these {metrics.accuracy_covered:.4f}"
        )
        lines += [
            "",
            f"at least {metrics.unsure_below:g} probable: {metrics.coverage:.1%} of the images{right}",
        ]
    if metrics.test_looks is not None and metrics.test_looks > 1:
        lines += ["", f"This was look {metrics.test_looks} at the test split: choose heads by val."]
    return "\n".join(lines)
