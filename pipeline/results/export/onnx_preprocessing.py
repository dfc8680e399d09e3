"""The way from decoded images to the network's input as an ONNX graph, in the pipeline's own arithmetic.

Owns the graph that stands before the network's. Sizes are whole numbers, rounded as in
`pipeline.features.transforms`; images stay in 8 bits while they are resized, as Pillow has them. onnxruntime
resizes like that to within one level of 255, in one pixel of a thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.features.identity import Identity

if TYPE_CHECKING:
    from onnx import ModelProto

#: Input of this graph: images of one size.
IMAGES = "images"
# Of an image more than so many times as long as wide, the middle is seen: as `to_pixels` has it.
_LONGEST = 16


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

    def centred(self, images: str, size: str) -> str:
        """Cut a rectangle of `size` (height, width) from the centre: half a pixel is rounded to even."""
        two = self.constant([2])
        spare = self.add("Sub", self.add("Shape", images, start=2, end=4), size)
        half = self.add("Div", spare, two)
        # (spare + half % 2) // 2: of 2 h + 1, h where that is even, else h + 1
        start = self.add("Div", self.add("Add", spare, self.add("Mod", half, two)), two)
        return self.add("Slice", images, start, self.add("Add", start, size), self.constant([2, 3]))


def preprocessing(identity: Identity, output: str, opset: int, ir_version: int) -> ModelProto:
    """Lay out the graph.

    Parameters
    ----------
    identity : Identity
        Sizes and normalisation.
    output : str
        Name of what comes out: float32, shape (n, 3, image_size, image_size), normalised.
    opset, ir_version : int
        As in the network's graph; at least 18, the first with antialiasing.

    Returns
    -------
    onnx.ModelProto
        Its input `IMAGES`: uint8, shape (n, height, width, 3), red, green and blue, upright.
    """
    from onnx import TensorProto, helper

    graph = _Graph()
    images = graph.add("Transpose", IMAGES, perm=[0, 3, 1, 2])
    size = graph.add("Shape", images, start=2, end=4)
    most = graph.add("Mul", graph.add("ReduceMin", size, keepdims=1), graph.constant([_LONGEST]))
    size = graph.add("Min", size, most)
    images = graph.centred(images, size)
    resized = graph.add("Mul", size, graph.constant([identity.resize]))
    resized = graph.add("Div", resized, graph.add("ReduceMin", size, keepdims=1))
    sizes = graph.add("Concat", graph.add("Shape", images, start=0, end=2), resized, axis=0)
    # at the borders, as Pillow does, weights of pixels that are not there go to those that are
    how = {"mode": "linear", "antialias": 1, "exclude_outside": 1}
    images = graph.add("Resize", images, "", "", sizes, coordinate_transformation_mode="half_pixel", **how)
    images = graph.centred(images, graph.constant([identity.image_size] * 2))
    images = graph.add("Cast", images, to=TensorProto.FLOAT)
    images = graph.add("Div", images, graph.constant(255, np.float32))
    for step, values in (("Sub", identity.mean), ("Div", identity.std)):
        images = graph.add(step, images, graph.constant(np.reshape(values, (1, 3, 1, 1)), np.float32))
    graph.nodes[-1].output[0] = output
    side = identity.image_size
    made = helper.make_graph(
        graph.nodes,
        "preprocessing",
        [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["n", "height", "width", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 3, side, side])],
        list(graph.constants.values()),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
