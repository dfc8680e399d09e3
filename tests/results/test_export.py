"""`pipeline export`: files that say what the pipeline says, or that are not written."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import safe_open
from torchvision.models import vgg16

from pipeline.errors import PipelineError
from pipeline.features.normalisation import noted_normalisation
from pipeline.features.store import FeatureStore
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.heads.train import train
from pipeline.results.export.export import export
from pipeline.results.export.wanted import Wanted
from pipeline.results.predict import predict
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.results.exports import photos, workspace

__all__ = ["finished", "finished_folder", "photos", "workspace"]  # fixtures


needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra `export` is not installed",
)


@pytest.fixture
def images(photos: list[Path]) -> torch.Tensor:
    """The images as a user of an exported classifier makes them, by torchvision's own functions."""
    from PIL import Image
    from torchvision.transforms.v2 import functional

    decoded = [
        functional.pil_to_tensor(to_pixels(Image.open(file).convert("RGB"), 32, 32)) for file in photos
    ]
    floats = [functional.to_dtype(image, torch.float32, scale=True) for image in decoded]
    return torch.stack(
        [functional.normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) for image in floats]
    )


def predicted(workspace: Workspace, model: str, photos: list[Path]) -> npt.NDArray[np.float64]:
    """Probabilities by the pipeline, in the order of the classes, shape (n, k)."""
    predictions = predict(workspace, model, list(map(str, photos)))
    return np.array([[each.probabilities[label] for label in ("cat", "dog")] for each in predictions])  # type: ignore[index]


def parts_of(workspace: Workspace, name: str) -> torch.nn.Module:
    """torchvision's network with a classifier as the tutorial has it."""
    network = vgg16(weights=None, init_weights=False)
    network.classifier = torch.nn.Linear(25088, 2)
    return network.eval()  # type: ignore[no-any-return]


# --- for torch


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_state_dict__what_torchvision_makes_of_it(
    workspace: Workspace, photos: list[Path], images: torch.Tensor, tmp_path: Path, ending: str
) -> None:
    train(workspace, "logreg", name="pooled", changes={"pooling": "avg", "normalize": "standardize"})
    file = tmp_path / "new" / f"pets.{ending}"
    (written,) = export(workspace, "pooled", Wanted(state_dict=file))
    assert written.path == file
    assert written.gives == "logits, float32 (n, 2)"
    assert written.parity.images == 6
    assert written.parity.split == "val"
    assert written.parity.difference < 1e-5
    network = parts_of(workspace, "pooled")
    if ending == "pth":
        state = torch.load(file, weights_only=True)
    else:
        with safe_open(file, "pt") as opened:
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
            said = opened.metadata()
        assert json.loads(said["classes"]) == ["cat", "dog"]
        assert json.loads(said["preprocessing"])["image_size"] == 32
        identity = FeatureStore.open(workspace.store_folder).identity
        assert noted_normalisation(file) == (identity.mean, identity.std)
    network.load_state_dict(state, strict=True)
    weights = load_weights(resolve_weights("random", workspace.root))
    assert all((state[f"features.{key}"].numpy() == value).all() for key, value in weights.items())
    with torch.inference_mode():
        found = network(images).softmax(dim=1).numpy()
    # the stored features are rounded to float16
    assert np.abs(found - predicted(workspace, "pooled", photos)).max() < 5e-3
    assert (
        file.stat().st_mode & 0o077 == (tmp_path / "new").stat().st_mode & 0o044
    )  # no more private than others


def test_torch_export__any_number_of_images(
    workspace: Workspace, photos: list[Path], images: torch.Tensor, tmp_path: Path
) -> None:
    train(workspace, "logreg", name="rooted", changes={"pooling": "max", "normalize": "sqrt_l2"})
    file = tmp_path / "pets.pt2"
    (written,) = export(workspace, "rooted", Wanted(torch_export=file))
    assert written.parity.difference < 1e-5
    assert written.parity.stored_difference is not None
    extra = {"classifier.json": ""}
    network = torch.export.load(file, extra_files=extra).module()
    assert json.loads(json.loads(extra["classifier.json"])["classes"]) == ["cat", "dog"]
    with torch.inference_mode():
        all_at_once = network(images)
        one_by_one = torch.cat([network(image[None]) for image in images[:3]])
    assert (all_at_once[:3] - one_by_one).abs().max() < 1e-5
    expected = predicted(workspace, "rooted", photos)
    assert (all_at_once.numpy().argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(all_at_once.numpy() - expected).max() < 5e-3


# --- ONNX


def session_of(file: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


@needs_onnx
def test_onnx__normalised_images(
    workspace: Workspace, photos: list[Path], images: torch.Tensor, tmp_path: Path
) -> None:
    train(
        workspace, "linear-svm", name="sure", changes={"pooling": "avg", "normalize": "l2", "calibrate": True}
    )
    file = tmp_path / "pets.onnx"
    (written,) = export(workspace, "sure", Wanted(onnx=file))
    assert written.parity.difference < 1e-5
    assert [path.name for path in tmp_path.glob("*.onnx*")] == ["pets.onnx"]  # weights are not beside it
    session = session_of(file)
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("normalised_images", "tensor(float)", [3, 32, 32])
    assert output.name == "probabilities"
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["cat", "dog"]
    assert json.loads(said["identity"])["backbone"] == "vgg16"
    for count in (1, len(images)):
        (found,) = session.run(None, {given.name: images[:count].numpy()})
        expected = predicted(workspace, "sure", photos[:count])
        assert np.abs(found - expected).max() < 5e-3


@needs_onnx
def test_onnx__images_of_any_size(workspace: Workspace, photos: list[Path], tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "pets.onnx"
    (written,) = export(workspace, "logreg", Wanted(onnx=file, with_preprocessing=True))
    assert written.takes == "images, uint8 (n, height, width, 3)"
    assert written.parity.difference < 1e-5
    session = session_of(file)
    (given,) = session.get_inputs()
    assert (given.type, given.shape[3]) == ("tensor(uint8)", 3)
    pixels = np.stack([np.asarray(Image.open(photo).convert("RGB")) for photo in photos])
    (found,) = session.run(None, {given.name: pixels})
    assert np.abs(found - predicted(workspace, "logreg", photos)).max() < 5e-3  # stored as float16
    wide = np.asarray(Image.open(photos[0]).convert("RGB").resize((90, 41)))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (found,) = session.run(None, {given.name: wide[None]})
    assert np.abs(found - predicted(workspace, "logreg", [tmp_path / "wide.png"])).max() < 5e-3


@needs_onnx
def test_onnx__scores_of_a_head_without_probabilities(workspace: Workspace, tmp_path: Path) -> None:
    (written,) = export(workspace, "linear-svm", Wanted(onnx=tmp_path / "pets.onnx"))
    assert written.gives == "scores, float32 (n, 2)"
    assert written.parity.numbers == "scores"
    session = session_of(tmp_path / "pets.onnx")
    assert session.get_outputs()[0].name == "scores"
    assert json.loads(session.get_modelmeta().custom_metadata_map["output"]) == "scores"


@needs_onnx
@pytest.mark.slow
def test_onnx__the_same_bytes_again_and_no_word_of_this_machine(workspace: Workspace, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export(workspace, "logreg", Wanted(onnx=tmp_path / f"{name}.onnx"))
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    import onnx

    graph = onnx.load(tmp_path / "first.onnx")
    for weights in graph.graph.initializer:
        weights.ClearField("raw_data")
    assert b".py" not in graph.SerializeToString()


def test_onnx__packages_that_are_not_there(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        PipelineError, match=r"onnxruntime cannot be imported .* pip install -e '\.\[export\]'"
    ):
        export(workspace, "logreg", Wanted(onnx=tmp_path / "pets.onnx"))
