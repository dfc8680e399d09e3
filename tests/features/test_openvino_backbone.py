from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import WeightsError
from pipeline.features import openvino_backbone
from pipeline.features.openvino_backbone import OpenVinoBackbone
from pipeline.features.openvino_graph import Layer, Network, build_graph, import_openvino
from pipeline.features.quantised import load_quantised
from pipeline.features.state import CONVOLUTIONS
from pipeline.features.weights import Weights, load_weights, resolve_weights
from tests.features.conftest import relative_errors
from tests.features.networks import cosines, expected_features, needs_openvino, some_pixels

pytestmark = needs_openvino


@pytest.fixture(scope="module")
def random_weights() -> Weights:
    return resolve_weights("random", Path())


@pytest.fixture(scope="module")
def exact(random_weights: Weights) -> OpenVinoBackbone:
    return OpenVinoBackbone(random_weights, "float32")


@pytest.fixture(scope="module")
def int8(random_weights: Weights, random_network: Path) -> OpenVinoBackbone:
    return OpenVinoBackbone(random_weights, "int8", random_network)


@pytest.mark.parametrize("size", [32, 75, 224, 299])
def test_backbone__random_weights_equal_torchvision(
    exact: OpenVinoBackbone, random_weights: Weights, size: int
) -> None:
    pixels = some_pixels(5 if size < 100 else 1, size)
    assert relative_errors(exact(pixels), expected_features(random_weights, pixels)).max() < 1e-4


def test_backbone__oxford_weights_equal_torchvision(oxford_in_cache: Path) -> None:
    weights = resolve_weights("oxford", Path())
    pixels = some_pixels(4, 64, seed=3)
    expected = expected_features(weights, pixels)
    assert relative_errors(OpenVinoBackbone(weights, "float32")(pixels), expected).max() < 1e-4
    assert expected.max() > 1  # and not all zeros


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_backbone__batch_size_changes_no_bit(
    request: pytest.FixtureRequest, precision: str, size: int
) -> None:
    backbone: OpenVinoBackbone = request.getfixturevalue(precision)
    count, batches = (16, (7, 3, 2, 1)) if size == 32 else (3, (1,))
    pixels = some_pixels(count, size, seed=7)
    whole = backbone(pixels)
    for batch in batches:
        assert np.array_equal(backbone(pixels[-batch:]), whole[-batch:]), batch


@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_backbone__number_of_threads_changes_no_bit(
    request: pytest.FixtureRequest, random_weights: Weights, random_network: Path, precision: str
) -> None:
    openvino = import_openvino()
    backbone: OpenVinoBackbone = request.getfixturevalue(precision)
    state = load_weights(random_weights)
    layers = [Layer(state[f"{index}.weight"], state[f"{index}.bias"]) for index, _, _ in CONVOLUTIONS]
    if precision == "int8":
        layers = load_quantised(random_network).layers()
    graph = build_graph(layers, random_weights.mean, random_weights.std)
    model = openvino.Model([graph.features], [graph.pixels], "vgg16")
    pixels = some_pixels(3, 64)
    expected = backbone(pixels)
    for threads in (1, 3):
        config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        with ThreadPoolExecutor(1) as thread:  # never in this one: see `Network`
            network = thread.submit(openvino.Core().compile_model, model, "CPU", config).result()
            inputs = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            assert np.array_equal(thread.submit(network, inputs).result()[0], expected), threads


@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_backbone__a_row_does_not_depend_on_its_neighbours(
    request: pytest.FixtureRequest, precision: str
) -> None:
    backbone: OpenVinoBackbone = request.getfixturevalue(precision)
    pixels = some_pixels(6)
    others = pixels.copy()
    others[:5] = 255 - others[:5]
    assert np.array_equal(backbone(pixels)[5], backbone(others)[5])


def test_backbone__layout_in_memory_changes_no_bit(exact: OpenVinoBackbone) -> None:
    pixels = some_pixels(3)
    plain = np.ascontiguousarray(pixels)
    plain.flags.writeable = False
    assert np.array_equal(exact(pixels), exact(plain))


def test_backbone__result_is_not_overwritten_by_the_next_one(exact: OpenVinoBackbone) -> None:
    pixels = some_pixels(2)
    before = pixels.copy()
    first = exact(pixels)
    kept = first.copy()
    exact(255 - pixels)
    assert np.array_equal(first, kept)
    assert np.array_equal(pixels, before)


def test_backbone__result(exact: OpenVinoBackbone) -> None:
    features = exact(some_pixels(3))
    assert features.shape == (3, 25_088)
    assert features.dtype == np.float32
    assert features.min() == 0  # behind a ReLU
    assert (features.sum(axis=1) > 0).all()
    assert exact.made_with["openvino"].count(".") == 2
    assert exact.made_with | {"openvino": ""} == {
        "device": "cpu",
        "backend": "openvino",
        "computed_in": "float32",
        "openvino": "",
    }


def test_backbone__half_is_close_to_float32(exact: OpenVinoBackbone, random_weights: Weights) -> None:
    pixels = some_pixels(6, 64)
    half = OpenVinoBackbone(random_weights, "half")
    assert half.made_with["computed_in"] in {"bfloat16", "float32"}
    assert cosines(half(pixels), exact(pixels)).min() > 0.999


@pytest.mark.parametrize(
    ("capabilities", "precision", "expected"),
    [
        (["FP32", "BF16"], "half", "bf16"),
        (["FP32", "FP16"], "half", "f32"),  # activations do not fit float16
        (["FP32", "BF16"], "float32", "f32"),
    ],
)
def test_backbone__half_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch,
    random_weights: Weights,
    capabilities: list[str],
    precision: str,
    expected: str,
) -> None:
    asked: list[str] = []

    def recording(graph: Any, outputs: Any, hint: str, threads: int | None) -> Any:
        asked.append(hint)
        return Network(graph, outputs, "f32")

    monkeypatch.setattr(openvino_backbone, "Network", recording)
    monkeypatch.setattr(import_openvino().Core, "get_property", lambda *_: capabilities)
    OpenVinoBackbone(random_weights, precision)
    assert asked == [expected]


def test_int8__is_close_to_float32(exact: OpenVinoBackbone, int8: OpenVinoBackbone) -> None:
    pixels = some_pixels(12, seed=99)  # not those of the sample
    assert cosines(int8(pixels), exact(pixels)).min() > 0.99
    assert not np.array_equal(int8(pixels), exact(pixels))
    assert int8.made_with["computed_in"] == "int8"


def test_int8__needs_no_float_weights(random_weights: Weights, random_network: Path) -> None:
    absent = replace(random_weights, name="gone.pth", file=Path("/nowhere/gone.pth"))
    assert OpenVinoBackbone(absent, "int8", random_network)(some_pixels(1)).any()


def test_int8__network_made_of_other_weights(random_weights: Weights, random_network: Path) -> None:
    other = replace(random_weights, sha256="cd" * 32)
    with pytest.raises(WeightsError) as caught:
        OpenVinoBackbone(other, "int8", random_network)
    assert str(caught.value).startswith(
        f"{random_network} was quantised from the weights {random_weights.sha256[:12]}…, and "
        f"extract.weights are random (cdcdcdcdcdcd…). "
    )
