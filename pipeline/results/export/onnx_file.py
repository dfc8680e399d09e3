"""A classifier as one self-contained ONNX file, and what onnxruntime makes of it.

Owns the format: opset, names of inputs and outputs, metadata. Nothing of this machine is written into it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import PipelineError
from pipeline.features.identity import Identity
from pipeline.results.export.onnx_preprocessing import preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

    from pipeline.results.export.classifier import Classifier

#: The oldest that torch's exporter writes, and so the one that most runtimes know.
OPSET = 18
#: Input of the network: images, float32, shape (n, 3, image_size, image_size), normalised.
NORMALISED = "normalised_images"
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx() -> None:
    """See that the packages are there, before any work.

    Raises
    ------
    PipelineError
        One is not installed.
    """
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise PipelineError(
                f"ONNX files are written and checked with {', '.join(_PACKAGES)}, and {name} cannot be "
                f"imported ({error}): pip install 'feature-cache-pipeline[export]', or in a checkout "
                f"pip install -e '.[export]'. --torch-export and --state-dict need nothing more."
            ) from None


def graph_of(classifier: Classifier, image_size: int, output: str) -> ModelProto:
    """Translate a classifier.

    Parameters
    ----------
    classifier : Classifier
    image_size : int
        Pixels of the square images.
    output : str
        Name of what comes out, float32, shape (n, k).

    Returns
    -------
    onnx.ModelProto
        Its input is `NORMALISED`.
    """
    example = torch.zeros((2, 3, image_size, image_size))  # two: one would be taken for all that there is
    program = torch.onnx.export(
        classifier,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[NORMALISED],
        output_names=[output],
        dynamic_shapes=({0: "n"},),
        verbose=False,
    )
    if program is None:
        raise TypeError("torch.onnx.export was asked for a program, and returned none")
    graph = program.model_proto
    _forget_where_it_was_made(graph)
    return graph


def with_preprocessing(graph: ModelProto, identity: Identity) -> ModelProto:
    """Put the way from decoded images to normalised ones before a graph of `graph_of`."""
    from onnx import compose

    before = preprocessing(identity, NORMALISED, OPSET, graph.ir_version)
    return compose.merge_models(before, graph, io_map=[(NORMALISED, NORMALISED)])


def write_graph(path: Path, graph: ModelProto, about: Mapping[str, str]) -> None:
    """Write a graph whole, and what there is to say about it as its metadata."""
    from onnx import checker, helper

    helper.set_model_props(graph, dict(about))
    checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def answers(path: Path, batches: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Have onnxruntime read a file, and ask it about batches of images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of what it leaves out
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    found = [session.run(None, {given.name: batch})[0] for batch in batches]
    together: npt.NDArray[np.float32] = np.concatenate(found)
    return together


def _forget_where_it_was_made(graph: ModelProto) -> None:
    """Remove traces of source files, which name folders, and differ from one checkout to the next."""
    inner = graph.graph
    values = (*inner.node, *inner.initializer, *inner.value_info, *inner.input, *inner.output)
    functions = (*graph.functions, *(node for function in graph.functions for node in function.node))
    for part in (graph, inner, *values, *functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
