"""What fine-tuning costs, and what it is worth, measured side by side.

    python benchmarks/finetune.py cost ../photos --images 200
    python benchmarks/finetune.py worth ../photos --training 100 --seeds 3

``../photos`` has one folder a class. ``cost`` trains block5 for an epoch from the stored outputs of the
frozen blocks, and the same epoch through the whole network. ``worth`` draws a few training images, a fifth of
them for validation, fine-tunes, and compares the network with its head alone on all the other images.
"""

from __future__ import annotations

import csv
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import click
import numpy as np
from machine import described

from pipeline import console
from pipeline.dataset.prepare import prepare
from pipeline.edit_params import write_params
from pipeline.features.extract import extract
from pipeline.heads.train import train
from pipeline.networks.finetune import finetune
from pipeline.networks.options import FinetuneOptions
from pipeline.networks.trained import NetworkReport
from pipeline.results.evaluate import evaluate
from pipeline.scaffold import create_workspace
from pipeline.workspace import Workspace

_HEAD = "logreg"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure fine-tuning."""


@main.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=200, show_default=True, help="How many, as many of each class.")
@click.option("--weights", default="oxford", show_default=True)
@click.option("--unfreeze", default="block5", show_default=True)
@click.option("--rounds", default=2, show_default=True, help="How often each is measured, in turn.")
def cost(photos: Path, images: int, weights: str, unfreeze: str, rounds: int) -> None:
    """Compare an epoch from stored outputs with one through the whole network, both float32."""
    click.echo(described("numpy", "torch"))
    with tempfile.TemporaryDirectory() as scratch:
        workspace = _workspace(photos, Path(scratch), weights)
        write_params(workspace.params_file, {"dataset.limit": images, "extract.precision": "float32"})
        prepare(workspace)
        extract(workspace)
        train(workspace, _HEAD)
        made: dict[bool, list[NetworkReport]] = {True: [], False: []}
        losses = {}
        for _ in range(rounds):
            for prefix in made:
                options = FinetuneOptions(unfreeze=unfreeze, epochs=1, prefix=prefix)
                made[prefix].append(finetune(workspace, _HEAD, name="measured", options=options))
                losses[prefix] = _first_loss(made[prefix][-1])
    rows = []
    whole = statistics.median(report.seconds for report in made[False])
    for prefix, reports in made.items():
        seconds = statistics.median(report.seconds for report in reports)
        ahead = max(float(report.training["prefix_seconds"]) for report in reports) if prefix else 0.0
        name = "from what is stored" if prefix else "through the whole network"
        cells = (f"{seconds:.1f}", f"{seconds / whole:.2f}", f"{ahead:.1f}", f"{losses[prefix]:.6f}")
        rows.append([name, *cells])
    click.echo(console.table(["an epoch", "seconds", "ratio", "once before", "its loss"], rows))
    count = made[True][0].images
    click.echo(
        f"{unfreeze}, {count} training images; median of {rounds} rounds; the epoch's val is scored in it"
    )


@main.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--training", default=100, show_default=True, help="Training images, a fifth of them for val.")
@click.option("--most", default=None, type=int, help="At most so many other images.  [default: all]")
@click.option("--seeds", default=3, show_default=True)
@click.option("--weights", default="oxford", show_default=True)
@click.option("--unfreeze", default="block5", show_default=True)
def worth(photos: Path, training: int, most: int | None, seeds: int, weights: str, unfreeze: str) -> None:
    """Compare a fine-tuned network with its head alone on images that neither has learned from."""
    click.echo(described("numpy", "torch", "scikit-learn"))
    rows, differences = [], []
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "photos"
        shutil.copytree(photos, copy, copy_function=os.link)
        workspace = _workspace(copy, Path(scratch), weights)
        for seed in range(seeds):
            _write_splits(copy, training, most, seed)
            prepare(workspace, resplit=True)
            extract(workspace)
            train(workspace, _HEAD)
            tuned = finetune(workspace, _HEAD, options=FinetuneOptions(unfreeze=unfreeze))
            alone = evaluate(workspace, _HEAD, "test")
            with_network = evaluate(workspace, tuned.name, "test")
            differences.append(with_network.accuracy - alone.accuracy)
            cells = (str(alone.n), f"{alone.accuracy:.4f}", f"{with_network.accuracy:.4f}")
            rows.append([str(seed), *cells, f"{differences[-1]:+.4f}", str(tuned.best_epoch)])
    click.echo(console.table(["seed", "images", "head alone", "fine-tuned", "difference", "epoch"], rows))
    error = statistics.stdev(differences) / len(differences) ** 0.5 if seeds > 1 else float("nan")
    click.echo(f"mean difference {statistics.mean(differences):+.4f}, standard error {error:.4f}")


def _workspace(photos: Path, scratch: Path, weights: str) -> Workspace:
    root = scratch / "workspace"
    create_workspace(root, str(photos))
    file = weights if weights.isidentifier() else str(Path(weights).resolve())
    write_params(root / "params.yaml", {"extract.weights": file})
    return Workspace(root)


def _first_loss(report: NetworkReport) -> float:
    """Return the loss of the first epoch, from the log of the model."""
    with (report.folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return float(next(csv.DictReader(file))["train_loss"])


def _write_splits(photos: Path, training: int, most: int | None, seed: int) -> None:
    """Write the table of labels: training images drawn anew, as many of each class; test has the others."""
    generator = np.random.default_rng(seed)
    folders = sorted(folder for folder in photos.iterdir() if folder.is_dir())
    each, rows = training // len(folders), []
    for folder in folders:
        files = [file.name for file in sorted(folder.iterdir())]
        order = [files[place] for place in generator.permutation(len(files))]
        last = None if most is None else each + most // len(folders)
        for number, name in enumerate(order[:last]):
            split = "test" if number >= each else "val" if number < each // 5 else "train"
            rows.append((f"{folder.name}/{name}", folder.name, split))
    with (photos / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


if __name__ == "__main__":
    main()
