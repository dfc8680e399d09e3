"""The frozen network on a CPU by way of OpenVINO; torch is never imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.errors import WeightsError
from pipeline.features.openvino_graph import Layer, Network, build_graph, import_openvino
from pipeline.features.quantised import REMEDY, load_quantised
from pipeline.features.state import CONVOLUTIONS
from pipeline.features.weights import Weights, load_weights

_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class OpenVinoBackbone:
    """VGG16 from pixels to the 25,088 numbers behind ``avgpool``; see `Backbone`.

    Parameters
    ----------
    weights : Weights
        Whose values are loaded (fetched, where they are absent), unless a quantised network is given.
    precision : {"half", "float32", "int8"}
        Precision class. ``half`` is bfloat16 where the CPU has it, and float32 elsewhere.
    quantised : Path, optional
        The network of precision ``int8``.
    threads : int, optional
        That compute; by default as OpenVINO sees fit.

    Raises
    ------
    DeviceError
        OpenVINO is not installed.
    WeightsError
        The weights cannot be fetched, or the quantised network is absent, damaged, or made of others.
    """

    def __init__(
        self, weights: Weights, precision: str, quantised: Path | None = None, threads: int | None = None
    ) -> None:
        openvino = import_openvino()
        layers = _layers(weights) if quantised is None else _quantised_layers(weights, quantised)
        graph = build_graph(layers, weights.mean, weights.std)
        native = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        hint = "bf16" if precision == "half" and "BF16" in native else "f32"
        self._network = Network(graph, [graph.features], hint, threads)
        # any size is as fast as any other; small ones keep the memory small
        self.batch_size = 4
        computed_in = _NAMES[self._network.computed_in]
        self.made_with = {
            "device": "cpu",
            "backend": "openvino",
            "computed_in": "int8" if quantised else computed_in,
            "openvino": str(openvino.__version__).partition("-")[0],
        }

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Push images through; see `Backbone`."""
        # no copy where the pixels of an image lie together, as they come from a decoder
        inputs = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        [features] = self._network(inputs)
        return features


def _layers(weights: Weights) -> list[Layer]:
    state = load_weights(weights)
    return [Layer(state[f"{index}.weight"], state[f"{index}.bias"]) for index, _, _ in CONVOLUTIONS]


def _quantised_layers(weights: Weights, file: Path) -> list[Layer]:
    network = load_quantised(file)
    if network.weights_sha256 != weights.sha256:
        raise WeightsError(
            f"{printable(str(file))} was quantised from the weights {network.weights_sha256[:12]}…, and "
            f"extract.weights are {printable(weights.name)} ({weights.sha256[:12]}…). {REMEDY}"
        )
    return network.layers()
