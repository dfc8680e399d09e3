"""`pipeline sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from pipeline.commands import workspace_of
from pipeline.console import counted, note, printable, table
from pipeline.params import NORMALIZATIONS, POOLINGS

if TYPE_CHECKING:
    from pipeline.heads.leaderboard import Leaderboard, Line


@click.command(
    short_help="Find the best head by cross-validation.",
    epilog="Example:  pipeline sweep --save-best best",
)
@click.option(
    "-e",
    "--estimator",
    "estimators",
    multiple=True,
    metavar="NAME",
    help="Try this one; may be repeated. A short name, or sklearn.…  "
    "[default: logreg, linear-svm, ridge, knn, rbf-svm]",
)
@click.option(
    "--pooling",
    "poolings",
    multiple=True,
    type=click.Choice(POOLINGS),
    help="May be repeated.  [default: all]",
)
@click.option(
    "--normalize",
    "normalizations",
    multiple=True,
    type=click.Choice(NORMALIZATIONS),
    help="May be repeated.  [default: all]",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Parts that are held out in turn.",
)
@click.option(
    "--nested",
    is_flag=True,
    help="Say how good the choice itself is, by folds within folds; six times as long.",
)
@click.option("--save-best", metavar="NAME", help="Write the winner into params.yaml, ready for `dvc repro`.")
@click.option("--top", type=click.IntRange(min=1), default=15, show_default=True, help="Lines to print.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes, where heads are fitted one by one.")
@click.option("--memory", metavar="SIZE", help="As for `pipeline train`.")
@click.option("--trust", is_flag=True, help="Allow estimators from outside scikit-learn.")
@click.option("--json", "as_json", is_flag=True, help="Print reports/sweep.json.")
@click.pass_context
def command(
    ctx: click.Context,
    estimators: tuple[str, ...],
    poolings: tuple[str, ...],
    normalizations: tuple[str, ...],
    folds: int,
    nested: bool,
    save_best: str | None,
    top: int,
    jobs: int | None,
    memory: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Cross-validate classifiers on the stored features of train and val: reports/sweep.json.

    Every estimator meets every pooling and normalisation, with several regularisations or sizes. What
    an earlier sweep has computed on the same images is not computed again, so a sweep that was stopped
    goes on, and further estimators join the leaderboard. The test split is not read.
    """
    from pipeline.heads.memory import parsed_size
    from pipeline.heads.sweep import ESTIMATORS, Space, sweep
    from pipeline.heads.winner import check_winner_name, save_winner

    workspace = workspace_of(ctx)
    if save_best is not None:
        check_winner_name(workspace, save_best)
    space = Space(
        estimators=tuple(dict.fromkeys(estimators)) or ESTIMATORS,
        poolings=cast("Any", tuple(dict.fromkeys(poolings)) or POOLINGS),
        normalizations=cast("Any", tuple(dict.fromkeys(normalizations)) or NORMALIZATIONS),
        trust=trust,
    )
    board = sweep(
        workspace,
        space,
        folds=folds,
        nested=nested,
        jobs=jobs,
        memory=None if memory is None else parsed_size(memory),
    )
    if as_json:
        click.echo(workspace.sweep_file.read_text("utf-8"), nl=False)
    else:
        click.echo(_told(board, top))
    if save_best is not None:
        best = save_winner(workspace, board, save_best)
        note(
            f"saved as heads.{save_best} in params.yaml: {_named(best)}. `dvc repro` trains it on train and "
            f"val; with evaluate.head: {save_best} there, it is the one that is scored on test."
        )


def _told(board: Leaderboard, top: int) -> str:
    """Lay out the best line of each estimator and derivation, then what failed, then what it means."""
    shown: dict[Any, Line] = {}
    for line in board.lines:
        if line.failed is None:
            shown.setdefault((line.estimator, line.pooling, line.normalize), line)
    header = ("rank", "estimator", "pooling", "normalize", "setting", "accuracy", "± s.e.", "fit, s")
    rows = [
        (
            str(place),
            line.estimator,
            line.pooling,
            line.normalize,
            _params(line) + (" *" if line.warnings else ""),
            f"{line.accuracy:.4f}",
            f"{line.standard_error:.4f}",
            f"{line.fit_seconds:.3f}",
        )
        for place, line in enumerate(list(shown.values())[:top], start=1)
    ]
    parts = [table(header, rows, left=5)] if rows else []
    if any(row[4].endswith("*") for row in rows):
        parts.append("* the estimator complained: see reports/sweep.json")
    failures = [line for line in board.lines if line.failed is not None]
    if failures:
        reasons = dict.fromkeys((_named(line), line.failed or "") for line in failures)
        parts.append(
            f"{counted(len(failures), 'line')} failed:\n" + table(("", "reason"), list(reasons), left=2)
        )
    if board.best is not None:
        parts.append(_meaning(board, board.best))
    return "\n\n".join(parts)


def _meaning(board: Leaderboard, best: Line) -> str:
    equals = sum(
        line.accuracy is not None and line.accuracy >= best.accuracy - best.standard_error
        for line in board.lines
        if best.accuracy is not None and best.standard_error is not None
    )
    lines = [
        f"Best of {counted(len(board.lines), 'line')}: {_named(best)}, {best.accuracy:.1%} of {board.rows} "
        f"images in {board.folds} folds. {equals - 1} others are within one standard error of it.",
        "That is optimistic, as it was chosen by this very number"
        + (
            "; --nested says by how much."
            if board.nested is None
            else f": nested cross-validation puts the choice at {board.nested['accuracy']:.1%} "
            f"± {board.nested['standard_error']:.1%}."
        ),
    ]
    return "\n".join(lines)


def _named(line: Line) -> str:
    parts = [line.estimator, _params(line)]
    if line.pooling != "none":
        parts.append(f"pooling {line.pooling}")
    if line.normalize != "none":
        parts.append(f"normalize {line.normalize}")
    return ", ".join(part for part in parts if part)


def _params(line: Line) -> str:
    return printable(", ".join(f"{key}={value:g}" for key, value in line.params.items()))
