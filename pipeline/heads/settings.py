"""What a head is to be: its settings, looked up by name and checked before anything is fitted."""

from __future__ import annotations

from pipeline.errors import HeadError, ParamsError
from pipeline.heads.calibration import can_be_calibrated
from pipeline.heads.model import UNSURE
from pipeline.heads.recipe import Recipe
from pipeline.heads.registry import PRESETS
from pipeline.params import HeadParams, Params, did_you_mean
from pipeline.workspace import check_head_name


def settings_of(params: Params, head: str) -> HeadParams:
    """Look a head up in ``params.yaml``, then among the estimators with a short name.

    Raises
    ------
    ParamsError
        It is in neither.
    """
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


def free_name(params: Params, head: str, name: str | None) -> str:
    """Return the name under which a model of `head` is saved: its own, or `name`, which no other head has.

    Raises
    ------
    ParamsError
        Another head has it.
    """
    if name is None or name == head:
        return head
    check_head_name(name)
    if name in params.heads:
        raise ParamsError(
            f"--name {name}: params.yaml has a head of that name, and would lose its model. Choose another."
        )
    return name


def check_promises(settings: HeadParams, head: str, recipe: Recipe) -> None:
    """See that the head can have what is asked of it.

    Raises
    ------
    HeadError
        It cannot, or the estimator or a parameter is unknown.
    """
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
