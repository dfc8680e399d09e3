"""``pipeline train``: the second stage, from cached features to a trained head.

Owns the order of things. It reads the training rows, and the validation rows, on which the
head is scored; the test rows it never reads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.ahead import begin
from pipeline.console import note, warn
from pipeline.errors import HeadError, StoreError
from pipeline.features.identity import Identity
from pipeline.features.quantised import QUANTISED, REMEDY, quantised_digest
from pipeline.heads import model_folder
from pipeline.heads.derived import Derivation
from pipeline.heads.folds import NOT_HELD_OUT
from pipeline.heads.head_file import import_writer
from pipeline.heads.labelled_rows import LabelledRows
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Model
from pipeline.heads.out_of_fold import out_of_fold
from pipeline.heads.recipe import FIT_ERRORS, Recipe, one_line
from pipeline.heads.registry import import_module_of
from pipeline.heads.settings import check_promises, free_name, settings_of
from pipeline.params import HeadParams
from pipeline.times import keep_training
from pipeline.workspace import Workspace

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
        That it learned from.
    seconds : float
        Spent in fitting.
    warnings : tuple of str
        What the estimator complained of.
    folder : Path
        Where the model is.
    metrics : dict
        See `Model`.
    """

    name: str
    estimator: str
    rows: int
    classes: int
    seconds: float
    warnings: tuple[str, ...]
    folder: Path
    metrics: dict[str, Any]


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
    """Train a head on the training split, or on the validation split too, and save it under ``models/``.

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
        The same for the head's other settings: ``pooling``, ``normalize``, ``views``, ``calibrate``,
        ``unsure_below``.
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
    settings = replace(settings_of(features.params, head), **(changes or {}))
    settings.check(f"heads.{head}")
    imports = begin(partial(import_module_of, settings.estimator), partial(import_writer, settings.estimator))
    name = free_name(features.params, head, name)
    recipe = Recipe(
        estimator=settings.estimator,
        params={**settings.params, **(overrides or {})},
        classes=features.classes,
        derivation=Derivation(settings.pooling, settings.normalize, settings.views),
        seed=features.params.seed,
        trust=trust,
    )
    with _failing_as(f"heads.{head}"):
        recipe.derivation.columns(features.identity.dimension)
        features.views_of(settings.views)
    rows = features.matrix(*settings.splits, derivation=recipe.reads)
    imports.join()
    check_promises(settings, head, recipe)
    fit = partial(recipe.fit, validation=_validation(settings, recipe, features))

    started = time.perf_counter()
    held_out, calibration = None, None
    if settings.calibrate or "val" in settings.splits:
        with _failing_as(f"head {head!r} ({settings.estimator}) cannot be trained in folds"):
            held_out = out_of_fold(fit, rows, features.memory, recipe.seed, scored=settings.calibrate)
            calibration = held_out.calibration(rows.y)
    with _failing_as(f"head {head!r} ({settings.estimator}) cannot be trained"):
        fitted = fit(*rows.all_learned(), on_epoch=_tell)
    seconds = time.perf_counter() - started

    for complaint in fitted.warnings:
        warn(f"head {name}: {complaint}")
    model = Model(
        name=name,
        estimator=settings.estimator,
        params=recipe.described(fitted.estimator),
        classes=rows.classes,
        views=rows.views,
        derivation=recipe.derivation,
        identity=features.identity,
        rows=len(rows.y),
        rows_sha256=rows.digest,
        warnings=fitted.warnings,
        head=fitted.estimator,
        standardization=fitted.standardization,
        calibration=calibration,
        unsure_below=settings.unsure_below,
        splits=settings.splits,
        extras=_quantised_network(workspace, features.identity),
    )
    if held_out is not None and "val" in settings.splits:
        model = replace(model, held_out=held_out.predictions(model))
    # Some parameters are wrong only now: more neighbours than rows.
    with _failing_as(f"head {head!r} ({settings.estimator}) cannot predict"):
        model = replace(model, metrics=_metrics(model, features, rows))
    folder = workspace.model_folder(name)
    model_folder.save(folder, model, trust=trust)
    keep_training(workspace, name, folder / model_folder.DESCRIPTION, round(seconds, 3))
    return TrainReport(
        name,
        settings.estimator,
        len(rows.y),
        len(rows.classes),
        seconds,
        fitted.warnings,
        folder,
        model.metrics,
    )


def _metrics(model: Model, features: LabelledFeatures, rows: LabelledRows) -> dict[str, Any]:
    """Say how many rows that were not learned from are given their own class."""
    if model.held_out is not None:
        predictions, which = model.held_out, "out of fold"
        right = (predictions.codes == rows.y)[predictions.codes != NOT_HELD_OUT]
    else:
        validation, which = features.labels("val"), "val"
        right = model.predict(features.stored(validation, model.views)).codes == validation.y
    if not len(right):
        model.predict(features.store.read(rows.keys[: len(model.views)]))
        return {}
    return {"rows": which, "n": len(right), "accuracy": round(float(right.mean()), 6)}


def _quantised_network(workspace: Workspace, identity: Identity) -> dict[str, bytes]:
    """Read the network of precision ``int8``, which goes wherever the model goes: it is never drawn again."""
    if not identity.quantised_sha256:
        return {}
    if quantised_digest(workspace.quantised_file) != identity.quantised_sha256:
        raise StoreError(
            f"{workspace.quantised_file} is not the network that the features were made with. {REMEDY}"
        )
    return {QUANTISED: workspace.quantised_file.read_bytes()}


def _validation(settings: HeadParams, recipe: Recipe, features: LabelledFeatures) -> tuple[Any, Any] | None:
    """Read the rows on which the linear torch head logs its progress, if there are any."""
    if recipe.estimator != "linear" or "val" in settings.splits:
        return None
    rows = features.matrix("val", derivation=recipe.reads)
    return (rows.asked, rows.y) if len(rows.y) else None


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Turn what estimators raise on parameters and rows into one line that begins with `what`."""
    try:
        yield
    except FIT_ERRORS as error:
        raise HeadError(f"{what}: {one_line(error)}") from error


def _tell(epoch: Epoch, epochs: int) -> None:
    line = f"Epoch {epoch.epoch}/{epochs}: "
    line += f"train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.4f}"
    if epoch.val_accuracy is not None:
        line += f"; val loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.4f}"
    note(line)
