"""A linear head as the weight and bias of one layer, and what makes probabilities of its outputs.

Owns which heads are linear, and the algebra that folds what stands before a layer into it. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.heads.model import Model

Floats = npt.NDArray[np.float64]
#: ``softmax`` of the outputs; each output's logistic function, brought to a sum of 1; or none.
Link = Literal["softmax", "one-vs-rest", "none"]

_ONE_VS_REST = "SGDClassifier"
#: scikit-learn's linear classifiers and this package's, by their names, and how each makes probabilities.
_LINKS: dict[str, Link] = {
    "TorchLinear": "softmax",
    "LogisticRegression": "softmax",
    "LogisticRegressionCV": "softmax",
    "LinearDiscriminantAnalysis": "softmax",
    _ONE_VS_REST: "one-vs-rest",
    "LinearSVC": "none",
    "RidgeClassifier": "none",
    "RidgeClassifierCV": "none",
    "Perceptron": "none",
}


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """What a linear head does with derived, standardised rows.

    Attributes
    ----------
    weight : ndarray of float64, shape (k, columns)
        A row a class, in the order of the model's classes. Where the head has one score for two classes,
        the first class's row is zeros. A calibration's temperature is in it.
    bias : ndarray of float64, shape (k,)
    link : {"softmax", "one-vs-rest", "none"}
        How outputs become probabilities; ``none`` for a head that has none.
    """

    weight: Floats
    bias: Floats
    link: Link

    @property
    def output(self) -> str:
        """What comes out: ``probabilities`` or ``scores``."""
        return "scores" if self.link == "none" else "probabilities"


def layer_of(model: Model) -> LinearLayer:
    """Take the layer out of a trained head.

    Raises
    ------
    ModelError
        The head is not linear, or makes its probabilities in another way.
    """
    head, k = model.head, len(model.classes)
    link = _link_of(model)
    weight = np.atleast_2d(np.asarray(head.coef_, np.float64))
    bias = np.zeros(len(weight)) + np.ravel(head.intercept_)  # without an intercept it is a single 0
    if len(weight) == 1 and k == 2:
        weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), np.array([0.0, bias[0]])
        # of two classes, one logistic function is the softmax of 0 and the score
        link = "none" if link == "none" else "softmax"
    if model.calibration is not None:
        link = "softmax"
        weight, bias = weight / model.calibration.temperature, bias / model.calibration.temperature
    return LinearLayer(weight, bias, link)


def folded(model: Model, columns: int) -> LinearLayer:
    """Fold all that stands between the network and the layer into the layer.

    Parameters
    ----------
    model : Model
        With a linear head.
    columns : int
        Features of the network.

    Returns
    -------
    LinearLayer
        Of weight (k, columns), for features as the network gives them.

    Raises
    ------
    ModelError
        The head is not linear, or what stands before it is not, or no softmax follows it.
    """
    layer = layer_of(model)
    obstacle = ""
    if model.derivation.pooling == "max":
        obstacle = "pooling max"
    elif model.derivation.normalize in ("l2", "sqrt_l2"):
        obstacle = f"normalize {model.derivation.normalize}"
    elif layer.link == "one-vs-rest":
        obstacle = "making probabilities class by class"
    if obstacle:
        raise ModelError(
            f"model {model.name!r} is no state dict of a network with one linear layer at its end: "
            f"{obstacle} is no linear step. Give --onnx or --torch-export, which hold every step."
        )
    weight, bias = layer.weight, layer.bias
    if model.standardization is not None:
        weight = weight / model.standardization.scale
        bias = bias - weight @ model.standardization.mean.astype(np.float64)
    if model.derivation.pooling == "avg":
        positions = columns // weight.shape[1]
        weight = np.repeat(weight / positions, positions, axis=1)
    return LinearLayer(weight, bias, layer.link)


def _link_of(model: Model) -> Link:
    head: Any = model.head
    kind = type(head)
    ours = kind.__module__.partition(".")[0] in ("sklearn", "pipeline")
    link = _LINKS.get(kind.__name__) if ours else None
    if link is None:
        raise ModelError(
            f"model {model.name!r} ({model.estimator}) is not linear, and only linear heads can be exported: "
            f"linear, logreg, linear-svm, ridge, lda, SGDClassifier and their like. Train one of these, or "
            f"use this model with `pipeline predict`."
        )
    if not hasattr(head, "predict_proba"):
        return "none"
    if link == "one-vs-rest" and head.loss != "log_loss" and model.calibration is None:
        raise ModelError(
            f"model {model.name!r}: how loss {head.loss} makes probabilities cannot be exported. "
            f"Train it with `--calibrate`, or with `--set loss=log_loss`."
        )
    return link
