"""A sweep's best line, made into a head of ``params.yaml``."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.edit_params import write_params
from pipeline.errors import HeadError, ParamsError
from pipeline.heads.leaderboard import Line
from pipeline.heads.registry import PRESETS
from pipeline.params import HeadParams, read_params
from pipeline.workspace import Workspace, check_head_name


def save_winner(workspace: Workspace, best: Line | None, name: str) -> Line:
    """Write a sweep's best line into ``params.yaml`` as a head that learns from train and validation rows.

    Parameters
    ----------
    workspace : Workspace
        Its ``params.yaml`` keeps its comments.
    best : Line or None
        What `Leaderboard.best_of` gave.
    name : str
        Of the head (`check_winner_name`).

    Returns
    -------
    Line
        `best`.

    Raises
    ------
    HeadError
        Every line failed.
    ParamsError
        The name is taken.
    """
    if best is None:
        raise HeadError("no line of the sweep has succeeded, so that there is none to be saved.")
    check_winner_name(workspace, name)
    head = {
        "estimator": best.estimator,
        "params": best.params,
        "pooling": best.pooling,
        "normalize": best.normalize,
        "views": best.views,
        "train_on": "train+val",
    }
    unset = asdict(HeadParams(""))
    write_params(
        workspace.params_file,
        {f"heads.{name}": {key: value for key, value in head.items() if value != unset[key]}},
    )
    return best


def check_winner_name(workspace: Workspace, name: str) -> None:
    """See that a winner may be saved under a name: that of no head, or of an earlier winner.

    Raises
    ------
    ParamsError
        It may not.
    """
    if check_head_name(name) in PRESETS:
        raise ParamsError(f"--save-best {name}: that is an estimator's name. Choose another, such as best.")
    taken = read_params(workspace.params_file).heads.get(name)
    if taken is not None and taken.train_on == "train":
        raise ParamsError(
            f"--save-best {name}: params.yaml has a head of that name, which is not a sweep's winner. "
            f"Choose another."
        )
