"""`pipeline export`: files that say what the pipeline says, or that are not written."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import safe_open
from torchvision.models import vgg16

from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.edit_params import write_params
from pipeline.errors import IdentityMismatch, ManifestError, ModelError, PipelineError, SourceError
from pipeline.features.normalisation import noted_normalisation
from pipeline.features.store import FeatureStore
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.heads import linear_layer
from pipeline.heads.linear_layer import LinearLayer
from pipeline.heads.train import train
from pipeline.results.export import classifier, forms
from pipeline.results.export.export import export
from pipeline.results.export.wanted import Wanted
from pipeline.results.predict import predict
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder

__all__ = ["finished", "finished_folder"]  # fixtures

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra `export` is not installed",
)


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    """Forty images in the store, and two heads trained on them."""
    return finished


@pytest.fixture
def photos(workspace: Workspace) -> list[Path]:
    """All images."""
    return sorted((workspace.root.parent / "photos").rglob("*.png"))


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


# --- the check


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have heads be exported with a bias that they do not have."""

    def bend() -> None:
        layer_of = linear_layer.layer_of

        def bent(model: Any) -> LinearLayer:
            layer = layer_of(model)
            return LinearLayer(layer.weight, layer.bias + np.array([0.0, 1e4]), layer.link)

        for module in (linear_layer, classifier):
            monkeypatch.setattr(module, "layer_of", bent)

    return bend


@pytest.mark.parametrize(
    "wanted",
    [lambda file: Wanted(state_dict=file), lambda file: Wanted(torch_export=file)],
    ids=["state", "program"],
)
def test_check__a_file_that_says_something_else_is_not_written(
    workspace: Workspace, tmp_path: Path, wrong: Callable[[], None], wanted: Callable[[Path], Wanted]
) -> None:
    file = tmp_path / "pets.pt"
    file.write_bytes(b"what was there")
    wrong()
    with pytest.raises(
        ModelError, match=r"pets\.pt was not written: asked about 6 images of val, it gives 3 other labels"
    ):
        export(workspace, "logreg", wanted(file))
    assert file.read_bytes() == b"what was there"
    assert list(tmp_path.glob(".*")) == []


@needs_onnx
def test_check__onnx_that_says_something_else_is_not_written(
    workspace: Workspace, tmp_path: Path, wrong: Callable[[], None]
) -> None:
    wrong()
    with pytest.raises(ModelError, match=r"pets\.onnx was not written"):
        export(workspace, "logreg", Wanted(onnx=tmp_path / "pets.onnx"))
    assert not [path for path in tmp_path.iterdir() if "onnx" in path.name]


def test_check__reads_the_file_and_not_what_is_in_memory(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def other(state: dict[str, torch.Tensor], path: Path) -> None:
        save(state | {"classifier.bias": state["classifier.bias"] + torch.tensor([0.0, 1.0])}, path)

    monkeypatch.setattr(torch, "save", other)
    with pytest.raises(ModelError, match="was not written"):
        export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))


def test_check__without_a_store(workspace: Workspace, tmp_path: Path) -> None:
    shutil.rmtree(workspace.root / "cache")
    (written,) = export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))
    assert written.parity.stored_difference is None


def test_check__an_image_that_has_changed(workspace: Workspace, photos: list[Path], tmp_path: Path) -> None:
    first = read_manifest(workspace.manifest_file).of_split("val")[0]
    (workspace.root.parent / "photos" / first.path).write_bytes(photos[-1].read_bytes())
    with pytest.raises(
        SourceError, match=rf"{first.path}: changed_since_prepare, .* `pipeline prepare --rehash`"
    ):
        export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))


def test_check__images_of_any_split_where_val_is_empty(workspace: Workspace, tmp_path: Path) -> None:
    rows = [row for row in read_manifest(workspace.manifest_file).rows if row.split != "val"]
    write_manifest(workspace.manifest_file, rows)
    (written,) = export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))
    assert (written.parity.split, written.parity.images) == ("the manifest", 32)
    write_manifest(workspace.manifest_file, [])
    with pytest.raises(ManifestError, match="lists no usable image"):
        export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))


# --- what cannot be exported


def refuses(workspace: Workspace, model: str, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> str:
    """Export, which has to be refused before any work; return the reason."""
    monkeypatch.setattr(forms, "forms_of", lambda *_: pytest.fail("work was begun"))
    monkeypatch.setattr("pipeline.results.export.export.Sample", None)
    with pytest.raises(ModelError) as caught:
        export(workspace, model, wanted)
    return str(caught.value)


def test_refused__int8(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = workspace.model_folder("logreg") / "model.json"
    stored = json.loads(description.read_bytes())
    stored["identity"] |= {"precision": "int8", "quantised_sha256": "ab" * 32}
    description.write_text(json.dumps(stored))
    told = refuses(workspace, "logreg", Wanted(torch_export=tmp_path / "pets.pt2"), monkeypatch)
    assert "features of precision int8" in told
    assert "Set extract.precision to half" in told


def test_refused__no_linear_head(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(workspace, "knn")
    told = refuses(workspace, "knn", Wanted(torch_export=tmp_path / "pets.pt2"), monkeypatch)
    assert told.startswith("model 'knn' (knn) is not linear")


def test_refused__state_dict_of_what_is_no_layer(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(workspace, "logreg", name="normed", changes={"normalize": "l2"})
    wanted = Wanted(torch_export=tmp_path / "pets.pt2", state_dict=tmp_path / "pets.pth")
    assert "normalize l2 is no linear step" in refuses(workspace, "normed", wanted, monkeypatch)
    assert not (tmp_path / "pets.pt2").exists()


def test_refused__another_extractor(workspace: Workspace, tmp_path: Path) -> None:
    write_params(workspace.params_file, {"extract.resize": 40})
    with pytest.raises(IdentityMismatch, match="resize 40 against 32"):
        export(workspace, "logreg", Wanted(torch_export=tmp_path / "pets.pt2"))
