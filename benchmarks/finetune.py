"""What fine-tuning costs, and what it is worth, measured side by side.

    python benchmarks/finetune.py cost ../photos --images 200
    python benchmarks/finetune.py worth ../photos --training 100 --seeds 3

``../photos`` has one folder a class. ``cost`` trains block5 for an epoch from the stored outputs of the
frozen blocks, and the same epoch through the whole network. ``worth`` draws a few training images, a fifth of
them for validation, fine-tunes, and compares the network with its head alone on all the other images.
"""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import click
from drawn import draw, workspace_of
from machine import described

from pipeline import console
from pipeline.dataset.prepare import prepare
from pipeline.edit_params import write_params
from pipeline.features.extract import extract
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.networks.blocks import cut_of
from pipeline.networks.finetune import finetune
from pipeline.networks.options import FinetuneOptions
from pipeline.networks.prefixes import filled_prefix, prefix_identity
from pipeline.networks.trained import NetworkReport
from pipeline.results.evaluate import evaluate
from pipeline.times import seconds_a_row
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
    exact = {"extract.weights": _file(weights), "extract.precision": "float32"}
    with workspace_of(photos, None, exact) as workspace:
        write_params(workspace.params_file, {"dataset.limit": images})
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
        once = _seconds_before(workspace, unfreeze)
    rows = []
    whole = statistics.median(report.seconds for report in made[False])
    for prefix, reports in made.items():
        seconds = statistics.median(report.seconds for report in reports)
        ahead = once if prefix else 0.0
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
@click.option("--seeds", default=3, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
@click.option("--weights", default="oxford", show_default=True)
@click.option("--unfreeze", default="block5", show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep what is computed in this folder.")
def worth(
    photos: Path, training: int, seeds: int, first_seed: int, weights: str, unfreeze: str, keep: Path | None
) -> None:
    """Compare a fine-tuned network with its head alone on images that neither has learned from."""
    click.echo(described("numpy", "torch", "scikit-learn"))
    rows, differences = [], []
    each = training // len([path for path in photos.iterdir() if path.is_dir()])
    with workspace_of(photos, keep, {"extract.weights": _file(weights)}) as workspace:
        for seed in range(first_seed, first_seed + seeds):
            draw(workspace, {"val": each // 5, "train": each - each // 5, "test": None}, seed)
            extract(workspace)
            # all images, so that those of test, too, go only through the blocks that learn
            extraction = Extraction.of(workspace)
            filled_prefix(workspace, extraction, cut_of(unfreeze), extraction.manifest.usable, Execution())
            train(workspace, _HEAD)
            tuned = finetune(workspace, _HEAD, options=FinetuneOptions(unfreeze=unfreeze))
            alone = evaluate(workspace, _HEAD, "test")
            with_network = evaluate(workspace, tuned.name, "test")
            differences.append(with_network.accuracy - alone.accuracy)
            cells = (str(alone.n), f"{alone.accuracy:.4f}", f"{with_network.accuracy:.4f}")
            rows.append([str(seed), *cells, f"{differences[-1]:+.4f}", str(tuned.best_epoch)])
            click.echo(
                console.table(["seed", "images", "head alone", "fine-tuned", "difference", "epoch"], rows)
            )
    error = statistics.stdev(differences) / len(differences) ** 0.5 if seeds > 1 else float("nan")
    click.echo(f"mean difference {statistics.mean(differences):+.4f}, standard error {error:.4f}")


def _file(weights: str) -> str:
    """Return the name of weights, or the path of their file from anywhere."""
    return weights if weights.isidentifier() else str(Path(weights).resolve())


def _seconds_before(workspace: Workspace, unfreeze: str) -> float:
    """Return how long it took to store what the frozen blocks make of the images of train and val."""
    features = LabelledFeatures.open(workspace)
    identity = prefix_identity(features.identity, cut_of(unfreeze))
    return (seconds_a_row(workspace, identity.as_dict()) or 0.0) * len(features.labels("train", "val").y)


def _first_loss(report: NetworkReport) -> float:
    """Return the loss of the first epoch, from the log of the model."""
    with (report.folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return float(next(csv.DictReader(file))["train_loss"])


if __name__ == "__main__":
    main()
