"""A fitted head as the bytes of one file: safetensors, skops, or with trust a pickle.

Owns which of these a head becomes. It touches no disk.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import HeadError, ModelError
from pipeline.heads import skops_file

_TORCH, _SKOPS, PICKLE = "head.safetensors", "head.skops", "head.joblib"
#: Names of such files, and the package that fits or writes each.
WRITERS = {_TORCH: "torch", _SKOPS: "skops", PICKLE: "joblib"}


def dump(head: Any, estimator: str, *, trust: bool) -> tuple[str, bytes]:
    """Turn a fitted head into a file.

    Parameters
    ----------
    head : object
        The fitted estimator.
    estimator : str
        Its short name or dotted path.
    trust : bool
        Whether a head that holds untrusted types may be pickled (with joblib).

    Returns
    -------
    str, bytes
        Name and content, the same for the same head.

    Raises
    ------
    HeadError
        It holds untrusted types, and `trust` is false.
    """
    if estimator == "linear":
        from safetensors.numpy import save as to_safetensors

        # The names of torch.nn.Linear's state.
        return _TORCH, to_safetensors({"weight": head.coef_, "bias": head.intercept_})
    try:
        return _SKOPS, skops_file.dump(head)
    except HeadError as error:
        if not trust:
            raise HeadError(
                f"{error}. With `--trust` it is saved as a pickle, and loads only with `--trust`"
            ) from None
    import joblib

    buffer = io.BytesIO()
    joblib.dump(head, buffer)
    return PICKLE, buffer.getvalue()


def import_writer(estimator: str) -> None:
    """Import what `dump` will need for a head of an estimator."""
    if estimator != "linear":
        skops_file.import_skops()


def load(name: str, data: bytes, params: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Rebuild a head from `dump`'s file. A pickle runs whatever code it holds: ask before.

    Parameters
    ----------
    name : str
        One of `WRITERS`.
    data : bytes
        The content.
    params : mapping
        Of the estimator, for files that hold weights only.

    Returns
    -------
    object, tuple of str
        The fitted estimator, and what was complained of, such as another version of scikit-learn.

    Raises
    ------
    ModelError
        The file is malformed, or holds what is not trusted.
    """
    try:
        if name == _TORCH:
            return _linear_from(data, params), ()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if name == _SKOPS:
                head = skops_file.load(data)
            else:
                import joblib

                head = joblib.load(io.BytesIO(data))
    except (ModelError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"not a head ({in_words(error)})") from None
    return head, tuple(in_words(warning.message) for warning in caught)


def _linear_from(data: bytes, params: Mapping[str, Any]) -> Any:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_safetensors

    from pipeline.heads.torch_head import TorchLinear

    try:
        tensors = from_safetensors(data)
    except SafetensorError as error:
        raise ModelError(str(error)) from None
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or {weight.dtype, bias.dtype} != {np.dtype("f4")}:
        raise ModelError(f"weight {weight.dtype}{weight.shape} and bias {bias.dtype}{bias.shape} do not fit")
    head = TorchLinear(**params)
    head.coef_, head.intercept_ = weight, bias
    head.classes_, head.n_features_in_ = np.arange(len(bias)), weight.shape[1]
    return head


def in_words(error: Any) -> str:
    """Say an error on one line; a KeyError's text is only the key."""
    text = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())
