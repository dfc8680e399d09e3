"""Rows as they are, on a GPU: for the products that all the features take part in.

Owns the copy on the device. What is small beside the features stays in NumPy, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.console import counted, note
from pipeline.errors import DeviceError
from pipeline.heads.linear.rows import Array, Float64
from pipeline.heads.linear.subspace import PlainRows
from pipeline.heads.torch_device import device_of


@dataclass(frozen=True)
class TorchRows(PlainRows):
    """Rows as they are, with a copy on a device.

    Attributes
    ----------
    on_device : torch.Tensor, shape (n, D)
        `matrix`, in its dtype.
    """

    on_device: torch.Tensor

    def scores(self, heads: Array) -> Float64:
        """Score every row; see `PlainRows`."""
        scores: Float64 = self.along(heads[:-1]).astype(np.float64) + heads[-1]
        return scores

    def gradient(self, residuals: Float64) -> Array:
        """Carry derivatives by the scores back to the coefficients; see `PlainRows`."""
        return _array(self.on_device.T @ self._there(residuals))

    def along(self, directions: Array) -> Array:
        """See the rows from some directions; see `PlainRows`."""
        return _array(self.on_device @ self._there(directions))

    def _there(self, vectors: Array) -> torch.Tensor:
        values = np.ascontiguousarray(vectors, self.matrix.dtype)
        return torch.from_numpy(values).to(self.on_device.device)


def plain_rows_on(device: str, X: Array) -> PlainRows:
    """Take features, onto a device if there is one and it has the memory for them.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
    X : ndarray of float32 or float64, shape (n, D)
        Not copied on the CPU.

    Raises
    ------
    DeviceError
        CUDA is asked for, and torch finds none.
    """
    rows = PlainRows.of(X)
    try:
        chosen = device_of(device)
    except ValueError as error:
        raise DeviceError(f"{error}.") from error
    if chosen.type == "cpu":
        return rows
    try:
        return TorchRows(rows.matrix, rows.norm, torch.from_numpy(X).to(chosen))
    except torch.OutOfMemoryError:
        note(f"{chosen} has not the memory for {counted(len(X), 'row')}: linear heads are solved on the CPU")
        return rows


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array
