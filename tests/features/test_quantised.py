from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.dataset.images import decode
from pipeline.dataset.manifest import ImageRow
from pipeline.errors import WeightsError
from pipeline.features.openvino_backbone import OpenVinoBackbone
from pipeline.features.quantised import calibration_rows, load_quantised, quantise, quantised_digest
from pipeline.features.state import CONVOLUTIONS
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import load_weights, resolve_weights
from tests.features.conftest import python_path
from tests.features.networks import cosines, needs_openvino, some_pixels

AGAIN = """
import sys
from pathlib import Path
from pipeline.features.quantised import quantise
from pipeline.features.weights import resolve_weights
import numpy as np
sample = np.load(sys.argv[1])
Path(sys.argv[2]).write_bytes(quantise(resolve_weights("random", Path()), sample))
"""


def row(number: int, split: str = "train", status: str = "ok", path: str = "") -> ImageRow:
    sha256 = f"{number:064x}"
    name = path or f"{99 - number}.jpg"
    return ImageRow(name, "cat", split, "", sha256, 1, 1, 1, status, "")  # type: ignore[arg-type]


def test_calibration_rows__the_first_by_content_of_the_training_split() -> None:
    rows = [row(5), row(3), row(1, "val"), row(2, "test"), row(4), row(0, "", "quarantined"), row(9)]
    assert [int(found.sha256, 16) for found in calibration_rows(rows, 3)] == [3, 4, 5]
    assert calibration_rows(rows[::-1], 3) == calibration_rows(rows, 3)
    assert len(calibration_rows(rows, 100)) == 4
    assert calibration_rows([], 3) == []


def test_calibration_rows__copies_count_once() -> None:
    found = calibration_rows([row(3), row(3, path="copy.jpg"), row(4)])
    assert [int(one.sha256, 16) for one in found] == [3, 4]


@needs_openvino
def test_quantise__same_bytes_in_another_process(random_network: Path, tmp_path: Path) -> None:
    sample, found = tmp_path / "sample.npy", tmp_path / "found"
    np.save(sample, some_pixels(6))
    subprocess.run([sys.executable, "-c", AGAIN, sample, found], env=python_path(), check=True)
    assert found.read_bytes() == random_network.read_bytes()


@needs_openvino
def test_quantise__numbers(random_network: Path) -> None:
    state = load_weights(resolve_weights("random", Path()))
    found = load_quantised(random_network)
    for index, _, _ in CONVOLUTIONS:
        kernel, quantised = state[f"{index}.weight"], found.arrays[f"{index}.weight"]
        assert np.array_equal(found.arrays[f"{index}.bias"], state[f"{index}.bias"])
        if index == 0:
            assert np.array_equal(quantised, kernel)
            continue
        scale = found.arrays[f"{index}.scale"][:, None, None, None]
        assert np.abs(quantised).reshape(len(quantised), -1).max(axis=1).tolist() == [63] * len(quantised)
        assert np.abs(quantised * scale - kernel).max() <= scale.max() / 2 * 1.001


@needs_openvino
def test_quantise__limits_are_what_nearly_all_of_the_sample_stays_below(random_network: Path) -> None:
    weights = resolve_weights("random", Path())
    state = {key: torch.from_numpy(value) for key, value in load_weights(weights).items()}
    mean, std = (np.array(values)[:, None, None] for values in (weights.mean, weights.std))
    node = torch.from_numpy(((some_pixels(6) / 255 - mean) / std).astype(np.float32))
    found = load_quantised(random_network)
    for index, _, _ in CONVOLUTIONS:
        node = functional.conv2d(node, state[f"{index}.weight"], state[f"{index}.bias"], padding=1).relu()
        if index != 28:
            largest = sorted(float(maximum) for maximum in node.amax((1, 2, 3)))
            # 95 % of the way from the first to the last of six: three quarters from the fifth to the sixth
            expected = largest[4] + 0.75 * (largest[5] - largest[4])
            assert float(found.arrays[f"{index}.limit"]) == pytest.approx(expected, rel=1e-4)
        if index in {2, 7, 14, 21, 28}:  # torchvision's vgg16().features: before each MaxPool2d
            node = functional.max_pool2d(node, 2)
    assert "28.limit" not in found.arrays  # what is stored is not rounded


@needs_openvino
def test_quantise__says_how_far_it_is() -> None:
    done: list[int] = []
    quantise(resolve_weights("random", Path()), some_pixels(3), done.append)
    assert done == [1, 1, 1]


@needs_openvino
def test_load_quantised__what_it_was_made_of(random_network: Path) -> None:
    found = load_quantised(random_network)
    assert found.weights_sha256 == resolve_weights("random", Path()).sha256
    assert found.sha256 == quantised_digest(random_network)
    assert len(found.sha256) == 64


@needs_openvino
def test_quantised_digest__another_sample_is_another_network(random_network: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(quantise(resolve_weights("random", Path()), some_pixels(1, seed=5)))
    assert quantised_digest(other) != quantised_digest(random_network)


def test_load_quantised__absent(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"quantised: there is no quantised network\. .*--fresh"):
        load_quantised(tmp_path / "quantised")


@needs_openvino
def test_load_quantised__a_flipped_bit_anywhere(random_network: Path, tmp_path: Path) -> None:
    file = tmp_path / "quantised\n.safetensors"
    shutil.copyfile(random_network, file)
    size = file.stat().st_size
    generator = np.random.default_rng(0)
    header = int.from_bytes(file.read_bytes()[:8], "little")
    # the numbers, wherever they are, and the header, which is mostly names and places
    places = [*generator.integers(0, size, 8), *generator.integers(0, header, 30), 0, 7, 8, size - 1]
    for place in map(int, places):
        with file.open("r+b") as stream:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 1]))
            stream.flush()
            with pytest.raises(WeightsError) as caught:
                load_quantised(file)
            stream.seek(place)
            stream.write(bytes([byte]))
        assert str(caught.value).startswith(
            f"{tmp_path}/quantised\\n.safetensors: the quantised network is damaged ("
        )
    load_quantised(file)


@needs_openvino
@pytest.mark.parametrize("keep", [0, 7, 100, 10_000_000])
def test_load_quantised__cut_short(random_network: Path, tmp_path: Path, keep: int) -> None:
    file = tmp_path / "quantised"
    file.write_bytes(random_network.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="quantised: the quantised network is damaged"):
        load_quantised(file)


def test_load_quantised__something_else(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    file = tmp_path / "quantised"
    for metadata in (None, {"quantised": "{}"}, {"quantised": "[]"}, {"quantised": "{"}):
        save_file({"0.weight": np.zeros(3)}, file, metadata)
        with pytest.raises(WeightsError, match="quantised: the quantised network is damaged"):
            load_quantised(file)


@needs_openvino
def test_load_quantised__arrays_of_another_network(random_network: Path, tmp_path: Path) -> None:
    from pipeline.features.quantised import _content

    found, file = load_quantised(random_network), tmp_path / "quantised"
    file.write_bytes(_content(found.arrays | {"2.bias": np.zeros(3, np.float32)}, found.weights_sha256))
    with pytest.raises(WeightsError, match="not a quantised vgg16"):
        load_quantised(file)


@needs_openvino
def test_quantise__a_dead_layer(
    random_network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All weights of a layer zero, and with them all activations behind it."""
    weights = replace(resolve_weights("random", Path()), sha256="00" * 32)
    state = dict(load_weights(weights))  # others may share it
    state["5.weight"] = np.zeros_like(state["5.weight"])
    monkeypatch.setattr("pipeline.features.quantised.load_weights", lambda _: state)
    file = tmp_path / "quantised"
    file.write_bytes(quantise(weights, some_pixels(1)))
    features = OpenVinoBackbone(weights, "int8", file)(some_pixels(2))
    assert np.array_equal(features, np.zeros((2, 25_088), np.float32))


@needs_openvino
def test_quantise__photographs(oxford_in_cache: Path, shared: Path, tmp_path: Path) -> None:
    """Cosine to float32 features, on images that are not in the sample."""
    files = sorted((shared / "cats-dogs").rglob("*.jpg"))[::150]
    images = [np.asarray(to_pixels(decode(file.read_bytes()), 256, 224)) for file in files]
    pixels = np.stack(images).transpose(0, 3, 1, 2)
    weights, network = resolve_weights("oxford", Path()), tmp_path / "quantised"
    network.write_bytes(quantise(weights, pixels[:4]))
    exact, int8 = OpenVinoBackbone(weights, "float32"), OpenVinoBackbone(weights, "int8", network)
    assert cosines(int8(pixels[4:]), exact(pixels[4:])).min() > 0.99
