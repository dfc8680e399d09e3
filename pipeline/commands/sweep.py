"""`pipeline sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from pipeline.commands import cluster_of, cluster_options, workspace_of
from pipeline.console import counted, note, printable, table
from pipeline.params import NORMALIZATIONS, POOLINGS
from pipeline.views import CENTER, VIEW_USES

if TYPE_CHECKING:
    from pipeline.heads.leaderboard import Leaderboard, Line
    from pipeline.heads.sweep import Space


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
    help="May be repeated.  [default: all that the features have positions for]",
)
@click.option(
    "--normalize",
    "normalizations",
    multiple=True,
    type=click.Choice(NORMALIZATIONS),
    help="May be repeated.  [default: all]",
)
@click.option(
    "--views",
    multiple=True,
    type=click.Choice(VIEW_USES),
    help="What becomes of an image's views; may be repeated.  [default: all that there are views for]",
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
    help="Say how good the choice itself is, by folds within folds; takes many times as long.",
)
@click.option(
    "--save-best",
    metavar="NAME",
    help="Write the best of what is asked for into params.yaml, ready for `dvc repro`.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Lines to print, and beside them the best of each estimator, whatever its rank.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes, where heads are fitted one by one.  [default: one a processor]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where linear heads are solved on rows too many to factor (above 4,000). Other heads: on the CPU.",
)
@cluster_options
@click.option("--memory", metavar="SIZE", help="As for `pipeline train`.")
@click.option("--trust", is_flag=True, help="Allow estimators from outside scikit-learn.")
@click.option("--json", "as_json", is_flag=True, help="Print reports/sweep.json.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    estimators: tuple[str, ...],
    poolings: tuple[str, ...],
    normalizations: tuple[str, ...],
    views: tuple[str, ...],
    folds: int,
    nested: bool,
    save_best: str | None,
    top: int,
    jobs: int | None,
    device: str,
    memory: str | None,
    trust: bool,
    as_json: bool,
    **on: object,
) -> None:
    """Cross-validate classifiers on the stored features of train and val: reports/sweep.json.

    Every estimator meets every pooling, normalisation and use of an image's views, with several
    regularisations or numbers of neighbours (which are found by angle). What an earlier sweep has computed
    on the same images is not computed again, so a sweep that was stopped
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
        poolings=cast("Any", tuple(dict.fromkeys(poolings))),
        normalizations=cast("Any", tuple(dict.fromkeys(normalizations)) or NORMALIZATIONS),
        views=cast("Any", tuple(dict.fromkeys(views))),
        trust=trust,
    )
    with cluster_of(on) as cluster:
        board = sweep(
            workspace,
            space,
            folds=folds,
            nested=nested,
            jobs=jobs,
            memory=None if memory is None else parsed_size(memory),
            device=device,
            cluster=cluster,
        )
    if as_json:
        click.echo(workspace.sweep_file.read_text("utf-8"), nl=False)
    else:
        click.echo(_told(board, space, top))
    if save_best is not None:
        best = save_winner(workspace, board.best_of(space.holds), save_best)
        note(
            f"saved as heads.{save_best} in params.yaml: {_named(best)}. `dvc repro` trains it on train and "
            f"val; with evaluate.head: {save_best} there, it is the one that is scored on test."
        )


def _told(board: Leaderboard, space: Space, top: int) -> str:
    """Lay out the best line of each estimator and derivation, then what failed, then what it means."""
    ranked = list(enumerate(board.best_settings, start=1))
    # of what was asked for now, at least the best of each estimator
    first = {line.estimator: place for place, line in reversed(ranked) if space.holds(line)}
    listed = [(place, line) for place, line in ranked if place <= top or place in first.values()]
    several = any(line.views != CENTER for line in board.lines)  # also where none of them is shown
    header = [
        *("rank", "estimator", "pooling", "normalize"),
        *(["views"] if several else []),
        *("setting", "accuracy", "± s.e.", "fit, s"),
    ]
    rows = [
        (
            str(place),
            line.estimator,
            line.pooling,
            line.normalize,
            *([line.views] if several else []),
            printable(line.setting) + (" *" if line.warnings else ""),
            f"{line.accuracy:.4f}",
            f"{line.standard_error:.4f}",
            f"{line.fit_seconds:.3f}",
        )
        for place, line in listed
    ]
    parts = [table(header, rows, left=5 + several)] if rows else []
    if any(line.warnings for _, line in listed):
        parts.append("* the estimator complained: see reports/sweep.json")
    failures = [line for line in board.lines if line.failed is not None and space.holds(line)]
    if failures:
        reasons = dict.fromkeys((_named(line), line.failed or "") for line in failures)
        laid = table(("line", "reason"), list(reasons), left=2)
        parts.append(f"{counted(len(failures), 'line')} failed:\n{laid}")
    if board.best is not None:
        parts.append(_meaning(board, board.best))
    return "\n\n".join(parts)


def _meaning(board: Leaderboard, best: Line) -> str:
    if best.accuracy is None or best.standard_error is None:
        return ""
    least = best.accuracy - best.standard_error
    equals = sum(line.accuracy is not None and line.accuracy >= least for line in board.lines) - 1
    lines = [
        f"Best of {counted(board.succeeded, 'line')}: {_named(best)}, {best.accuracy:.1%} of "
        f"{counted(board.rows, 'image')} in {board.folds} folds. "
        f"{counted(equals, 'other is', 'others are')} within one standard error of it."
    ]
    if board.majority is not None:
        lines[0] += f" Always naming the commonest class is right on {board.majority:.1%}."
    lines.append("That is optimistic, as it was chosen by this very number" + _nested(board))
    return "\n".join(lines)


def _nested(board: Leaderboard) -> str:
    nested = board.nested
    if nested is None:
        return "; --nested says by how much."
    some = "" if nested["lines"] == board.succeeded else f", among {nested['lines']:g} of the lines only,"
    return (
        f": nested cross-validation puts the choice{some} at {nested['accuracy']:.1%} "
        f"± {nested['standard_error']:.1%}."
    )


def _named(line: Line) -> str:
    parts = [line.estimator, printable(line.setting)]
    if line.pooling != "none":
        parts.append(f"pooling {line.pooling}")
    if line.normalize != "none":
        parts.append(f"normalize {line.normalize}")
    if line.views != CENTER:
        parts.append(f"views {line.views}")
    return ", ".join(part for part in parts if part)
