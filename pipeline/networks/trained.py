"""What comes of a training in the network: a model like any other, and a report.

Owns how the learned layer becomes a head, and what is written down of its making.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.console import note
from pipeline.features.identity import Identity
from pipeline.heads import model_folder
from pipeline.heads.derived import Derivation
from pipeline.heads.labelled_rows import LabelledRows
from pipeline.heads.model import Model
from pipeline.times import keep_training
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.heads.epochs import Epoch
    from pipeline.heads.torch_head import TorchLinear
    from pipeline.networks.torch_training import Course

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NetworkReport:
    """What a training in the network did.

    Attributes
    ----------
    name : str
        Of the model.
    images, classes : int
        That it learned from.
    epochs, best_epoch : int
        Gone through, and the one that was kept; 0 where none was better than what was there before.
    seconds : float
        Spent in epochs.
    folder : Path
        Where the model is.
    metrics : dict
        See `Model`.
    training : dict
        See `Model`.
    """

    name: str
    images: int
    classes: int
    epochs: int
    best_epoch: int
    seconds: float
    folder: Path
    metrics: dict[str, Any]
    training: dict[str, Any]


def model_of(
    name: str,
    head: TorchLinear,
    layer: tuple[Floats, Floats],
    course: Course,
    identity: Identity,
    rows: LabelledRows,
    training: dict[str, Any],
) -> Model:
    """Make a model of a learned layer.

    Parameters
    ----------
    name : str
        Of the model.
    head : TorchLinear
        Unfitted, with the parameters that say how it learned.
    layer : tuple of ndarray of float32
        Weight, shape (k, columns), for features as they are stored, and bias, (k,).
    course : Course
        How it learned.
    identity : Identity
        Of the features that it wants.
    rows : LabelledRows
        Of the training images.
    training : dict
        What is to be written down of the training besides its course.
    """
    head.coef_, head.intercept_ = layer
    head.classes_, head.n_features_in_ = np.arange(len(rows.classes)), head.coef_.shape[1]
    head.history_, head.best_epoch_ = course.history, course.best_epoch
    return Model(
        name=name,
        estimator="linear",
        params=head.get_params(deep=False),
        classes=rows.classes,
        views=rows.views,
        derivation=Derivation(),
        identity=identity,
        rows=len(rows.y),
        rows_sha256=rows.digest,
        warnings=(),
        head=head,
        training={
            **training,
            "epochs_done": len(course.history),
            "best_epoch": course.best_epoch,
            **({"before": course.start} if course.start else {}),
        },
    )


def saved(workspace: Workspace, model: Model, course: Course, ahead: float = 0.0) -> NetworkReport:
    """Write a model into its place, and elsewhere how long it took: no digest is to depend on a time.

    Parameters
    ----------
    workspace : Workspace
    model : Model
    course : Course
        How it learned.
    ahead : float
        Seconds that this training spent before its epochs.
    """
    folder, seconds = workspace.model_folder(model.name), round(course.seconds, 2)
    model_folder.save(folder, model)
    keep_training(workspace, model.name, folder / model_folder.DESCRIPTION, round(ahead + course.seconds, 2))
    done = model.training
    return NetworkReport(
        model.name,
        model.rows,
        len(model.classes),
        done["epochs_done"],
        done["best_epoch"],
        seconds,
        folder,
        model.metrics,
        done,
    )


def metrics_of(
    model: Model, features: npt.NDArray[np.floating[Any]], y: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Say how many validation images are given their own class; nothing where there are none."""
    if not len(y):
        return {}
    right = model.predict(features).codes == y
    return {"rows": "val", "n": len(y), "accuracy": round(float(right.mean()), 6)}


def teller(first: int) -> Callable[[Epoch, int], None]:
    """Return what says an epoch on a line; epochs are counted from `first`."""

    def tell(epoch: Epoch, epochs: int) -> None:
        number = f"{epoch.epoch}/{epochs}" if first else str(epoch.epoch - 1)
        line = f"Epoch {number}: train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.4f}"
        if epoch.val_accuracy is not None:
            line += f"; val loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.4f}"
        note(line)

    return tell
