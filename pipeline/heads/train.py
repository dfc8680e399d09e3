"""``pipeline train``: the second stage, from cached features to a trained head.

Owns the order of things. It reads the training rows, and the validation rows where a head
logs its progress on them; the test rows it never reads.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import note, warn
from pipeline.errors import HeadError, ParamsError
from pipeline.heads import model_folder
from pipeline.heads.matrix import FeatureMatrix, LabelledFeatures
from pipeline.heads.model import Model
from pipeline.heads.registry import PRESETS, build
from pipeline.params import HeadParams, Params, did_you_mean
from pipeline.workspace import Workspace, check_head_name

if TYPE_CHECKING:
    from pipeline.heads.torch_head import Epoch


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Attributes
    ----------
    name : str
        Of the model.
    estimator : str
        Short name or dotted path.
    rows, classes : int
        Of the training split.
    seconds : float
        Spent in fitting.
    warnings : tuple of str
        What the estimator complained of.
    folder : Path
        Where the model is.
    """

    name: str
    estimator: str
    rows: int
    classes: int
    seconds: float
    warnings: tuple[str, ...]
    folder: Path


def train(
    workspace: Workspace,
    head: str,
    *,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> TrainReport:
    """Train a head on the training split and save it under ``models/``.

    Parameters
    ----------
    workspace : Workspace
        With a manifest and features.
    head : str
        A head of ``params.yaml``, or the short name of an estimator.
    name : str, optional
        Save the model under this name instead, and leave `head`'s as it is.
    overrides : mapping, optional
        Parameters that take the place of those in ``params.yaml``, for this training only.
    trust : bool, default False
        Whether an estimator outside scikit-learn may be imported, and a head that holds
        untrusted types saved as a pickle.

    Returns
    -------
    TrainReport

    Raises
    ------
    ParamsError
        There is no such head, or `name` is taken by another one.
    HeadError
        The estimator, its parameters or the rows are unfit; the model that was there stays.
    MissingRows, IdentityMismatch
        The features are not those of the manifest, or of what ``params.yaml`` asks for.
    """
    features = LabelledFeatures.open(workspace)
    settings = _settings(features.params, head)
    name = _free_name(features.params, head, name)
    chosen = {**settings.params, **(overrides or {})}
    estimator = build(settings.estimator, chosen, seed=features.params.seed, trust=trust)
    rows = features.matrix("train")

    started = time.perf_counter()
    with _failing_as(f"head {head!r} ({settings.estimator}) cannot be trained"):
        complaints = _fit(estimator, settings.estimator, rows, features)
    seconds = time.perf_counter() - started

    for complaint in complaints:
        warn(f"head {name}: {complaint}")
    model = Model(
        name=name,
        estimator=settings.estimator,
        params=estimator.get_params(deep=False),
        classes=rows.classes,
        view=rows.keys[0].view,
        identity=features.identity,
        rows=len(rows.y),
        rows_sha256=rows.digest,
        warnings=complaints,
        head=estimator,
    )
    # Some parameters are wrong only now: more neighbours than rows.
    with _failing_as(f"head {head!r} ({settings.estimator}) cannot predict"):
        model.predict(rows.X[:1])
    folder = workspace.model_folder(name)
    model_folder.save(folder, model, trust=trust)
    return TrainReport(name, settings.estimator, len(rows.y), len(rows.classes), seconds, complaints, folder)


def _settings(params: Params, head: str) -> HeadParams:
    """Look a head up in ``params.yaml``, then among the estimators with a short name."""
    if "." in head and all(part.isidentifier() for part in head.split(".")):
        raise ParamsError(
            f"{head!r} is an estimator, and a head has a name of its own: add a line "
            f"`my-head: {{estimator: {head}}}` under heads in params.yaml, then run `pipeline train my-head`."
        )
    check_head_name(head)
    if head in params.heads:
        return params.heads[head]
    if head in PRESETS:
        return HeadParams(head)
    known = [*params.heads, *PRESETS]
    raise ParamsError(
        f"head {head!r} is neither in params.yaml ({', '.join(params.heads) or 'which has none'}) "
        f"nor an estimator ({', '.join(PRESETS)}).{did_you_mean(head, known)}"
    )


def _free_name(params: Params, head: str, name: str | None) -> str:
    if name is None or name == head:
        return head
    check_head_name(name)
    if name in params.heads:
        raise ParamsError(
            f"--name {name}: params.yaml has a head of that name, and would lose its model. Choose another."
        )
    return name


def _fit(estimator: Any, kind: str, rows: FeatureMatrix, features: LabelledFeatures) -> tuple[str, ...]:
    """Fit, and return what the estimator complained of, each complaint once and on one line."""
    extra: dict[str, Any] = {}
    if kind == "linear":
        validation = features.matrix("val")
        if len(validation.y):
            extra["validation"] = (validation.X, validation.y)
        extra["on_epoch"] = lambda epoch: note(_told(epoch, estimator.epochs))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(rows.X, rows.y, **extra)
    return tuple(dict.fromkeys(f"{item.category.__name__}: {_one_line(item.message)}" for item in caught))


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Turn what estimators raise on parameters and rows into one line that begins with `what`."""
    try:
        yield
    # scikit-learn's InvalidParameterError is both of the first two.
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise HeadError(f"{what}: {_one_line(error)}") from error


def _told(epoch: Epoch, epochs: int) -> str:
    line = f"Epoch {epoch.epoch}/{epochs}: "
    line += f"train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.4f}"
    if epoch.val_accuracy is None:
        return line
    return f"{line}; val loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.4f}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
