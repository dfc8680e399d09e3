"""``pipeline train``: the second stage, from cached features to a trained head.

Owns the order of things. It reads the training rows, and the validation rows where a head
logs its progress on them; the test rows it never reads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import note, warn
from pipeline.errors import HeadError, ParamsError, StoreError
from pipeline.features.identity import Identity
from pipeline.features.quantised import QUANTISED, REMEDY, quantised_digest
from pipeline.heads import model_folder
from pipeline.heads.calibration import calibrated, can_be_calibrated
from pipeline.heads.derived import Derivation
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import UNSURE, Model
from pipeline.heads.recipe import Recipe
from pipeline.heads.registry import PRESETS
from pipeline.params import HeadParams, Params, did_you_mean
from pipeline.workspace import Workspace, check_head_name

if TYPE_CHECKING:
    from pipeline.heads.epochs import Epoch


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
    changes: Mapping[str, Any] | None = None,
    memory: int | None = None,
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
        Parameters of the estimator that take the place of those in ``params.yaml``, for this training only.
    changes : mapping, optional
        The same for the head's other settings: ``pooling``, ``normalize``, ``calibrate``, ``unsure_below``.
    memory : int, optional
        See `LabelledFeatures.open`.
    trust : bool, default False
        Whether an estimator outside scikit-learn may be imported, and a head that holds
        untrusted types saved as a pickle.

    Returns
    -------
    TrainReport

    Raises
    ------
    ParamsError
        There is no such head, `name` is taken by another one, or a change is out of its range.
    HeadError
        The estimator, its parameters or the rows are unfit, or the head cannot have what is asked of it,
        such as probabilities; the model that was there stays.
    MissingRows, IdentityMismatch
        The features are not those of the manifest, or of what ``params.yaml`` asks for.
    """
    features = LabelledFeatures.open(workspace, memory)
    settings = replace(_settings(features.params, head), **(changes or {}))
    settings.check(f"heads.{head}")
    name = _free_name(features.params, head, name)
    recipe = Recipe(
        estimator=settings.estimator,
        params={**settings.params, **(overrides or {})},
        classes=features.classes,
        derivation=Derivation(settings.pooling, settings.normalize),
        seed=features.params.seed,
        trust=trust,
    )
    _check_promises(settings, head, recipe)
    rows = features.matrix("train", derivation=recipe.reads)
    validation = _validation(recipe, features)

    started = time.perf_counter()
    calibration = None
    if settings.calibrate:
        with _failing_as(f"head {head!r} ({settings.estimator}) cannot be calibrated"):
            calibration = calibrated(
                partial(recipe.fit, validation=validation), rows, features.memory, recipe.seed
            )
    with _failing_as(f"head {head!r} ({settings.estimator}) cannot be trained"):
        fitted = recipe.fit(rows.X, rows.y, validation=validation, on_epoch=_tell)
    seconds = time.perf_counter() - started

    for complaint in fitted.warnings:
        warn(f"head {name}: {complaint}")
    model = Model(
        name=name,
        estimator=settings.estimator,
        params=recipe.described(fitted.estimator),
        classes=rows.classes,
        view=rows.keys[0].view,
        derivation=recipe.derivation,
        identity=features.identity,
        rows=len(rows.y),
        rows_sha256=rows.digest,
        warnings=fitted.warnings,
        head=fitted.estimator,
        standardization=fitted.standardization,
        calibration=calibration,
        unsure_below=settings.unsure_below,
        extras=_quantised_network(workspace, features.identity),
    )
    # Some parameters are wrong only now: more neighbours than rows.
    with _failing_as(f"head {head!r} ({settings.estimator}) cannot predict"):
        model.predict(features.store.read(rows.keys[:1]))
    folder = workspace.model_folder(name)
    model_folder.save(folder, model, trust=trust)
    return TrainReport(
        name, settings.estimator, len(rows.y), len(rows.classes), seconds, fitted.warnings, folder
    )


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


def _quantised_network(workspace: Workspace, identity: Identity) -> dict[str, bytes]:
    """Read the network of precision ``int8``, which goes wherever the model goes: it is never drawn again."""
    if not identity.quantised_sha256:
        return {}
    if quantised_digest(workspace.quantised_file) != identity.quantised_sha256:
        raise StoreError(
            f"{workspace.quantised_file} is not the network that the features were made with. {REMEDY}"
        )
    return {QUANTISED: workspace.quantised_file.read_bytes()}


def _check_promises(settings: HeadParams, head: str, recipe: Recipe) -> None:
    """See that the head can have what is asked of it, before any row is read."""
    estimator = recipe.unfitted()
    if settings.calibrate and not can_be_calibrated(estimator):
        raise HeadError(
            f"heads.{head}.calibrate: {settings.estimator} has neither decision values nor probabilities "
            f"to calibrate. Leave calibrate away, or choose another estimator."
        )
    if settings.unsure_below is None:
        return
    if not settings.calibrate and not hasattr(estimator, "predict_proba"):
        raise HeadError(
            f"heads.{head}.unsure_below: {settings.estimator} has no probabilities to compare it with. "
            f"Set calibrate: true, which gives it some."
        )
    if UNSURE in recipe.classes:
        raise HeadError(
            f"heads.{head}.unsure_below: a class of the training images is itself called {UNSURE!r}, as "
            f"images without a probable label are. Rename that class, or leave unsure_below away."
        )


def _validation(recipe: Recipe, features: LabelledFeatures) -> tuple[Any, Any] | None:
    """Read the rows on which the linear torch head logs its progress, if there are any."""
    if recipe.estimator != "linear":
        return None
    rows = features.matrix("val", derivation=recipe.reads)
    return (rows.X, rows.y) if len(rows.y) else None


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Turn what estimators raise on parameters and rows into one line that begins with `what`."""
    try:
        yield
    # scikit-learn's InvalidParameterError is both of the first two.
    except (HeadError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise HeadError(f"{what}: {_one_line(error)}") from error


def _tell(epoch: Epoch, epochs: int) -> None:
    line = f"Epoch {epoch.epoch}/{epochs}: "
    line += f"train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.4f}"
    if epoch.val_accuracy is not None:
        line += f"; val loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.4f}"
    note(line)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
