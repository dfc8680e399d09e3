"""The ONNX graph that resizes, crops and normalises, against Pillow and the pipeline's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.features.transforms import to_pixels
from tests.heads.conftest import IDENTITY

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Preprocessing = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
MEAN, STD = (0.48, 0.45, 0.4), (0.23, 0.22, 0.21)


def preprocessing_of(resize: int, image_size: int) -> Preprocessing:
    from pipeline.results.export.onnx_preprocessing import IMAGES, preprocessing

    identity = replace(IDENTITY, resize=resize, image_size=image_size, mean=MEAN, std=STD)
    graph = preprocessing(identity, "normalised", 18, 10)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {IMAGES: images})[0])


def levels(normalised: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Undo the normalisation: 0 to 255, shape (n, height, width, 3)."""
    found = normalised.transpose(0, 2, 3, 1).astype(np.float64)
    return (found * STD + MEAN) * 255


@pytest.mark.parametrize(("resize", "image_size"), [(256, 224), (64, 64), (65, 32)])
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (64, 64),
        (65, 64),
        (300, 257),
        (40, 36),
        (100, 333),
        (333, 100),
        (1, 3),
        (640, 20),
        (17, 500),
        (480, 640),
    ],
)
def test_preprocessing__the_pixels_of_pillow(height: int, width: int, resize: int, image_size: int) -> None:
    """Of noise, the worst case: no neighbours are alike, so that nothing hides a wrong weight."""
    images = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    found = levels(preprocessing_of(resize, image_size)(images))
    assert found.shape == (2, image_size, image_size, 3)
    pixels = [np.asarray(to_pixels(Image.fromarray(image), resize, image_size)) for image in images]
    assert np.abs(found - np.stack(pixels)).max() < 1e-3  # what float32 leaves of the normalisation


def test_preprocessing__same_size_is_exact() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    found = preprocessing_of(64, 64)(images)
    expected = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("scale", [1, 0.4, 3.7])
def test_preprocessing__photographs(shared: Any, scale: float) -> None:
    run = preprocessing_of(256, 224)
    files = sorted((shared / "cats-dogs" / "cat").glob("*.jpg"))[:4]
    for file in files:
        image = Image.open(file).convert("RGB")
        image = image.resize((round(scale * image.width), round(scale * image.height)))
        found = levels(run(np.asarray(image)[np.newaxis]))[0]
        assert np.abs(found - np.asarray(to_pixels(image, 256, 224))).max() < 1e-3
    assert files
