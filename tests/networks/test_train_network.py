"""The frozen network with a new last layer: the same as the head on stored features, image by image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.edit_params import write_params
from pipeline.errors import HeadError, ParamsError, SourceError, StoreLocked
from pipeline.features.lock import locked
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.networks import train_network as story
from pipeline.networks.options import NetworkOptions
from pipeline.networks.train_network import train_network
from pipeline.results.evaluate import evaluate
from pipeline.times import training_seconds
from pipeline.workspace import Workspace

PLAIN = NetworkOptions(epochs=3, batch_size=8, augment=False)


def history_of(workspace: Workspace, name: str) -> list[list[float]]:
    lines = (workspace.model_folder(name) / "history.csv").read_text().splitlines()[1:]
    return [[float(cell) for cell in line.split(",")] for line in lines]


def head_of(workspace: Workspace, name: str) -> bytes:
    return (workspace.model_folder(name) / "head.safetensors").read_bytes()


def test_loss__is_that_of_the_head_on_stored_features(exact: Workspace) -> None:
    """`exact` holds a linear head, trained on the same batches of float32 features, stored as float32."""
    report = train_network(exact, options=PLAIN)
    found, expected = history_of(exact, "network"), history_of(exact, "linear")
    assert np.allclose(found, expected, rtol=1e-3, atol=0)
    assert np.ptp([row[1] for row in expected]) > 0.05  # and there is something to be seen
    assert (report.images, report.classes, report.epochs, report.metrics["n"]) == (28, 2, 3, 6)


def test_loss__is_that_of_plain_torch_on_stored_features(exact: Workspace) -> None:
    """Torch's own layer, loss and optimiser, on the rows of the store in the order of its own generator."""
    features = LabelledFeatures.open(exact)
    train = features.matrix("train")
    norm = np.sqrt((train.X.astype(np.float64) ** 2).sum(axis=1).mean())
    X, y = torch.from_numpy(train.X / np.float32(norm)), torch.from_numpy(train.y)
    layer = torch.nn.Linear(X.shape[1], 2)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    step = 0.5 / (X.abs().sum(1).mean().item() + 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=step)
    generator = torch.Generator().manual_seed(int(np.random.RandomState(3).randint(2**31 - 1)))
    losses = []
    for _ in range(3):
        total = 0.0
        for batch in torch.split(torch.randperm(len(y), generator=generator), 8):
            optimizer.zero_grad()
            loss = cross_entropy(layer(X[batch]), y[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(y))
    train_network(exact, options=NetworkOptions(epochs=3, batch_size=8, augment=False, weight_decay=0))
    assert [row[1] for row in history_of(exact, "network")] == pytest.approx(losses, rel=1e-3)


def test_model__is_one_like_any_other(exact: Workspace, forwarded: list[int]) -> None:
    report = train_network(exact, options=PLAIN)
    pushed = sum(forwarded)
    assert pushed == 6 + 28 + 3 * 28  # to be scored, to be measured, and in three epochs
    model = model_folder.load(exact.model_folder("network"))
    assert model.identity == LabelledFeatures.open(exact).identity
    assert (model.estimator, model.training["command"], model.training["augment"]) == (
        "linear",
        "train-network",
        False,
    )
    description = exact.model_folder("network") / "model.json"
    took = training_seconds(exact, "network", description)
    assert took is not None
    assert took > report.seconds > 0  # the images that are scored and measured went through before
    assert evaluate(exact, "network").accuracy == report.metrics["accuracy"]
    assert sum(forwarded) == pushed  # from what is stored
    assert list((exact.root / "cache" / "networks").iterdir()) == []


def test_augmentation__changes_what_is_learned_and_nothing_else(exact: Workspace) -> None:
    options = NetworkOptions(epochs=2, batch_size=8)
    for name in ("a", "b"):
        train_network(exact, name, options)
    train_network(exact, "c", NetworkOptions(epochs=2, batch_size=8, augment=False))
    assert head_of(exact, "a") == head_of(exact, "b")
    assert head_of(exact, "a") != head_of(exact, "c")


def test_log__is_the_tutorials(
    exact: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_network(exact, options=NetworkOptions(epochs=1, batch_size=4, augment=False))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Epoch 0, minibatch")]
    assert re.fullmatch(r"Epoch 0, minibatch 0: train acc = 0\.\d{4}, train loss = 0\.693", said[0])
    assert [line.split(":")[0] for line in said] == [f"Epoch 0, minibatch {number}" for number in (0, 5)]


@pytest.mark.slow
def test_best_epoch__on_val_is_kept(exact: Workspace) -> None:
    report = train_network(exact, options=NetworkOptions(epochs=4, batch_size=8, learning_rate=20))
    losses = [row[3] for row in history_of(exact, "network")]
    assert report.best_epoch == 1 + int(np.argmin(losses))
    assert evaluate(exact, "network").log_loss == pytest.approx(min(losses), rel=1e-3)


@pytest.mark.slow
def test_stopped__goes_on_to_the_same_model(
    exact: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = NetworkOptions(epochs=3, batch_size=8)
    train_network(exact, "whole", options)
    calls = []

    def stop(epoch: int, number: int, loss: float, accuracy: float) -> None:
        calls.append(number)
        if len(calls) == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(story, "_tell", stop)
        with pytest.raises(KeyboardInterrupt):
            train_network(exact, "stopped", options)
    assert not exact.model_folder("stopped").exists()
    capsys.readouterr()
    train_network(exact, "stopped", options)
    said = capsys.readouterr().err
    assert "going on after epoch 1 of 3" in said
    assert "Epoch 0" not in said
    assert head_of(exact, "stopped") == head_of(exact, "whole")
    assert history_of(exact, "stopped") == history_of(exact, "whole")


@pytest.mark.slow
def test_fresh__starts_anew(
    exact: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = NetworkOptions(epochs=2, batch_size=28, augment=False)

    def stop(epoch: int, number: int, loss: float, accuracy: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(story, "_tell", stop)
        with pytest.raises(KeyboardInterrupt):
            train_network(exact, options=options)
    train_network(exact, options=options, fresh=True)
    assert "going on" not in capsys.readouterr().err


def test_nan__says_where_and_leaves_the_model_that_was_there(exact: Workspace) -> None:
    train_network(exact, options=NetworkOptions(epochs=1))
    before = head_of(exact, "network")
    with pytest.raises(HeadError, match=r"epoch \d+, batch \d+: the loss is not finite.*--learning-rate"):
        train_network(exact, options=NetworkOptions(epochs=5, batch_size=8, learning_rate=1e37))
    assert head_of(exact, "network") == before


# --- refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"extract.backbone": "resnet18", "extract.weights": "random"},
            "extract.backbone is resnet18, and only vgg16 can be trained",
        ),
        ({"extract.precision": "int8"}, "extract.precision is int8, and a network of 8-bit numbers"),
    ],
)
def test_refused__networks_that_are_not_trained(
    workspace: Workspace, changes: dict[str, str], said: str
) -> None:
    write_params(workspace.params_file, changes)
    with pytest.raises(HeadError, match=said) as caught:
        train_network(workspace)
    assert "\n" not in str(caught.value)
    assert not (workspace.root / "cache" / "networks").exists()


@pytest.mark.parametrize("name", ["logreg", "../logreg", "Network"])
def test_refused__names(workspace: Workspace, name: str) -> None:
    with pytest.raises(ParamsError):
        train_network(workspace, name)


def test_refused__another_process_trains_it(workspace: Workspace) -> None:
    with locked(workspace.networks_folder / "network"), pytest.raises(StoreLocked):
        train_network(workspace)


def test_an_image_that_has_gone(exact: Workspace, photos: Path) -> None:
    manifest = exact.manifest_file.read_text().splitlines()
    [path, *_] = next(line for line in manifest if ",train," in line).split(",")
    source: Any = exact.root.parent / "photos" / path
    source.unlink()
    with pytest.raises(SourceError, match=rf"{path}: vanished, and the network cannot be trained without it"):
        train_network(exact)


def test_description__says_how_it_was_trained(exact: Workspace) -> None:
    train_network(exact, options=PLAIN)
    described = json.loads((exact.model_folder("network") / "model.json").read_bytes())
    training = described["training"]
    assert {key: training[key] for key in ("command", "epochs", "batch_size", "augment", "best_epoch")} == {
        "command": "train-network",
        "epochs": 3,
        "batch_size": 8,
        "augment": False,
        "best_epoch": training["best_epoch"],
    }
    # and heads on stored features have none, so that theirs stay what they were
    assert "training" not in json.loads((exact.model_folder("logreg") / "model.json").read_bytes())
