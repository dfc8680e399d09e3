from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.features.openvino_graph import Layer, Network, build_graph
from pipeline.features.state import CONVOLUTIONS
from tests.features.conftest import python_path, relative_errors
from tests.features.networks import needs_openvino, some_pixels

pytestmark = needs_openvino

# Every way out of the process is barred, and remembered: OpenVINO reports what it does, in the background.
QUIET = """
import json, socket, sys, time
from pathlib import Path
tried = []
def barred(*arguments):
    tried.append(repr(arguments))
    raise OSError("barred")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = barred
import numpy as np
from pipeline.features.backbone import open_backbone
from pipeline.features.weights import resolve_weights
network = open_backbone(resolve_weights("random", Path()), "float32", device="cpu", backend="openvino")
network(np.zeros((1, 3, 32, 32), np.uint8))
time.sleep(0.5)
home = [path.name for path in Path.home().iterdir()]
print(json.dumps([tried, home, sorted(sys.modules.keys() & {"torch", "torchvision", "sklearn"})]))
"""


def test_import__nothing_is_reported_or_left_or_imported_besides(tmp_path: Path) -> None:
    environment = python_path() | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", QUIET], env=environment, capture_output=True, check=True)
    assert json.loads(done.stdout) == [[], [], []]
    assert done.stderr == b""


def test_quantised__whole_numbers_are_added_without_overflow() -> None:
    """Largest weights on largest activations: CPUs without VNNI add pairs of products in 16 bits."""
    generator = np.random.default_rng(0)
    layers: list[Layer] = []
    weights = []
    for index, inputs, outputs in CONVOLUTIONS:
        first = index == 0
        signs = generator.choice([-1, 1, 1], outputs).astype(np.int8)  # a third of the channels dies
        kernel = np.broadcast_to(signs[:, None, None, None] * np.int8(63), (outputs, inputs, 3, 3)).copy()
        scale = np.full(outputs, 1.5 / (63 * 9 * inputs), np.float32)
        value = (kernel * scale[:, None, None, None]).astype(np.float32)
        weights.append(torch.from_numpy(value).double())
        bias = np.full(outputs, 2.0 if first else 0.1, np.float32)
        layers.append(
            Layer(value if first else kernel, bias, None if first else scale, None if index == 28 else 1.0)
        )
    pixels = some_pixels(2, 64)
    graph = build_graph(layers, (0, 0, 0), (1, 1, 1))
    found = Network(graph, [graph.features])(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))[0]

    node = torch.from_numpy(pixels / 255)
    for (index, _, _), layer, kernels in zip(CONVOLUTIONS, layers, weights, strict=True):
        node = functional.conv2d(node, kernels, torch.from_numpy(layer.bias).double(), padding=1).relu()
        if layer.limit is not None:
            node = (node.clamp(max=1) * 255).round() / 255
        if index in {2, 7, 14, 21, 28}:  # torchvision's vgg16().features: before each MaxPool2d
            node = functional.max_pool2d(node, 2)
    expected = functional.adaptive_avg_pool2d(node, 7).flatten(1).numpy()
    assert relative_errors(found, expected).max() < 0.01
    assert (expected > 0).mean() > 0.5


SIGNAL_STACK = """
import ctypes
import numpy as np
from pipeline.features.openvino_graph import Network, build_graph, Layer
from pipeline.features.state import CONVOLUTIONS

class Stack(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

layers = [
    Layer(np.zeros((outputs, inputs, 3, 3), np.float32), np.zeros(outputs, np.float32))
    for _, inputs, outputs in CONVOLUTIONS
]
graph = build_graph(layers, (0.5,) * 3, (0.5,) * 3)
network = Network(graph, [graph.features])
network(np.zeros((1, 32, 32, 3), np.uint8))
stack = Stack()
ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
print(stack.pointer)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are laid out otherwise elsewhere")
def test_network__leaves_the_main_threads_signal_stack_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_STACK], capture_output=True, text=True, env=python_path(), check=True
    )
    assert done.stdout == "None\n"
