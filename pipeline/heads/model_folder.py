"""Trained heads on disk: ``models/NAME/`` with ``model.json``, the weights, and whatever else they need.

Owns the format. A folder is written beside its place and swapped in whole; what is loaded has
been checked against the sizes and hashes in ``model.json``. Nothing in it is code, except the
``head.joblib`` of a head that was trained with trust, which loads only with trust.

Hashes find damage and mix-ups. They stop nobody who can write the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.console import printable, warn
from pipeline.errors import HeadError, ModelError, ParamsError, StoreError
from pipeline.features.identity import Identity
from pipeline.files import replacing_folder, write_csv, write_json
from pipeline.heads import head_file
from pipeline.heads.calibration import Calibration
from pipeline.heads.derived import CHANNELS, Derivation, Standardization
from pipeline.heads.head_file import PICKLE, WRITERS, in_words
from pipeline.heads.model import Model, Predictions
from pipeline.params import HeadParams
from pipeline.typed import build, did_you_mean
from pipeline.views import CENTER, View
from pipeline.workspace import Workspace

DESCRIPTION = "model.json"
#: The training log of a head that keeps one, a line an epoch; for people and ``dvc plots``.
HISTORY = "history.csv"
_FORMAT = 3
_STANDARDIZATION = "standardization.safetensors"
_HELD_OUT = "out_of_fold.safetensors"
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
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
    try:
        head_name, head = head_file.dump(model.head, model.estimator, trust=trust)
    except HeadError as error:
        raise HeadError(f"head {model.name!r} ({model.estimator}) was not saved: {error}.") from None
    files = {head_name: head, **model.extras}
    if model.standardization is not None:
        files[_STANDARDIZATION] = model.standardization.as_bytes()
    if model.held_out is not None:
        files[_HELD_OUT] = model.held_out.as_bytes()
    description = {
        "format": _FORMAT,
        "name": model.name,
        "estimator": model.estimator,
        "params": _plain(model.params),
        "classes": list(model.classes),
        "features": int(model.head.n_features_in_),
        # releases that know of no views refuse a list
        "view": CENTER if model.views == (CENTER,) else list(model.views),
        **model.derivation.as_dict(),
        "identity": model.identity.as_dict(),
        "rows": model.rows,
        "rows_sha256": model.rows_sha256,
        "calibration": None if model.calibration is None else asdict(model.calibration),
        "unsure_below": model.unsure_below,
        "train_on": "+".join(model.splits),
        "metrics": model.metrics,
        **({"training": _plain(model.training)} if model.training else {}),
        "warnings": list(model.warnings),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scikit-learn", WRITERS[head_name])},
        },
        "files": {
            _file_name(name): {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in sorted(files.items())
        },
    }
    with replacing_folder(folder) as new:
        for name, data in files.items():
            (new / name).write_bytes(data)
        write_json(new / DESCRIPTION, description)
        history = getattr(model.head, "history_", None)
        if history is not None:
            write_csv(
                new / HISTORY,
                [field.name for field in fields(history[0])],
                [["" if value is None else value for value in astuple(epoch)] for epoch in history],
            )


def folder_of(workspace: Workspace, model: str) -> Path:
    """Return the folder of a model that is given by its name, or by the path of its folder.

    Raises
    ------
    ModelError
        It is a file, such as an image that was given before the model.
    ParamsError
        It is neither a path nor a name.
    """
    if "/" in model:
        return Path(model)
    if Path(model).is_file() and not (workspace.models_folder / model).is_dir():
        raise _no_folder(Path(model))
    return workspace.model_folder(model)


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
        model, columns, listed = _described(stored)
    except FileNotFoundError:
        there = sorted(path.parent.name for path in folder.parent.glob(f"[!.]*/{DESCRIPTION}"))
        if meant := did_you_mean(folder.name, there):
            raise ModelError(
                f"{folder}: no such model.{meant} Name one of those that are there: {', '.join(there)}; or "
                f"train another head of params.yaml: `pipeline train HEAD`."
            ) from None
        raise ModelError(
            f"{folder}: no such model. Run `pipeline train {folder.name}` first, or name one of those "
            f"that are there: {', '.join(there) or 'none yet'}."
        ) from None
    except NotADirectoryError:
        raise _no_folder(folder) from None
    except (ValueError, TypeError, KeyError, AttributeError, StoreError, ParamsError) as error:
        raise ModelError(f"{path}: not a model's description ({in_words(error)}). {again}") from None
    if PICKLE in listed and not trust:
        raise ModelError(
            f"{folder / PICKLE} is a pickle, which can run any code: give `--trust` if you trust it."
        )
    files = {name: _verified(folder / name, file, again) for name, file in listed.items()}
    [head_name] = files.keys() & WRITERS.keys()
    try:
        head, complaints = head_file.load(head_name, files.pop(head_name), model.params)
    except ModelError as error:
        raise ModelError(f"{folder / head_name}: {error}. {again}") from None
    for complaint in complaints[:1]:
        warn(f"{folder / head_name}: {complaint}")
    k = len(model.classes)
    if list(getattr(head, "classes_", [])) != list(range(k)) or getattr(head, "n_features_in_", 0) != columns:
        raise ModelError(f"{folder / head_name}: not a head of {k} classes and {columns} features. {again}")
    standardization, held_out = None, None
    try:
        if (data := files.pop(name := _STANDARDIZATION, None)) is not None:
            standardization = Standardization.from_bytes(data, columns)
        if (data := files.pop(name := _HELD_OUT, None)) is not None:
            nothing = Predictions(np.zeros(0, np.int64), model.classes, None, model.unsure_below)
            held_out = nothing.with_bytes(data, model.rows)
    except ModelError as error:
        raise ModelError(f"{folder / name}: {error}. {again}") from None
    return replace(model, head=head, standardization=standardization, held_out=held_out, extras=files)


def _no_folder(folder: Path) -> ModelError:
    file = next(each for each in (folder, *folder.parents) if each.exists())
    return ModelError(
        f"{file} is a file, and no model's folder. MODEL comes first: a name in models/, or the path of such "
        f"a folder."
    )


def _verified(path: Path, file: Mapping[str, Any], again: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: this file of the model is missing. {again}") from None
    if len(data) != file["bytes"]:
        raise ModelError(f"{path} is damaged: expected {file['bytes']} bytes, found {len(data)}. {again}")
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        raise ModelError(f"{path} is damaged: its bytes do not hash to what {DESCRIPTION} says. {again}")
    return data


def _described(stored: Any) -> tuple[Model, int, dict[str, dict[str, Any]]]:
    """Take ``model.json`` apart: the model without what is in other files, columns, and these files."""
    if _take(stored, "format", int) != _FORMAT:
        raise ValueError(f"format {stored['format']} is not that of this release, {_FORMAT}")
    classes = [_is(label, "classes", str) for label in _take(stored, "classes", list)]
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError("classes: expected at least two different labels")
    settings = build(
        HeadParams,
        {
            key: stored[key]
            for key in ("estimator", "params", "pooling", "normalize", "views", "unsure_below", "train_on")
            if key != "views" or key in stored  # that of the centre is implied
        },
        "",
    )
    settings.check(DESCRIPTION)
    calibration = stored["calibration"]
    if calibration is not None:
        calibration = build(Calibration, calibration, "calibration")
        if not calibration.temperature > 0:
            raise ValueError("calibration.temperature: expected a number above 0")
    columns = _take(stored, "features", int)
    if settings.pooling != "none" and columns != CHANNELS:
        raise ValueError(f"features: expected {CHANNELS} after pooling, found {columns}")
    view = stored["view"]
    views = build(tuple[View, ...], view if isinstance(view, list) else [view], "view")
    if (views == (CENTER,)) != (settings.views == "center"):
        raise ValueError(f"view: {', '.join(views)} and views {settings.views} do not fit")
    files = {
        _file_name(name): {"bytes": _take(file, "bytes", int), "sha256": _take(file, "sha256", str)}
        for name, file in _take(stored, "files", dict).items()
    }
    if len(files.keys() & WRITERS.keys()) != 1:
        raise ValueError(f"files: expected one of {', '.join(WRITERS)}")
    if (_STANDARDIZATION in files) != (settings.normalize == "standardize"):
        raise ValueError(f"files: {_STANDARDIZATION} and normalize {settings.normalize} do not fit")
    if (_HELD_OUT in files) != ("val" in settings.splits):
        raise ValueError(f"files: {_HELD_OUT} and train_on {settings.train_on} do not fit")
    model = Model(
        name=_take(stored, "name", str),
        estimator=settings.estimator,
        params=settings.params,
        classes=tuple(classes),
        views=views,
        derivation=Derivation(settings.pooling, settings.normalize, settings.views),
        identity=Identity.from_dict(stored["identity"]),
        rows=_take(stored, "rows", int),
        rows_sha256=_take(stored, "rows_sha256", str),
        warnings=tuple(_take(stored, "warnings", list)),
        head=None,
        calibration=calibration,
        unsure_below=settings.unsure_below,
        splits=settings.splits,
        metrics=_take(stored, "metrics", dict),
        training=_is(stored.get("training", {}), "training", dict),
    )
    return model, columns, files


def _file_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or name in (DESCRIPTION, HISTORY):
        raise ValueError(f"files: {printable(name)!r} cannot be the name of a model's file")
    return name


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
