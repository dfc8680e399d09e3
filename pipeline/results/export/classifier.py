"""The whole classifier as one torch module: the frozen network, and all that follows it up to probabilities.

Owns the translation of a head's arithmetic to torch. It reads and writes nothing.
"""

from __future__ import annotations

import torch

from pipeline.heads.linear_layer import layer_of
from pipeline.heads.model import Model


class Classifier(torch.nn.Module):
    """From normalised images to the probabilities, or scores, of a trained head.

    In evaluation mode, in float32, on the CPU, no parameter trainable.

    Parameters
    ----------
    network : torch.nn.Module
        From images, float32, shape (n, 3, height, width), to features, float32, shape (n, columns).
    model : Model
        With a linear head.

    Raises
    ------
    ModelError
        The head is not linear.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, network: torch.nn.Module, model: Model) -> None:
        super().__init__()
        layer = layer_of(model)
        k, columns = layer.weight.shape
        self.network = network
        self.head = torch.nn.Linear(columns, k)
        self.head.weight = torch.nn.Parameter(torch.from_numpy(layer.weight).float())
        self.head.bias = torch.nn.Parameter(torch.from_numpy(layer.bias).float())
        self._pooling, self._normalize = model.derivation.pooling, model.derivation.normalize
        self._link = layer.link
        if model.standardization is not None:
            self.register_buffer("mean", torch.from_numpy(model.standardization.mean.copy()))
            self.register_buffer("scale", torch.from_numpy(model.standardization.scale.copy()))
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score images.

        Parameters
        ----------
        images : torch.Tensor of float32, shape (n, 3, height, width)
            Normalised.

        Returns
        -------
        torch.Tensor of float32, shape (n, k)
            Probabilities, or scores of a head that has none.
        """
        rows = self._normalized(self._pooled(self.network(images)))
        if self._normalize == "standardize":
            rows = (rows - self.mean) / self.scale
        scores: torch.Tensor = self.head(rows)
        if self._link == "none":
            return scores
        if self._link == "one-vs-rest":
            # p / sum(p), with p = sigmoid(score), in a form in which nothing underflows
            scores = torch.nn.functional.logsigmoid(scores)
        return torch.softmax(scores, dim=1)

    def _pooled(self, features: torch.Tensor) -> torch.Tensor:
        if self._pooling == "none":
            return features
        channels = self.head.in_features
        positions = torch.reshape(features, (-1, channels, features.shape[1] // channels))
        return positions.mean(dim=2) if self._pooling == "avg" else torch.amax(positions, dim=2)

    def _normalized(self, rows: torch.Tensor) -> torch.Tensor:
        if self._normalize not in ("l2", "sqrt_l2"):
            return rows
        if self._normalize == "sqrt_l2":
            rows = rows.sign() * rows.abs().sqrt()
        length = (rows * rows).sum(dim=1, keepdim=True).sqrt()
        return rows / torch.where(length > 0, length, torch.ones_like(length))
