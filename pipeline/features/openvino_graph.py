"""VGG16 as an OpenVINO graph, built from arrays: neither torch nor a model file has a part in it.

Owns the graph, and how OpenVINO is imported. What its numbers are is up to the caller.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.errors import DeviceError
from pipeline.features.state import CONVOLUTIONS

_CONVOLUTION_INDICES = {index for index, _, _ in CONVOLUTIONS}
_LEVELS = 256  # of an activation: 0 to 255


@dataclass(frozen=True)
class Layer:
    """A convolution, its ReLU, and what is quantised of them.

    Attributes
    ----------
    kernel : ndarray of float32, or of int8, shape (out, in, 3, 3)
        Whole numbers are to be multiplied by `scale`.
    bias : ndarray of float32, shape (out,)
        Added to the result.
    scale : ndarray of float32, shape (out,), optional
        Of an int8 kernel, for each output channel.
    limit : float, optional
        The activations are rounded to 256 levels from 0 to this; None leaves them as they are.
    """

    kernel: npt.NDArray[Any]
    bias: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32] | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes of the network that others are attached to.

    Attributes
    ----------
    pixels : openvino.op.Parameter
        uint8, shape (n, height, width, 3).
    activations : list of openvino.Node
        float32, behind the ReLU of each convolution, shape (n, out, height, width).
    features : openvino.Node
        float32, shape (n, 25088).
    """

    pixels: Any
    activations: list[Any]
    features: Any


def import_openvino() -> Any:
    """Import OpenVINO without the telemetry that it sends, by default, when it is imported.

    Raises
    ------
    DeviceError
        It is not installed.
    """
    # None makes the import of that package fail, which OpenVINO answers with its own stub
    sys.modules.setdefault("openvino_telemetry", cast("ModuleType", None))
    try:
        import openvino
    except ImportError as error:
        raise DeviceError(
            f"OpenVINO cannot be imported ({error}): pip install 'feature-cache-pipeline[openvino]', "
            f"or in a checkout pip install -e '.[openvino]'."
        ) from error
    return openvino


def build_graph(layers: Sequence[Layer], mean: Sequence[float], std: Sequence[float]) -> Graph:
    """Lay out torchvision's ``vgg16`` up to the classifier, for images of any size.

    Parameters
    ----------
    layers : sequence of Layer, length 13
        In the order of the network.
    mean, std : sequences of 3 float
        Normalisation of red, green and blue in [0, 1].
    """
    ops = import_openvino().opset14

    def constant(values: npt.ArrayLike, *shape: int) -> Any:
        return ops.constant(np.asarray(values, np.float32).reshape(shape))

    pixels = ops.parameter([-1, -1, -1, 3], np.uint8, name="pixels")
    node = ops.transpose(ops.convert(pixels, np.float32), ops.constant([0, 3, 1, 2]))
    node = ops.divide(node, constant(255))
    node = ops.divide(ops.subtract(node, constant(mean, 1, 3, 1, 1)), constant(std, 1, 3, 1, 1))
    activations = []
    for (index, _, _), layer in zip(CONVOLUTIONS, layers, strict=True):
        kernel = ops.constant(layer.kernel)
        if layer.scale is not None:
            kernel = ops.multiply(ops.convert(kernel, np.float32), constant(layer.scale, -1, 1, 1, 1))
        node = ops.convolution(node, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
        node = ops.relu(ops.add(node, constant(layer.bias, 1, -1, 1, 1)))
        activations.append(node)
        if layer.limit is not None:
            ends = [constant(end, 1, 1, 1, 1) for end in (0, layer.limit)]
            node = ops.fake_quantize(node, *ends, *ends, _LEVELS)
        # In torchvision's numbering the ReLU follows, then the next convolution or the pooling.
        if index + 2 not in _CONVOLUTION_INDICES:
            node = ops.max_pool(node, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    node = ops.adaptive_avg_pool(node, ops.constant([7, 7]))
    return Graph(pixels, activations, ops.reshape(node, ops.constant([0, -1]), special_zero=True))


class Network:
    """A part of the graph, ready to run on the CPU.

    It runs in a thread of its own. OpenVINO gives the thread that calls it another stack for signals,
    and takes that away with the network; Python then handled Ctrl-C on memory that was gone, and crashed.

    Parameters
    ----------
    graph : Graph
        Where the pixels come in.
    outputs : sequence of openvino.Node
        What is to be computed.
    precision : {"f32", "bf16"}
        What is not quantised is computed in this.
    threads : int, optional
        That compute; by default as OpenVINO sees fit.

    Attributes
    ----------
    computed_in : str
        The type that was chosen: a CPU need not have what was asked for.
    """

    def __init__(
        self, graph: Graph, outputs: Sequence[Any], precision: str = "f32", threads: int | None = None
    ) -> None:
        openvino = import_openvino()
        model = openvino.Model(list(outputs), [graph.pixels], "vgg16")
        config = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
            config["ENABLE_CPU_PINNING"] = "NO"  # or several processes pin themselves to the same cores
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="openvino")
        self._compiled = self._thread.submit(openvino.Core().compile_model, model, "CPU", config).result()
        self.computed_in: str = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Push images through.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, height, width, 3)
            Contiguous; not copied.

        Returns
        -------
        list of ndarray of float32
            One for each of `outputs`.
        """
        return list(self._thread.submit(self._compiled, pixels, share_inputs=True).result().values())
