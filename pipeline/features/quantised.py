"""VGG16 in 8-bit numbers: made once from a sample of the training images, and kept with the features.

Owns how the network is quantised, and the file that it is kept in. It runs nothing but the
calibration.

Weights are rounded to 127 levels, one scale for each output channel; activations, which a ReLU
leaves above 0, to 256 levels from 0 to what 95 % of the sample stay below. The first convolution,
a hundredth of the work, stays float32, and so does the result of the last. CPUs without VNNI add
pairs of products in 16 bits: with seven bits of weight that cannot overflow (2 × 255 × 63 < 2¹⁵), so
all CPUs compute the same sums. A finer rounding of the weights did overflow in trials.

The file is safetensors: arrays and nothing else, the same bytes for the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.dataset.manifest import ImageRow
from pipeline.errors import WeightsError
from pipeline.features.openvino_graph import Layer, Network, build_graph, import_openvino
from pipeline.features.state import CONVOLUTIONS
from pipeline.features.weights import Weights, load_weights

#: Name of the file, beside the features and beside the models.
QUANTISED = "quantised.safetensors"
#: Images in the sample.
SAMPLE = 128
#: What to do without the right network.
REMEDY = (
    "Copy it back from the store or from a model trained on it; or run `pipeline extract --fresh`, which "
    "draws it anew, and replaces the features if it comes out as another."
)

_LARGEST = 63  # of a weight: see above
# Share of the sample whose activations are not cut: with all of them, odd images set the levels for the
# others, and a larger sample made a worse network. From 32 images on it hardly mattered how many.
_COVERED = 0.95
_FORMAT = 1
_FIRST, _LAST = CONVOLUTIONS[0][0], CONVOLUTIONS[-1][0]

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Quantised:
    """A quantised network.

    Attributes
    ----------
    sha256 : str
        Digest of everything in it.
    weights_sha256 : str
        Digest of the weights that it was made of, see `Weights`.
    arrays : dict of str to ndarray
        ``{index}.weight``, int8, shape (out, in, 3, 3), float32 for the first; ``{index}.scale`` and
        ``{index}.bias``, float32, shape (out,); ``{index}.limit``, float32, where activations are cut.
    """

    sha256: str
    weights_sha256: str
    arrays: Arrays

    def layers(self) -> list[Layer]:
        """Return the convolutions in order."""
        layers = []
        for index, _, _ in CONVOLUTIONS:
            limit = self.arrays.get(f"{index}.limit")
            layers.append(
                Layer(
                    kernel=self.arrays[f"{index}.weight"],
                    bias=self.arrays[f"{index}.bias"],
                    scale=self.arrays.get(f"{index}.scale"),
                    limit=None if limit is None else float(limit),
                )
            )
        return layers


def calibration_rows(rows: Iterable[ImageRow], count: int = SAMPLE) -> list[ImageRow]:
    """Draw images of the training split, by content: names, order and copies play no part.

    Parameters
    ----------
    rows : iterable of ImageRow
        Of the manifest.
    count : int, default 128
        How many; fewer if there are not so many.
    """
    training = {row.sha256: row for row in rows if row.status == "ok" and row.split == "train"}
    return [training[sha256] for sha256 in sorted(training)[:count]]


def quantise(
    weights: Weights, sample: npt.NDArray[np.uint8], advance: Callable[[int], None] | None = None
) -> bytes:
    """Quantise the network.

    Parameters
    ----------
    weights : Weights
        What it is made of.
    sample : ndarray of uint8, shape (n, 3, height, width)
        At least one image, as the network sees it; see `calibration_rows`.
    advance : callable, optional
        Told how many images are done, after each.

    Returns
    -------
    bytes
        The content of the file, for `load_quantised`.

    Raises
    ------
    DeviceError
        OpenVINO is not installed.
    WeightsError
        The weights cannot be fetched or read.
    """
    state = load_weights(weights)
    limits = _limits(state, weights, sample, advance or (lambda count: None))
    arrays: Arrays = {}
    for (index, _, outputs), limit in zip(CONVOLUTIONS, limits, strict=True):
        kernel = state[f"{index}.weight"]
        arrays[f"{index}.bias"] = state[f"{index}.bias"]
        if index == _FIRST:
            arrays[f"{index}.weight"] = kernel
        else:
            largest = np.abs(kernel).reshape(outputs, -1).max(axis=1)
            scale = np.where(largest > 0, largest, 1) / np.float32(_LARGEST)
            arrays[f"{index}.scale"] = scale
            arrays[f"{index}.weight"] = np.rint(kernel / scale[:, None, None, None]).astype(np.int8)
        if index != _LAST:
            arrays[f"{index}.limit"] = np.array(limit if limit > 0 else 1, np.float32)
    return _content(arrays, weights.sha256)


def load_quantised(file: Path) -> Quantised:
    """Read a quantised network, and check that it is what was written.

    Raises
    ------
    WeightsError
        It is absent or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as content:
            about = json.loads(content.metadata()["quantised"])
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        found = Quantised(about["sha256"], about["weights_sha256"], arrays)
        if about["format"] != _FORMAT or _digest(arrays, found.weights_sha256) != found.sha256:
            raise ValueError("its numbers are not those that were written")
        if {name: (array.shape, array.dtype.name) for name, array in arrays.items()} != _expected():
            raise ValueError("not a quantised vgg16")
    except FileNotFoundError:
        raise WeightsError(f"{printable(str(file))}: there is no quantised network. {REMEDY}") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{printable(str(file))}: the quantised network is damaged ({printable(str(error))}). {REMEDY}"
        ) from error
    return found


def quantised_digest(file: Path) -> str:
    """Return the digest of a quantised network that was found undamaged; see `load_quantised`."""
    return load_quantised(file).sha256


def _limits(
    state: Mapping[str, npt.NDArray[np.float32]],
    weights: Weights,
    sample: npt.NDArray[np.uint8],
    advance: Callable[[int], None],
) -> npt.NDArray[np.float32]:
    """Find, for each ReLU, how large the activations behind it become: shape (13,)."""
    ops = import_openvino().opset14
    layers = [Layer(state[f"{index}.weight"], state[f"{index}.bias"]) for index, _, _ in CONVOLUTIONS]
    graph = build_graph(layers, weights.mean, weights.std)
    maxima = [ops.reduce_max(node, ops.constant([0, 1, 2, 3])) for node in graph.activations]
    network = Network(graph, maxima)
    largest = np.empty((len(sample), len(layers)), np.float32)
    for number, pixels in enumerate(sample):
        found = network(np.ascontiguousarray(pixels.transpose(1, 2, 0))[None])
        largest[number] = [float(value) for value in found]
        advance(1)
    return np.quantile(largest, _COVERED, axis=0).astype(np.float32)


def _content(arrays: Arrays, weights_sha256: str) -> bytes:
    from safetensors.numpy import save

    about = {"format": _FORMAT, "weights_sha256": weights_sha256, "sha256": _digest(arrays, weights_sha256)}
    # one entry: safetensors puts several in any order
    content: bytes = save(arrays, {"quantised": json.dumps(about)})
    return content


def _digest(arrays: Arrays, weights_sha256: str) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {weights_sha256}\n".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _expected() -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every array in the file."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {}
    for index, inputs, outputs in CONVOLUTIONS:
        kind = "float32" if index == _FIRST else "int8"
        expected[f"{index}.weight"] = ((outputs, inputs, 3, 3), kind)
        expected[f"{index}.bias"] = ((outputs,), "float32")
        if index != _FIRST:
            expected[f"{index}.scale"] = ((outputs,), "float32")
        if index != _LAST:
            expected[f"{index}.limit"] = ((), "float32")
    return expected
