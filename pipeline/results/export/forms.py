"""The forms in which a classifier can leave: how each is written, and how its file is asked about images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.heads.linear_layer import layer_of
from pipeline.heads.model import Model
from pipeline.results.export.about import about
from pipeline.results.export.check import Sample
from pipeline.results.export.wanted import Wanted

Answers = npt.NDArray[np.float32]

# Images asked about at once: with more, the activations outgrow a CPU's caches.
_BATCH = 4


@dataclass(frozen=True)
class Form:
    """A file to be made.

    Attributes
    ----------
    path : Path
        Where it goes.
    takes, gives : str
        What goes into the classifier and what comes out, in words.
    write : callable
        Writes it to a path.
    ask : callable
        Has the file at a path read, and asked about the sample's images: float32, shape (n, k).
    """

    path: Path
    takes: str
    gives: str
    write: Callable[[Path], None]
    ask: Callable[[Path], Answers]


def forms_of(model: Model, network: torch.nn.Sequential, sample: Sample, wanted: Wanted) -> Iterator[Form]:
    """Set up what is wanted.

    Parameters
    ----------
    model : Model
        With a head that can have these forms.
    network : torch.nn.Sequential
        As `load_network` makes it.
    sample : Sample
        What the files are to be asked about.
    wanted : Wanted
        Which files.
    """
    from pipeline.results.export import onnx_file, torch_file

    k, side = len(model.classes), model.identity.image_size
    normalised = f"float32 (n, 3, {side}, {side}), normalised"
    takes = f"images, {normalised}"
    gives = f"{layer_of(model).output}, float32 (n, {k})"
    images = _normalised(sample, model)
    if wanted.onnx and wanted.with_preprocessing:
        takes_any = "images, uint8 (n, height, width, 3)"
        write = partial(_write_onnx, network=network, model=model, resizing=True)
        originals = [image[np.newaxis] for image in sample.originals]
        yield Form(wanted.onnx, takes_any, gives, write, partial(_ask_onnx, batches=originals))
    elif wanted.onnx:
        write = partial(_write_onnx, network=network, model=model, resizing=False)
        batches = [part.numpy() for part in _batches(images)]
        named = f"{onnx_file.NORMALISED}, {normalised}"  # ONNX knows its inputs by name
        yield Form(wanted.onnx, named, gives, write, partial(_ask_onnx, batches=batches))
    if wanted.state_dict:
        tensors_only = wanted.state_dict.suffix != ".safetensors"
        logits = f"{'scores' if layer_of(model).link == 'none' else 'logits'}, float32 (n, {k})"
        write = partial(_write_state, network=network, model=model, tensors_only=tensors_only)
        read = partial(torch_file.read_state, model=model, safetensors=not tensors_only)
        yield Form(wanted.state_dict, takes, logits, write, partial(_ask_torch, read=read, images=images))
    if wanted.torch_export:
        write = partial(_write_program, network=network, model=model)
        ask = partial(_ask_torch, read=torch_file.read_program, images=images)
        yield Form(wanted.torch_export, takes, gives, write, ask)


def _write_onnx(path: Path, network: torch.nn.Sequential, model: Model, *, resizing: bool) -> None:
    from pipeline.results.export import onnx_file
    from pipeline.results.export.classifier import Classifier

    graph = onnx_file.graph_of(Classifier(network, model), model.identity.image_size, layer_of(model).output)
    if resizing:
        graph = onnx_file.with_preprocessing(graph, model.identity)
    onnx_file.write_graph(path, graph, about(model))


def _ask_onnx(path: Path, batches: list[npt.NDArray[Any]]) -> Answers:
    from pipeline.results.export import onnx_file

    return onnx_file.answers(path, batches)


def _write_state(path: Path, network: torch.nn.Sequential, model: Model, *, tensors_only: bool) -> None:
    from pipeline.results.export import torch_file

    state = torch_file.state_of(network, model)
    torch_file.write_state(path, state, None if tensors_only else about(model))


def _write_program(path: Path, network: torch.nn.Sequential, model: Model) -> None:
    from pipeline.results.export import torch_file
    from pipeline.results.export.classifier import Classifier

    program = torch_file.program_of(Classifier(network, model), model.identity.image_size)
    torch_file.write_program(path, program, about(model))


@torch.inference_mode()
def _ask_torch(path: Path, read: Callable[[Path], torch.nn.Module], images: torch.Tensor) -> Answers:
    network = read(path)
    found: Answers = torch.cat([network(part) for part in _batches(images)]).numpy()
    return found


def _batches(images: torch.Tensor) -> list[torch.Tensor]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]


def _normalised(sample: Sample, model: Model) -> torch.Tensor:
    """Do to the images what the documentation tells a user to do."""
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (model.identity.mean, model.identity.std))
    return torch.from_numpy(((sample.pixels / 255 - mean) / std).astype(np.float32))
