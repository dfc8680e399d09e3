"""The way from decoded images to the network's input as an ONNX graph, in the pipeline's own arithmetic.

Owns the graph that stands before the network's. It gives the very pixels of `pipeline.features.transforms`:
sizes are whole numbers, rounded alike, and images are resized in Pillow's fixed-point arithmetic, which
ONNX's own ``Resize`` is not.

References
----------
Pillow, ``src/libImaging/Resample.c``: the triangle filter, and how its weights and sums are rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.features.identity import Identity
from pipeline.features.transforms import LONGEST

if TYPE_CHECKING:
    from onnx import ModelProto

#: Input of this graph: images of one size.
IMAGES = "images"
# Pillow's weights are whole numbers of so many parts; sums over pixels of 8 bits are exact in float64.
_PARTS = 2**22


class _Graph:
    """Nodes and constants, collected; a value is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node, and return the name of its output."""
        from onnx import helper

        output = f"preprocessing_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_{kind}", **attributes))
        return output

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Return the name of an array."""
        from onnx import numpy_helper

        array = np.asarray(values, dtype)
        name = f"preprocessing_constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def middle(self, size: str, part: str) -> str:
        """Return where `part` of `size` pixels begins that lies in their centre, half a pixel to even."""
        two = self.constant([2])
        spare = self.add("Sub", size, part)
        half = self.add("Div", spare, two)
        # (spare + half % 2) // 2: of 2 h + 1, h where that is even, else h + 1
        return self.add("Div", self.add("Add", spare, self.add("Mod", half, two)), two)

    def weights(self, size: str, resized: str, seen: str) -> str:
        """Return what each pixel of a line counts in each that is made of it: float64, shape (seen, size).

        `size` pixels are resized to `resized`, and of these only those at the places `seen` are made.
        """
        half, one = self.constant(0.5, np.float64), self.constant(1, np.float64)
        scale = self.add("Div", self._float64(size), self._float64(resized))
        centres = self.add("Mul", self.add("Add", self._float64(seen), half), scale)
        pixels = self.add("Range", self.constant(0), self.add("Squeeze", size), self.constant(1))
        pixels = self.add("Add", self._float64(pixels), half)
        apart = self.add("Sub", pixels, self.add("Unsqueeze", centres, self.constant([1])))
        # the triangle is as wide as the larger kind of pixel: to make an image smaller is to take means
        apart = self.add("Mul", self.add("Abs", apart), self.add("Reciprocal", self.add("Max", scale, one)))
        weights = self.add("Max", self.add("Sub", one, apart), self.constant(0, np.float64))
        weights = self.add("Div", weights, self.add("ReduceSum", weights, self.constant([1])))
        parts = self.add("Mul", weights, self.constant(_PARTS, np.float64))
        return self.add("Floor", self.add("Add", parts, half))

    def levels(self, sums: str) -> str:
        """Round sums over pixels by `weights` to whole levels."""
        halves = self.add("Add", sums, self.constant(_PARTS / 2, np.float64))
        return self.add("Floor", self.add("Div", halves, self.constant(_PARTS, np.float64)))

    def _float64(self, values: str) -> str:
        from onnx import TensorProto

        return self.add("Cast", values, to=TensorProto.DOUBLE)


def preprocessing(identity: Identity, output: str, opset: int, ir_version: int) -> ModelProto:
    """Lay out the graph.

    Parameters
    ----------
    identity : Identity
        Sizes and normalisation.
    output : str
        Name of what comes out: float32, shape (n, 3, image_size, image_size), normalised.
    opset, ir_version : int
        As in the network's graph; the operators are those of 18.

    Returns
    -------
    onnx.ModelProto
        Its input `IMAGES`: uint8, shape (n, height, width, 3), red, green and blue, upright.
    """
    from onnx import TensorProto, helper

    graph, side = _Graph(), identity.image_size
    images = graph.add("Transpose", IMAGES, perm=[0, 3, 1, 2])
    size = graph.add("Shape", images, start=2, end=4)
    shorter = graph.add("ReduceMin", size, keepdims=1)
    seen = graph.add("Min", size, graph.add("Mul", shorter, graph.constant([LONGEST])))
    start = graph.middle(size, seen)
    images = graph.add("Slice", images, start, graph.add("Add", start, seen), graph.constant([2, 3]))
    images = graph.add("Cast", images, to=TensorProto.DOUBLE)
    resized = graph.add("Div", graph.add("Mul", seen, graph.constant([identity.resize])), shorter)
    start = graph.middle(resized, graph.constant([side, side]))
    down, across = (
        graph.weights(
            graph.add("Gather", seen, graph.constant([axis])),
            graph.add("Gather", resized, graph.constant([axis])),
            graph.add("Add", graph.add("Gather", start, graph.constant([axis])), graph.constant(range(side))),
        )
        for axis in (0, 1)
    )
    # widths first, and whole levels in between, as `to_pixels` has it
    images = graph.levels(graph.add("MatMul", images, graph.add("Transpose", across)))
    images = graph.levels(graph.add("MatMul", down, images))
    images = graph.add("Cast", images, to=TensorProto.FLOAT)
    images = graph.add("Div", images, graph.constant(255, np.float32))
    for step, values in (("Sub", identity.mean), ("Div", identity.std)):
        images = graph.add(step, images, graph.constant(np.reshape(values, (1, 3, 1, 1)), np.float32))
    graph.nodes[-1].output[0] = output
    made = helper.make_graph(
        graph.nodes,
        "preprocessing",
        [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["n", "height", "width", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 3, side, side])],
        list(graph.constants.values()),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
