"""The tutorial's figure, made as it was made, and what the same training is worth on other photographs.

    python benchmarks/tutorial_figure.py ../photos --seeds 5
    python benchmarks/tutorial_figure.py ../photos --seeds 1 --network

The tutorial draws 500 photographs of cats and dogs and trains a linear layer behind VGG16 for one epoch. By
its log (batches of 16, a line for every fifth, none for the thirtieth) the layer learned from 401 to 480 of
them, and its "validation accuracy" of 0.99777… is 449 of 450. Here the layer learns from 450, or from all
500, and is scored on 450 that it learned from, and on all photographs that it has never seen.

Adam's step is the tutorial's 0.01, on features a tenth as large: the original weights of VGG16 make features
ten times as large as torchvision's do, by the losses in the tutorial's log.

The layer learns from stored features. With ``--network`` it learns once more, behind the network itself, by
`pipeline train-network`: every photograph goes through again.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from drawn import draw, workspace_of
from machine import described

from pipeline import console
from pipeline.edit_params import write_params
from pipeline.features.extract import extract
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.networks.options import NetworkOptions
from pipeline.networks.train_network import train_network
from pipeline.workspace import Workspace

# The tutorial's: photographs a batch, photographs scored, and what came of it.
_BATCH, _SCORED = 16, 450
_REPORTED = 449 / 450


@dataclass(frozen=True)
class Run:
    """One training: how many photographs it learned from, and what share of which it is right on."""

    seed: int
    way: str
    learned: int
    seen: float
    held_out: float

    @property
    def cells(self) -> list[str]:
        """As a line of the table."""
        return [self.way, str(self.seed), str(self.learned), f"{self.seen:.4f}", f"{self.held_out:.4f}"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seeds", default=5, show_default=True, help="How many draws, with seeds from 0 on.")
@click.option("--network", is_flag=True, help="Train behind the network itself, too.")
@click.option(
    "--step",
    default=0.001,
    show_default=True,
    help="Of Adam: by how much it may move a weight on raw features.",
)
@click.option("--weights", default="oxford", show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep workspace and features in this folder.")
def main(photos: Path, seeds: int, network: bool, step: float, weights: str, keep: Path | None) -> None:
    """Make the tutorial's figure, and the one that it should have been."""
    click.echo(described("numpy", "torch"))
    exact = {"extract.precision": "float32", "extract.storage": "float32", "extract.weights": weights}
    runs = []
    with workspace_of(photos, keep, exact) as workspace:
        for learned in (_SCORED, 500):
            for seed in range(seeds):
                write_params(workspace.params_file, {"seed": seed})
                draw(workspace, {"train": learned // 2, "val": 25, "test": None}, seed)
                extract(workspace)
                runs += _runs(workspace, step, learned, seed, network and learned == _SCORED)
    header = ["way", "seed", "learned from", f"on {_SCORED} of these", "on the others"]
    click.echo(console.table(header, [run.cells for run in runs]))
    for way, learned in dict.fromkeys((run.way, run.learned) for run in runs):
        these = [run for run in runs if (run.way, run.learned) == (way, learned)]
        click.echo(f"{way}, learned from {learned}: {_spread(these)}")
    error = (_REPORTED * (1 - _REPORTED) / _SCORED) ** 0.5
    click.echo(f"the tutorial: {_REPORTED:.4f}, standard error of {_SCORED} draws {error:.4f}")


def _runs(workspace: Workspace, step: float, learned: int, seed: int, network: bool) -> list[Run]:
    """Train from stored features, and, if asked for, behind the network; score both."""
    from pipeline.heads.torch_rows import norms

    norm, absolute_sum = norms(LabelledFeatures.open(workspace).matrix("train").X)
    # what the head calls its learning rate is by how much a step may move a score; see `TorchLinear`
    options = NetworkOptions(1, _BATCH, step * (norm + absolute_sum), weight_decay=0.0, augment=False)
    overrides = {name: value for name, value in asdict(options).items() if name != "augment"}
    train(workspace, "linear", overrides=overrides)
    runs = [Run(seed, "stored features", learned, *_scores(workspace, "linear", seed))]
    if network:
        train_network(workspace, "network", options)
        runs.append(Run(seed, "the network", learned, *_scores(workspace, "network", seed)))
    return runs


def _scores(workspace: Workspace, name: str, seed: int) -> tuple[float, float]:
    """Return the accuracy on photographs that a head learned from, and on the others."""
    model = model_folder.load(workspace.model_folder(name))
    features = LabelledFeatures.open(workspace)
    # val, too, is of the others: with one epoch there is none to be chosen by it
    these, others = features.matrix("train"), features.matrix("val", "test")
    some = np.random.default_rng(seed).permutation(len(these.y))[:_SCORED]
    seen = model.predict(these.X).codes == these.y
    return float(seen[some].mean()), float((model.predict(others.X).codes == others.y).mean())


def _spread(runs: list[Run]) -> str:
    """Say mean and standard deviation over seeds."""
    said = []
    for name, values in (
        ("on these", [run.seen for run in runs]),
        ("on others", [run.held_out for run in runs]),
    ):
        deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        said.append(f"{name} {statistics.mean(values):.4f}{deviation}")
    return ", ".join(said) + f" ({len(runs)} seeds, ± their standard deviation)"


if __name__ == "__main__":
    main()
