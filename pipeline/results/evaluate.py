"""``pipeline evaluate``: a head's scores on rows that it has not learned from.

Owns the files under ``reports/``, and the count of looks at the test split. It refuses to score a
model on rows of a manifest that it was not trained from: they may be its own training rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.errors import HeadError, WorkspaceError
from pipeline.files import sha256_of, write_csv, write_json
from pipeline.heads import model_folder
from pipeline.heads.current import require_current
from pipeline.heads.folds import NOT_HELD_OUT
from pipeline.heads.labelled_rows import LabelledRows
from pipeline.heads.model import Predictions
from pipeline.networks.model_extractor import features_of
from pipeline.params import Split
from pipeline.results.metrics import Metrics, score
from pipeline.workspace import Workspace

Codes = npt.NDArray[np.int64]


def evaluate(workspace: Workspace, head: str, split: Split = "val", *, trust: bool = False) -> Metrics:
    """Score a trained head, and write the scores and the confusion under ``reports/``.

    Parameters
    ----------
    workspace : Workspace
        With the model, and the features that it was trained on; those of a network that was fine-tuned with
        it are computed where they are missing.
    head : str
        Name of the model.
    split : {"val", "test", "train"}, default "val"
        Each model that is scored on ``test`` is written down, and counted in the metrics. Of one that has
        learned from ``val``, what is scored there are its out-of-fold predictions.
    trust : bool, default False
        Whether a pickled head may be loaded.

    Returns
    -------
    Metrics

    Raises
    ------
    ModelError
        The model is absent or damaged, or was trained on other rows or labels than the
        manifest's training split now has.
    IdentityMismatch
        The model was trained on features of another extractor.
    HeadError
        The split is empty, or has a class that no training image has.
    """
    model = model_folder.load(workspace.model_folder(head), trust=trust)
    features = features_of(workspace, head, model, split)
    require_current(model, head, features)
    held_out = model.held_out if split == "val" else None
    if held_out is None:
        rows = features.labels(split)
        y, predictions = rows.y, model.predict(features.stored(rows, model.views))
    else:
        y, predictions = _of_split(split, features.labels(*model.splits), held_out)
    if not len(y):
        raise HeadError(
            f"{workspace.manifest_file}: the split {split!r} has no image to score {head!r} on. "
            f"Give it a share in dataset.split, and run `pipeline prepare --resplit`."
        )
    scored = {"model_sha256": model_digest(workspace, head), "rows_sha256": features.digest(split)}
    metrics = score(
        head,
        split,
        y,
        predictions,
        test_looks=_looks(workspace, {"head": head, **scored}) if split == "test" else None,
        scored=scored,
        out_of_fold=held_out is not None,
        calibrating=split == "train" or (held_out is not None and model.calibration is not None),
    )
    write_csv(
        workspace.confusion_file(head, split),
        ("actual", "predicted"),
        zip((model.classes[code] for code in y.tolist()), predictions.labels, strict=True),
    )
    write_json(workspace.metrics_file(head, split), metrics.as_dict())
    return metrics


def _of_split(split: Split, rows: LabelledRows, held_out: Predictions) -> tuple[Codes, Predictions]:
    """Take what was said of one split's rows by heads that had not learned from them."""
    chosen = np.array([image.split == split for image in rows.images], np.bool_)
    chosen &= held_out.codes != NOT_HELD_OUT
    return rows.y[chosen], held_out.of(chosen)


def model_digest(workspace: Workspace, head: str) -> str:
    """Return the SHA-256 of a trained head's description, which holds that of its weights."""
    return sha256_of(workspace.model_folder(head) / model_folder.DESCRIPTION)


def _looks(workspace: Workspace, look: dict[str, str]) -> int:
    """Write down that this model sees these test rows, and return which look at the test split it is.

    Scored again, the same model on the same rows keeps its number, so its metrics stay the same.
    """
    path = workspace.test_looks_file
    looks = _read_looks(path)
    if look not in looks:
        looks.append(look)
        write_json(path, {"looks": looks})
    return looks.index(look) + 1


def _read_looks(path: Path) -> list[dict[str, str]]:
    try:
        looks = json.loads(path.read_bytes())["looks"]
        _ = [(look["head"], look["model_sha256"], look["rows_sha256"]) for look in looks]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(
            f"{path}: not a record of looks at the test split ({printable(str(error))}). Restore it from "
            f"git; deleting it starts the count again."
        ) from None
    return list(looks)
