"""VGG16Features and BackboneFeatures: the same rows as `pipeline extract`, in scikit-learn's terms."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline.dataset.manifest import read_manifest
from pipeline.errors import IdentityMismatch, ParamsError, SourceError, StoreLocked
from pipeline.features.extract import extract
from pipeline.features.extractor import Extractor
from pipeline.features.identity import DIMENSION
from pipeline.features.index import row_keys
from pipeline.features.lock import locked
from pipeline.features.store import FeatureStore
from pipeline.features.transformer import BackboneFeatures
from pipeline.features.vgg16_transformer import VGG16Features
from pipeline.workspace import Workspace
from tests.features.conftest import PARAMS, write_photo

SMALL: dict[str, Any] = {"weights": "random", "precision": "float32", "resize": 32, "image_size": 32}


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Six small photographs."""
    files = [tmp_path / "photos" / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        write_photo(file, number)
    return list(map(str, files))


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the network, batch by batch."""
    counts: list[int] = []
    original = Extractor.forward

    def forward(extractor: Extractor, pixels: Any) -> Any:
        counts.append(len(pixels))
        return original(extractor, pixels)

    monkeypatch.setattr(Extractor, "forward", forward)
    return counts


def pixels_of(file: str) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(file).convert("RGB"))


# --- rows


def test_rows__those_of_a_workspace(workspace: Workspace, forwarded: list[int]) -> None:
    extract(workspace)
    manifest = read_manifest(workspace.manifest_file)
    expected = FeatureStore.open(workspace.store_folder).read(row_keys(manifest))
    files = [workspace.root / "photos" / row.path for row in manifest.usable]
    computed = VGG16Features(**SMALL).transform(files)
    assert computed.dtype == np.float32
    assert (computed == expected).all()
    forwarded.clear()
    stored = VGG16Features(**SMALL, store=workspace.store_folder).transform(files)
    assert (stored == expected).all()
    assert forwarded == []


def test_rows__of_another_network(
    new_workspace: Callable[..., Workspace], tmp_path: Path, forwarded: list[int]
) -> None:
    workspace = new_workspace(params=PARAMS.replace("{weights", "{backbone: shufflenet_v2_x0_5, weights"))
    extract(workspace)
    manifest = read_manifest(workspace.manifest_file)
    expected = FeatureStore.open(workspace.store_folder).read(row_keys(manifest))
    files = [workspace.root / "photos" / row.path for row in manifest.usable]
    forwarded.clear()
    features = BackboneFeatures("shufflenet_v2_x0_5", **SMALL, store=tmp_path / "store")
    for computed in (len(files), 0):
        found = features.fit_transform(files)
        assert found.shape == (len(files), 1024)
        assert np.abs(found - expected).max() <= 2e-3 * expected.max()  # batches may differ
        assert sum(forwarded) == computed
        forwarded.clear()
    names = features.get_feature_names_out()
    assert (len(names), names[-1]) == (1024, "backbonefeatures1023")
    assert clone(features).get_params() == features.get_params()
    with pytest.raises(IdentityMismatch, match=r"what VGG16Features asks for"):
        VGG16Features(**SMALL, store=tmp_path / "store").transform(files)


@pytest.mark.parametrize("kind", ["paths", "array of paths", "images", "array of images", "both"])
def test_rows__whatever_names_or_holds_the_images(photos: list[str], kind: str) -> None:
    given: Any = {
        "paths": [Path(file) for file in photos],
        "array of paths": np.array(photos),
        "images": [pixels_of(file) for file in photos],
        "array of images": np.stack([pixels_of(file) for file in photos]),
        "both": [file if number % 2 else pixels_of(file) for number, file in enumerate(photos)],
    }[kind]
    found = VGG16Features(**SMALL).fit_transform(given)
    assert (found == VGG16Features(**SMALL).transform(photos)).all()


def test_rows__copies_are_computed_once(photos: list[str], tmp_path: Path, forwarded: list[int]) -> None:
    (tmp_path / "copy.png").write_bytes(Path(photos[0]).read_bytes())
    image = pixels_of(photos[1])
    found = VGG16Features(**SMALL).transform([photos[0], tmp_path / "copy.png", image, photos[0], image])
    assert sum(forwarded) == 2
    assert (found[0] == found[1]).all()
    assert (found[0] == found[3]).all()
    assert (found[2] == found[4]).all()
    assert (found[0] != found[2]).any()


def test_rows__none() -> None:
    assert VGG16Features(**SMALL).transform([]).shape == (0, DIMENSION)


# --- the store


def test_store__what_is_stored_is_not_computed_again(
    photos: list[str], tmp_path: Path, forwarded: list[int]
) -> None:
    features = VGG16Features(**SMALL, store=tmp_path / "store")
    image = pixels_of(photos[5])
    first = features.transform([*photos[:3], image])
    assert sum(forwarded) == 4
    forwarded.clear()
    second = features.transform([image, *photos[:5]])
    assert sum(forwarded) == 2
    assert (second[1:4] == first[:3]).all()
    assert (second[0] == first[3]).all()
    assert len(FeatureStore.open(tmp_path / "store").keys()) == 6


def test_store__of_another_extractor(photos: list[str], tmp_path: Path) -> None:
    VGG16Features(**SMALL, store=tmp_path / "store").transform(photos[:1])
    other = VGG16Features(**SMALL | {"resize": 40}, store=tmp_path / "store")
    with pytest.raises(IdentityMismatch, match=r"resize 32 against 40\. Name another folder"):
        other.transform(photos[:1])


def test_store__a_workspace_is_none(workspace: Workspace, photos: list[str]) -> None:
    features = VGG16Features(**SMALL, store=workspace.root)
    told = re.escape(f"{workspace.root} is a workspace: its store is {workspace.store_folder}.")
    before = sorted(workspace.root.iterdir())
    for call in (features.fit, features.transform):
        with pytest.raises(ParamsError, match=told):
            call(photos)
    assert sorted(workspace.root.iterdir()) == before


def test_store__being_written_by_another_process(photos: list[str], tmp_path: Path) -> None:
    features = VGG16Features(**SMALL, store=tmp_path / "store")
    features.transform(photos[:2])
    with locked(tmp_path / "store"):
        assert features.transform(photos[:2]).shape == (2, DIMENSION)
        with pytest.raises(StoreLocked):
            features.transform(photos)


# --- what cannot be used


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A file whose end is missing: that is seen only when it is decoded."""
    write_photo(tmp_path / "broken.png", 9)
    data = (tmp_path / "broken.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(data[: len(data) // 2])
    return str(tmp_path / "broken.png")


def test_unusable__files_are_named_and_the_others_are_kept(
    photos: list[str], broken: str, tmp_path: Path
) -> None:
    features = VGG16Features(**SMALL, store=tmp_path / "store")
    with pytest.raises(SourceError, match=r"2 of 4 images could not be used \(first: .*broken\.png: "):
        features.transform([photos[0], broken, photos[1], tmp_path / "absent.png"])
    assert len(FeatureStore.open(tmp_path / "store").keys()) == 2


def test_unusable__a_file_that_was_never_there(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=rf"\(first: {re.escape(str(tmp_path))}/absent\.png: no such file\)"
    ):
        VGG16Features(**SMALL).transform([tmp_path / "absent.png"])


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ("photo.jpg", TypeError, r"found a single one\. Give \['photo\.jpg'\]"),
        ([3], ValueError, r"item 0 is no path, and no image .*: int of int64\(\)"),
        ([np.zeros((4, 4), np.uint8)], ValueError, r"item 0 .*: ndarray of uint8\(4, 4\)"),
        (np.zeros((2, 4, 4, 3)), ValueError, r"item 0 .*: ndarray of float64\(4, 4, 3\)"),
        ([["a.jpg"]], ValueError, "item 0 is no path"),
    ],
)
def test_unusable__what_is_no_image(given: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        VGG16Features(**SMALL).transform(given)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"precision": "int8"}, "int8 needs a network that is drawn from training images"),
        ({"precision": "double"}, "VGG16Features.precision: expected one of half, float32, int8"),
        ({"image_size": 64}, "expected 32 <= image_size <= resize"),
        ({"storage": "float64"}, "VGG16Features.storage"),
    ],
)
def test_unusable__parameters(params: dict[str, Any], told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        VGG16Features(**SMALL | params).fit([])


def test_unusable__a_network_that_is_not_there() -> None:
    with pytest.raises(ParamsError, match=r"extract\.backbone: .*resnet50"):
        BackboneFeatures("resnet5").fit([])
    with pytest.raises(ParamsError, match=r"oxford are weights of vgg16"):
        BackboneFeatures("resnet50", weights="oxford").fit([])


# --- in scikit-learn


def test_pipeline__learns_and_predicts(photos: list[str], tmp_path: Path) -> None:
    y = ["cat", "dog"] * 3
    features = VGG16Features(**SMALL, store=tmp_path / "store")
    classifier = make_pipeline(features, LogisticRegression(C=1e-2))
    classifier.fit(photos, y)
    direct = LogisticRegression(C=1e-2).fit(VGG16Features(**SMALL).transform(photos), y)
    assert classifier.predict(photos).tolist() == y
    assert (classifier.predict_proba(photos) == direct.predict_proba(features.transform(photos))).all()


def test_estimator__cloned_and_pickled(photos: list[str]) -> None:
    features = VGG16Features(**SMALL, batch_size=2)
    assert clone(features).get_params() == features.get_params()
    again = pickle.loads(pickle.dumps(features))  # noqa: S301 (our own)
    assert (again.transform(photos) == features.transform(photos)).all()


def test_estimator__names_of_columns() -> None:
    names = VGG16Features(**SMALL).get_feature_names_out()
    assert (len(names), names[0], names[-1]) == (DIMENSION, "vgg16features0", "vgg16features25087")


def test_estimator__says_that_it_needs_no_fit() -> None:
    from sklearn.utils import get_tags

    assert not get_tags(VGG16Features()).requires_fit
