"""Trained heads on disk: ``models/NAME/`` with ``model.json`` and the weights beside it.

Owns the format. A folder is written beside its place and swapped in whole; what is loaded has
been checked against the sizes and hashes in ``model.json``. Nothing in it is code, except the
``head.joblib`` of a head that was trained with trust, which loads only with trust.

Hashes find damage and mix-ups. They stop nobody who can write the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import platform
import warnings
from dataclasses import astuple, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.console import warn
from pipeline.errors import HeadError, ModelError, StoreError
from pipeline.features.identity import Identity
from pipeline.files import replacing_folder, write_csv, write_json
from pipeline.heads import skops_file
from pipeline.heads.model import Model

DESCRIPTION = "model.json"
#: The training log of a head that keeps one, a line an epoch; for people and ``dvc plots``.
HISTORY = "history.csv"
_FORMAT = 1
_TORCH, _SKOPS, _JOBLIB = "head.safetensors", "head.skops", "head.joblib"
_WRITERS = {_TORCH: "torch", _SKOPS: "skops", _JOBLIB: "joblib"}
_T = TypeVar("_T")


def save(folder: Path, model: Model, *, trust: bool = False) -> None:
    """Write a model's folder, replacing the one that is there only when the new one is whole.

    Parameters
    ----------
    folder : Path
        ``models/NAME``.
    model : Model
        With a fitted head.
    trust : bool, default False
        Whether a head that holds untrusted types may be pickled (with joblib).

    Raises
    ------
    HeadError
        The head holds untrusted types, and `trust` is false.
    """
    file_name, data = _head_bytes(model, trust)
    description = {
        "format": _FORMAT,
        "name": model.name,
        "estimator": model.estimator,
        "params": _plain(model.params),
        "classes": list(model.classes),
        "features": int(model.head.n_features_in_),
        "view": model.view,
        "identity": model.identity.as_dict(),
        "rows": model.rows,
        "rows_sha256": model.rows_sha256,
        "warnings": list(model.warnings),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scikit-learn", _WRITERS[file_name])},
        },
        "file": {"name": file_name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
    }
    with replacing_folder(folder) as new:
        (new / file_name).write_bytes(data)
        write_json(new / DESCRIPTION, description)
        history = getattr(model.head, "history_", None)
        if history is not None:
            write_csv(
                new / HISTORY,
                [field.name for field in fields(history[0])],
                [["" if value is None else value for value in astuple(epoch)] for epoch in history],
            )


def load(folder: Path, *, trust: bool = False) -> Model:
    """Read a model's folder, and refuse whatever is not as it was written.

    Parameters
    ----------
    folder : Path
        ``models/NAME``.
    trust : bool, default False
        Whether a pickled head may be loaded, which runs whatever code it holds.

    Raises
    ------
    ModelError
        The model is absent, damaged, of another format, or pickled and not trusted.
    """
    path = folder / DESCRIPTION
    again = f"Train it again: `pipeline train {folder.name}`."
    try:
        stored = json.loads(path.read_bytes())
        model, features, file_name, size, digest = _described(stored)
    except FileNotFoundError:
        there = sorted(path.parent.name for path in folder.parent.glob(f"*/{DESCRIPTION}"))
        raise ModelError(
            f"{folder}: no such model. Run `pipeline train {folder.name}` first, or name one of those "
            f"that are there: {', '.join(there) or 'none yet'}."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, StoreError) as error:
        raise ModelError(f"{path}: not a model's description ({_words(error)}). {again}") from None
    head_path = folder / file_name
    try:
        data = head_path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{head_path}: the model's weights are missing. {again}") from None
    if len(data) != size:
        raise ModelError(f"{head_path} is damaged: expected {size} bytes, found {len(data)}. {again}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelError(f"{head_path} is damaged: its bytes do not hash to what {DESCRIPTION} says. {again}")
    if file_name == _JOBLIB and not trust:
        raise ModelError(f"{head_path} is a pickle, which can run any code: give `--trust` if you trust it.")
    head = _head_from(head_path, data, model.params)
    k = len(model.classes)
    if (
        list(getattr(head, "classes_", [])) != list(range(k))
        or getattr(head, "n_features_in_", 0) != features
    ):
        raise ModelError(f"{head_path}: not a head of {k} classes and {features} features. {again}")
    return replace(model, head=head)


def _head_bytes(model: Model, trust: bool) -> tuple[str, bytes]:
    if model.estimator == "linear":
        from safetensors.numpy import save as to_safetensors

        # The names of torch.nn.Linear's state.
        return _TORCH, to_safetensors({"weight": model.head.coef_, "bias": model.head.intercept_})
    try:
        return _SKOPS, skops_file.dump(model.head)
    except HeadError as error:
        if not trust:
            raise HeadError(
                f"head {model.name!r} ({model.estimator}) was not saved: {error}. "
                f"With `--trust` it is saved as a pickle, and loads only with `--trust`."
            ) from None
    import joblib

    buffer = io.BytesIO()
    joblib.dump(model.head, buffer)
    return _JOBLIB, buffer.getvalue()


def _head_from(path: Path, data: bytes, params: dict[str, Any]) -> Any:
    try:
        if path.name == _TORCH:
            return _linear_from(data, params)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if path.name == _SKOPS:
                head = skops_file.load(data)
            else:
                import joblib

                head = joblib.load(io.BytesIO(data))
    except (ModelError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path}: not a head ({_words(error)}). Train it again.") from None
    for warning in caught[:1]:  # scikit-learn's, that another version wrote it
        warn(f"{path}: {_words(warning.message)}")
    return head


def _linear_from(data: bytes, params: dict[str, Any]) -> Any:
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


def _described(stored: Any) -> tuple[Model, int, str, int, str]:
    """Take ``model.json`` apart: the model without its head, columns, and the head's file, bytes and hash."""
    if _take(stored, "format", int) != _FORMAT:
        raise ValueError(f"format {stored['format']} is not known to this release")
    classes = [_is(label, "classes", str) for label in _take(stored, "classes", list)]
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError("classes: expected at least two different labels")
    file = _take(stored, "file", dict)
    if _take(file, "name", str) not in _WRITERS:
        raise ValueError(f"file: expected one of {', '.join(_WRITERS)}")
    model = Model(
        name=_take(stored, "name", str),
        estimator=_take(stored, "estimator", str),
        params=_take(stored, "params", dict),
        classes=tuple(classes),
        view=_take(stored, "view", str),
        identity=Identity.from_dict(stored["identity"]),
        rows=_take(stored, "rows", int),
        rows_sha256=_take(stored, "rows_sha256", str),
        warnings=tuple(_take(stored, "warnings", list)),
        head=None,
    )
    features = _take(stored, "features", int)
    return model, features, file["name"], _take(file, "bytes", int), _take(file, "sha256", str)


def _take(values: Any, key: str, kind: type[_T]) -> _T:
    return _is(values[key], key, kind)


def _is(value: Any, key: str, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{key}: expected {kind.__name__}, found {value!r}")
    return value


def _plain(value: Any) -> Any:
    """Turn a parameter into what JSON can hold; what it cannot is kept as its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    fits = value is None or isinstance(value, bool | int | str)
    return value if fits or (isinstance(value, float) and math.isfinite(value)) else repr(value)


def _words(error: Any) -> str:
    """Say an error on one line; a KeyError's text is only the key."""
    text = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())
