"""How fast stage two is, as ratios measured side by side in one run.

    python benchmarks/heads.py path ../cats-dogs-workspace
    python benchmarks/heads.py large --rows 20000
    python benchmarks/heads.py crossover
    python benchmarks/heads.py commands ../cats-dogs-workspace

``path`` compares a cross-validated sweep of logistic regression, 7 strengths in 5 folds, with
scikit-learn's GridSearchCV on the same matrix; the two take turns, so that a noisy machine is
noisy for both. It wants a workspace whose features are extracted, and changes nothing in it.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from machine import described

from pipeline import console
from pipeline.features.identity import DIMENSION
from pipeline.heads.factor import Factor, load_or_make
from pipeline.heads.linear.rows import Rows
from pipeline.heads.linear.subspace import PlainRows
from pipeline.heads.linear_path import PathFit, fit_path, winners
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.torch_plain_rows import plain_rows_on
from pipeline.workspace import Workspace

Features = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]

#: Raw features: at the first nothing has been learned by heart, at the last every training row has.
STRENGTHS = [10.0**power for power in range(-6, 1)]
FOLDS = 5


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure stage two."""


@main.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", default=3, show_default=True, help="How often each is measured.")
def path(root: Path, rounds: int) -> None:
    """Compare a sweep of logistic regression with GridSearchCV on the same rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    _say_where()
    matrix = LabelledFeatures.open(Workspace(root)).matrix("train", "val", "test")
    X, y, classes = matrix.X.astype(np.float32), matrix.y, matrix.classes
    folds = _folds(y)
    grid = GridSearchCV(LogisticRegression(), {"C": STRENGTHS}, cv=folds, refit=False)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch)

        def sweep() -> PathFit:
            factor = load_or_make(kept, matrix.digest, lambda: Factor.of(X))
            return fit_path(Rows.of_factor(factor, np.float32), y, classes, folds, STRENGTHS, "logistic")

        for _ in range(rounds):
            with _timed(seconds, "GridSearchCV(LogisticRegression())"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # at small C its 100 iterations are not enough
                grid.fit(X, y)
            for _ in range(3):  # a second each: short next to the other's half minute
                for file in kept.iterdir():
                    file.unlink()
                with _timed(seconds, "fit_path, factor made"):
                    sweep()
                with _timed(seconds, "fit_path, factor cached"):
                    fit = sweep()
    _print_ratios(seconds)
    ours = (winners(fit.held_out) == y).mean(axis=1)
    theirs = grid.cv_results_["mean_test_score"]
    click.echo(
        console.table(
            ["C", *(f"{strength:g}" for strength in STRENGTHS), "of the chosen"],
            [
                [name, *(f"{score:.1%}" for score in scores), f"{scores.max():.1%}"]
                for name, scores in (("GridSearchCV", theirs), ("fit_path", ours))
            ],
        )
    )
    click.echo(f"{len(y)} rows of {X.shape[1]} features; {rounds} rounds, of fit_path 3 runs a round")


@main.command()
@click.option("--rows", default=20_000, show_default=True)
@click.option("--classes", "k", default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda, for fit_path.")
@click.option("--iterations", default=100, show_default=True, help="scikit-learn's limit in its one fit.")
def large(rows: int, k: int, iterations: int, device: str) -> None:
    """Sweep made-up features of many images, and say what scikit-learn would need."""
    from sklearn.linear_model import LogisticRegression

    _say_where()
    X, y = made_up(rows, k)
    folds = _folds(y)
    seconds: dict[str, list[float]] = {}
    with _timed(seconds, "path"):
        fit = fit_path(
            plain_rows_on(device, X), y, [str(label) for label in range(k)], folds, STRENGTHS, "logistic"
        )
    train = folds[0][0]
    learned = X[train]
    head = LogisticRegression(C=STRENGTHS[len(STRENGTHS) // 2], max_iter=iterations)
    with _timed(seconds, "one"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head.fit(learned, y[train])
    (ours,), (one,) = seconds["path"], seconds["one"]
    count = FOLDS * len(STRENGTHS)
    accuracy = (winners(fit.held_out) == y).mean(axis=1)
    click.echo(
        console.table(
            ["", "seconds", "x"],
            [
                [f"fit_path, {count} heads", f"{ours:.1f}", ""],
                [f"LogisticRegression, 1 of {count}, {head.n_iter_[0]} iterations", f"{one:.1f}", ""],
                [f"  all {count} at that", f"{one * count:.0f}", f"{one * count / ours:.0f}"],
            ],
        )
    )
    click.echo(
        f"{rows} rows of {DIMENSION} features, {np.mean(X[:100] == 0):.0%} zeros, {k} classes; "
        f"at most {fit.iterations.max()} rounds; held-out accuracy {accuracy.min():.1%} to "
        f"{accuracy.max():.1%}; 1 run"
    )


@main.command()
@click.option("--rows", "counts", multiple=True, default=[500, 1000, 1500, 2000, 3000], show_default=True)
def crossover(counts: tuple[int, ...]) -> None:
    """Find the number of rows above which a factor costs more than it saves."""
    _say_where()
    X, y = made_up(max(counts), 2)
    rows = []
    for count in counts:
        part, labels, seconds = X[:count], y[:count], dict[str, list[float]]()
        for _ in range(3):
            with _timed(seconds, "factor"):
                factored = Rows.of_factor(Factor.of(part), np.float32)
            with _timed(seconds, "path on the factor"):
                fit_path(factored, labels, ("0", "1"), _folds(labels), STRENGTHS, "logistic")
            with _timed(seconds, "path on the features"):
                fit_path(PlainRows.of(part), labels, ("0", "1"), _folds(labels), STRENGTHS, "logistic")
        factor, on_factor, on_features = (statistics.median(each) for each in seconds.values())
        ratios = on_features / (factor + on_factor), factor / max(on_features - on_factor, 1e-9)
        cells = [f"{each:.2f}" for each in (factor, on_factor, on_features, *ratios)]
        rows.append([str(count), *cells])
    header = ["rows", "factor", "path on it", "on features", "ratio", "paths that pay"]
    click.echo(console.table(header, rows))
    click.echo("seconds, median of 3 runs")


@main.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", default=3, show_default=True)
def commands(root: Path, rounds: int) -> None:
    """Time `pipeline train` and `pipeline sweep` as whole processes, in a copy of a workspace."""
    _say_where()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "workspace"
        ignored = shutil.ignore_patterns("models", "images", "factors", "sweep.json")
        shutil.copytree(root, copy, ignore=ignored)
        workspace = Workspace(copy)

        def run(name: str, *words: str) -> str:
            program = str(Path(sys.executable).parent / "pipeline")
            with _timed(seconds, name):
                done = subprocess.run(
                    [program, "--root", str(copy), *words], check=True, capture_output=True, text=True
                )
            return done.stdout

        for _ in range(rounds):
            run("pipeline train logreg", "train", "logreg")
            run("pipeline train linear", "train", "linear")
            workspace.sweep_file.unlink(missing_ok=True)
            shutil.rmtree(workspace.factors_folder, ignore_errors=True)
            board = run("pipeline sweep", "sweep", "--top", "10")
    _print_ratios(seconds)
    click.echo(f"\n{board}")


def made_up(rows: int, k: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], Codes]:
    """Make features that look like VGG16's: 85 % zeros, mean norm 1,900, and classes that overlap a little.

    Each row mixes 60 patterns, of which some depend on its class, and a rectifier follows.
    """
    generator = np.random.default_rng(seed)
    y = np.arange(rows) % k
    means = generator.normal(0, 1.5, (k, 60)) * (np.arange(60) < 12)
    mixtures = (generator.normal(0, 1, (rows, 60)) + means[y]).astype(np.float32)
    patterns = generator.standard_normal((60, DIMENSION), np.float32) * np.float32(60**-0.5)
    X = np.empty((rows, DIMENSION), np.float32)
    for start in range(0, rows, 256):
        block = mixtures[start : start + 256] @ patterns
        block += generator.standard_normal(block.shape, np.float32)
        X[start : start + 256] = np.minimum(np.maximum(block - 1.5, 0) * 37, 812)
    return X, y


def _folds(y: Codes) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedKFold

    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(y, y))


@contextmanager
def _timed(seconds: dict[str, list[float]], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds.setdefault(name, []).append(time.perf_counter() - started)


def _print_ratios(seconds: dict[str, list[float]]) -> None:
    """Print medians, and how many times faster each is than the first."""
    first = statistics.median(next(iter(seconds.values())))
    rows = []
    for name, measured in seconds.items():
        median = statistics.median(measured)
        span = f"{min(measured):.2f}-{max(measured):.2f}"
        rows.append([name, f"{median:.2f}", span, f"{first / median:.1f}", str(len(measured))])
    click.echo(console.table(["", "seconds", "range", "x", "runs"], rows))


def _say_where() -> None:
    click.echo(described("numpy", "scipy", "scikit-learn"))


if __name__ == "__main__":
    main()
