"""A network that learns: one step at a time, in pieces that fit the device.

Owns steps, scores, devices and types. Which images, how often and what becomes of it is not its business.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from pipeline.console import note
from pipeline.errors import DeviceError
from pipeline.features.torch_backbone import forward_dtype
from pipeline.networks.inputs import Batch

Codes = npt.NDArray[np.int64]


class Learner:
    """A network, its optimiser, and the schedule of the learning rates.

    A batch that the device has no memory for is worked on in halves, whose gradients add up to those of the
    whole. On CUDA devices with native bfloat16, products are computed in it (mixed precision); the
    parameters, and everything elsewhere, are float32.

    Parameters
    ----------
    network : torch.nn.Module
        From inputs, shape (n, *shape), to logits, shape (n, k). Moved to the device; changed by `step`.
    optimizer : torch.optim.Optimizer
        Of its parameters.
    device : torch.device
    shape : tuple of int
        Of the input of one image.
    schedule : callable, optional
        By what the learning rates are multiplied in a step, counted from 0; they stay by default.
    piece : int, optional
        Images whose activations are held at once; by default those of a batch.

    Raises
    ------
    DeviceError
        The device has not the memory for the network.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        shape: tuple[int, ...],
        schedule: Callable[[int], float] = lambda step: 1.0,
        piece: int = sys.maxsize,
    ) -> None:
        self._device, self._shape, self._schedule = device, shape, schedule
        self.network, self._optimizer = network, optimizer
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._piece = piece
        self._mixed = device.type == "cuda" and forward_dtype("half", device) == torch.bfloat16
        try:
            self.network.to(device)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{device} has not the memory for the network: free some, or give --device cpu."
            ) from error

    def step(self, number: int, batch: Batch, codes: Codes) -> tuple[float, float]:
        """Learn from a batch, unless its loss is not finite.

        Parameters
        ----------
        number : int
            Of the step, counted from 0 over all epochs.
        batch : ndarray, shape (m, numbers of an image)
        codes : ndarray of int64, shape (m,)
            Classes.

        Returns
        -------
        tuple of float
            The mean loss, and the share of images given their own class, both before the step.

        Raises
        ------
        DeviceError
            The device has not the memory for a single image.
        """
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._schedule(number)
        self.network.train()
        while True:
            try:
                loss, hits = self._accumulated(batch, codes)
                break
            except torch.OutOfMemoryError as error:
                self._halve(len(batch), error)
        if np.isfinite(loss):
            self._optimizer.step()
        return loss, hits / len(batch)

    @torch.no_grad()
    def score(self, batches: Iterator[tuple[Batch, Codes]]) -> tuple[float, float]:
        """Return the mean loss, and the share of images given their own class, over batches."""
        self.network.eval()
        losses, hits, count = 0.0, 0, 0
        for batch, codes in batches:
            while True:
                try:
                    found = [self._judged(*piece) for piece in self._pieces(batch, codes)]
                    break
                except torch.OutOfMemoryError as error:
                    self._halve(len(batch), error)
            losses += sum(loss.item() for loss, _ in found)
            hits += sum(int(right.item()) for _, right in found)
            count += len(batch)
        return losses / count, hits / count

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of all that changes while it learns, on the CPU."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for place, moments in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{place}.{name}": value for name, value in moments.items()}
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take `state` back."""
        network, moments = {}, dict[int, dict[str, Any]]()
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            if kind == "network":
                network[rest] = value
            else:
                place, _, moment = rest.partition(".")
                moments.setdefault(int(place), {})[moment] = value
        self.network.load_state_dict(network)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def is_finite(self) -> bool:
        """Whether all its parameters are finite."""
        return all(bool(value.isfinite().all()) for value in self.network.parameters())

    def _accumulated(self, batch: Batch, codes: Codes) -> tuple[float, int]:
        """Take the gradients of a batch, piece by piece."""
        self._optimizer.zero_grad()
        losses, hits = 0.0, 0
        for piece in self._pieces(batch, codes):
            loss, right = self._judged(*piece)
            torch.autograd.backward(loss / len(batch))
            losses += loss.item()
            hits += int(right.item())
        return losses / len(batch), hits

    def _judged(self, inputs: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the losses, and the number of images given their own class."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed):
            logits = self.network(inputs)
        return cross_entropy(logits.float(), codes, reduction="sum"), (logits.argmax(1) == codes).sum()

    def _pieces(self, batch: Batch, codes: Codes) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(batch), self._piece):
            piece = slice(start, start + self._piece)
            inputs = torch.from_numpy(np.require(batch[piece], requirements="W"))
            yield (
                inputs.to(self._device, torch.float32).view(-1, *self._shape),
                torch.from_numpy(codes[piece]).to(self._device),
            )

    def _halve(self, count: int, error: torch.OutOfMemoryError) -> None:
        self._optimizer.zero_grad()  # gives the gradients' memory back
        worked_on = min(self._piece, count)
        if worked_on == 1:
            raise DeviceError(
                f"{self._device} ran out of memory with a single image: free some, unfreeze fewer blocks, or "
                f"give --device cpu."
            ) from error
        self._piece = worked_on // 2
        note(f"{self._device} ran out of memory with {worked_on} images at once: going on with {self._piece}")


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """Have cuDNN take kernels that give the same each time, and float32 that is float32."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
