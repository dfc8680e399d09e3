"""The last blocks learn on with a head: from what is stored, whole or in part, stopped or not."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch.nn.functional import cross_entropy
from torchvision.models import vgg16

from pipeline.edit_params import write_params
from pipeline.errors import HeadError, IdentityMismatch, ModelError, ParamsError, StoreLocked
from pipeline.features.extract import extract
from pipeline.features.lock import locked
from pipeline.features.store import FeatureStore
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.networks import torch_parts
from pipeline.networks.finetune import finetune
from pipeline.networks.torch_tuning import _schedule
from pipeline.networks.trained import NetworkReport
from pipeline.results.evaluate import evaluate
from pipeline.results.predict import predict
from pipeline.times import training_seconds
from pipeline.workspace import Workspace
from tests.features.conftest import python_path
from tests.networks.conftest import QUICK

NAME = "linear-finetuned"  # the model of the fixture `tuned`


def tune(
    workspace: Workspace, name: str | None = None, head: str = "linear", **options: Any
) -> NetworkReport:
    return finetune(workspace, head, name=name, options=replace(QUICK, **options))


def history_of(workspace: Workspace, name: str) -> list[dict[str, float]]:
    with (workspace.model_folder(name) / "history.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def files_of(workspace: Workspace, name: str) -> dict[str, bytes]:
    """All that is in a model's folder, but for its name."""
    found = {path.name: path.read_bytes() for path in workspace.model_folder(name).iterdir()}
    assert found.keys() == {"model.json", "head.safetensors", "backbone.safetensors", "history.csv"}
    found["model.json"] = found["model.json"].replace(f'"name": "{name}"'.encode(), b'"name": ""')
    return found


# --- what is learned


def test_first_epoch__as_torchvisions_network_does(tuned: Workspace) -> None:
    """The loss of every batch of the first epoch, by torchvision's whole network and torch's optimiser."""
    features = LabelledFeatures.open(tuned)
    model = model_folder.load(tuned.model_folder("linear"))
    network = vgg16(weights=None, init_weights=False)
    state = load_weights(resolve_weights("random", tuned.root))
    network.features.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    X = features.matrix("train").X
    norm = float(np.sqrt((X.astype(np.float64) ** 2).sum(axis=1).mean()))
    layer = torch.nn.Linear(25088, 2)
    layer.weight.data = torch.from_numpy(model.head.coef_ * np.float32(norm))
    layer.bias.data = torch.from_numpy(model.head.intercept_.copy())
    step = 0.01 / (np.abs(X).sum(axis=1).mean() / norm + 1)
    convolutions = [network.features[index] for index in (24, 26, 28)]
    groups = [
        {"params": [each.weight for each in convolutions], "lr": 1e-4, "weight_decay": 0.01},
        {"params": [each.bias for each in convolutions], "lr": 1e-4, "weight_decay": 0.0},
        {"params": [layer.weight], "lr": step, "weight_decay": 0.01},
        {"params": [layer.bias], "lr": step, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    rates = [group["lr"] for group in optimizer.param_groups]
    rows = features.labels("train")
    images, y = _images(tuned, rows.paths), torch.from_numpy(rows.y)
    generator = torch.Generator().manual_seed(int(np.random.RandomState(3).randint(2**31 - 1)))
    losses = []
    for number, batch in enumerate(torch.split(torch.randperm(len(y), generator=generator), 8)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            # 8 steps: the first to rise in, then a cosine
            group["lr"] = rate if number == 0 else rate * (1 + np.cos(np.pi * (number - 1) / 7)) / 2
        optimizer.zero_grad()
        rows_of = torch.flatten(network.avgpool(network.features(images[batch])), 1)
        loss = cross_entropy(layer(rows_of / norm), y[batch])
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item() * len(batch))
    found = history_of(tuned, NAME)[0]["train_loss"]
    assert found == pytest.approx(sum(losses) / len(y), rel=1e-3)
    assert np.ptp(losses[:3]) > 0.01


def _images(workspace: Workspace, paths: tuple[str, ...]) -> torch.Tensor:
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    images = []
    for path in paths:
        image = Image.open(workspace.root.parent / "photos" / path).convert("RGB")
        pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        images.append((torch.from_numpy(pixels / np.float32(255)) - mean) / std)
    return torch.stack(images)


def test_prefix__the_same_loss_as_through_the_whole_network(workspace: Workspace) -> None:
    """Stored as float16, the first epoch's loss agrees within 1e-2, and better."""
    for name, prefix in (("stored", True), ("whole", False)):
        tune(workspace, name, "logreg", prefix=prefix, epochs=1, batch_size=14)
    [stored], [whole] = history_of(workspace, "stored"), history_of(workspace, "whole")
    assert stored["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-2)
    assert stored["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-2)
    store = FeatureStore.open(workspace.prefixes_folder / "pool4")
    assert store.identity.storage == "float16"


def test_prefix__is_computed_once(tuned: Workspace, forwarded: list[int]) -> None:
    store = FeatureStore.open(tuned.prefixes_folder / "pool4")
    identity = LabelledFeatures.open(tuned).identity
    assert (store.identity.layer, store.identity.dimension, len(store.keys())) == ("pool4", 512 * 2 * 2, 34)
    assert store.identity.weights_sha256 == identity.weights_sha256
    tune(tuned, "second", epochs=1)
    assert sum(forwarded) == 0  # nor do the validation images go through the new network at the end
    with pytest.raises(IdentityMismatch, match=r"layer pool4 against avgpool\.flatten"):
        FeatureStore.open(store.folder, identity)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unfreeze", "prefix", "first"), [("block5", True, 24), ("block4", True, 17), ("all", True, 0)]
)
def test_only_what_is_unfrozen_learns(tuned: Workspace, unfreeze: str, prefix: bool, first: int) -> None:
    name = NAME
    if unfreeze != "block5":
        name = tune(tuned, "other", unfreeze=unfreeze, prefix=prefix, epochs=1, batch_size=28).name
        assert (tuned.prefixes_folder / "pool3").exists() == (unfreeze == "block4")
    before = load_weights(resolve_weights("random", tuned.root))
    after = load_file(tuned.model_folder(name) / "backbone.safetensors")
    for name, value in before.items():
        changed = not np.array_equal(after[f"features.{name}"], value)
        assert changed == (int(name.partition(".")[0]) >= first), name


@pytest.mark.slow
def test_head_that_is_folded__starts_from_what_it_says(exact: Workspace) -> None:
    """A scikit-learn head on standardised, averaged positions is the same layer in the network."""
    report_of = train(exact, "logreg", changes={"pooling": "avg", "normalize": "standardize"})
    score = evaluate(exact, "logreg")
    report = tune(exact, head="logreg", epochs=1, batch_size=28)
    assert report.training["before"]["val_accuracy"] == report_of.metrics["accuracy"]
    assert report.training["before"]["val_loss"] == pytest.approx(score.log_loss, rel=1e-3)


@pytest.mark.slow
def test_nothing_better__keeps_head_and_network_as_they_were(exact: Workspace) -> None:
    report = tune(exact, learning_rate=0.5, patience=1)
    assert (report.best_epoch, report.epochs) == (0, 1)
    model = model_folder.load(exact.model_folder("linear-finetuned"))
    assert model.identity == LabelledFeatures.open(exact).identity  # the digest of the same weights
    assert evaluate(exact, "linear-finetuned").log_loss == pytest.approx(evaluate(exact, "linear").log_loss)


def test_schedule__rises_then_falls_along_a_cosine() -> None:
    factors = [_schedule(20, 0.2)(step) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == pytest.approx([(1 + np.cos(np.pi * k / 16)) / 2 for k in range(16)])
    assert [_schedule(1, 0.0)(0), _schedule(2, 0.9)(1)] == [1.0, 1.0]


# --- the model


def test_model__is_one_like_any_other_and_never_mixed(tuned: Workspace) -> None:
    name = NAME
    model = model_folder.load(tuned.model_folder(name))
    original = LabelledFeatures.open(tuned).identity
    assert model.identity.weights_sha256 != original.weights_sha256
    assert (model.identity.mean, model.identity.layer) == (original.mean, original.layer)
    metrics = evaluate(tuned, name)
    assert metrics.accuracy == model.metrics["accuracy"]
    best = history_of(tuned, name)[model.training["best_epoch"] - 1]
    assert metrics.log_loss == pytest.approx(best["val_loss"], rel=1e-2)
    assert evaluate(tuned, name, "test").n == 6
    with pytest.raises(IdentityMismatch, match="weights_sha256"):
        FeatureStore.open(tuned.store_folder, model.identity)
    photo = str(tuned.root.parent / "photos" / "cat" / "cat-000.png")
    [said] = predict(tuned, name, [photo])
    [by_path] = predict(tuned, str(tuned.model_folder(name)), [photo])
    [alone] = predict(tuned, "linear", [photo])
    assert said == by_path
    assert said.probabilities != alone.probabilities


def test_model__other_heads_are_trained_on_its_features(tuned: Workspace) -> None:
    """`extract` takes the network by its path, and its features are those that the model was scored on."""
    expected = evaluate(tuned, NAME)
    write_params(tuned.params_file, {"extract.weights": "models/linear-finetuned/backbone.safetensors"})
    extract(tuned, fresh=True)
    model = model_folder.load(tuned.model_folder(NAME))
    assert LabelledFeatures.open(tuned).identity == model.identity
    train(tuned, "logreg")
    assert evaluate(tuned, NAME) == expected
    with pytest.raises(IdentityMismatch):
        evaluate(tuned, "linear")


def test_model__of_other_images_now_is_not_scored(tuned: Workspace) -> None:
    text = tuned.manifest_file.read_text()
    tuned.manifest_file.write_text(text.replace("cat-000.png,cat", "cat-000.png,dog", 1))
    with pytest.raises(ModelError, match=r"other images or labels.*Run `pipeline finetune linear-finetuned`"):
        evaluate(tuned, NAME)


def test_description__says_from_what_it_came(tuned: Workspace) -> None:
    described = json.loads((tuned.model_folder(NAME) / "model.json").read_bytes())
    training = described["training"]
    assert (training["command"], training["head"], training["unfreeze"]) == ("finetune", "linear", "block5")
    assert training["base_weights_sha256"] == LabelledFeatures.open(tuned).identity.weights_sha256
    assert described["files"].keys() == {"backbone.safetensors", "head.safetensors"}


# --- stopped, and out of memory


def test_killed__in_mid_epoch_goes_on_to_the_same_model(
    tuned: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import functools, os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline.networks.finetune import finetune\n"
        "from pipeline.networks.options import FinetuneOptions\n"
        "from pipeline.networks.torch_learner import Learner\n"
        "from pipeline.workspace import Workspace\n"
        "from pipeline.features import weights\n"
        "weights._random_state = functools.cache(weights._random_state)\n"
        "step = Learner.step\n"
        "def killing(self, number, batch, codes):\n"
        "    if number == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, number, batch, codes)\n"
        "Learner.step = killing\n"
        f"options = {QUICK!r}\n"
        "finetune(Workspace(Path(sys.argv[1])), 'linear', name='killed', options=options)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tuned.root)], env=python_path(), check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not tuned.model_folder("killed").exists()
    capfd.readouterr()
    report = tune(tuned, "killed")
    assert "going on after epoch 1 of 2" in capfd.readouterr().err
    description = tuned.model_folder("killed") / "model.json"
    assert training_seconds(tuned, "killed", description) == report.seconds > 0
    assert files_of(tuned, "killed") == files_of(tuned, NAME)
    assert not (tuned.networks_folder / "killed").exists()


def test_nan__stops_and_keeps_the_last_good_state(exact: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = torch_parts.Head.forward
    seen = list[int]()

    def failing(head: Any, features: torch.Tensor) -> torch.Tensor:
        if head.linear.weight.requires_grad and torch.is_grad_enabled():
            seen.append(len(features))
        logits = forward(head, features)
        return logits * torch.nan if len(seen) == 6 else logits

    monkeypatch.setattr(torch_parts.Head, "forward", failing)
    with pytest.raises(
        HeadError, match=r"epoch 2, batch 2: the loss is not finite\. The state after epoch 1"
    ):
        tune(exact)
    assert not exact.model_folder("linear-finetuned").exists()
    assert (exact.networks_folder / "linear-finetuned" / "checkpoint.safetensors").is_file()


def test_memory__the_batch_is_halved(
    tuned: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = torch_parts.Network.forward

    def limited(network: Any, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, inputs)

    monkeypatch.setattr(torch_parts.Network, "forward", limited)
    tune(tuned, "little")
    assert "cpu ran out of memory with 6 images at once: going on with 3" in capsys.readouterr().err
    losses = [history_of(tuned, name)[0]["train_loss"] for name in (NAME, "little")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- refused


def test_refused__no_such_block(exact: Workspace) -> None:
    with pytest.raises(ParamsError, match=r"--unfreeze: expected one of block5, .*found 'block6'"):
        tune(exact, unfreeze="block6")


def test_refused__a_head_of_another_extractor(exact: Workspace) -> None:
    write_params(exact.params_file, {"extract.resize": 36})
    extract(exact, fresh=True)
    with pytest.raises(IdentityMismatch, match=r"resize 32 against 36\. Run `pipeline train linear` again"):
        tune(exact)


def test_refused__a_head_of_a_fine_tuned_network(tuned: Workspace) -> None:
    with pytest.raises(IdentityMismatch, match="weights_sha256"):
        tune(tuned, head=NAME)


def test_refused__features_that_are_not_of_the_weights_any_more(tuned: Workspace) -> None:
    """A file of weights that was replaced after its features were extracted."""
    state = load_weights(resolve_weights("random", tuned.root))
    own = tuned.root / "own.safetensors"
    save_file(state, own)
    write_params(tuned.params_file, {"extract.weights": "own.safetensors"})
    extract(tuned)  # the same values: nothing to be computed
    save_file({**state, "28.bias": state["28.bias"] + 1}, own)
    with pytest.raises(IdentityMismatch, match=r"weights_sha256.*Run `pipeline extract`"):
        tune(tuned)


@pytest.mark.parametrize(
    ("head", "changes", "said"),
    [
        ("knn", {}, "knn, pooling none, normalize none"),
        ("logreg", {"pooling": "max"}, "logreg, pooling max, normalize none"),
        ("logreg", {"normalize": "l2"}, "logreg, pooling none, normalize l2"),
    ],
)
def test_refused__heads_that_are_no_layer(
    exact: Workspace, head: str, changes: dict[str, str], said: str
) -> None:
    train(exact, head, changes=changes)
    with pytest.raises(ModelError, match=rf"\({said}\) cannot be fine-tuned") as caught:
        tune(exact, head=head)
    assert "\n" not in str(caught.value)


def test_refused__a_head_that_has_learned_from_val(exact: Workspace) -> None:
    train(exact, "logreg", changes={"train_on": "train+val"})
    with pytest.raises(ModelError, match="has learned from the validation images"):
        tune(exact, head="logreg")


def test_refused__without_validation_images(exact: Workspace) -> None:
    text = exact.manifest_file.read_text()
    exact.manifest_file.write_text(text.replace(",val,", ",test,"))
    with pytest.raises(HeadError, match=r"there are none\. Give val a share in dataset.split"):
        tune(exact)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ws: write_params(ws.params_file, {"extract.precision": "int8"}), "extract.precision is int8"),
        (
            lambda ws: write_params(
                ws.params_file, {"extract.backbone": "resnet18", "extract.weights": "random"}
            ),
            "extract.backbone is resnet18, and only vgg16",
        ),
    ],
)
def test_refused__other_networks(exact: Workspace, change: Callable[[Workspace], None], said: str) -> None:
    change(exact)
    with pytest.raises(HeadError, match=said):
        tune(exact)


@pytest.mark.parametrize(("name", "said"), [("logreg", "has a head of that name"), ("mine", "has that name")])
def test_refused__names_that_are_taken(exact: Workspace, name: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        tune(exact, name, head="mine")


def test_refused__images_too_large_to_be_stored(exact: Workspace) -> None:
    write_params(exact.params_file, {"extract.image_size": 512, "extract.resize": 512})
    with pytest.raises(ParamsError, match=r"--unfreeze block2: at extract.image_size 512 .*--no-prefix"):
        tune(exact, unfreeze="block2")


def test_refused__another_process_does_it(exact: Workspace) -> None:
    with locked(exact.networks_folder / "linear-finetuned"), pytest.raises(StoreLocked):
        tune(exact)


def test_refused__changes_nothing(exact: Workspace) -> None:
    before = _tree(exact.root)
    with pytest.raises(ParamsError):
        tune(exact, unfreeze="block9")
    with pytest.raises(ModelError):
        tune(exact, head="absent")
    assert _tree(exact.root) == before


def _tree(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}
